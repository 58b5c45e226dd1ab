"""The bundle as a derivation: what a manifest asks for, lowered down to the merge.

The merge's derivation names every runtime package of the lock as an input, and takes those that something
needs; what it does not link stays out of the bundle's references. See `pgbake.bundle.merge_program`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pgbake.bundle.locales import locales_package
from pgbake.bundle.support import support_package
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import System
from pgbake.lock import DebPin, Lock
from pgbake.manifest import Manifest
from pgbake.recipes.choice import Choice, choices, deb_names
from pgbake.recipes.lowering import Graph, Lowering, Package, store_name
from pgbake.recipes.recipe import Catalogue, Recipe
from pgbake.requirements import chosen_debs

_SCRIPT = 'exec python3 -I -c "$program"\n'


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest lowered for one system."""

    graph: Graph
    derivation: Derivation
    packages: tuple[Package, ...]
    path: StorePath

    def by_name(self) -> dict[str, Derivation]:
        """Return every derivation of the bundle by its short name (``pname``); the bundle's is ``bundle``."""
        return {derivation.env["pname"]: derivation for derivation in self.graph.derivations.values()}


def lower_bundle(manifest: Manifest, catalogue: Catalogue, lock: Lock, system: System) -> Bundle:
    """Lower a manifest to the derivation of its bundle, and all that it needs. Pure.

    :raises LockError: the lock does not fit the manifest.
    """
    chosen = choices(manifest, catalogue)
    lowering = Lowering(catalogue, lock, system, manifest.postgresql, chosen)
    server = lowering.package("postgresql")
    built = [choice for choice in chosen if choice.source and choice.name != "postgresql"]
    extensions = [lowering.package(key) for key in sorted(choice.key for choice in built)]
    debs = chosen_debs(lowering.pins, [choice.deb for choice in chosen if choice.deb])
    words = {name: choice for choice in chosen if choice.deb for name in deb_names(choice.deb)}
    support = support_package(lowering)
    locales = locales_package(lowering, manifest.locales)

    entries = [_entry(server, "out", many=True), _silent("programs", server.output("bin"))]
    entries += [_entry(server, language, many=True) for language in manifest.languages]
    entries += [_entry(extension, output) for extension in extensions for output in extension.choice.outputs]
    entries += [_deb_entry(name, pin, lowering.deb(name, pin), words.get(name)) for name, pin in debs.items()]
    entries += [_silent(made.name, made.output_paths["out"]) for made in (support, locales)]
    runtime = lowering.runtime()
    spec = {
        "name": manifest.name,
        "system": system.name,
        "triplet": system.triplet,
        "loader": system.loader,
        "major": manifest.postgresql,
        "postgresql": server.version,
        "platform": lock.platform.suite,
        "packages": entries,
        "runtime": [
            {"name": name, "path": str(path), "version": pin.version, "sha256": pin.sha256}
            for (name, path), pin in zip(runtime.items(), lowering.pins.runtime.values(), strict=True)
        ],
        "rules": [
            {"match": rule.match, "needs": rule.needs, "always": rule.always, "places": rule.places}
            for rule in catalogue.debian.runtime
            if rule.needs or rule.always or rule.places
        ],
        "extensions": manifest.extensions,  # in the user's order, which preloading follows as far as it can
        "locales": manifest.locales,  # in the user's order: the first is the default of new clusters
        "buildRoots": {name: root.tree for name, root in sorted(lowering.pins.roots.items())},
    }
    root = lowering.root("merge", catalogue.debian.stack("merge"))
    needs: dict[StorePath, tuple[str, ...]] = {server.derivation.path: ("out", "bin", *manifest.languages)}
    needs |= {made.path: ("out",) for made in (support, locales)}
    needs |= {extension.derivation.path: extension.choice.outputs for extension in extensions}
    derivation = lowering.graph.add(
        store_name(f"{manifest.name}-postgresql-{server.version}"),
        system,
        root,
        _SCRIPT,
        env={
            "pname": "bundle",
            "program": (Path(str(resources.files("pgbake"))) / "bundle/merge_program.py").read_text(encoding="utf-8"),
            "spec": json.dumps(spec, sort_keys=True, ensure_ascii=False),
        },
        sources=[*runtime.values(), *(lowering.deb(name, pin) for name, pin in debs.items())],
        needs=needs,
    )
    path = derivation.output_paths["out"]
    return Bundle(lowering.graph, derivation, (server, *extensions), path)


def _entry(package: Package, output: str, many: bool = False) -> dict[str, Any]:
    recipe = package.recipe
    source = package.source
    return {
        "name": package.choice.key if output == "out" else output,
        "version": package.version,
        "licence": recipe.licence,
        "path": str(package.output(output)),
        "origin": "source",
        "source": {"name": source.filename, "sha256": source.sha256},
        "many": many,
        "receipt": True,
        "older": package.choice.older,
        **_needs(recipe),
    }


def _deb_entry(name: str, pin: DebPin, path: StorePath, choice: Choice | None) -> dict[str, Any]:
    """Describe a Debian package with extensions."""
    return {
        "name": choice.key if choice else name,
        "version": pin.version,
        "licence": pin.licence,
        "path": str(path),
        "origin": "deb",
        "deb": name,
        "source": {"name": pin.filename, "sha256": pin.sha256},
        "many": False,
        "receipt": True,
        "older": choice.older if choice else False,
        **_needs(choice.recipe if choice else None),
    }


def _needs(recipe: Recipe | None) -> dict[str, Any]:
    """Return what a recipe says that a server needs: of all the package (key ""), and of single extensions."""
    if recipe is None:
        return {"needs": {}, "after": [], "first": False}
    needs: dict[str, Any] = {
        name: {"preload": provided.preload, "settings": provided.settings}
        for name, provided in sorted(recipe.provides.items())
    }
    if recipe.preload is not None or recipe.settings:
        needs[""] = {"preload": recipe.preload, "settings": recipe.settings}
    return {"needs": needs, "after": recipe.after, "first": recipe.first}


def _silent(name: str, path: StorePath) -> dict[str, Any]:
    """Describe a part of the bundle of which the receipt has nothing to tell by itself."""
    return {"name": name, "version": "", "path": str(path), "receipt": False}
