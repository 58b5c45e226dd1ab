"""Server directories: the stable paths that servers run from, so that what they run can gain extensions.

PostgreSQL resolves the links that it was started by, and finds ``lib`` and ``share`` beside its program; so does the
loader by DT_RPATH. So a server runs real copies of a bundle's programs, and only what is beside them is links::

    servers/KEY/lib/postgresql/N/bin/           the bundle's programs: hard links, or copies on another file system
    servers/KEY/lib/postgresql/N/lib            -> ../../../current/lib/postgresql/N/lib
    servers/KEY/lib/NAME                        -> ../current/lib/NAME, for all else that is there
    servers/KEY/NAME                            -> current/NAME
    servers/KEY/current                         -> ../../profiles/N/current/bundle, while it is the active one:
                                                   its files change with the profile, in the same rename;
                                                -> /nix/store/...: frozen, else
    servers/KEY/server.json                     what runs there: PostgreSQL, the support library, each runtime package

KEY stands for the bundle that the directory was made from. A bundle may be shown to a running server there if nothing
that the server may have loaded changes: the same PostgreSQL, the same support library, and no other version of any
runtime package that was ever seen there; new packages may come. Any other bundle gets a directory of its own, and the
old one is frozen before the profile moves, so that a server that still runs from it keeps what it has.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pgbake.errors import StoreError, host_error
from pgbake.files import flush_directory, write_whole
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.install.profiles import Generation, Profiles, replace_link
from pgbake.store.local import remove_tree
from pgbake.store.roots import link_inner_root


class Runs(msgspec.Struct, frozen=True):
    """What a server that runs a bundle may have loaded: store paths by name.

    :param versions: of the same, for people.
    """

    major: int
    postgresql: str
    support: str
    runtime: dict[str, str]
    versions: dict[str, str]

    @property
    def key(self) -> str:
        """The name of a directory that is made for it."""
        text = msgspec.json.encode([self.major, self.postgresql, self.support, sorted(self.runtime.items())])
        return base32.encode(hashlib.sha256(text).digest()[:20])


class _Packed(msgspec.Struct, frozen=True):
    name: str
    version: str
    path: str


class _Parts(msgspec.Struct, frozen=True):
    """What this module reads of a receipt."""

    postgresql: dict[str, str | int]
    packages: tuple[_Packed, ...]
    runtime: tuple[_Packed, ...]


def parts_of(bundle: Path) -> _Parts:
    """Read the packages of the bundle at ``bundle`` on disk.

    :raises StoreError: it is none.
    """
    try:
        return msgspec.json.decode((bundle / "receipt.json").read_bytes(), type=_Parts)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{bundle} is no bundle: its receipt cannot be read ({error})") from error


def runs(bundle: Path, triplet: str) -> Runs:
    """Return what a server that runs the bundle at ``bundle`` on disk may have loaded.

    :raises StoreError: it is no bundle.
    """
    parts = parts_of(bundle)
    server = next((package for package in parts.packages if package.name == "postgresql"), None)
    library = bundle / "lib" / triplet / "libpgbake-env.so"
    if server is None or not library.is_symlink():
        raise StoreError(f"{bundle} is no bundle of PostgreSQL", hint="name one that `pgbake build` has made")
    return Runs(
        int(parts.postgresql["major"]),
        server.path,
        str(library.readlink()),
        {package.name: package.path for package in parts.runtime},
        {"postgresql": server.version, **{package.name: package.version for package in parts.runtime}},
    )


def differences(there: Runs, new: Runs) -> list[str]:
    """Return why a bundle cannot be shown to a server that runs another one, each reason with both versions."""

    def moved(what: str, name: str) -> str:
        before, after = there.versions.get(name, "?"), new.versions.get(name, "?")
        return f"{what} {before} -> {after}" if before != after else f"{what} {after}, built anew"

    found = []
    if there.postgresql != new.postgresql:
        found.append(moved("PostgreSQL", "postgresql"))
    if there.support != new.support:
        found.append("pgbake's support library")
    found += [
        moved(f"runtime package {name}", name)
        for name, path in sorted(new.runtime.items())
        if there.runtime.get(name, path) != path
    ]
    return found


@dataclass(frozen=True)
class ServerDirectories:
    """The server directories of a machine."""

    profiles: Profiles

    def place(self, key: str) -> Path:
        """Return where a directory lies."""
        return self.profiles.state / "servers" / key

    def read(self, key: str) -> Runs | None:
        """Return what a directory says of itself; None where it is not whole."""
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.place(key) / "server.json").read_bytes(), type=Runs)
        return None

    def choose(self, new: Runs, current: Generation | None, own: str | None = None) -> tuple[str, list[str]]:
        """Return the directory for a bundle, and why it is not that of ``current``; it need not be there yet.

        :param own: one that served the bundle before.
        """
        reasons: list[str] = []
        if current is not None and (there := self.read(current.server)) is not None:
            reasons = differences(there, new)
            if not reasons:
                return current.server, []
        if own is not None and (there := self.read(own)) is not None and not differences(there, new):
            return own, reasons
        return new.key, reasons

    def make(self, key: str, bundle: StorePath, new: Runs) -> None:
        """Make sure that a directory is there, and fit for a bundle, before a profile shows it that bundle.

        :raises HostError: it cannot be written.
        """
        physical = self.profiles.store.physical(bundle)
        place = self.place(key)
        try:
            there = self.read(key)
            if there is None:
                self._make(place, bundle, physical, new)
            else:
                self._link(place, physical, new.major)
                seen = msgspec.structs.replace(
                    there, runtime={**there.runtime, **new.runtime}, versions={**new.versions, **there.versions}
                )
                if seen != there:
                    write_whole(place / "server.json", msgspec.json.encode(seen))
        except OSError as error:
            raise host_error(error, f"cannot make {place}") from error

    def _make(self, place: Path, bundle: StorePath, physical: Path, new: Runs) -> None:
        work = place.with_name(f".{place.name}.new")
        remove_tree(work)
        remove_tree(place)
        programs = f"lib/postgresql/{new.major}/bin"
        (work / programs).mkdir(parents=True)
        for file in sorted((physical / programs).iterdir()):
            target = work / programs / file.name
            if file.is_symlink():
                target.symlink_to(file.readlink())
                continue
            try:
                os.link(file, target)
            except OSError:  # another file system, or one that knows no links
                shutil.copy2(file, target)
        (work / "bin").symlink_to(programs)
        self._link(work, physical, new.major)
        (work / "current").symlink_to(str(bundle))
        write_whole(work / "server.json", msgspec.json.encode(new))
        work.rename(place)
        flush_directory(place.parent)
        link_inner_root(self.profiles.store.state_dir, place / "current")

    @staticmethod
    def _link(place: Path, bundle: Path, major: int) -> None:
        """Make the links that a bundle adds; those that lead nowhere now may be an older generation's."""
        for where in ("", "lib", f"lib/postgresql/{major}"):
            up = "../" * (where.count("/") + 1) if where else ""
            for name in os.listdir(bundle / where):  # noqa: PTH208 - names are what is wanted
                link = place / where / name
                if not os.path.lexists(link):
                    link.symlink_to(f"{up}current/{where}/{name}" if where else f"current/{name}")

    def freeze(self, generation: Generation) -> None:
        """Let a directory keep the bundle that it has now, before the profile moves. Nothing visible changes.

        :raises HostError: it cannot be written.
        """
        self._point(generation.server, str(generation.bundle))

    def thaw(self, generation: Generation) -> None:
        """Let a directory follow the profile, whose current generation it serves."""
        self._point(generation.server, f"../../profiles/{generation.major}/current/bundle")

    def _point(self, key: str, target: str) -> None:
        link = self.place(key) / "current"
        try:
            if not link.is_symlink() or str(link.readlink()) != target:
                replace_link(link, target)
                flush_directory(link.parent)
                link_inner_root(self.profiles.store.state_dir, link)
        except OSError as error:
            raise host_error(error, f"cannot write {link}") from error

    def heal(self) -> None:
        """Bring the links of all directories to what the profiles say, and remove directories of no use.

        A directory that a process still runs from stays.
        """
        used: set[str] = set()
        for major in self.profiles.majors():
            self.profiles.tidy(major)
            for generation in self.profiles.generations(major):
                used.add(generation.server)
                if generation.current:
                    self.thaw(generation)
        for place in self.unused(used):
            remove_tree(place)
        with suppress(OSError):
            (self.profiles.state / "servers").rmdir()

    def unused(self, used: Collection[str]) -> list[Path]:
        """Return the directories that no process runs from.

        :param used: names of those that are left out: generations use them.
        """
        top = self.profiles.state / "servers"
        if not top.is_dir():
            return []
        used = {*used, *_running_below(top)}
        return [place for place in top.iterdir() if place.name not in used]


def _running_below(top: Path) -> set[str]:
    """Return the names of the directories below ``top`` that a process's program lies in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program = str((process / "exe").readlink()).removesuffix(" (deleted)")
            for prefix in (f"{top}/", "/nix/var/pgbake/servers/"):
                if program.startswith(prefix):
                    found.add(program.removeprefix(prefix).partition("/")[0])
    return found
