"""Making a lock: which Debian packages and upstream tarballs a manifest means, today, exactly.

Four units are resolved, and moved, apart: each source; the ``build`` packages of all build roots, which
must fit together since header packages demand their library's very version; the ``runtime`` packages; and
among these, when asked by name, single ones. What nobody asks to move keeps its pin.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from pgbake.available import platform_suites, unknown_extension, unknown_version
from pgbake.errors import InputError, ManifestError
from pgbake.events import Sink, task
from pgbake.files import write_whole
from pgbake.formats.system import SYSTEMS, System, host_system
from pgbake.inputs.apt import AptRoot, Assumed, Suite
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.crates import cargo_lock_of, crate_sizes, fetch_crate, parse_cargo_lock
from pgbake.inputs.fetch import fetch
from pgbake.inputs.licences import licence_of
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import UNPACKING_VERSION, Pin
from pgbake.inputs.upstream import copy_directory, pin_url
from pgbake.lock import LOCK_VERSION, CratePin, DebPin, Lock, Root, RuntimePin, SourcePin, SystemLock, pgrx_version
from pgbake.manifest import Manifest
from pgbake.recipes.choice import deb_names
from pgbake.recipes.imports import check_scripts, import_package, major_of
from pgbake.recipes.recipe import Catalogue, is_version
from pgbake.requirements import SourceWant, requirements
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree


@dataclass(frozen=True, slots=True)
class Move:
    """One pin that differs between two locks; a version is None where there was, or is, no such pin."""

    where: str
    name: str
    before: str | None
    after: str | None


def moves(before: Lock | None, after: Lock) -> list[Move]:
    """Return what moved from one lock to the next, in a stable order."""

    def pins(lock: Lock | None) -> dict[tuple[str, str], Pin]:
        if lock is None:
            return {}
        found: dict[tuple[str, str], Pin] = {("sources", name): pin for name, pin in lock.sources.items()}
        for system, part in lock.systems.items():
            found |= {(f"{system} build", name): pin for name, pin in part.build.items()}
            found |= {(f"{system} runtime", name): pin for name, pin in part.runtime.items()}
            found |= {(f"{system} debs", name): pin for name, pin in part.debs.items()}
        return found

    old, new = pins(before), pins(after)
    return [
        Move(where, name, _version(old.get((where, name))), _version(new.get((where, name))))
        for where, name in sorted(old.keys() | new.keys())
        if _file(old.get((where, name))) != _file(new.get((where, name)))
    ]


def _version(pin: Pin | None) -> str | None:
    return pin.version if pin else None


def _file(pin: Pin | None) -> str | None:
    return pin.sha256 if pin else None


_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Seconds for which an index is taken as it is where nothing is to move.
_FRESH = 3600.0


#: Sections of what is called a library and is a part of compilers or of the machine's administration.
_TOOLS = ("admin", "devel", "libdevel")


class Resolver:
    """Makes a lock for a manifest, keeping what an earlier lock pins and nobody asks to move."""

    def __init__(
        self,
        manifest: Manifest,
        directory: Path,
        catalogue: Catalogue,
        mirrors: Callable[[], Mirrors],
        store: LocalStore,
        cache: Path,
        report: Sink,
        *,
        previous: Lock | None,
        update: frozenset[str] | None,
    ) -> None:
        """:param directory: of the manifest.
        :param update: names of what is to move (a recipe, an extension, ``build``, ``runtime``, ``debs``, a package of
            these two); empty moves everything, None nothing that is pinned.
        """
        self._manifest = manifest
        self._major = manifest.postgresql
        self._directory = directory
        self._catalogue = catalogue
        self._find_mirrors = mirrors
        self._store = store
        self._cache = cache
        self._report = report
        self._downloads = cache / "downloads"
        self._required = requirements(manifest, catalogue, directory)
        self._previous = previous if previous and previous.platform == self._required.platform else None
        self._update = update
        #: Control fields, by architecture and package.
        self._seen: dict[str, dict[str, Mapping[str, str]]] = {}
        if update:
            self._check_names(update)

    @cached_property
    def _mirrors(self) -> Mirrors:
        return self._find_mirrors()

    def _check_names(self, names: Iterable[str]) -> None:
        known = {"build", "runtime", "debs", *self._required.sources, *self._required.debs.values()}
        for part in self._previous.systems.values() if self._previous else ():
            known |= part.runtime.keys() | part.debs.keys()
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3)
                raise ManifestError(
                    f'the lock holds no pin "{name}" that moves by itself',
                    hint=f"did you mean {' or '.join(near)}?"
                    if near
                    else "name a recipe, a runtime package, build (all packages of the build roots) or runtime",
                )

    def _moves(self, name: str) -> bool:
        return self._update is not None and (not self._update or name in self._update)

    def resolve(self) -> Lock:
        """Return the new lock.

        :raises PgbakeError: the mirrors, apt or the manifest did not allow it; see the errors of
            :class:`pgbake.inputs.apt.AptRoot` and :func:`pgbake.inputs.fetch.fetch`.
        """
        return Lock(
            version=LOCK_VERSION,
            platform=self._required.platform,
            unpacking=self._required.unpacking,
            sources=self._sources(),
            systems={name: self._system(SYSTEMS[name]) for name in self._required.systems},
        )

    # --- sources -----------------------------------------------------------------------------------

    def _sources(self) -> dict[str, SourcePin]:
        pins = {}
        roots: dict[str, AptRoot] = {}
        tools: dict[str, SourceWant] = {}
        for key, want in sorted(self._required.sources.items()):
            pins[key] = self._source(key, want, roots)
            if want.builds_by_pgrx:
                tools |= [self._cargo_pgrx(key, pins[key])]
        return pins | {key: self._source(key, want, roots) for key, want in tools.items()}

    def _source(self, key: str, want: SourceWant, roots: dict[str, AptRoot]) -> SourcePin:
        old = self._previous.sources.get(key) if self._previous else None
        if want.source.path:
            return self._with_crates(key, self._user_source(want), want, want.directory)
        if old and old.wanted == str(want) and not self._moves(key) and (old.crates or want.cargo is None):
            return old
        if want.source.debian:
            pin = self._debian_source(want, roots)
        elif want.source.pool:
            known = Pin(want.source.version or "", want.source.pool, want.source.size or 0, want.source.sha256 or "")
            pin = _source_pin(known, want)
        elif want.source.crate:
            name, version = want.source.crate, want.source.version or ""
            bases = self._mirrors.of("crates")
            pin = _source_pin(
                fetch_crate(name, version, bases, self._downloads, self._report, want.source.sha256), want
            )
        else:
            version, sha256 = want.source.version or "", want.source.sha256
            pin = _source_pin(pin_url(want.url, version, self._downloads, self._report, sha256), want)
        if want.cargo is None:
            return pin
        files = fetch({key: pin}, self._mirrors, self._downloads, self._report)
        return self._with_crates(key, pin, want, files[key])

    def _with_crates(self, key: str, pin: SourcePin, want: SourceWant, source: Path) -> SourcePin:
        """Add the crates that the source's Cargo.lock names to its pin, where it is a Rust program."""
        if want.cargo is None:
            return pin
        where = f"the Cargo.lock of {key}"
        wanted = parse_cargo_lock(cargo_lock_of(source, want.cargo, key), where)
        before = [crate for old in (self._previous.sources.values() if self._previous else ()) for crate in old.crates]
        # A known hash by another name is asked for all the same: that name may not be there.
        known = {c.sha256: c.size for c in before if (c.name, c.version, c.sha256) in set(wanted)}
        sizes = crate_sizes(wanted, known, lambda: self._mirrors.of("crates"), self._downloads, self._report, where)
        crates = tuple(CratePin(name, version, digest, sizes[digest]) for name, version, digest in wanted)
        return msgspec.structs.replace(pin, crates=crates)

    def _cargo_pgrx(self, key: str, pin: SourcePin) -> tuple[str, SourceWant]:
        """Return what is to be pinned for the cargo-pgrx that an extension is built by."""
        version = pgrx_version(pin.crates)
        if version is None:
            raise InputError(
                f"the Cargo.lock of {key} does not name pgrx, so cargo-pgrx cannot build it",
                hint="add pgrx to the dependencies in its Cargo.toml, or take another builder",
            )
        recipe = self._catalogue.recipe("cargo-pgrx")
        source = recipe.source_for(self._major, self._required.platform.suite, version)
        if source is None:
            raise InputError(
                f"{key} needs cargo-pgrx {version}, which its recipe has no source of",
                hint="name one in recipes/cargo-pgrx.toml",
            )
        return f"{recipe.name}@{version}", SourceWant(source, "", version, self._catalogue.own, recipe.directory)

    def _debian_source(self, want: SourceWant, roots: dict[str, AptRoot]) -> SourcePin:
        name, suite = want.source.debian or "", want.suite
        if suite not in roots:
            suites = self._suites() if suite == self._required.platform.suite else (Suite(suite),)
            # Any architecture would do: sources have none.
            roots[suite] = self._apt(suites, host_system().debian)
        version, pin = roots[suite].source(name)
        if want.version and not is_version(version, want.version):
            raise InputError(
                f"{suite} has version {version} of {name}, not {want.version}",
                hint="take that, or name another source in a recipe of your own",
            )
        return _source_pin(msgspec.structs.replace(pin, version=version), want)

    def _user_source(self, want: SourceWant) -> SourcePin:
        name = f"{want.directory.resolve().name}-{want.source.version}"
        with self._store.scratch() as scratch:
            copy_directory(want.directory, scratch / name)
            tree = hash_tree(scratch / name)
        digest = tree.sha256.hex()
        pin = Pin(version=want.source.version or "", path=name, size=tree.size, sha256=digest, archive="local")
        return msgspec.structs.replace(_source_pin(pin, want), tree=digest)

    def _suites(self) -> tuple[Suite, ...]:
        return platform_suites(self._manifest.platform, self._directory)

    def _apt(self, suites: tuple[Suite, ...], architecture: str) -> AptRoot:
        root = AptRoot(self._cache / "apt", suites, architecture, self._mirrors)
        # Where nothing is to move, what an index of a moment ago says of new names is good enough.
        if self._update is None and root.age < _FRESH:
            return root
        names = " ".join(suite.name for suite in suites)
        with task(self._report, str(root.path), "resolve", f"index of {names} ({architecture})"):
            root.update()
        return root

    # --- one system --------------------------------------------------------------------------------

    def _system(self, system: System) -> SystemLock:
        old = self._previous.systems.get(system.name) if self._previous else None
        apt = _Lazy(lambda: self._apt(self._suites(), system.debian))
        if old and not self._moves("build") and _wants(old) == dict(self._required.roots):
            build, packages = old.build, {name: root.packages for name, root in old.roots.items()}
        else:
            sets = {name: apt.root.resolve(wants) for name, wants in self._required.roots.items()}
            build = dict(sorted((package, pin) for chosen in sets.values() for package, pin in chosen.items()))
            packages = {name: tuple(sorted(chosen)) for name, chosen in sets.items()}
        runtime, debs = self._runtime(system, apt, old)
        return SystemLock(
            build,
            {
                name: Root(self._root_tree(name, system, members, build, old), self._required.roots[name], members)
                for name, members in sorted(packages.items())
            },
            self._imported(system, runtime, old),
            self._required.runtime,
            self._imported_debs(system, debs, apt, old),
            tuple(sorted(self._required.debs)),
        )

    def _runtime(
        self, system: System, apt: _Lazy, old: SystemLock | None
    ) -> tuple[Mapping[str, Pin], Mapping[str, Pin]]:
        """Return the pins of runtime packages, and those of Debian packages with extensions."""
        wants = self._required.debs.keys()
        names = (*old.runtime, *old.debs) if old else ()
        touched = any(map(self._moves, ("runtime", "debs", *names, *self._required.debs.values())))
        same = old is not None and old.runtime_wants == self._required.runtime
        if old and same and not touched and wants == set(old.deb_wants):
            return old.runtime, old.debs
        # Where extensions are added and nothing else, what libraries the headers bring is known from before.
        added = old is not None and same and not touched and wants >= set(old.deb_wants)
        self._check_extensions(apt.root, wants - set(old.deb_wants) if old else wants)
        fresh = (
            self._runtime_packages(apt.root, tuple(old.runtime), old.debs.keys())
            if old and added
            else self._runtime_packages(apt.root, None)
        )

        def keep(pins: Mapping[str, Pin], before: Mapping[str, Pin], whole: str) -> dict[str, Pin]:
            stays = {name for name in pins.keys() & before.keys() if not self._moves(whole) and not self._moves(name)}
            stays -= {n for want, name in self._required.debs.items() if self._moves(name) for n in deb_names(want)}
            return {name: before[name] if name in stays else pin for name, pin in pins.items()}

        debs = {name: pin for name, pin in fresh.items() if major_of(name) == self._major}
        runtime = {name: pin for name, pin in fresh.items() if name not in debs}
        kept = keep(debs, old.debs if old else {}, "debs")
        for want in self._required.debs:  # a version that is asked for now is not the one that was pinned
            if "=" in want and old and want not in old.deb_wants:
                kept |= {name: debs[name] for name in deb_names(want) if name in debs}
        return keep(runtime, old.runtime if old else {}, "runtime"), kept

    def _check_extensions(self, apt: AptRoot, wants: Iterable[str]) -> None:
        """Check that there are Debian packages of the names, and of the versions, that extensions are wanted by.

        :raises InputError: there are not; near names, or the versions that there are, are offered.
        """
        prefix = f"postgresql-{self._major}-"
        new = [want for want in wants if all(name.startswith(prefix) for name in deb_names(want))]
        known = apt.names() if new else frozenset()
        suite = self._required.platform.suite
        for want in new:
            extension = self._required.debs[want]
            package = next((name for name in deb_names(want) if name in known), None)
            if package is None:
                raise unknown_extension(extension, self._major, suite, self._catalogue, apt.packages(prefix))
            version = want.partition("=")[2].partition("|")[0].strip().removesuffix("*")
            versions = apt.versions(package) if version else {}
            if version and not any(has.startswith(version) for has in versions):
                raise unknown_version(extension, package, version, suite, versions)

    @property
    def _unpacks_alike(self) -> bool:
        """Whether the trees of the earlier lock are those that unpacking would give today."""
        return self._previous is not None and self._previous.unpacking == self._required.unpacking

    def _root_tree(
        self, name: str, system: System, members: Sequence[str], pins: Mapping[str, Pin], old: SystemLock | None
    ) -> str:
        before = old.roots.get(name) if old else None
        same = old and all(old.build.get(member) == pins[member] for member in members)
        if before and same and self._unpacks_alike and before.packages == members:
            return before.tree
        chosen = {member: pins[member] for member in members}

        def unpack() -> str:
            debs = fetch(chosen, self._mirrors, self._downloads, self._report)
            with self._store.scratch() as scratch:
                make_build_root(debs, scratch / f"{name}-{system.debian}", self._report)
                return hash_tree(scratch / f"{name}-{system.debian}").sha256.hex()

        return self._remembered(["root", UNPACKING_VERSION, sorted(pin.sha256 for pin in chosen.values())], unpack)

    def _remembered(self, what: object, make: Callable[[], str]) -> str:
        """Return the hash of a tree that follows from ``what``, which is made only where it was never made here.

        A wrong one would be refused by the store, when the tree is added to it.
        """
        key = hashlib.sha256(msgspec.json.encode(what)).hexdigest()
        file = self._cache / "trees" / key
        try:
            known = file.read_text()
            if _DIGEST.fullmatch(known):
                return known
        except (OSError, ValueError):
            pass
        made = make()
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, made.encode())
        return made

    def _imported(self, system: System, pins: Mapping[str, Pin], old: SystemLock | None) -> dict[str, RuntimePin]:
        done: dict[str, RuntimePin] = {}
        for name, pin in pins.items():
            before = old.runtime.get(name) if old and self._unpacks_alike else None
            if before and before.sha256 == pin.sha256:
                done[name] = before
        fresh = {name: pin for name, pin in pins.items() if name not in done}
        if fresh:
            files = fetch(fresh, self._mirrors, self._downloads, self._report)
            check_scripts(self._catalogue, files)
            title = f"{len(fresh)} runtime packages ({system.debian})"
            with task(self._report, f"runtime {system}", "unpack", title), self._store.scratch() as scratch:

                def unpack(name: str) -> str:
                    import_package(self._catalogue, files[name], name, scratch / name)
                    return hash_tree(scratch / name).sha256.hex()

                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    for (name, pin), tree in zip(fresh.items(), pool.map(unpack, fresh), strict=True):
                        done[name] = RuntimePin(**_fields(pin), tree=tree)
        return dict(sorted(done.items()))

    def _imported_debs(
        self, system: System, pins: Mapping[str, Pin], apt: _Lazy, old: SystemLock | None
    ) -> dict[str, DebPin]:
        done = {
            name: before
            for name, pin in pins.items()
            if self._unpacks_alike and old and (before := old.debs.get(name)) and before.sha256 == pin.sha256
        }
        fresh = {name: pin for name, pin in pins.items() if name not in done}
        if fresh:
            files = fetch(fresh, self._mirrors, self._downloads, self._report)
            check_scripts(self._catalogue, files)
            controls = self._controls(apt.root, fresh)
            title = f"{len(fresh)} packages with extensions ({system.debian})"
            with task(self._report, f"extensions {system}", "unpack", title), self._store.scratch() as scratch:

                def unpack(name: str) -> tuple[str, str]:
                    import_package(self._catalogue, files[name], name, scratch / name)
                    return hash_tree(scratch / name).sha256.hex(), licence_of(scratch / name, name)

                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    for (name, pin), (tree, licence) in zip(fresh.items(), pool.map(unpack, fresh), strict=True):
                        depends = tuple(d for d in _depends(controls[name]) if d in pins)
                        done[name] = DebPin(**_fields(pin), tree=tree, licence=licence, depends=depends)
        return dict(sorted(done.items()))

    def _controls(self, apt: AptRoot, names: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """Return the control fields of packages, each asked for once."""
        seen = self._seen.setdefault(apt.arch, {})
        if missing := set(names) - seen.keys():
            seen |= apt.controls(missing)
        return seen

    def _runtime_packages(
        self, apt: AptRoot, libraries: Sequence[str] | None, already: Set[str] = frozenset()
    ) -> dict[str, Pin]:
        """Resolve what a bundle may need at run time: packages with extensions, libraries, and what these need.

        :param libraries: those behind the header packages; None has them found.
        :param already: packages with extensions that are known from before.
        """
        wants = self._required.runtime
        if libraries is None:
            together = apt.resolve(wants)
            controls = self._controls(apt, together)
            seeds, pending, seen = (
                set[str](),
                {next(n for n in _names(want) if n in together) for want in wants},
                set[str](),
            )
            while pending:
                name = pending.pop()
                seen.add(name)
                if _is_for_building(controls[name]):
                    pending |= {d for d in _depends(controls[name]) if d in together} - seen
                else:
                    seeds.add(name)
        else:
            seeds = set(libraries)
        # Once more without the header packages, which would tie libraries to their own build's versions.
        resolved = apt.resolve(sorted(seeds | self._required.debs.keys()), server_packages(self._major))
        known = set(libraries or ())
        controls = self._controls(apt, resolved.keys() - known - already)
        named = {name for want in wants for name in _names(want) if name in controls}
        named = {name for name in named if not _is_for_building(controls[name])}
        named |= known | already
        rules = self._catalogue.debian.runtime
        opened = [glob for rule in rules if fnmatch.filter(resolved, rule.match) for glob in rule.needs]
        sections = self._catalogue.debian.sections
        return {
            name: pin
            for name, pin in resolved.items()
            if name in named
            or _section(controls[name]) in sections
            # Some libraries stand in the section of their subject.
            or (name.startswith("lib") and _section(controls[name]) not in _TOOLS)
            or major_of(name) == self._major
            or any(fnmatch.fnmatchcase(name, glob) for glob in opened)
        }


def server_packages(major: int) -> tuple[Assumed, ...]:
    """Return the Debian packages that a bundle stands for: its own PostgreSQL, and what manages Debian's."""
    version = f"{major}.99"
    languages = (f"postgresql-pl{name}-{major}" for name in ("perl", "python3", "tcl"))
    return (
        Assumed(f"postgresql-{major}", version, (f"postgresql-contrib-{major}", f"postgresql-{major}-jit-llvm (= 99)")),
        *(Assumed(name, version) for name in (f"postgresql-client-{major}", "libpq5", "libecpg6", *languages)),
        *(Assumed(name, "999") for name in ("postgresql-common", "postgresql-client-common", "postgresql-contrib")),
    )


class _Lazy:
    """An apt root that is brought up to date when it is first asked."""

    def __init__(self, make: Callable[[], AptRoot]) -> None:
        self._make = make

    @cached_property
    def root(self) -> AptRoot:
        return self._make()


def _wants(lock: SystemLock) -> dict[str, tuple[str, ...]]:
    return {name: root.wants for name, root in lock.roots.items()}


def _is_for_building(control: Mapping[str, str]) -> bool:
    return _section(control) == "libdevel" or control["Package"].endswith("-dev")


def _section(control: Mapping[str, str]) -> str:
    """Return a package's section without its component: ``libs`` of ``contrib/libs``."""
    return control.get("Section", "").rpartition("/")[2]


def _names(want: str) -> list[str]:
    """Return the alternatives in ``NAME | OTHER``."""
    return [name.strip() for name in want.split("|")]


def _fields(pin: Pin) -> dict[str, Any]:
    return {name: getattr(pin, name) for name in Pin.__struct_fields__}


def _source_pin(pin: Pin, want: SourceWant) -> SourcePin:
    return SourcePin(**_fields(pin), wanted=str(want))


def _depends(control: Mapping[str, str]) -> list[str]:
    """Return the packages that a control record depends on: of alternatives the first, without versions."""
    fields = ", ".join(control[field] for field in ("Pre-Depends", "Depends") if control.get(field))
    return [re.split(r"[\s(:|]", part.strip())[0] for part in fields.split(",") if part.strip()]
