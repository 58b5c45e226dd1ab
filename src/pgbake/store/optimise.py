"""De-duplication: equal files of a store become hard links of one another, as Nix does it.

nix/store/.links/BASE32      a link to a file or symlink of the store; its name is the sha256 of the NAR of that file
                             alone, so that one that is executable is another than one that is not

A file takes the place of its equal by one rename, so it is there at any moment. One that is damaged is never linked
to: what a link holds is hashed before the first file is linked to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.errors import StoreError, host_error
from pgbake.events import Notice, Progressed, Sink, silent, task
from pgbake.formats import base32
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

_MTIME_NS = 1_000_000_000


@dataclass(slots=True)
class Optimised:
    """What de-duplication has done, or would do.

    :param files: how many files were replaced by links.
    :param saved: bytes in them, as Nix counts: what they took alone.
    :param already: how many files were links before.
    :param removed: damaged entries of ``.links`` that were removed.
    """

    files: int = 0
    saved: int = 0
    already: int = 0
    removed: list[str] = field(default_factory=list)


def optimise(store: LocalStore, *, dry_run: bool = False, report: Sink = silent) -> Optimised:
    """Replace files of the store that are equal by hard links of one another. Safe beside builds and collectors.

    :raises StoreError: the store cannot be written.
    :raises HostError: the disk fails.
    """
    if dry_run:
        return _run(_Optimiser(store, None, report), store, report)
    store.require_writable()
    with store.scratch() as scratch:
        return _run(_Optimiser(store, scratch, report), store, report)


def _run(optimiser: _Optimiser, store: LocalStore, report: Sink) -> Optimised:
    infos = store.database.registered()
    total = sum(info.nar_size for info in infos.values())
    with task(report, "optimise", "optimise", f"{len(infos)} path{'s' if len(infos) != 1 else ''}", total):
        done = 0
        for path, info in infos.items():
            store.temp_roots.add(path)
            if store.valid([path]):  # else a collector was faster
                try:
                    optimiser.treat(store.physical(path))
                except OSError as error:
                    raise host_error(error, f"cannot optimise {path}") from error
            done += info.nar_size
            report(Progressed("optimise", done))
    return optimiser.result


class _Optimiser:
    """:param scratch: where links are made before they take a file's place; None: only look."""

    def __init__(self, store: LocalStore, scratch: Path | None, report: Sink) -> None:
        self.result = Optimised()
        self._store_dir = store.store_dir
        self._links_dir = store.links_dir
        self._scratch = scratch
        self._report = report
        with os.scandir(store.links_dir) as entries:
            self._linked = {entry.inode() for entry in entries}
        #: Names of links that are sound, with their inode; in a dry run also those that there would be.
        self._sound: dict[str, int] = {}

    def treat(self, top: Path) -> None:
        """De-duplicate the files of one tree."""
        for file, status in _files(top):
            if status.st_ino in self._linked:
                self.result.already += 1
            elif stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IWUSR:
                self._report(Notice("warning", f"{file} can be written and may be damaged; it is left alone"))
            else:
                self._treat_file(file, status, keep_directory=file == top)

    def _treat_file(self, file: Path, status: os.stat_result, keep_directory: bool) -> None:
        try:
            name = base32.encode(hash_tree(file, threaded=False).sha256)
        except StoreError as error:
            self._report(Notice("warning", f"{error}; it is left alone"))
            return
        if name not in self._sound and not self._adopt(name, file, status):
            return
        if self._sound[name] == status.st_ino:
            return
        if self._scratch is None or self._replace(file, self._links_dir / name, status, keep_directory):
            self.result.files += 1
            self.result.saved += status.st_size

    def _adopt(self, name: str, file: Path, status: os.stat_result) -> bool:
        """Make sure of the link of that name: it is there and sound, or is made from the file."""
        link = self._links_dir / name
        with suppress(FileNotFoundError):
            inode = link.lstat().st_ino
            if _holds(link, name):
                self._sound[name] = inode
                return True
            self.result.removed.append(name)
            self._report(Notice("warning", f"{link} is damaged and is removed; run `pgbake verify`"))
            if self._scratch is not None:
                link.unlink()
        if self._scratch is not None:
            try:
                os.link(file, link, follow_symlinks=False)
            except FileExistsError:  # another process was faster; the next run sees to it
                return False
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EMLINK):  # ext4: the directory has no room for more names
                    return False
                raise
        self._sound[name] = status.st_ino
        self._linked.add(status.st_ino)
        return True

    def _replace(self, file: Path, link: Path, status: os.stat_result, keep_directory: bool) -> bool:
        assert self._scratch is not None
        temporary = self._scratch / "link"
        directory = file.parent
        try:
            os.link(link, temporary, follow_symlinks=False)
            if not keep_directory:  # only who may write a directory may change its names
                directory.chmod(0o755)
            temporary.rename(file)
        except FileNotFoundError:  # a collector took the link; the next run sees to it
            self._sound.pop(link.name, None)
            return False
        except OSError as error:
            if error.errno == errno.EMLINK:  # so many links have only empty files
                return False
            raise
        finally:
            temporary.unlink(missing_ok=True)
            if not keep_directory:
                directory.chmod(0o555)
                os.utime(directory, ns=(_MTIME_NS, _MTIME_NS))
        self._linked.add(self._sound[link.name])
        return True


def _holds(link: Path, name: str) -> bool:
    try:
        return base32.encode(hash_tree(link, threaded=False).sha256) == name
    except StoreError:
        return False


def _files(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Give the files and symlinks of a tree."""
    pending = [top]
    while pending:
        place = pending.pop()
        status = place.lstat()
        if stat.S_ISDIR(status.st_mode):
            pending += sorted(place.iterdir(), reverse=True)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield place, status
