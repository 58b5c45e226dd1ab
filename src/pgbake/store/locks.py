"""File locks between processes, in Nix's manner: ``flock`` on a file, released by the kernel at a kill.

A lock on something that will come to exist at ``P`` is the file ``P.lock`` beside it. Whoever is done
deletes the file and then writes one byte into it, so that a process that had opened the old file and
waited for it sees from its size that it must open the new one (Nix's ``pathlocks``).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pgbake.errors import PgbakeError, StoreError, host_error


def _denied(file: Path, error: OSError) -> PgbakeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return host_error(error, f"cannot lock {file}")
    return StoreError(
        f"cannot lock {file}: {error.strerror}",
        hint="run as the store's owner, or name a store of your own with --store DIR",
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


@contextmanager
def path_lock(target: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on ``target`` (the file ``target.lock``) for a ``with`` block.

    :param on_wait: called once with the holder's description when another process has it.
    :raises StoreError: the lock file cannot be created.
    """
    file = target.with_name(target.name + ".lock")
    while True:
        descriptor = open_lock(file)
        try:
            if not acquire(descriptor, wait=False):
                on_wait(holder(file))
                acquire(descriptor)
            status = os.fstat(descriptor)
            if status.st_size != 0 or status.st_nlink == 0:
                continue  # stale: its former holder deleted it while we waited
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
                with suppress(OSError):  # on a full disk; the missing link tells our own kind the same
                    os.write(descriptor, b"d")
            return
        finally:
            os.close(descriptor)


def holder(file: Path) -> str:
    """Say which process holds the ``flock`` on a file, as ``/proc/locks`` tells: ``pid 42 (pgbake)``."""
    try:
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and "->" not in fields and fields[5].rsplit(":", 1)[-1] == str(inode):
                name = Path(f"/proc/{fields[4]}/comm")
                return f"pid {fields[4]} ({name.read_text().strip()})"
    except (OSError, IndexError):
        pass
    return "another process"
