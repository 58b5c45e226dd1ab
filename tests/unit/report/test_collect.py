"""Collecting from a store: receipts, interfaces, and by which way and when packages came."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgbake.build.log import BuildLog
from pgbake.errors import StoreError
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.formats.storepath import StorePath
from pgbake.report.collect import _timeline, bundle_before, side_of
from pgbake.store.local import LocalStore
from tests.small_closures import made_up

_RECEIPT: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "system": "x86_64-linux",
    "platform": "bookworm",
    "postgresql": {"version": "15.18", "major": 15},
    "extensions": [
        {
            "name": "vector", "package": "pgvector", "version": "0.8.0", "comment": "", "requires": [],
            "trusted": False, "libraries": [], "preload": [], "settings": {},
        }
    ],
    "packages": [{"name": "pgvector", "version": "0.8.0"}],
    "runtime": [{"name": "libc6", "version": "2.36", "path": "/nix/store/x", "sha256": "00"}],
    "preload": [], "settings": {}, "locales": [], "collations": {},
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path) as store:
        yield store


def _add(
    store: LocalStore,
    path: StorePath,
    files: Mapping[str, bytes],
    deriver: StorePath | None = None,
    built: bool = True,
) -> StorePath:
    with store.lock(path):
        tree = store.staging(path) / "made"
        tree.mkdir()
        for name, content in files.items():
            (tree / name).write_bytes(content)
        info = store.place(path, tree, candidates=[])
        store.register([replace(info, deriver=deriver, ultimate=built)])
    return path


def _bundle(store: LocalStore, name: str) -> StorePath:
    return _add(store, made_up(name), {"receipt.json": msgspec.json.encode(_RECEIPT)})


def _derivation(name: str, **env: str) -> Derivation:
    return with_outputs(
        Derivation(
            name=name, outputs={"out": Output("")}, input_drvs={}, input_srcs=frozenset(), system="x86_64-linux",
            builder="/none", args=(), env=env,
        ),
        lambda _: b"",
    )  # fmt: skip


def test_a_side_without_an_interface(store: LocalStore) -> None:
    side = side_of(store, _bundle(store, "demo-postgresql-15.18"))
    assert side.extensions == {"vector": "0.8.0"} and side.packages == {"pgvector": "0.8.0"}
    assert side.runtime == {"libc6": "2.36"} and side.interface is None
    assert side.size > 0


def test_the_interface_is_that_of_the_bundle(store: LocalStore) -> None:
    bundle = _bundle(store, "demo-postgresql-15.18")
    for checked, text in ((str(bundle), b"[vector 0.8.0]\ntype vector\n"), ("/nix/store/other", b"[other 1]\n")):
        derivation = _derivation("check-interface-all", bundle=checked)
        store.add_derivation(derivation)
        _add(store, derivation.output_paths["out"], {"interface.txt": text}, derivation.path)
    assert side_of(store, bundle).interface == {"vector": ("type vector",)}


def test_a_check_without_the_file_tells_nothing(store: LocalStore) -> None:
    bundle = _bundle(store, "demo-postgresql-15.18")
    derivation = _derivation("check-interface-all", bundle=str(bundle))
    store.add_derivation(derivation)
    _add(store, derivation.output_paths["out"], {"results.tap": b""}, derivation.path)
    assert side_of(store, bundle).interface is None


def test_what_is_no_bundle_is_refused(store: LocalStore) -> None:
    path = _add(store, made_up("hello-1"), {"file": b""})
    with pytest.raises(StoreError, match="hello-1 is no bundle: it has no receipt"):
        side_of(store, path)
    with pytest.raises(StoreError, match="not in the store"):
        side_of(store, made_up("other"))


def test_the_bundle_before_is_one_of_that_name(store: LocalStore) -> None:
    first = _bundle(store, "demo-postgresql-15.17")
    _bundle(store, "other-postgresql-15.18")
    second = _bundle(store, "demo-postgresql-15.18")
    assert bundle_before(store, second) == first
    assert bundle_before(store, _bundle(store, "new-postgresql-15.18")) is None


def test_the_timeline_tells_built_from_taken(store: LocalStore) -> None:
    built, taken, absent, copied = (_derivation(name) for name in ("built-1", "taken-1", "absent-1", "copied-1"))
    for derivation in (built, taken, copied):
        BuildLog(store.log_file(derivation.path), "x", lambda _: None).close()
    copied_log = store.log_file(copied.path)
    os.utime(copied_log, (1_000_000_000, 1_000_000_000))  # before the file was born here
    _add(store, built.output_paths["out"], {}, built.path)
    _add(store, copied.output_paths["out"], {}, copied.path)
    _add(store, taken.output_paths["out"], {}, taken.path, built=False)
    steps = {step.name: step for step in _timeline(store, [built, taken, absent, copied])}
    assert steps.keys() == {"built-1", "taken-1", "copied-1"}
    assert steps["built-1"].how == "built"
    begun, ended = steps["built-1"].begun, steps["built-1"].ended
    assert ended is not None and ended <= steps["built-1"].registered + 5
    assert begun is None or begun <= ended  # None where the file system tells no births
    assert (steps["taken-1"].how, steps["taken-1"].begun, steps["taken-1"].ended) == ("taken", None, None)
    assert (steps["copied-1"].begun, steps["copied-1"].ended) == (None, 1_000_000_000)


def test_a_later_log_tells_nothing_of_what_is_there(store: LocalStore) -> None:
    built = _derivation("built-1")
    _add(store, built.output_paths["out"], {}, built.path)
    BuildLog(store.log_file(built.path), "x", lambda _: None).close()
    os.utime(store.log_file(built.path), (4_000_000_000, 4_000_000_000))
    assert _timeline(store, [built])[0].ended is None
