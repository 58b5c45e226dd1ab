"""A stock Nix's collector spares what we hold: links that we made, and what a living process needs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath, text_path
from pgbake.store.local import LocalStore
from tests.oracle import Oracle

pytestmark = pytest.mark.integration


def text(store: LocalStore, name: str, references: tuple[StorePath, ...] = ()) -> StorePath:
    contents = "\n".join([name, *map(str, references)]).encode()
    return store.add_text(text_path(name, hashlib.sha256(contents).digest(), references), contents, references)


def live(oracle: Oracle, *binds: Path) -> set[str]:
    return set(oracle.run("nix-store", "--gc", "--print-live", binds=binds).stdout.decode().split())


def test_a_link_of_ours_keeps_its_closure(oracle: Oracle, tmp_path: Path) -> None:
    with LocalStore(oracle.root) as store:
        one = text(store, "one")
        two = text(store, "two", (one,))
        other = text(store, "other")
        store.link_root(tmp_path / "result", two)
    # Nix must see the link at its own place, and the store at /nix only.
    assert live(oracle, tmp_path) >= {str(one), str(two)}
    assert str(other) not in live(oracle, tmp_path)
    (tmp_path / "result").unlink()
    oracle.run("nix-store", "--gc", binds=[tmp_path])
    with LocalStore(oracle.root) as store:
        assert not store.valid([one, two, other])
        assert text(store, "one") == one, "what was collected is made again"


def test_what_a_living_process_made_is_kept_until_it_ends(oracle: Oracle) -> None:
    with LocalStore(oracle.root) as store:
        kept = text(store, "kept")
        assert (store.state_dir / "temproots" / str(os.getpid())).exists()
        oracle.run("nix-store", "--gc")
        assert store.valid([kept]) and store.physical(kept).exists()
    oracle.run("nix-store", "--gc")
    with LocalStore(oracle.root) as store:
        assert not store.valid([kept]) and not store.physical(kept).exists()


def test_a_path_under_way_survives_a_collection(oracle: Oracle) -> None:
    with LocalStore(oracle.root) as store:
        path = text_path("slow", hashlib.sha256(b"slow").digest())
        with store.lock(path):
            staging = store.staging(path)
            (staging / "made").write_text("half")
            oracle.run("nix-store", "--gc")
            assert (staging / "made").read_text() == "half"


def test_nix_verifies_what_we_added(oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x00\xff" * 1000)
    with LocalStore(oracle.root) as store:
        one = text(store, "one")
        file = store.add_file("file", hashlib.sha256((tmp_path / "file").read_bytes()).digest(), tmp_path / "file")
        text(store, "two", (one, file))
    # The oracle reads only below its own /nix and /tmp.
    said = oracle.run("nix-store", "--verify", "--check-contents").stderr
    assert b"error" not in said and b"modified" not in said and b"disappeared" not in said
    (oracle.on_disk(str(file))).chmod(0o644)
    (oracle.on_disk(str(file))).write_bytes(b"damaged")
    assert b"modified" in oracle.run("nix-store", "--verify", "--check-contents", check=False).stderr
