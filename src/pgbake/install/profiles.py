"""Profiles: which bundle a machine uses of each major version now, and which it used before.

Below ``nix/var/pgbake`` of the machine, N being a major version, K the number of a generation::

    profiles/N/current -> generations/K             replaced by one rename: that is the switch
    profiles/N/generations/K/bundle -> /nix/store/DIGEST-NAME-postgresql-VERSION
    profiles/N/generations/K/server -> ../../../../servers/KEY
    profiles/N/generations/K/settings.conf          what the bundle's extensions need, in PostgreSQL's words
    profiles/N/generations/K/generation.json        where it came from
    servers/KEY/                                    see `pgbake.install.servers`
    machine.json                                    see `pgbake.machine.apply`
    install.lock                                    held by whoever changes any of it

All paths that a machine knows go through ``profiles/N/current``. The links ``bundle`` are indirect roots of the garbage
collector in Nix's way, by relative links in ``gcroots/auto``, so that a tree keeps them wherever it is looked at from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.errors import ManifestError, StoreError, host_error
from pgbake.files import flush_directory, write_whole
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.locks import OnWait, exclusive_lock, silent
from pgbake.store.profiles import Generation as LinkGeneration
from pgbake.store.profiles import superseded
from pgbake.store.roots import link_inner_root


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a generation came from.

    :param name: what the user asked for, where that was no path: `upgrade` asks for it again.
    :param caches: URLs that were named.
    :param checks: who says that the bundle's checks have passed: ``passed`` here, ``stated`` by a trusted key, or
        ``unchecked``.
    """

    name: str | None = None
    caches: tuple[str, ...] = ()
    checks: str = "unchecked"


class _Generation(msgspec.Struct, frozen=True):
    """The file ``generation.json``."""

    bundle: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a profile.

    :param server: the name (KEY) of its server directory.
    :param made: when, in Unix seconds.
    """

    major: int
    number: int
    place: Path
    bundle: StorePath
    server: str
    origin: Origin
    made: float
    current: bool


@dataclass(frozen=True)
class Profiles:
    """The profiles of a machine."""

    store: LocalStore

    @property
    def state(self) -> Path:
        """Where all of it lies."""
        return self.store.root / "nix/var/pgbake"

    @property
    def record_file(self) -> Path:
        """Where it is recorded what was made on the machine."""
        return self.state / "machine.json"

    @contextmanager
    def lock(self, on_wait: OnWait = silent) -> Iterator[None]:
        """Hold the lock under which anything is changed."""
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise host_error(error, f"cannot make {self.state}") from error
        with exclusive_lock(self.state / "install.lock", on_wait):
            yield

    def majors(self) -> list[int]:
        """Return the major versions that are installed."""
        return sorted(
            int(place.name)
            for place in (self.state / "profiles").glob("[0-9]*")
            if (place / "current").is_symlink() and self._number(place) is not None
        )

    def _profile(self, major: int) -> Path:
        return self.state / "profiles" / str(major)

    @staticmethod
    def _number(profile: Path) -> int | None:
        try:
            number = int((profile / "current").readlink().name)
        except (OSError, ValueError):
            return None
        return number if (profile / "generations" / str(number) / "bundle").is_symlink() else None

    def generations(self, major: int) -> list[Generation]:
        """Return the generations of a profile, the oldest first. Those whose bundle a collector let go are left out."""
        profile = self._profile(major)
        current = self._number(profile)
        found = []
        for place in (profile / "generations").glob("[0-9]*"):
            with suppress(OSError, msgspec.MsgspecError):
                told = msgspec.json.decode((place / "generation.json").read_bytes(), type=_Generation)
                (place / "bundle").readlink()
                server = (place / "server").readlink().name
                number = int(place.name)
                made = (place / "bundle").lstat().st_mtime
                bundle = StorePath.parse(told.bundle)
                found.append(Generation(major, number, place, bundle, server, told.origin, made, number == current))
        return sorted(found, key=lambda generation: generation.number)

    def current(self, major: int) -> Generation | None:
        """Return the generation that is current, or None."""
        return next((generation for generation in self.generations(major) if generation.current), None)

    def receipt(self, bundle: StorePath) -> Receipt:
        """Read the receipt of a bundle of the machine's store."""
        return read_receipt(self.store.physical(bundle))

    def add(self, major: int, bundle: StorePath, server: str, settings: str, origin: Origin) -> Generation:
        """Make the next generation, which is not current yet.

        :param settings: the text of ``settings.conf``.
        :raises HostError: the disk is full.
        """
        top = self._profile(major) / "generations"
        try:
            top.mkdir(parents=True, exist_ok=True)
            for left in top.glob(".*"):
                remove_tree(left)  # a killed process's: whoever is here holds the lock
            number = max((int(place.name) for place in top.glob("[0-9]*")), default=0) + 1
            new = top / f".{number}.new"
            new.mkdir()
            (new / "bundle").symlink_to(str(bundle))
            (new / "server").symlink_to(f"../../../../servers/{server}")
            write_whole(new / "settings.conf", settings.encode())
            write_whole(new / "generation.json", msgspec.json.encode(_Generation(str(bundle), origin)))
            new.rename(top / str(number))
            flush_directory(top)
            link_inner_root(self.store.state_dir, top / str(number) / "bundle")
        except OSError as error:
            raise host_error(error, f"cannot write {top}") from error
        return next(generation for generation in self.generations(major) if generation.number == number)

    def set_server(self, generation: Generation, server: str) -> None:
        """Let a generation that is not current run from another server directory."""
        replace_link(generation.place / "server", f"../../../../servers/{server}")

    def switch(self, generation: Generation) -> None:
        """Make a generation the current one, by one rename, which is on disk when this returns.

        :raises HostError: it cannot be written.
        """
        profile = self._profile(generation.major)
        try:
            replace_link(profile / "current", f"generations/{generation.number}")
            flush_directory(profile)
        except OSError as error:
            raise host_error(error, f"cannot switch {profile}") from error

    def remove(self, major: int) -> None:
        """Remove a profile with all its generations; the bundles stay until garbage is collected."""
        profile = self._profile(major)
        with suppress(FileNotFoundError):
            (profile / "current").unlink()  # from here on it is not installed
        remove_tree(profile)
        with suppress(OSError):
            (self.state / "profiles").rmdir()

    def drop(self, generation: Generation) -> None:
        """Remove one generation, which is not current."""
        remove_tree(generation.place)

    def superseded(self, keep: int | None, older_than: float | None, now: float) -> list[Generation]:
        """Return the generations that may go, as those of other profiles of the store; see `pgbake.store.profiles`."""
        found = []
        for major in self.majors():
            mine = {generation.place / "bundle": generation for generation in reversed(self.generations(major))}
            going = superseded([[as_links(generation) for generation in mine.values()]], keep, older_than, now)
            found += [mine[item.link] for item in going]
        return found

    def tidy(self, major: int) -> None:
        """Remove generations whose bundle a collector let go, and what a killed process left half-made."""
        known = {generation.place for generation in self.generations(major)}
        for place in (self._profile(major) / "generations").glob("*"):
            if place not in known:
                remove_tree(place)

    def choose(self, major: int, number: int | None) -> Generation:
        """Return the generation to go back to: as named, else the newest that is older than the current one.

        :raises ManifestError: there is none.
        """
        all_of_it = self.generations(major)
        current = next((generation for generation in all_of_it if generation.current), None)
        if current is None:
            raise ManifestError(f"PostgreSQL {major} is not installed", hint="run `pgbake install`")
        if number is None:
            older = [generation for generation in all_of_it if generation.number < current.number]
            if not older:
                raise ManifestError(
                    f"there is no generation before {current.number} of PostgreSQL {major}",
                    hint="`pgbake generations` lists what there is",
                )
            return older[-1]
        chosen = next((generation for generation in all_of_it if generation.number == number), None)
        if chosen is None:
            raise ManifestError(
                f"PostgreSQL {major} has no generation {number}", hint="`pgbake generations` lists what there is"
            )
        if not self.store.valid([chosen.bundle]):
            raise StoreError(f"the bundle of generation {number} is gone: {chosen.bundle}", hint="install it again")
        return chosen


def as_links(generation: Generation) -> LinkGeneration:
    """Return a generation as the garbage collector knows those of all profiles: a link."""
    profile = generation.place.parent.parent / "current"
    return LinkGeneration(profile, generation.number, generation.place / "bundle", generation.made, generation.current)


def replace_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def settings_text(receipt: Receipt) -> str:
    """Write what a bundle's extensions need as a configuration file of PostgreSQL."""
    values = {**receipt.settings}
    if receipt.preload:
        values["shared_preload_libraries"] = ",".join(receipt.preload)
    lines = [
        "# Written by pgbake from the bundle's receipt; it moves with the generation. Files that come after it win."
    ]
    lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in sorted(values.items())]
    return "\n".join(lines) + "\n"
