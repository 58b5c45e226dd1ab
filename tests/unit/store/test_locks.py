"""Locks on paths: one holder at a time, whoever deletes the file meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pgbake.store.locks import Unwanted, acquire, holder, open_lock, path_lock


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


def test_a_holder_is_named_by_its_pid_and_command(tmp_path: Path) -> None:
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    script = tmp_path / "pgbake"
    script.write_text(code)
    command = [sys.executable, str(script), str(tmp_path / "path.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        shown = holder(tmp_path / "path.lock")
        process.kill()
    assert shown.startswith(f"pid {process.pid} (pgbake {str(tmp_path)[:20]}")


def test_who_waits_can_be_told_to_stop(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        path_lock(tmp_path / "path", told.append),
        pytest.raises(Unwanted),
        path_lock(tmp_path / "path", told.append, lambda: len(told) == 1),
    ):
        raise AssertionError("taken twice")
    assert len(told) == 1 and not list(tmp_path.iterdir())


def test_who_inherits_a_lock_keeps_it(tmp_path: Path) -> None:
    """As apt and initdb do when pgbake is killed."""
    with path_lock(tmp_path / "path", lambda _holder: None) as descriptor:
        heir = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
        other = open_lock(tmp_path / "path.lock")
    try:
        assert not acquire(other, wait=False)
    finally:
        heir.kill()
        heir.wait()
    assert acquire(other, wait=False)
    os.close(other)
