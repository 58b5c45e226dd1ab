"""Replacing the contents of a valid path by the same contents, undamaged.

Both trees change places in one step (``renameat2``, RENAME_EXCHANGE), after the new one is on disk; so the path is
there at any moment, whatever is killed. Where a file system cannot do that, the old tree is moved away first: a kill in
between leaves the path missing, as somebody who deleted it would, and the next build or repair brings it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from pgbake.errors import StoreError, host_error
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store import tree
from pgbake.store.local import LocalStore, remove_tree

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
#: What file systems answer that do not know the exchange.
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP})


def replace(store: LocalStore, path: StorePath, made: Path) -> None:
    """Put ``made`` in the place of a valid path, whose contents are damaged or gone.

    The caller holds the path's lock, under which ``made`` lies in its staging directory; it is used up.

    :raises StoreError: ``made`` has another NAR hash than the one that is registered; nothing is changed then.
    :raises HostError: the disk is full or fails.
    """
    info = store.info(path)
    tree.canonicalise(made, owner=(0, 0) if os.geteuid() == 0 else None)
    found = tree.hash_tree(made)
    if found.sha256 != info.nar_sha256:
        raise StoreError(
            f"{path} was made again with other contents: expected sha256:{base32.encode(info.nar_sha256)}, "
            f"got sha256:{base32.encode(found.sha256)}"
        )
    store.flush()
    final = store.physical(path)
    try:
        _let_move(made)
        if not os.path.lexists(final):
            made.rename(final)
        else:
            _let_move(final)
            _exchange(made, final)
            remove_tree(made)
        if os.geteuid() != 0 and final.is_dir() and not final.is_symlink():
            final.chmod(0o555)
        store.flush()
    except OSError as error:
        raise host_error(error, f"cannot replace {path}") from error


def _let_move(place: Path) -> None:
    if os.geteuid() != 0 and place.is_dir() and not place.is_symlink():
        place.chmod(0o755)  # only who may write a directory may move it


def _exchange(one: Path, other: Path) -> None:
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if ctypes.CDLL(None, use_errno=True).renameat2(*arguments) == 0:
        return
    number = ctypes.get_errno()
    if number not in _UNKNOWN:
        raise OSError(number, os.strerror(number))
    aside = one.with_name(f"{one.name}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
