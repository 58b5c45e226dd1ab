"""Locks on paths: one holder at a time, whoever deletes the file meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pgbake.store.locks import acquire, holder, open_lock, path_lock


def test_a_lock_is_held_alone_and_its_file_goes(tmp_path: Path) -> None:
    target = tmp_path / "path"
    inside = most = 0
    turn = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with path_lock(target, lambda _holder: None):
                with turn:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.001)
                with turn:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("mark", [b"d", b""], ids=["marked", "unmarked"])
def test_a_file_that_was_deleted_while_we_waited_is_not_taken_for_the_lock(tmp_path: Path, mark: bytes) -> None:
    """Unmarked: its former holder could not write on a full disk."""
    file = tmp_path / "path.lock"
    first = file.open("wb", buffering=0)
    assert acquire(first.fileno())
    got = threading.Event()
    release = threading.Event()
    waiting = threading.Event()

    def work() -> None:
        with path_lock(tmp_path / "path", lambda _holder: waiting.set()):
            got.set()
            release.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert waiting.wait(10)
    file.unlink()
    first.write(mark)
    first.close()
    assert got.wait(10)
    third = open_lock(file)
    assert not acquire(third, wait=False), "the file that is there now is the one that is locked"
    release.set()
    thread.join()


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), path_lock(tmp_path / "path", lambda _holder: None):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_nobody_holds_a_lock_that_is_free(tmp_path: Path) -> None:
    file = tmp_path / "path.lock"
    file.touch()
    assert holder(file) == "another process" and holder(tmp_path / "none") == "another process"
