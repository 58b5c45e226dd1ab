"""Verifying: each kind of damage is found and named exactly, and a sound store has none."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from pgbake.errors import StoreError
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.optimise import optimise
from pgbake.store.tree import hash_tree
from pgbake.store.verify import rescan, verify
from tests.unit.store.texts import damage, text, tree


def store_with_paths(store: LocalStore) -> LocalStore:
    for number in range(150):
        tree(store, f"tree-{number}", {"bin/program": b"program" * number, "data": bytes([number]) * 1000})
    return store


def test_a_sound_store(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        store_with_paths(store)
        done = verify(store, references=True)
        assert done.findings == () and done.paths == 150
        assert done.nar_bytes == sum(info.nar_size for info in store.database.registered().values())


def test_one_flipped_bit_is_named_with_who_needs_it(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        store_with_paths(store)
        victim = next(path for path in store.database.paths() if path.name == "tree-77")
        user = text(store, "user", victim)
        damage(store.physical(victim) / "bin/program")
        (found,) = verify(store).findings
        assert (found.kind, found.path, found.referrers, found.files) == ("modified", victim, (user,), ())
        (store.physical(victim) / "data").touch()
        (found,) = verify(store).findings
        assert found.files == ("data",), "its time is not the store's"
        expected, got = (base32.encode(digest) for digest in (
            store.info(victim).nar_sha256, hash_tree(store.physical(victim)).sha256,
        ))  # fmt: skip
        assert f"expected sha256:{expected}, got sha256:{got}" in found.what
        assert verify(store, contents=False).findings == ()
        assert verify(store, [user]).findings == (found,)
        others = [path for path in store.database.paths() if path not in (victim, user)]
        assert verify(store, others).findings == ()


def test_what_is_gone_longer_or_unreadable(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        gone, longer, odd = (tree(store, name, {"file": b"contents"}) for name in ("gone", "longer", "odd"))
        remove_tree(store.physical(gone))
        file = store.physical(longer) / "file"
        file.chmod(0o644)
        file.write_bytes(b"contents and more")
        os.mkfifo(store.physical(odd) / "pipe")
        found = {finding.path: finding for finding in verify(store).findings}
        assert {path: finding.kind for path, finding in found.items()} == {
            gone: "missing", longer: "modified", odd: "unreadable",
        }  # fmt: skip
        assert "16 bytes longer" in found[longer].what and found[longer].files == ("file",)
        assert "pipe is a fifo" in found[odd].what
        assert [finding.kind for finding in verify(store, contents=False).findings] == ["missing"]


def test_a_damaged_link_and_the_paths_that_share_it(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        pair = [tree(store, name, {"bin/x": b"same" * 100, name: name.encode()}) for name in ("one", "two")]
        optimise(store)
        shared = store.physical(pair[0]) / "bin/x"
        damage(shared, in_place=True)
        findings = verify(store).findings
        assert [finding.kind for finding in findings] == ["link", "modified", "modified"]
        assert findings[0].subject == str(next(link for link in store.links_dir.iterdir() if link.samefile(shared)))
        assert [finding.files for finding in findings[1:]] == [("bin/x",), ("bin/x",)]


def test_faults_of_the_database(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        bad_hash, bad_size, lost = (tree(store, name, {"file": name.encode()}) for name in ("hash", "size", "lost"))
        user = text(store, "user", lost)
        with sqlite3.connect(store.database.file) as database:
            database.execute("update ValidPaths set hash = 'sha256:nonsense' where path = ?", (str(bad_hash),))
            database.execute("update ValidPaths set narSize = 1 where path = ?", (str(bad_size),))
            database.execute("delete from ValidPaths where path = ?", (str(lost),))  # foreign keys are off here
        findings = verify(store).findings
        assert {finding.kind for finding in findings} == {"database"}
        texts = {finding.subject: finding.what for finding in findings}
        assert "malformed" in texts[str(bad_hash)] and "has 1 bytes" in texts[str(bad_size)]
        assert "refers to a row of ValidPaths that is not there" in texts[str(store.database.file)]
        with pytest.raises(StoreError, match=r"malformed entry for .*-hash"):
            store.database.registered()
        store.database.correct(rescan(store, bad_size))
        assert str(bad_size) not in {finding.subject for finding in verify(store).findings}
        assert user in store.database.paths()


def test_flipped_bits_of_the_database_file(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        store_with_paths(store)
    file = tmp_path / "nix/var/nix/db/db.sqlite"
    contents = bytearray(file.read_bytes())
    page = 4096
    for start in range(4 * page, len(contents), 5 * page):
        contents[start : start + 64] = b"\xff" * 64
    file.write_bytes(contents)
    with LocalStore(tmp_path) as store:
        findings = verify(store).findings
        assert findings and findings[0].kind == "database" and findings[0].subject == str(file)


def test_references_that_are_not_true(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one, two = text(store, "one"), text(store, "two")
        path = StorePath("3" * 32, "built")
        with store.lock(path):
            made = store.staging(path) / "made"
            made.write_text(f"needs {one}")
            store.register([store.place(path, made, candidates=[one, two])])
            remove_tree(store.staging(path))
        assert verify(store, references=True).findings == ()
        with sqlite3.connect(store.database.file) as database:
            database.execute(
                "update Refs set reference = (select id from ValidPaths where path = ?)"
                " where referrer = (select id from ValidPaths where path = ?)",
                (str(two), str(path)),
            )
        first, second = verify(store, references=True).findings
        assert f"mention {one}, which is not registered" in first.what and first.path == path
        assert f"to refer to {two}, and does not" in second.what
        store.database.correct(rescan(store, path))
        assert verify(store, references=True).findings == () and store.info(path).references == {one}


def test_what_a_collector_takes_meanwhile_is_no_finding(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        store_with_paths(store)
        paths = store.database.paths()

        def collect() -> None:
            for path in paths:
                store.database.invalidate(path)
                remove_tree(store.physical(path))

        thread = threading.Thread(target=collect)
        thread.start()
        while thread.is_alive():
            assert verify(store).findings == ()
        thread.join()


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store, pytest.raises(StoreError, match="is not in the store"):
        verify(store, [StorePath("0" * 32, "nothing")])
