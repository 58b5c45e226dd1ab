"""File locks between processes, in Nix's manner: ``flock`` on a file, released by the kernel at a kill.

A lock on something that will come to exist at ``P`` is the file ``P.lock`` beside it. Whoever is done
deletes the file and then writes one byte into it, so that a process that had opened the old file and
waited for it sees from its size that it must open the new one (Nix's ``pathlocks``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pgbake.errors import PgbakeError, StoreError, host_error

#: Seconds between two looks at a lock that somebody else holds.
_LOOK_EVERY = 0.1
#: How much of a holder's command is told.
_SHOWN = 80

OnWait = Callable[[str], None]


class Unwanted(Exception):
    """Whoever waited for a lock has been told to stop waiting."""


def silent(_holder: str) -> None:
    """For who waits without a word."""


def patient() -> bool:
    """For who waits as long as it takes."""
    return False


def _denied(file: Path, error: OSError) -> PgbakeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return host_error(error, f"cannot lock {file}")
    return StoreError(
        f"cannot lock {file}: {error.strerror}",
        hint="run as the owner of that directory, or name another",
    )


def open_lock(file: Path) -> int:
    """Open, and create where absent, a lock file and return its descriptor (close-on-exec).

    :raises StoreError: it cannot be created.
    :raises HostError: the disk is full.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _denied(file, error) from error


def acquire(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Take the lock on an open lock file; return False when it is held elsewhere and ``wait`` is off."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _await(descriptor: int, file: Path, on_wait: OnWait, unwanted: Callable[[], bool]) -> None:
    if acquire(descriptor, wait=False):
        return
    on_wait(holder(file))
    # Looking again and again, where one call could sleep: a thread in that call would not hear of Ctrl-C.
    while not acquire(descriptor, wait=False):
        if unwanted():
            raise Unwanted
        time.sleep(_LOOK_EVERY)


@contextmanager
def path_lock(target: Path, on_wait: OnWait, unwanted: Callable[[], bool] = patient) -> Iterator[int]:
    """Hold the lock on ``target`` (the file ``target.lock``) for a ``with`` block.

    The block is given the lock's descriptor: who inherits it shares the lock, and keeps it when this process
    is killed.

    :param on_wait: called once with the holder's description when another process has it.
    :param unwanted: asked while waiting; True ends it.
    :raises StoreError: the lock file cannot be created.
    :raises Unwanted: the lock is not wanted any more.
    """
    file = target.with_name(target.name + ".lock")
    while True:
        descriptor = open_lock(file)
        try:
            _await(descriptor, file, on_wait, unwanted)
            status = os.fstat(descriptor)
            if status.st_size != 0 or status.st_nlink == 0:
                continue  # stale: its former holder deleted it while we waited
            try:
                yield descriptor
            finally:
                file.unlink(missing_ok=True)
                with suppress(OSError):  # on a full disk; the missing link tells our own kind the same
                    os.write(descriptor, b"d")
            return
        finally:
            os.close(descriptor)


@contextmanager
def exclusive_lock(file: Path, on_wait: OnWait = silent) -> Iterator[None]:
    """Hold the lock on a file that stays, such as Nix's ``gc.lock``, for a ``with`` block.

    :raises StoreError: it cannot be opened.
    """
    descriptor = open_lock(file)
    try:
        _await(descriptor, file, on_wait, patient)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def directory_lock(directory: Path, on_wait: OnWait = silent) -> Iterator[None]:
    """Hold a lock on a directory itself for a ``with`` block; no file is left, whatever happens.

    Where the file system knows no locks on directories (NFS), nobody is waited for.

    :raises OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            _await(descriptor, directory, on_wait, patient)
        yield
    finally:
        os.close(descriptor)


def held_directory(directory: Path) -> int | None:
    """Lock a directory, as long as the descriptor that is returned is open; None where another has it.

    :raises OSError: it cannot be opened.
    """
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    if acquire(held, wait=False):
        return held
    os.close(held)
    return None


def holder(file: Path) -> str:
    """Say which process holds the ``flock`` on a file, as ``/proc/locks`` tells: ``pid 42 (pgbake build)``."""
    with suppress(OSError, IndexError):
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and "->" not in fields and fields[5].rsplit(":", 1)[-1] == str(inode):
                return f"pid {fields[4]} ({command_of(int(fields[4]))})"
    return "another process"


def command_of(pid: int) -> str:
    """Return a process's command as its user knows it: without the interpreter, programs without directories.

    :raises OSError: it has ended.
    """
    words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    if len(words) > 1 and Path(words[0]).name.startswith("python"):
        if words[1] == "-m":
            words = words[2:]
        elif not words[1].startswith("-"):
            words = words[1:]
    line = shlex.join([Path(words[0]).name, *words[1:]])
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
