"""Making a lock: which Debian packages and upstream tarballs a manifest means, today, exactly.

Four units are resolved, and moved, apart: each source; the ``build`` packages of all build roots, which
must fit together since header packages demand their library's very version; the ``runtime`` packages; and
among these, when asked by name, single ones. What nobody asks to move keeps its pin.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pgbake.errors import ManifestError
from pgbake.events import Sink, task
from pgbake.formats.system import SYSTEMS, System, host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.buildroot import import_runtime, make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.lock import LOCK_VERSION, Lock, Root, RuntimePin, SourcePin, SystemLock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue
from pgbake.requirements import requirements
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


class Resolver:
    """Makes a lock for a manifest, keeping what an earlier lock pins and nobody asks to move."""

    def __init__(
        self,
        manifest: Manifest,
        catalogue: Catalogue,
        mirrors: Callable[[], Mirrors],
        store: LocalStore,
        cache: Path,
        report: Sink,
        *,
        previous: Lock | None,
        update: frozenset[str] | None,
    ) -> None:
        """:param update: names of what is to move (a recipe, ``build``, ``runtime``, a runtime package);
        empty moves everything, None nothing that is pinned.
        """
        self._catalogue = catalogue
        self._find_mirrors = mirrors
        self._store = store
        self._cache = cache
        self._report = report
        self._required = requirements(manifest, catalogue)
        self._previous = previous if previous and previous.platform == self._required.platform else None
        self._update = update
        if update:
            self._check_names(update)

    @cached_property
    def _mirrors(self) -> Mirrors:
        return self._find_mirrors()

    def _check_names(self, names: Iterable[str]) -> None:
        known = {"build", "runtime", *self._required.sources}
        for part in self._previous.systems.values() if self._previous else ():
            known |= part.runtime.keys()
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
        for recipe, (debian, suite) in sorted(self._required.sources.items()):
            old = self._previous.sources.get(recipe) if self._previous else None
            if old and (old.debian, old.suite) == (debian, suite) and not self._moves(recipe):
                pins[recipe] = old
                continue
            if suite not in roots:
                suites = self._suites() if suite == self._required.platform.suite else (Suite(suite),)
                # Any architecture would do: sources have none.
                roots[suite] = self._apt(suites, host_system().debian)
            version, pin = roots[suite].source(debian)
            pins[recipe] = SourcePin(
                version=version, path=pin.path, size=pin.size, sha256=pin.sha256, archive=pin.archive,
                debian=debian, suite=suite,
            )  # fmt: skip
        return pins

    def _suites(self) -> tuple[Suite, ...]:
        platform = self._required.platform
        suites = [Suite(platform.suite)]
        if platform.updates:
            suites.append(Suite(f"{platform.suite}-updates"))
        if platform.security:
            suites.append(Suite(f"{platform.suite}-security", "security"))
        return tuple(suites)

    def _apt(self, suites: tuple[Suite, ...], architecture: str) -> AptRoot:
        root = AptRoot(self._cache / "apt", suites, architecture, self._mirrors)
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
        runtime: dict[str, Pin] = {}
        touched = any(map(self._moves, ("runtime", *(old.runtime if old else ()))))
        if old and not touched and old.runtime_wants == self._required.runtime:
            runtime |= old.runtime
        else:
            for name, pin in self._runtime_packages(apt.root).items():
                before = old.runtime.get(name) if old else None
                stays = before and not self._moves("runtime") and not self._moves(name)
                runtime[name] = before if before and stays else pin
        return SystemLock(
            build,
            {
                name: Root(self._root_tree(name, system, members, build, old), self._required.roots[name], members)
                for name, members in sorted(packages.items())
            },
            self._imported(system, runtime, old),
            self._required.runtime,
        )

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
        debs = fetch(chosen, self._mirrors, self._cache / "downloads", self._report)
        with self._store.scratch() as scratch:
            make_build_root(debs, scratch / f"{name}-{system.debian}", self._report)
            return hash_tree(scratch / f"{name}-{system.debian}").sha256.hex()

    def _imported(self, system: System, pins: Mapping[str, Pin], old: SystemLock | None) -> dict[str, RuntimePin]:
        done: dict[str, RuntimePin] = {}
        for name, pin in pins.items():
            before = old.runtime.get(name) if old and self._unpacks_alike else None
            if before and before.sha256 == pin.sha256:
                done[name] = before
        fresh = {name: pin for name, pin in pins.items() if name not in done}
        if fresh:
            debs = fetch(fresh, self._mirrors, self._cache / "downloads", self._report)
            title = f"{len(fresh)} runtime packages ({system.debian})"
            with task(self._report, f"runtime {system}", "unpack", title), self._store.scratch() as scratch:
                for name, pin in fresh.items():
                    keep, drop = self._catalogue.import_rules(name)
                    import_runtime(debs[name], scratch / name, keep, drop)
                    done[name] = RuntimePin(
                        version=pin.version, path=pin.path, size=pin.size, sha256=pin.sha256, archive=pin.archive,
                        tree=hash_tree(scratch / name).sha256.hex(),
                    )  # fmt: skip
        return dict(sorted(done.items()))

    def _runtime_packages(self, apt: AptRoot) -> dict[str, Pin]:
        """Resolve what a bundle may need at run time: the libraries behind the header packages, and more."""
        wants = self._required.runtime
        together = apt.resolve(wants)
        controls = apt.controls(together)
        seeds, pending, seen = set[str](), set(wants), set[str]()
        while pending:
            name = pending.pop()
            seen.add(name)
            if _is_for_building(controls[name]):
                pending |= {d for d in _depends(controls[name]) if d in together} - seen
            else:
                seeds.add(name)
        # Once more without the header packages, which would tie libraries to their own build's versions.
        resolved = apt.resolve(sorted(seeds))
        controls = apt.controls(resolved)
        named = {name for name in wants if name in controls and not _is_for_building(controls[name])}
        sections = self._catalogue.debian.sections
        return {name: pin for name, pin in resolved.items() if name in named or controls[name]["Section"] in sections}


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
    return control["Section"] == "libdevel" or control["Package"].endswith("-dev")


def _depends(control: Mapping[str, str]) -> list[str]:
    """Return the packages that a control record depends on: of alternatives the first, without versions."""
    fields = ", ".join(control[field] for field in ("Pre-Depends", "Depends") if control.get(field))
    return [re.split(r"[\s(:|]", part.strip())[0] for part in fields.split(",") if part.strip()]
