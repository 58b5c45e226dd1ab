"""File trees on disk: their NAR, its hash, and the metadata that a store path's files have.

Trees are walked with bytes paths, and ``os`` instead of ``pathlib``: these loops run once per file of a
closure, and their cost is what hashing a tree costs above hashing its bytes.
"""

# ruff: noqa: PTH101, PTH102, PTH115, PTH211

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.errors import StoreError, host_error
from pgbake.formats import nar

if TYPE_CHECKING:
    from concurrent.futures import Future

#: Receives the archive's bytes, piece by piece; a piece is valid only during the call.
Consumer = Callable[[memoryview], object]

# Large enough that handing over a block costs nothing beside hashing it, small enough for the cache.
_BLOCK_SIZE = 1 << 19
_BLOCKS = 4

_CLOSE_ENTRY = nar.CLOSE + nar.CLOSE

#: Nix's time stamp: the first second, so that no program takes it for "unknown".
_MTIME_NS = 1_000_000_000

# Set by the system's policy, not by whoever made the file; Nix leaves the same ones alone.
_FOREIGN_XATTRS = frozenset({"security.csm", "security.selinux", "system.nfs4_acl"})


@dataclass(frozen=True, slots=True)
class NarHash:
    """What the store records about a tree: sha256 (raw bytes) and size in bytes of its NAR."""

    sha256: bytes
    size: int


def dump(path: Path, write: Consumer) -> int:
    """Write the NAR of a file tree, and return its size in bytes.

    :param write: called with pieces of up to half a megabyte, each valid only during the call.
    :raises StoreError: the tree holds a device, fifo or socket, can not be read, or changes meanwhile.
    """
    block = _new_block()

    def emit(fill: int) -> memoryview:
        write(block[:fill])
        return block

    return _Archiver(emit, block).archive(path)


def hash_tree(path: Path, consumers: Sequence[Consumer] = (), *, threaded: bool = True) -> NarHash:
    """Return hash and size of the NAR of a file tree, without making the NAR.

    :param consumers: shown all of the NAR's bytes in the same pass; may be called from another thread.
    :param threaded: whether to hash in a thread of its own: sooner done, in all more work.
    :raises StoreError: see :func:`dump`.
    """
    digest = hashlib.sha256()

    def consume(view: memoryview) -> None:
        digest.update(view)
        for consumer in consumers:
            consumer(view)

    if not threaded:
        size = dump(path, consume)
        return NarHash(digest.digest(), size)
    from concurrent.futures import ThreadPoolExecutor  # slow, and not every command hashes

    # One thread reads files, the other hashes: both are mostly outside of the interpreter's lock.
    block = _new_block()
    busy: deque[tuple[Future[None], memoryview]] = deque()
    with ThreadPoolExecutor(1) as hasher:

        def emit(fill: int) -> memoryview:
            nonlocal block
            if not busy and fill < _BLOCK_SIZE:  # a small tree is done before a thread has started
                consume(block[:fill])
                return block
            busy.append((hasher.submit(consume, block[:fill]), block))
            if len(busy) < _BLOCKS:
                block = _new_block()
            else:
                future, block = busy.popleft()
                future.result()
            return block

        size = _Archiver(emit, block).archive(path)
        for future, _ in busy:
            future.result()
    return NarHash(digest.digest(), size)


def _new_block() -> memoryview:
    return memoryview(bytearray(_BLOCK_SIZE))


class _Archiver:
    """Walks a tree in the NAR's order and collects the pieces into blocks.

    :param emit: takes the current block, filled so far, and returns the next one to fill.
    :param block: the first block.
    """

    def __init__(self, emit: Callable[[int], memoryview], block: memoryview) -> None:
        self._emit = emit
        self._block = block
        self._fill = 0
        self._size = 0

    def archive(self, root: Path) -> int:
        try:
            self._walk(os.fsencode(root))
        except OSError as error:
            if error.filename is None:  # from whoever takes the blocks: not ours to explain
                raise
            raise StoreError(f"can not read {_show(error.filename)}: {error.strerror}") from None
        if self._fill:
            self._flush()
        return self._size

    def _walk(self, root: bytes) -> None:
        unfinished: list[Iterator[os.DirEntry[bytes]]] = []  # each open directory's entries to come
        mode = os.lstat(root).st_mode
        self._put(nar.MAGIC)
        if stat.S_ISDIR(mode):
            self._put(nar.DIRECTORY)
            unfinished.append(_entries(root))
        else:
            self._leaf(root, stat.S_ISREG(mode), stat.S_ISLNK(mode), b"", nar.CLOSE)
        while unfinished:
            entry = next(unfinished[-1], None)
            if entry is None:
                unfinished.pop()
                self._put(nar.CLOSE + nar.CLOSE if unfinished else nar.CLOSE)
                continue
            head = nar.entry(entry.name)
            if entry.is_file(follow_symlinks=False):
                self._leaf(entry.path, True, False, head, _CLOSE_ENTRY)
            elif entry.is_dir(follow_symlinks=False):
                self._put(head + nar.DIRECTORY)
                unfinished.append(_entries(entry.path))
            else:
                self._leaf(entry.path, False, entry.is_symlink(), head, _CLOSE_ENTRY)

    def _leaf(self, path: bytes, is_file: bool, is_symlink: bool, head: bytes, tail: bytes) -> None:
        """Add a file or symlink between what stands before and behind it."""
        if is_file:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                self._put(head + nar.regular(bool(status.st_mode & stat.S_IXUSR), status.st_size))
                self._copy(descriptor, status.st_size, path)
            finally:
                os.close(descriptor)
            self._put(nar.padding(status.st_size) + tail)
        elif is_symlink:
            self._put(head + nar.symlink(os.readlink(path)) + tail)
        else:
            raise _special_file(path)

    def _put(self, piece: bytes) -> None:
        """Add a piece that is smaller than a block."""
        fill = self._fill
        end = fill + len(piece)
        if end > _BLOCK_SIZE:
            self._flush()
            fill, end = 0, len(piece)
        self._block[fill:end] = piece
        self._fill = end

    def _copy(self, descriptor: int, left: int, path: bytes) -> None:
        while left:
            if self._fill == _BLOCK_SIZE:
                self._flush()
            try:
                count = os.readv(descriptor, [self._block[self._fill : self._fill + left]])
            except OSError as error:
                raise StoreError(f"can not read {_show(path)}: {error.strerror}") from None
            if not count:
                raise StoreError(f"{_show(path)} became shorter while it was read")
            self._fill += count
            left -= count

    def _flush(self) -> None:
        self._size += self._fill
        self._block = self._emit(self._fill)
        self._fill = 0


def restore(read: Callable[[int], bytes], into: Path) -> None:
    """Unpack a NAR as ``into``, which must not exist yet, and read not a byte beyond the NAR.

    What is made has the modes and times that :func:`canonicalise` gives, the root directory still writable so
    that it can be moved; owners, and what the file system adds by itself, are as they come. Whatever happens,
    nothing outside of ``into`` is touched: names have no slash, and every directory that is entered was made
    here. After an error what was unpacked so far remains, for the caller to remove.

    :param read: see :func:`pgbake.formats.nar.decode`.
    :raises FormatError: the NAR is malformed or incomplete.
    :raises StoreError: a file can not be written, or ``into`` exists.
    :raises HostError: the disk is full.
    """
    path = root = os.fsencode(into)
    parents: list[bytes] = []
    file = -1
    left = 0
    try:
        for event in nar.decode(read):
            try:
                if isinstance(event, bytes):
                    _write_all(file, event)
                    left -= len(event)
                elif isinstance(event, nar.End):
                    path = parents.pop()
                    if parents:
                        os.chmod(path, 0o555)
                    os.utime(path, ns=(_MTIME_NS, _MTIME_NS))
                else:
                    path = parents[-1] + b"/" + event.name if parents else root
                    match event:
                        case nar.Directory():
                            os.mkdir(path, 0o755)
                            parents.append(path)
                        case nar.Symlink(_, target):
                            os.symlink(target, path)
                            os.utime(path, ns=(_MTIME_NS, _MTIME_NS), follow_symlinks=False)
                        case nar.Regular(_, executable, left):
                            file = os.open(path, _CREATE, 0o600)
                            os.fchmod(file, 0o555 if executable else 0o444)
                if file >= 0 and not left:
                    complete, file = file, -1
                    os.utime(complete, ns=(_MTIME_NS, _MTIME_NS))
                    os.close(complete)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise host_error(error, f"can not write {_show(path)}") from None
                raise StoreError(f"can not write {_show(path)}: {error.strerror}") from None
    finally:
        if file >= 0:
            os.close(file)


def canonicalise(path: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Give a tree the metadata that every store path has.

    Modes become 0444 or 0555 (directories: 0555) without setuid, setgid and sticky bits; time stamps
    become second 1; extended attributes and access control lists go.

    :param owner: uid and gid to give everything to, which takes root; None leaves owners alone.
    :raises StoreError: the tree holds a device, fifo or socket, or its metadata can not be changed.
    """
    pending = [os.fsencode(path)]
    try:
        while pending:
            current = pending.pop()
            mode = _canonicalise_one(current, owner)
            if stat.S_ISDIR(mode):
                with os.scandir(current) as entries:
                    pending.extend(entry.path for entry in entries)
    except OSError as error:
        problem = f"can not change the metadata of {_show(error.filename)}: {error.strerror}"
        raise StoreError(problem) from None


def canonicalise_root(path: Path) -> None:
    """Finish what :func:`restore` has made, once it is at its place: see :func:`canonicalise`."""
    _canonicalise_one(os.fsencode(path), None)


def _canonicalise_one(path: bytes, owner: tuple[int, int] | None) -> int:
    """Treat one file, and return its mode with its type."""
    status = os.lstat(path)
    mode = status.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise _special_file(path)
    _strip_xattrs(path, mode)
    if owner is not None and owner != (status.st_uid, status.st_gid):
        os.lchown(path, *owner)
    if not stat.S_ISLNK(mode):
        executable = stat.S_ISDIR(mode) or mode & stat.S_IXUSR
        os.chmod(path, 0o555 if executable else 0o444)
    if status.st_mtime_ns != _MTIME_NS:
        os.utime(path, ns=(status.st_atime_ns, _MTIME_NS), follow_symlinks=False)
    return mode


def _strip_xattrs(path: bytes, mode: int) -> None:
    try:
        names = set(os.listxattr(path, follow_symlinks=False)) - _FOREIGN_XATTRS
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    if names and not stat.S_ISLNK(mode):
        os.chmod(path, mode | stat.S_IWUSR)  # only who may write a file may take its attributes away
    for name in names:
        os.removexattr(path, name, follow_symlinks=False)


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):  # rare: a full disk, a signal
        written += os.write(descriptor, memoryview(data)[written:])


def _entries(path: bytes) -> Iterator[os.DirEntry[bytes]]:
    with os.scandir(path) as entries:
        return iter(sorted(entries, key=attrgetter("name")))


def _special_file(path: bytes) -> StoreError:
    kinds = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}
    kind = kinds.get(stat.S_IFMT(os.lstat(path).st_mode), "a character device")
    return StoreError(
        f"{_show(path)} is {kind}; the store holds only files, directories and symlinks",
        hint="remove it from the tree",
    )


def _show(path: bytes | str) -> str:
    return os.fsdecode(path).encode(errors="backslashreplace").decode()
