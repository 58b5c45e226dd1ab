"""A bundle as a tree of its own, below a prefix, without the store: for packages and images.

In the store a bundle is links into packages; here each link is the file that it leads to. A file that several paths
lead to is there once, and the other paths are relative links to it. What names the store is changed:

=====================  ==========================================================================================
programs               the interpreter (PT_INTERP) is the prefix's loader, written over the longer path of the store's
text                   a path of the store becomes the prefix's, where the tree has that file
``receipt.json``       tells no paths
=====================  ==========================================================================================

All else finds its neighbours relative to itself: DT_RPATH begins with ``$ORIGIN``, and ``libpgbake-env.so`` asks from
where it was loaded. Whatever names the store after that is an error.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.errors import StoreError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore

_STORE_PATH = re.compile(rb"/nix/store/[0-9a-df-np-sv-z]{32}-[0-9A-Za-z+._?=-]+((?:/[\w./+@=,~%-]*)?)")
_PT_INTERP = 3
#: Links in a row that are followed; as many as Linux follows.
_MOST_LINKS = 40


@dataclass
class Flat:
    """A bundle's tree as it is to be: paths relative to the prefix.

    :param files: path to the file in the store that it is a copy of.
    :param links: path to what the link says.
    """

    directories: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def holds(self, path: str) -> bool:
        """Whether the tree has something at a path, be it through links."""
        for _ in range(_MOST_LINKS):
            parts = path.split("/")
            for number in range(1, len(parts) + 1):
                begin = "/".join(parts[:number])
                if begin in self.links:
                    rest = "/".join(parts[number:])
                    path = posixpath.normpath(posixpath.join(posixpath.dirname(begin), self.links[begin], rest))
                    break
            else:
                return path in self.files or path in self.directories
        return False


class _Walk:
    """Looks at a bundle in the store."""

    def __init__(self, store: Path, bundle: StorePath) -> None:
        #: Where the store lies on disk; links in it say /nix/store.
        self.store = store
        self.top = bundle.basename
        self.flat = Flat()
        #: A directory or file of the store to the paths that lead to it.
        self.places: dict[str, list[str]] = {}
        self.first: dict[str, str] = {}

    def run(self) -> Flat:
        self.directory("", self.top)
        for real, paths in self.places.items():
            place = self.natural(real, paths) or min(paths)
            self.flat.files[place] = self.store / real
            for path in paths:
                if path != place:
                    self.link(path, place)
        return self.flat

    def directory(self, path: str, real: str) -> None:
        if path:
            self.flat.directories.append(path)
        with os.scandir(self.store / real) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            below, leads = posixpath.join(path, entry.name), posixpath.join(real, entry.name)
            if entry.is_symlink():
                target = self.resolve(leads)
                if target is None:  # to what is not there, or is the machine's
                    self.flat.links[below] = str((self.store / leads).readlink())
                elif (self.store / target).is_dir():
                    self.linked_directory(below, target)
                else:
                    self.places.setdefault(target, []).append(below)
            elif entry.is_dir():
                self.directory(below, leads)
            else:
                self.places.setdefault(leads, []).append(below)

    def linked_directory(self, path: str, real: str) -> None:
        """Take in a directory to which a link leads: as a link, where it is in the tree by another path."""
        place = self.natural(real) or self.first.setdefault(real, path)
        if place == path:
            self.directory(path, real)
        else:
            self.link(path, place)

    def link(self, path: str, place: str) -> None:
        self.flat.links[path] = posixpath.relpath(place, posixpath.dirname(path) or ".")

    def natural(self, real: str, paths: list[str] | None = None) -> str | None:
        """Return the path that something of a package has below its own ``usr``, if the bundle has it there, too.

        :param paths: those that lead to it, where that is known.
        """
        name, _, rest = real.partition("/")
        path = rest if name == self.top else rest.removeprefix("usr/")
        if paths is not None:
            return path if path in paths else None
        return path if self.resolve(f"{self.top}/{path}") == real else None

    def resolve(self, path: str) -> str | None:
        """Follow links, those on the way included; None where they lead out of the store, or nowhere."""
        pending = path.split("/")[::-1]
        done: list[str] = []
        for _ in range(100 * _MOST_LINKS):
            if not pending:
                return "/".join(done)
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(done) < 2:  # above the package
                    return None
                done.pop()
                continue
            full = self.store.joinpath(*done, part)
            if full.is_symlink():
                target = str(full.readlink())
                if target.startswith("/"):
                    if not target.startswith("/nix/store/"):
                        return None
                    done, target = [], target.removeprefix("/nix/store/")
                pending += target.split("/")[::-1]
            elif full.exists():
                done.append(part)
            else:
                return None
        return None


def flatten(store: LocalStore, bundle: StorePath) -> Flat:
    """Look at a bundle, which must be valid, and return the tree that it is without the store."""
    return _Walk(store.physical(bundle).parent, bundle).run()


def write_flat(flat: Flat, into: Path, prefix: str) -> Iterator[int]:
    """Write the tree, and yield the size of each file in bytes once it is there.

    :param into: a directory that does not exist.
    :param prefix: where the tree will lie on its machine, such as ``/usr/lib/pgbake/postgresql-15``.
    :raises StoreError: something names the store and cannot be changed.
    """
    into.mkdir(parents=True, mode=0o755)
    for path in sorted(flat.directories):
        into.joinpath(path).mkdir(parents=True, exist_ok=True)
    for path, target in sorted(flat.links.items()):
        into.joinpath(path).symlink_to(target)
    for path, source in sorted(flat.files.items()):
        content = source.read_bytes()
        if b"/nix/" in content or path == "receipt.json":
            content = without_store(content, path, flat, prefix)
        file = into / path
        file.write_bytes(content)
        file.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
        yield len(content)


def without_store(content: bytes, path: str, flat: Flat, prefix: str) -> bytes:
    """Return a file's content with the prefix in place of the store.

    :raises StoreError: it names what the tree does not hold, or a program's name of it has no room.
    """
    if path == "receipt.json":
        return _receipt(content)
    if content.startswith(b"\x7fELF\x02\x01"):
        changed = _with_interpreter(content, path, flat, prefix)
        if found := _STORE_PATH.search(changed):
            raise _named(path, found[0])
        return changed

    def place(found: re.Match[bytes]) -> bytes:
        inside = found[1].decode().removeprefix("/usr").strip("/")
        if not inside or not flat.holds(inside):
            raise _named(path, found[0])
        return f"{prefix}/{inside}".encode()

    return _STORE_PATH.sub(place, content)


def _receipt(content: bytes) -> bytes:
    receipt = json.loads(content)
    for entry in (*receipt.get("packages", ()), *receipt.get("runtime", ())):
        entry.pop("path", None)
    return (json.dumps(receipt, indent=2, ensure_ascii=False) + "\n").encode()


def _with_interpreter(content: bytes, path: str, flat: Flat, prefix: str) -> bytes:
    """Write another interpreter over a program's (System V gABI, chapter 5): the new path is the shorter one."""
    (table,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    for number in range(count):
        header = table + number * size
        kind, offset, length = struct.unpack_from("<I4xQ16xQ", content, header)
        if kind != _PT_INTERP:
            continue
        old = content[offset : offset + length].rstrip(b"\0")
        found = _STORE_PATH.fullmatch(old)
        if found is None:
            return content
        inside = found[1].decode().removeprefix("/usr/")
        new = f"{prefix}/{inside}".encode() + b"\0"
        if not flat.holds(inside) or len(new) > length:
            raise _named(path, old)
        # The segment keeps its length: the kernel and the loader read up to the first NUL.
        return content[:offset] + new.ljust(length, b"\0") + content[offset + length :]
    return content


def _named(path: str, what: bytes) -> StoreError:
    return StoreError(
        f"{path} names {what.decode(errors='replace')}, which has no place outside the store",
        hint="a package whose files name their own store path cannot be packed: see the log of its build",
    )
