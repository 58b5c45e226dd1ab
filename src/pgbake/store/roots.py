"""Garbage collector roots, in Nix's places, so that any collector of this store spares what is in use.

nix/var/nix/gcroots/auto/HASH    -> a link elsewhere (an indirect root), such as a project's `result`
nix/var/nix/temproots/PID           store paths that a running process needs, each ended by NUL; the
                                    process keeps the file locked for as long as it lives
nix/var/nix/gc.lock                 held exclusively by a collector while it looks for roots
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pgbake.errors import FormatError, StoreError, host_error
from pgbake.files import flush_directory
from pgbake.formats import base32
from pgbake.formats.storepath import STORE_DIR, StorePath
from pgbake.store.locks import OnWait, acquire, holder, open_lock, silent


class TempRoots:
    """The temporary roots of this process (Nix's ``temproots/PID``), held until it ends."""

    def __init__(self, state_dir: Path, enabled: bool = True) -> None:
        """``enabled`` is off for a store that can only be read: nothing is kept from collectors then."""
        self._enabled = enabled
        self._file = state_dir / "temproots" / str(os.getpid())
        self._gc_lock_file = state_dir / "gc.lock"
        self._descriptor: int | None = None
        self._held: set[StorePath] = set()
        self._turn = threading.Lock()
        #: Called with the description of a collector that is waited for.
        self.on_wait: OnWait = silent

    def add(self, *paths: StorePath) -> None:
        """Keep every collector from deleting ``paths`` while this process lives.

        A collector that is at work is waited for: what it is about to delete must not be relied upon.

        :raises HostError: the disk is full.
        """
        with self._turn:
            new = [path for path in paths if path not in self._held]
            if not new or not self._enabled:
                return
            descriptor = self._open()
            gc_lock = open_lock(self._gc_lock_file)
            try:
                if not acquire(gc_lock, shared=True, wait=False):
                    self.on_wait(holder(self._gc_lock_file))
                    acquire(gc_lock, shared=True)
                with open(descriptor, "ab", closefd=False) as file:
                    file.write(b"".join(str(path).encode() + b"\0" for path in new))
            except OSError as error:
                raise host_error(error, f"cannot write {self._file}") from error
            finally:
                os.close(gc_lock)
            self._held.update(new)

    def _open(self) -> int:
        while self._descriptor is None:
            # A file of our own pid is a dead process's: pids are unique among the living.
            self._file.unlink(missing_ok=True)
            descriptor = open_lock(self._file)
            acquire(descriptor)
            if os.fstat(descriptor).st_size == 0:
                self._descriptor = descriptor
            else:  # a collector took it for stale between our opening and locking it
                os.close(descriptor)
        return self._descriptor

    def sweep(self) -> None:
        """Remove the files of processes that were killed, as a collector does."""
        for file in self._file.parent.iterdir():
            with suppress(OSError):
                descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if file != self._file and acquire(descriptor, wait=False):
                        file.unlink()
                        os.write(descriptor, b"d")  # for a new process of that pid, which may have it open by now
                finally:
                    os.close(descriptor)

    def held(self) -> Iterator[tuple[int, StorePath]]:
        """Yield what living processes hold, each path with the process's id; files of dead ones are passed over."""
        for file in self._file.parent.iterdir():
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
                # Shared, so that one who only looks never stands in the way of another.
                if acquire(descriptor, shared=True, wait=False):
                    continue
                for name in stream.read().split(b"\0")[:-1]:
                    with suppress(FormatError, ValueError):
                        yield int(file.name), StorePath.parse(name.decode())

    def close(self) -> None:
        """Drop the roots."""
        if self._descriptor is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            self._held.clear()


def link_root(link: Path, target: StorePath, state_dir: Path | None) -> None:
    """Make ``link`` a symbolic link to a store path, and an indirect root for as long as it stays.

    :param state_dir: of the store; None makes the link only.

    :raises StoreError: something that is no link to the store stands in the way, or the place is not writable.
    :raises HostError: the disk is full.
    """
    if link.is_symlink():
        if not str(link.readlink()).startswith(f"{STORE_DIR}/"):
            raise StoreError(
                f"{link} is a link that pgbake did not make",
                hint="move it away or name another with --out-link",
            )
    elif link.exists():
        raise StoreError(f"{link} is in the way", hint="move it away or name another with --out-link")
    try:
        _make_link(link, target)
        flush_directory(link.parent)
        if state_dir is not None and _make_indirect(link, state_dir):
            flush_directory(state_dir / "gcroots" / "auto")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise host_error(error, f"cannot make the link {link}") from error
        raise StoreError(
            f"cannot make the link {link}: {error.strerror}", hint="name another place with --out-link"
        ) from error


def link_roots(directory: Path, links: Mapping[str, StorePath], state_dir: Path | None) -> None:
    """Make a directory of such links, below which no others stay. What is right already is left as it is.

    :param links: by their names below the directory, which may have slashes in them.
    :param state_dir: of the store; None makes the links only.
    :raises HostError: they cannot be written.
    """
    try:
        changed: set[Path] = set()
        for link in _links_below(directory):
            if str(link.relative_to(directory)) not in links:
                link.unlink(
                    missing_ok=True
                )  # its entry in gcroots/auto leads nowhere, and goes with the next collection
        for name, target in links.items():
            link = directory / name
            if not link.is_symlink() or str(link.readlink()) != str(target):
                _make_link(link, target)
                changed.add(link.parent)
            if state_dir is not None and _make_indirect(link, state_dir):
                changed.add(state_dir / "gcroots" / "auto")
        for place in changed:  # once for each directory, not for each link
            flush_directory(place)
    except OSError as error:
        raise host_error(error, f"cannot make links in {directory}") from error


def link_inner_root(state_dir: Path, link: Path) -> None:
    """Make a link that lies below the store's own ``nix/var`` an indirect root for as long as it stays.

    Its entry is relative: so it holds for a tree that is looked at from outside, and for the machine that it becomes.

    :raises OSError: it cannot be written.
    """
    auto = state_dir / "gcroots" / "auto"
    inside = f"/nix/var/{link.relative_to(state_dir.parent)}"
    entry = auto / base32.encode(hashlib.sha1(os.fsencode(inside)).digest())
    if not entry.is_symlink():
        auto.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            entry.symlink_to(os.path.relpath(link, auto))
        flush_directory(auto)


def _links_below(directory: Path) -> Iterator[Path]:
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            if (link := Path(place) / name).is_symlink():
                yield link


def _make_link(link: Path, target: StorePath) -> None:
    temporary = link.with_name(f".{link.name}.new")
    while True:
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with suppress(FileExistsError, FileNotFoundError):  # another process is making the same link
            temporary.symlink_to(str(target))
            temporary.replace(link)
            return


def _make_indirect(link: Path, state_dir: Path) -> bool:
    """Make a link an indirect root; return whether it was none."""
    absolute = Path(os.path.abspath(link))  # noqa: PTH100 - resolve() would follow the link itself
    name = base32.encode(hashlib.sha1(os.fsencode(absolute)).digest())
    auto = state_dir / "gcroots" / "auto" / name
    if auto.is_symlink():
        return False
    auto.parent.mkdir(parents=True, exist_ok=True)  # Nix makes it with the first root only
    with suppress(FileExistsError):
        auto.symlink_to(absolute)
    return True
