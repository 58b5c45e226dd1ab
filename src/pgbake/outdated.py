"""Which pins of a lock have newer versions in the indexes of their suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pgbake.available import find_packaged, packaged
from pgbake.errors import InputError
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.pins import Pin
from pgbake.lock import Lock
from pgbake.recipes.choice import deb_want
from pgbake.recipes.recipe import Catalogue
from pgbake.requirements import Requirements

#: Gives the apt of some suites for an architecture, its index fresh.
Index = Callable[[tuple[Suite, ...], str], AptRoot]


@dataclass(frozen=True, slots=True)
class Newer:
    """A source or Debian package with extensions of which there is a newer version.

    :param where: the suite that has it, or in words where it was seen.
    :param update: whether `pgbake lock --update NAME` takes it.
    """

    name: str
    kind: Literal["source", "deb"]
    system: str | None
    locked: str
    newest: str
    where: str
    update: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """How many packages of a unit that moves as a whole, ``build`` or ``runtime``, have newer versions."""

    unit: Literal["build", "runtime"]
    system: str
    pins: int
    newer: dict[str, str]
    security: tuple[str, ...]


def newer_debs(lock: Lock, required: Requirements, index: Callable[[str], AptRoot]) -> list[Newer]:
    """Return the Debian packages with extensions that have newer versions.

    :param index: gives the apt of a system's platform.
    """
    found = []
    for system, part in lock.systems.items():
        apt = index(system)
        known = apt.all_versions(part.debs) if part.debs else {}
        wanted = {
            name.strip(): version.strip().removesuffix("*")
            for want in required.debs
            for name, _, version in (choice.partition("=") for choice in want.split("|"))
        }
        for package, pin in part.debs.items():
            extension = next(
                (e for want, e in required.debs.items() if package in want.replace("=", " ").split()), package
            )
            prefix = wanted.get(package, "")
            versions = known.get(package, {})
            newest = _newest(pin.version, versions)
            if newest:
                found.append(
                    Newer(
                        extension, "deb", system, pin.version, newest, versions[newest], newest.startswith(prefix)
                    )
                )  # fmt: skip
    return found


def newer_sources(
    lock: Lock, required: Requirements, catalogue: Catalogue, major: int, platform: Callable[[], AptRoot], index: Index
) -> list[Newer]:
    """Return the sources that have newer upstream versions: in their suite; of a URL where Debian has a newer one.

    :param platform: gives the apt of the platform.
    """
    found = []
    known = None
    for name, want in required.sources.items():
        pin = lock.sources.get(name)
        if pin is None:
            continue
        if want.source.debian:
            apt = platform() if want.suite == required.platform.suite else index((Suite(want.suite),), "amd64")
            try:
                upstream, there = apt.source(want.source.debian)
            except InputError:
                continue  # the suite has dropped it; the pin stays good
            if there.sha256 != pin.sha256 and _newest(pin.version, [upstream, there.version]):
                shown = there.version if _is_debian(pin) else upstream
                found.append(Newer(name, "source", None, pin.version, shown, want.suite, True))
            continue
        known = packaged(platform(), major, catalogue) if known is None else known
        deb = find_packaged(known, deb_want(name.partition("@")[0], catalogue.recipes.get(name), major, None))
        if deb and (newest := _newest(pin.version, [_upstream(deb.version)])):
            found.append(
                Newer(name, "source", None, pin.version, newest, f"{deb.package}: set `version` in its recipe", False)
            )
    return found


def behind(lock: Lock, index: Callable[[str], AptRoot]) -> list[Behind]:
    """Return how far the units are behind that move as a whole."""
    found = []
    for system, part in lock.systems.items():
        apt = index(system)
        units: tuple[tuple[Literal["build", "runtime"], Mapping[str, Pin]], ...] = (
            ("build", part.build),
            ("runtime", part.runtime),
        )
        for unit, pins in units:
            known = apt.all_versions(pins)
            newer = {}
            security = []
            for name, pin in pins.items():
                versions = known.get(name, {})
                newest = _newest(pin.version, versions)
                if newest:
                    newer[name] = newest
                    fixes = [version for version, suite in versions.items() if suite.endswith("-security")]
                    if _newest(pin.version, fixes):
                        security.append(name)
            found.append(Behind(unit, system, len(pins), newer, tuple(security)))
    return found


def _newest(than: str, versions: Iterable[str]) -> str | None:
    """Return the newest of some versions that is newer than one."""
    from debian.debian_support import version_compare

    best = None
    for version in versions:
        if version_compare(version, best or than) > 0:
            best = version
    return best


def _upstream(version: str) -> str:
    """Return the upstream part of Debian's version: ``2.17`` of ``1:2.17+dfsg-1``."""
    return version.rpartition(":")[2].rpartition("-")[0].partition("+")[0].partition("~")[0] or version


def _is_debian(pin: Pin) -> bool:
    return "-" in pin.version
