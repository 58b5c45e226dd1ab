"""Directories that are made once, named by what they are made of, and kept; a record says that one is whole."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from pgbake.errors import CommandError, StoreError, host_error
from pgbake.store.local import remove_tree
from pgbake.store.locks import held_directory, path_lock
from pgbake.store.locks import silent as silent_wait

T = TypeVar("T")


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
    for left in parent.glob("boot-*"):
        if (held := held_directory(left)) is not None:
            remove_tree(left)
            os.close(held)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix="boot-"))
    held = held_directory(directory)
    try:
        yield directory
    finally:
        remove_tree(directory)
        if held is not None:
            os.close(held)
