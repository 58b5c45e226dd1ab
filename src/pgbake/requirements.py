"""What a manifest and its recipes ask a lock to pin, and whether a lock does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError, host_error
from pgbake.formats.system import System
from pgbake.inputs.pins import UNPACKING_VERSION
from pgbake.lock import DebPin, Lock, PlatformLock, RepositoryLock, SourcePin, SystemLock, pgrx_version
from pgbake.manifest import Manifest
from pgbake.recipes.builders import CARGO
from pgbake.recipes.choice import Choice, choices, deb_names
from pgbake.recipes.lowering import out_of_date, root_of
from pgbake.recipes.recipe import Catalogue, Source


@dataclass(frozen=True, slots=True)
class SourceWant:
    """Where an upstream source is to be pinned from.

    :param base: of a directory of the user's: what its path is relative to.
    :param cargo: of a Rust program: the directory below the source whose Cargo.lock names its crates; else None.
    :param builds_by_pgrx: whether it is built by cargo-pgrx, which is then pinned too.
    """

    source: Source
    suite: str
    version: str | None = None
    base: Path | None = None
    cargo: str | None = None
    builds_by_pgrx: bool = False

    def __str__(self) -> str:
        """Return the form that stands in the lock, which changes when another source is meant."""
        source = self.source
        if source.debian:
            return f"debian {source.debian} {self.suite}" + (f" {self.version}" if self.version else "")
        if source.pool:
            return f"pool {source.pool} {source.sha256}"
        if source.url:
            return f"url {self.url}" + (f" {source.sha256}" if source.sha256 else "")
        return (
            f"path {source.path} {source.version}"
            if source.path
            else f"crate {source.crate} {source.version}" + (f" {source.sha256}" if source.sha256 else "")
        )

    @property
    def url(self) -> str:
        """The URL of a tarball, its version filled in."""
        return (self.source.url or "").replace("{version}", self.source.version or "")

    @property
    def directory(self) -> Path:
        """The directory of the user's with the sources."""
        assert self.base is not None and self.source.path is not None
        return self.base / self.source.path


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a manifest and its recipes ask a lock to pin; it follows without asking anybody."""

    platform: PlatformLock
    systems: tuple[str, ...]
    #: recipe -> where its source comes from; `Choice.key` names the recipe
    sources: Mapping[str, SourceWant]
    #: build root -> Debian packages, sorted
    roots: Mapping[str, tuple[str, ...]]
    runtime: tuple[str, ...]
    #: Debian packages with extensions, as apt is asked for them, and which extension each is for
    debs: Mapping[str, str]
    #: Stands for the rules by which packages are unpacked.
    unpacking: str
    #: Globs of licences that nobody wants.
    forbidden: tuple[str, ...] = ()
    #: recipe -> licence
    licences: Mapping[str, str] = field(default_factory=dict)

    def check(self, lock: Lock, system: System) -> None:
        """Check that a lock pins what is required for one system.

        :raises LockError: it does not; what differs is named.
        """
        if lock.platform != self.platform:
            raise out_of_date("it was made for another suite, or other pockets of it, than [platform] names")
        pins = lock.systems.get(system.name)
        if pins is None:
            raise out_of_date(f"it has no pins for {system}, which [platform] lists")
        for recipe, want in self.sources.items():
            pin = lock.sources.get(recipe)
            if pin is None:
                raise out_of_date(f"it does not pin {recipe}")
            if pin.wanted != str(want):
                raise out_of_date(f"it pins {recipe} from {pin.wanted}, not {want}")
            if want.cargo is not None and not pin.crates:
                raise out_of_date(f"it does not pin the crates of {recipe}")
            if want.builds_by_pgrx and tool_key(pin) not in lock.sources:
                raise out_of_date(f"it does not pin the cargo-pgrx that builds {recipe}")
        for name, wants in self.roots.items():
            root = pins.roots.get(name)
            if root is None or root.wants != wants:
                raise out_of_date(f"the build root {name} asks for other packages now")
        if lock.unpacking != self.unpacking:
            raise out_of_date("its trees are those of another pgbake, or of other rules for runtime packages")
        if pins.runtime_wants != self.runtime:
            missing = sorted(set(self.runtime) ^ set(pins.runtime_wants))
            raise out_of_date(f"the runtime asks for other packages now ({', '.join(missing)})")
        for deb, extension in self.debs.items():
            if deb not in pins.deb_wants:
                raise out_of_date(f"it does not pin {extension} ({deb})")
        self.check_licences(pins)

    def check_licences(self, pins: SystemLock) -> None:
        """Check that no extension has a licence that the manifest forbids.

        :raises ManifestError: one has.
        """
        found = {**self.licences, **{name: pin.licence for name, pin in chosen_debs(pins, self.debs).items()}}
        for name, licence in found.items():
            for part in licence.replace("(", " ").replace(")", " ").split():
                for glob in self.forbidden:
                    if fnmatchcase(part, glob):
                        raise ManifestError(
                            f"{name} has the licence {licence}, which the manifest forbids ({glob})",
                            hint=f"remove what needs {name}, or take {glob} out of `forbid` under [licences]",
                        )


def platform_change(lock: Lock, manifest: Manifest, catalogue: Catalogue, system: System) -> list[str]:
    """Return what a change of the platform touches, in lines for people; nothing where the suite stays.

    :raises ManifestError: something that the manifest wants cannot be had on the new platform.
    """
    suite = manifest.platform.suite
    if lock.platform.suite == suite:
        return []
    chosen = choices(manifest, catalogue)
    built = [choice.key for choice in chosen if choice.source]
    debs = [choice.extensions[0] for choice in chosen if choice.deb]
    lines = [
        f"platform: {lock.platform.suite} -> {suite}",
        f"build roots: all are made anew, of {suite}'s compilers and headers",
        f"built anew: {len(built)} packages: {', '.join(built)}",
    ]
    if debs:
        lines.append(f"other packages: {', '.join(debs)} come as {suite} has them, perhaps in another version")
    pins = lock.systems.get(system.name)
    under = [f"{name} {pin.version}" for name, pin in (pins.runtime if pins else {}).items() if _sorts_text(name)]
    if under:
        lines.append(
            f"indexes: {', '.join(under)} are replaced, so indexes over text may have to be rebuilt: "
            "`pgbake status` names them when the new bundle runs"
        )
    return lines


def _sorts_text(package: str) -> bool:
    """Whether the order of text depends on a runtime package."""
    return package == "libc6" or re.fullmatch(r"libicu\d+", package) is not None


def requirements(manifest: Manifest, catalogue: Catalogue, directory: Path | None = None) -> Requirements:
    """Return what a manifest asks a lock to pin.

    :param directory: of the manifest, which its files of keys are relative to.
    :raises ManifestError: an extension cannot be had as the manifest wants it; or a key cannot be read.
    """
    platform = manifest.platform
    chosen = choices(manifest, catalogue)
    built = [choice for choice in chosen if choice.source]
    recipes = [choice.recipe for choice in built if choice.recipe]
    roots = dict(root_of(recipe, catalogue) for recipe in recipes)
    if any(recipe.builder == "cargo-pgrx" for recipe in recipes):  # it is built itself, in a version of each pgrx
        roots |= [root_of(catalogue.recipe("cargo-pgrx"), catalogue)]
    roots["merge"] = tuple(sorted(catalogue.debian.stack("merge")))
    runtime = {name for recipe in recipes for name in (*recipe.build, *recipe.runtime)}
    runtime |= {name for choice in chosen if not choice.source and choice.recipe for name in choice.recipe.runtime}
    return Requirements(
        platform=PlatformLock(
            platform.suite, platform.security, platform.updates, _repositories(manifest, directory or Path())
        ),
        systems=platform.systems,
        sources={
            choice.key: _want(choice, choice.source, platform.suite, catalogue) for choice in built if choice.source
        },
        roots=dict(sorted(roots.items())),
        runtime=tuple(sorted(runtime | set(catalogue.debian.extra.packages))),
        debs={choice.deb: choice.extensions[0] for choice in chosen if choice.deb},
        unpacking=_unpacking(catalogue),
        forbidden=manifest.licences.forbid,
        licences={choice.key: choice.recipe.licence or "" for choice in built if choice.recipe},
    )


def tool_key(pin: SourcePin) -> str:
    """Return the name by which a lock pins the cargo-pgrx that builds an extension."""
    return f"cargo-pgrx@{pgrx_version(pin.crates)}"


def chosen_debs(pins: SystemLock, wants: Iterable[str]) -> dict[str, DebPin]:
    """Return, of the Debian packages with extensions that a lock pins, those that are wanted and what they need.

    :param wants: as apt is asked for them (:attr:`pgbake.recipes.choice.Choice.deb`).
    """
    found: dict[str, DebPin] = {}
    pending = [name for want in wants for name in deb_names(want)]
    while pending:
        name = pending.pop()
        if name in pins.debs and name not in found:
            found[name] = pins.debs[name]
            pending += pins.debs[name].depends
    return dict(sorted(found.items()))


def _want(choice: Choice, source: Source, suite: str, catalogue: Catalogue) -> SourceWant:
    cargo = choice.recipe.directory if choice.recipe and choice.recipe.builder in CARGO else None
    by_pgrx = choice.recipe is not None and choice.recipe.builder == "cargo-pgrx"
    return SourceWant(source, source.suite or suite, choice.version, catalogue.own, cargo, by_pgrx)


def _repositories(manifest: Manifest, directory: Path) -> tuple[RepositoryLock, ...]:
    found = []
    for repository in manifest.platform.repository:
        try:
            key = (directory / repository.key).read_bytes()
        except OSError as error:
            raise host_error(
                error, f"cannot read {directory / repository.key}, the key of {repository.name}"
            ) from error
        digest = hashlib.sha256(key).hexdigest()
        found.append(RepositoryLock(repository.name, repository.suite, repository.components, digest))
    return tuple(found)


def _unpacking(catalogue: Catalogue) -> str:
    rules = [
        (rule.match, rule.keep, rule.drop, rule.links)
        for rule in catalogue.debian.runtime
        if rule.keep or rule.drop or rule.links  # others change no tree
    ]
    return hashlib.sha256(msgspec.json.encode((UNPACKING_VERSION, rules))).hexdigest()[:16]
