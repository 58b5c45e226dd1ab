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
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.lowering import Graph, Lowering, Package, store_name
from pgbake.recipes.recipe import Catalogue, Provided

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
    lowering = Lowering(catalogue, lock, system, manifest.postgresql)
    chosen = [name for name in manifest.extensions if name in catalogue.recipes]
    server = lowering.package("postgresql")
    extensions = [lowering.package(name) for name in sorted(chosen)]
    support = support_package(lowering)
    locales = locales_package(lowering, manifest.locales)
    preload, settings = _server_needs(manifest, catalogue)

    entries = [_entry(server, "out", many=True), _silent("programs", server.output("bin"))]
    entries += [_entry(server, language, many=True) for language in manifest.languages]
    entries += [_entry(extension, "out") for extension in extensions]
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
            {"match": rule.match, "needs": rule.needs, "always": rule.always} for rule in catalogue.debian.runtime
        ],
        "preload": preload,
        "settings": settings,
        "locales": manifest.locales,  # in the user's order: the first is the default of new clusters
        "buildRoots": {name: root.tree for name, root in sorted(lowering.pins.roots.items())},
    }
    root = lowering.root("merge", catalogue.debian.stacks["merge"].packages)
    needs: dict[StorePath, tuple[str, ...]] = {server.derivation.path: ("out", "bin", *manifest.languages)}
    needs |= {made.path: ("out",) for made in (support, locales, *(e.derivation for e in extensions))}
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
        sources=list(runtime.values()),
        needs=needs,
    )
    path = derivation.output_paths["out"]
    return Bundle(lowering.graph, derivation, (server, *extensions), path)


def _server_needs(manifest: Manifest, catalogue: Catalogue) -> tuple[list[str], dict[str, str]]:
    """Return what a server of the bundle preloads, in the manifest's order, and what must be set for it."""
    preload: list[str] = []
    settings: dict[str, str] = {}
    for name in manifest.extensions:
        needs = catalogue.postgresql.provides.get(name) or catalogue.recipes[name]
        preload += [library for library in needs.preload if library not in preload]
        settings |= needs.settings
    return preload, dict(sorted(settings.items()))


def _entry(package: Package, output: str, many: bool = False) -> dict[str, Any]:
    recipe = package.recipe
    source = package.source
    needs = dict(recipe.provides)
    if recipe.preload or recipe.settings:
        needs[""] = Provided(recipe.preload, recipe.settings)
    return {
        "name": recipe.name if output == "out" else output,
        "version": package.version,
        "licence": recipe.licence,
        "path": str(package.output(output)),
        "source": {"name": source.filename, "sha256": source.sha256},
        "needs": {name: {"preload": n.preload, "settings": n.settings} for name, n in sorted(needs.items())},
        "many": many,
        "receipt": True,
    }


def _silent(name: str, path: StorePath) -> dict[str, Any]:
    """Describe a part of the bundle of which the receipt has nothing to tell by itself."""
    return {"name": name, "version": "", "path": str(path), "receipt": False}
