"""Directories that are made once, named by what they are made of, and kept; a record says that one is whole.

The time of a directory tells when it was last used, and a lock on it that it is in use; see :func:`use`.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from pgbake.errors import CommandError, StoreError, host_error
from pgbake.store.local import remove_tree
from pgbake.store.locks import Unwanted, acquire, held_directory, path_lock
from pgbake.store.locks import silent as silent_wait
from pgbake.store.usage import DiskUsage

T = TypeVar("T")
#: What is kept in a directory of images; one of a killed run ends with ``.new``.
_KEPT = ("stage1-*", "stage2-*", "programs-*", "workshop-*", "debs/*")
_THROWAWAY = "boot-*"


def read_record(file: Path, kind: type[T]) -> T | None:
    """Read the record of a directory; None where it is not made yet.

    :raises StoreError: it is damaged.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{file} is damaged: {error}", hint=f"delete {file.parent} and make it anew") from None


@contextmanager
def bench_for(directory: Path, record: str) -> Iterator[Path | None]:
    """Give an empty directory, which becomes ``directory`` when the ``with`` block ends well, and goes else.

    Others who want to make the same one wait; they are given None when it is there.

    :param record: the file that says that the directory is whole.
    :raises HostError: the disk is full, also where a program says so, or cannot be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with path_lock(directory, silent_wait):
        if (directory / record).exists():
            yield None
            return
        bench = directory.with_name(f"{directory.name}.new")
        try:
            remove_tree(bench)  # of a run that was killed
            bench.mkdir()
            yield bench
            remove_tree(directory)
            bench.rename(directory)
        except OSError as error:
            raise host_error(error, f"cannot make {directory}") from error
        except CommandError as error:
            if os.strerror(errno.ENOSPC) not in (error.detail or ""):
                raise
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            failed = host_error(full, f"cannot make {directory}")
            failed.detail = error.detail
            raise failed from error
        finally:
            remove_tree(bench)


@contextmanager
def throwaway(parent: Path) -> Iterator[Path]:
    """Give an empty directory ``boot-*`` for one boot, and remove it when the ``with`` block ends.

    It is locked meanwhile, so that those of killed runs are known, and removed, too.
    """
    for left in parent.glob(_THROWAWAY):
        if (held := held_directory(left)) is not None:
            remove_tree(left)
            os.close(held)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=_THROWAWAY.rstrip("*")))
    held = held_directory(directory)
    try:
        yield directory
    finally:
        remove_tree(directory)
        if held is not None:
            os.close(held)


def use(directory: Path) -> None:
    """Note that a directory is used now, and keep it from :func:`collect` as long as this process lives."""
    os.utime(directory)
    acquire(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), shared=True)


@dataclass(frozen=True, slots=True)
class Unused:
    """A directory that nobody needs any more.

    :param freed: bytes on disk.
    """

    directory: Path
    freed: int


def collect(images: Path, before: float, *, dry_run: bool) -> list[Unused]:
    """Remove what was not used since a time and is not in use, and what killed runs have left; return that, by name.

    :param before: in Unix seconds.
    :param dry_run: remove nothing.
    :raises HostError: something cannot be removed.
    """
    kept = {directory for pattern in _KEPT for directory in images.glob(pattern) if directory.is_dir()}
    thrown = {*images.glob(_THROWAWAY), *(place for top in kept for place in top.glob(_THROWAWAY))}
    try:
        found = [_collect(directory, before, dry_run) for directory in sorted(kept)]
        found += [_collect(directory, float("inf"), dry_run) for directory in sorted(thrown) if directory.exists()]
    except OSError as error:
        raise host_error(error, f"cannot remove {error.filename or images}") from error
    return [unused for unused in found if unused is not None]


def _collect(directory: Path, before: float, dry_run: bool) -> Unused | None:
    if directory.suffix == ".new":
        # Who makes it holds the lock of what it will be.
        with suppress(Unwanted), path_lock(directory.with_suffix(""), silent_wait, lambda: True):
            return _remove(directory, dry_run)
        return None
    if directory.stat().st_mtime >= before or (held := held_directory(directory)) is None:
        return None
    try:
        return _remove(directory, dry_run)
    finally:
        os.close(held)


def _remove(directory: Path, dry_run: bool) -> Unused:
    usage = DiskUsage(directory / ".links")
    usage.add(directory)
    if not dry_run:
        remove_tree(directory)
    return Unused(directory, usage.freed)
