"""The local store: what is added is whole and valid, or not there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import HostError, StoreError
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.formats.storepath import StorePath, source_path, text_path
from pgbake.store.closure import closure_sizes, shortest_way
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "root") as store:
        yield store


def text(store: LocalStore, name: str, contents: str, references: list[StorePath] | None = None) -> StorePath:
    raw = contents.encode()
    path = text_path(name, hashlib.sha256(raw).digest(), references or [])
    return store.add_text(path, raw, references or [])


def make_tree(directory: Path) -> None:
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/tool").write_text("#!/bin/sh\n")
    (directory / "bin/tool").chmod(0o755)
    (directory / "data").write_text("data")
    (directory / "link").symlink_to("bin/tool")


def leftovers(store: LocalStore) -> list[str]:
    return [path.name for path in store.store_dir.iterdir() if path.suffix in (".lock", ".chroot")]


def test_a_source_is_added_once_and_read_only(store: LocalStore, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    digest = hash_tree(tmp_path / "tree").sha256
    calls = []

    def fill(into: Path) -> None:
        calls.append(into)
        shutil.copytree(tmp_path / "tree", into, symlinks=True)

    path = store.add_source("tree", digest, fill)
    assert path == source_path("tree", digest) == store.add_source("tree", digest, fill)
    assert len(calls) == 1
    physical = store.physical(path)
    assert hash_tree(physical).sha256 == digest
    assert physical.stat().st_mode & 0o777 == 0o555 and (physical / "data").stat().st_mode & 0o777 == 0o444
    assert (physical / "data").stat().st_mtime == 1
    info = store.info(path)
    assert info.nar_sha256 == digest and not info.references and info.ca and info.ca.startswith("fixed:r:sha256:")
    assert not leftovers(store)


def test_another_tree_is_refused_and_both_hashes_named(store: LocalStore, tmp_path: Path) -> None:
    expected = hashlib.sha256(b"another").digest()
    with pytest.raises(StoreError) as caught:
        store.add_source("tree", expected, make_tree)
    make_tree(tmp_path / "tree")
    assert expected.hex() in caught.value.message and hash_tree(tmp_path / "tree").sha256.hex() in caught.value.message
    assert not store.valid([source_path("tree", expected)])
    assert not store.physical(source_path("tree", expected)).exists() and not leftovers(store)


def test_a_failure_while_filling_leaves_nothing(store: LocalStore) -> None:
    def fill(into: Path) -> None:
        into.mkdir()
        (into / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add_source("tree", bytes(32), fill)
    assert not leftovers(store) and not list(store.store_dir.glob("*-tree"))


def test_remains_of_a_killed_process_are_replaced(store: LocalStore, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    digest = hash_tree(tmp_path / "tree").sha256
    path = source_path("tree", digest)
    for remains in (store.physical(path), store.physical(path).with_name(path.basename + ".chroot")):
        (remains / "sub").mkdir(parents=True)
        (remains / "sub/file").write_text("half")
        (remains / "sub").chmod(0o555)
    store.physical(path).with_name(path.basename + ".lock").touch()
    store.add_source("tree", digest, make_tree)
    assert hash_tree(store.physical(path)).sha256 == digest and not leftovers(store)


def test_references_are_found_and_must_be_valid(store: LocalStore) -> None:
    one = text(store, "one", "1")
    two = text(store, "two", f"see {one}", [one])
    assert store.info(two).references == {one} and store.database.referrers(one) == {two}
    missing = StorePath("0" * 32, "missing")
    three = PathInfo(StorePath("1" * 32, "three"), bytes(32), 1, frozenset([missing]))
    with pytest.raises(StoreError, match="0000-missing, which is not in the store"):
        store.database.register([PathInfo(StorePath("2" * 32, "four"), bytes(32), 1), three])
    assert not store.valid([three.path, StorePath("2" * 32, "four")]), "all of them or none"


def test_a_path_that_is_referred_to_is_not_forgotten(store: LocalStore) -> None:
    one = text(store, "one", "1")
    text(store, "two", f"see {one}", [one])
    with pytest.raises(StoreError):
        store.database.invalidate(one)
    assert store.valid([one])


def test_closures(store: LocalStore) -> None:
    one = text(store, "one", "1" * 1000)
    two = text(store, "two", f"see {one}", [one])
    three = text(store, "three", f"see {one} {two}", [one, two])
    four = text(store, "four", f"see {three}", [three])
    assert set(store.closure([four])) == {one, two, three, four}
    sizes = {item.path: item for item in closure_sizes(store, four)}
    assert sizes[one].brought_by == (three, two)
    assert sizes[two].alone == sizes[two].size, "one is needed by three as well"
    assert sizes[three].alone == sizes[one].size + sizes[two].size + sizes[three].size
    assert shortest_way(store, four, one) == [four, three, one]
    assert shortest_way(store, one, four) == []


def test_a_derivations_outputs_are_registered(store: LocalStore) -> None:
    source = text(store, "source", "x")
    derivation = with_outputs(
        Derivation(
            name="thing", outputs={"out": Output(""), "dev": Output("")}, input_drvs={},
            input_srcs=frozenset([source]), system="x86_64-linux", builder="/bin/sh", args=(), env={},
        ),
        lambda path: bytes(32),
    )  # fmt: skip
    path = store.add_derivation(derivation)
    assert store.add_derivation(derivation) == path and store.derivation(path) == derivation
    assert store.info(path).references == {source}
    with sqlite3.connect(store.database.file) as database:
        rows = database.execute("select id, path from DerivationOutputs order by id").fetchall()
    assert rows == [(name, derivation.outputs[name].path) for name in ("dev", "out")]
    assert store.database.latest("thing.drv") == path


def add_slowly(root: Path, digest: bytes, mark: Path) -> None:
    def fill(into: Path) -> None:
        mark.touch()
        time.sleep(1)
        make_tree(into)

    with LocalStore(root) as store:
        store.add_source("tree", digest, fill)


def test_two_processes_make_a_path_once(store: LocalStore, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    digest = hash_tree(tmp_path / "tree").sha256
    mark = tmp_path / "mark"
    other = multiprocessing.get_context("spawn").Process(target=add_slowly, args=(store.root, digest, mark))
    other.start()
    while not mark.exists():
        time.sleep(0.01)
    path = source_path("tree", digest)
    waited: list[str] = []
    with store.lock(path, waited.append):
        assert store.valid([path])
    assert waited and f"pid {other.pid} " in waited[0]
    other.join()
    assert other.exitcode == 0 and not leftovers(store)


def test_scratch_of_a_killed_process_is_swept(store: LocalStore) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pgbake.store.local import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).scratch() as d: (d / 'file').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=False)
    top = store.state_dir / "scratch"
    assert len(list(top.iterdir())) == 1
    with store.scratch() as directory, store.scratch() as second:
        assert set(top.iterdir()) == {directory, second}
    assert not list(top.iterdir())


def test_temporary_roots_are_held_while_the_process_lives(store: LocalStore) -> None:
    one = text(store, "one", "1")
    file = store.state_dir / "temproots" / str(os.getpid())
    assert str(one) in file.read_text().split("\0")
    store.temp_roots.close()
    assert not file.exists()


def test_a_root_link_replaces_its_own_kind_only(store: LocalStore, tmp_path: Path) -> None:
    one, two = text(store, "one", "1"), text(store, "two", "2")
    link = tmp_path / "result"
    store.link_root(link, one)
    store.link_root(link, two)
    assert link.readlink() == Path(str(two))
    (auto,) = (store.state_dir / "gcroots/auto").iterdir()
    assert auto.readlink() == link
    for foreign in (tmp_path / "file", tmp_path / "elsewhere"):
        foreign.symlink_to("/etc") if foreign.name == "elsewhere" else foreign.write_text("mine")
        with pytest.raises(StoreError, match=r"did not make|in the way"):
            store.link_root(foreign, one)
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "elsewhere").readlink() == Path("/etc")


def test_a_store_of_another_schema_is_left_alone(store: LocalStore) -> None:
    (store.state_dir / "db/schema").write_text("11")
    with pytest.raises(StoreError, match="schema 11; pgbake knows schema 10"):
        LocalStore(store.root)


def test_a_damaged_database_is_one_clear_error(tmp_path: Path) -> None:
    LocalStore(tmp_path).close()
    (tmp_path / "nix/var/nix/db/db.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"the store.s database .* is damaged"):
        LocalStore(tmp_path)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(store: LocalStore) -> None:
    def fill(into: Path) -> None:
        into.write_bytes(b"half")
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(HostError, match="No space left") as caught:
        store.add_source("tree", bytes(32), fill)
    assert caught.value.hint and "free disk space" in caught.value.hint and not leftovers(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_store_that_is_not_writable_is_one_clear_error() -> None:
    code = (
        "import os; from pathlib import Path; from pgbake.store.local import LocalStore\n"
        "os.setuid(65534); LocalStore(Path('/nonexistent'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreError: cannot create a store at /nonexistent/nix/store: Permission denied" in done.stderr
