"""De-duplication by hard links, and replacing what is damaged: a damaged file is never linked to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgbake.errors import StoreError
from pgbake.events import Event, Notice
from pgbake.store import replace as replacing
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.optimise import optimise
from pgbake.store.replace import replace
from pgbake.store.verify import verify
from tests.unit.store.texts import damage, text, tree


def test_equal_files_become_one(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one = tree(store, "one", {"a": b"same" * 1000, "bin/a": b"same" * 1000, "empty": b""})
        two = tree(store, "two", {"sub/b": b"same" * 1000, "c": b"same" * 1000, "empty": b"", "own": b"own"})
        flat = [text(store, "flat"), text(store, "other")]
        would = optimise(store, dry_run=True)
        assert not list(store.links_dir.iterdir())
        done = optimise(store)
        assert (done.files, done.saved) == (would.files, would.saved) == (3, 8000)
        first, second = store.physical(one), store.physical(two)
        assert (first / "a").samefile(second / "sub/b") and (first / "a").samefile(second / "c")
        assert not (first / "a").samefile(first / "bin/a"), "one is executable"
        assert (first / "empty").samefile(second / "empty")
        for directory in (first, second, second / "sub"):
            assert directory.stat().st_mode & 0o777 == 0o555 and directory.stat().st_mtime == 1
        assert store.physical(flat[0]).stat().st_nlink == 2
        assert verify(store).findings == ()
        again = optimise(store)
        assert (again.files, again.saved) == (0, 0) and again.already == 9


def test_symlinks_are_linked_as_nix_does(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        for name in ("one", "two"):
            path = tree(store, name, {name: b""})
            directory = store.physical(path)
            directory.chmod(0o755)
            (directory / "link").symlink_to("target")
        optimise(store)
        assert (
            len({(place / "link").lstat().st_ino for place in store.store_dir.iterdir() if place.name[0] != "."}) == 1
        )


def test_a_damaged_link_is_removed_and_not_linked_to(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one = tree(store, "one", {"a": b"same" * 1000})
        optimise(store)
        damage(store.physical(one) / "a", in_place=True)
        two = tree(store, "two", {"b": b"same" * 1000})
        three = tree(store, "three", {"b": b"same" * 1000})
        events: list[Event] = []
        done = optimise(store, report=events.append)
        assert len(done.removed) == 1 and any(isinstance(e, Notice) and "is damaged" in e.text for e in events)
        assert not (store.physical(one) / "a").samefile(store.physical(two) / "b")
        assert (store.physical(two) / "b").samefile(store.physical(three) / "b")
        assert [finding.path for finding in verify(store).findings] == [one]


def test_a_file_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one = tree(store, "one", {"a": b"same"})
        tree(store, "two", {"b": b"same"})
        (store.physical(one) / "a").chmod(0o644)
        events: list[Event] = []
        assert optimise(store, report=events.append).files == 0
        assert any(isinstance(event, Notice) and "can be written" in event.text for event in events)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("state", ["damaged", "missing", "a file"])
def test_a_path_is_replaced_by_what_was_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, state: str
) -> None:
    if not exchange:  # as a file system answers that cannot do it
        monkeypatch.setattr(replacing, "_RENAME_EXCHANGE", 1 << 20)
    with LocalStore(tmp_path) as store:
        path = tree(store, "one", {"a": b"contents", "bin/b": b"program"})
        if state == "damaged":
            damage(store.physical(path) / "a")
        else:
            remove_tree(store.physical(path))
        if state == "a file":
            store.physical(path).write_text("not even a directory")
        with store.lock(path):
            made = store.staging(path) / "made"
            (made / "bin").mkdir(parents=True)
            (made / "a").write_bytes(b"others")
            with pytest.raises(StoreError, match="made again with other contents"):
                replace(store, path, made)
            assert len(verify(store).findings) == 1, "nothing has changed"
            made.chmod(0o755)
            (made / "a").chmod(0o644)
            (made / "a").write_bytes(b"contents")
            (made / "bin").chmod(0o755)
            (made / "bin/b").write_bytes(b"program")
            (made / "bin/b").chmod(0o700)
            replace(store, path, made)
            remove_tree(made.parent)
        assert verify(store).findings == ()
        status = store.physical(path).stat()
        assert status.st_mode & 0o777 == 0o555 and status.st_mtime == 1
        assert {place.name for place in store.store_dir.iterdir()} == {".links", path.basename}
        if os.geteuid() == 0:
            assert status.st_uid == 0
