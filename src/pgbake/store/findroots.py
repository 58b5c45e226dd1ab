"""Finding what a garbage collector must spare, where Nix's collector looks for it.

nix/var/nix/gcroots/**              links into the store; links to links into the store (indirect roots);
                                    files that have the name of a store path
nix/var/nix/profiles/**             profiles, and their generations `NAME-N-link`
nix/var/nix/temproots/PID           what a living process has said that it needs
/proc/PID/{exe,cwd,fd/*,maps,environ}   what a living process uses

A process of a store below another root sees that store at ``/nix``, in a mount namespace, and /proc shows its
files by those names; so names below ``/nix/store`` and below ``ROOT/nix/store`` both count. A process that sees
another store there, which has the same path, does not; nor does one that uses the same path below another root.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgbake.errors import FormatError
from pgbake.events import Notice, Sink, silent
from pgbake.formats.storepath import STORE_DIR, StorePath
from pgbake.run import state_of
from pgbake.store.local import LocalStore
from pgbake.store.locks import command_of

RootKind = Literal["link", "profile", "process", "temporary"]

_NAME = rb"/([0-9a-z]{32}-[0-9A-Za-z+._?=-]+)"
#: A store below some root, in a list of files or variables.
_ANY_STORE = rb"(?:/[^/\0\s:=]+)*?/nix/store"
#: The states of a process that uses nothing any more: it ended while we looked, and may not be reaped yet.
_ENDED = frozenset({None, "Z", "X"})


@dataclass(frozen=True, slots=True, order=True)
class Root:
    """One reason why a path must stay.

    :param path: what is held; that of a temporary root need not be valid yet.
    :param holder: the link's place, or the process: ``pid 42 (postgres)``.
    """

    path: StorePath
    kind: RootKind
    holder: str


def find_roots(
    store: LocalStore, *, remove_stale: bool = False, without: Collection[Path] = (), report: Sink = silent
) -> list[Root]:
    """Return all roots of a store, sorted; each is of a valid path, but for temporary ones.

    :param remove_stale: whether to remove indirect roots whose link is gone, and temporary roots of dead processes.
    :param without: links that do not count: they are about to go.
    """
    if remove_stale:
        store.temp_roots.sweep()
    found = set(_temporary_roots(store))
    lasting = set(_process_roots(store))
    links = _Links(store, store.state_dir / "gcroots/auto" if remove_stale else None, without, report)
    lasting |= {Root(path, "link", str(link)) for path, link in links.below(store.state_dir / "gcroots")}
    lasting |= {Root(path, "profile", str(link)) for path, link in links.below(store.state_dir / "profiles")}
    valid = store.database.valid({root.path for root in lasting})
    return sorted(found | {root for root in lasting if root.path in valid})


def store_path_of(store: LocalStore, target: str) -> StorePath | None:
    """Return the store path that a file belongs to, as named from inside or from outside of the store's namespace.

    Nobody asks whether it is there; None: it is named by a place outside of the store.
    """
    for directory in (STORE_DIR, str(store.store_dir)):
        if target.startswith(f"{directory}/"):
            with suppress(FormatError):
                return StorePath.from_basename(target.removeprefix(f"{directory}/").partition("/")[0])
    return None


@dataclass(frozen=True)
class _Links:
    """Looks for links to store paths, as Nix does: one link in between is followed, no more."""

    store: LocalStore
    stale_below: Path | None
    without: Collection[Path]
    report: Sink

    def below(self, place: Path) -> Iterator[tuple[StorePath, Path]]:
        try:
            if place in self.without:
                return
            if place.is_symlink():
                yield from self._link(place)
            elif place.is_dir():
                for entry in sorted(place.iterdir()):
                    yield from self.below(entry)
            elif place.is_file():
                with suppress(FormatError):
                    yield StorePath.from_basename(place.name), place
        except FileNotFoundError:
            pass  # it went while we looked
        except OSError as error:
            self.report(Notice("warning", f"cannot read the root {place}: {error.strerror}; it keeps nothing"))

    def _link(self, link: Path) -> Iterator[tuple[StorePath, Path]]:
        target = os.readlink(link)  # noqa: PTH115 - the text is what is wanted
        if path := store_path_of(self.store, target):
            yield path, link
            return
        place = Path(os.path.abspath(link.parent / target))  # noqa: PTH100 - resolve() would follow links
        try:
            further = os.readlink(place) if place not in self.without else ""  # noqa: PTH115
        except (FileNotFoundError, NotADirectoryError):
            if link.parent == self.stale_below:
                link.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno in _NO_LINK:
                return
            raise
        if path := store_path_of(self.store, further):
            yield path, place


#: What readlink(2) says of a file that is no link.
_NO_LINK = frozenset({errno.EINVAL})


def _temporary_roots(store: LocalStore) -> Iterator[Root]:
    for pid, path in store.temp_roots.held():
        yield Root(path, "temporary", _process(pid))


def _process_roots(store: LocalStore) -> Iterator[Root]:
    pattern = re.compile(b"(" + re.escape(os.fsencode(store.store_dir)) + b"|" + _ANY_STORE + b")" + _NAME)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):  # noqa: PTH208 - names are what is wanted
        used = _named(pattern, b"\0".join(_used_by(f"/proc/{pid}")))
        for place, name in used | _named(pattern, _read(f"/proc/{pid}/environ")):
            with suppress(FormatError):
                path = StorePath.from_basename(name.decode())
                if _is_ours(store, os.fsdecode(place), path, pid, (place, name) in used):
                    yield Root(path, "process", _process(pid))


def _named(pattern: re.Pattern[bytes], text: bytes) -> set[tuple[bytes, bytes]]:
    """Return the stores and names in a text; the few lines that have any are picked first, since that is cheap."""
    lines = (line for line in re.split(rb"[\0\n]", text) if b"/nix/store/" in line)
    return {found for line in lines for found in pattern.findall(line)}


def _is_ours(store: LocalStore, place: str, path: StorePath, pid: int, unseen: bool) -> bool:
    """Whether what a process calls a path of the store at ``place`` may be of this store: it is not another one's.

    :param unseen: the answer where there is no such path for that process: one that has it open may have left its
        root, but a variable that names it is of no use.
    """
    if place == str(store.store_dir):
        return True
    # What has left its root has names in ours, but for what lay at /nix: here that is the store of this machine's Nix.
    for root in (f"/proc/{pid}/root",) if place == STORE_DIR else (f"/proc/{pid}/root", ""):
        try:
            return os.path.samestat(os.lstat(f"{root}{place}/{path.basename}"), store.physical(path).lstat())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return True
    return unseen and state_of(pid) not in _ENDED


def _used_by(process: str) -> Iterator[bytes]:
    """Give what the kernel tells of the files of a process; what it tells nobody, or us not, is left out."""
    links = [f"{process}/exe", f"{process}/cwd"]
    with suppress(OSError):
        links += [f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd")]  # noqa: PTH208
    for link in links:
        with suppress(OSError):
            yield os.readlink(os.fsencode(link))  # noqa: PTH115 - bytes are what is wanted
    yield _read(f"{process}/maps")


def _read(file: str) -> bytes:
    with suppress(OSError):
        return Path(file).read_bytes()
    return b""


def _process(pid: int) -> str:
    try:
        return f"pid {pid} ({command_of(pid)})"
    except (OSError, IndexError):
        return f"pid {pid}"
