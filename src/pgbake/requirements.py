"""What a manifest and its recipes ask a lock to pin, and whether a lock does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from pgbake.formats.system import System
from pgbake.inputs.pins import UNPACKING_VERSION
from pgbake.lock import Lock, PlatformLock
from pgbake.manifest import Manifest
from pgbake.recipes.lowering import out_of_date, root_of
from pgbake.recipes.recipe import Catalogue, Recipe


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a manifest and its recipes ask a lock to pin; it follows without asking anybody."""

    platform: PlatformLock
    systems: tuple[str, ...]
    #: recipe -> Debian source package, suite
    sources: Mapping[str, tuple[str, str]]
    #: build root -> Debian packages, sorted
    roots: Mapping[str, tuple[str, ...]]
    runtime: tuple[str, ...]
    #: Stands for the rules by which packages are unpacked.
    unpacking: str

    def check(self, lock: Lock, system: System) -> None:
        """Check that a lock pins what is required for one system.

        :raises LockError: it does not; what differs is named.
        """
        if lock.platform != self.platform:
            raise out_of_date("it was made for another suite, or other pockets of it, than [platform] names")
        pins = lock.systems.get(system.name)
        if pins is None:
            raise out_of_date(f"it has no pins for {system}, which [platform] lists")
        for recipe, (debian, suite) in self.sources.items():
            pin = lock.sources.get(recipe)
            if pin is None:
                raise out_of_date(f"it does not pin {recipe}")
            if (pin.debian, pin.suite) != (debian, suite):
                raise out_of_date(f"it pins {recipe} from {pin.debian} in {pin.suite}, not {debian} in {suite}")
        for name, wants in self.roots.items():
            root = pins.roots.get(name)
            if root is None or root.wants != wants:
                raise out_of_date(f"the build root {name} asks for other packages now")
        if lock.unpacking != self.unpacking:
            raise out_of_date("its trees are those of another pgbake, or of other rules for runtime packages")
        if pins.runtime_wants != self.runtime:
            missing = sorted(set(self.runtime) ^ set(pins.runtime_wants))
            raise out_of_date(f"the runtime asks for other packages now ({', '.join(missing)})")


def requirements(manifest: Manifest, catalogue: Catalogue) -> Requirements:
    """Return what a manifest asks a lock to pin."""
    platform = manifest.platform
    names = ["postgresql", *(name for name in manifest.extensions if name in catalogue.recipes)]
    recipes = [catalogue.recipe(name) for name in names]
    roots = dict(root_of(recipe, catalogue) for recipe in recipes)
    roots["merge"] = tuple(sorted(catalogue.debian.stacks["merge"].packages))
    runtime = {name for recipe in recipes for name in (*recipe.build, *recipe.runtime)}
    return Requirements(
        platform=PlatformLock(platform.suite, platform.security, platform.updates),
        systems=platform.systems,
        sources={recipe.name: _source(recipe, manifest) for recipe in recipes},
        roots=dict(sorted(roots.items())),
        runtime=tuple(sorted(runtime | set(catalogue.debian.extra.packages))),
        unpacking=_unpacking(catalogue),
    )


def _unpacking(catalogue: Catalogue) -> str:
    rules = [(rule.match, rule.keep, rule.drop) for rule in catalogue.debian.runtime]
    return hashlib.sha256(msgspec.json.encode((UNPACKING_VERSION, rules))).hexdigest()[:16]


def _source(recipe: Recipe, manifest: Manifest) -> tuple[str, str]:
    debian = recipe.source.debian.replace("{major}", str(manifest.postgresql))
    return debian, recipe.source.suite or manifest.platform.suite
