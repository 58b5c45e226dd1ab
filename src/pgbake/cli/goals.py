"""What several commands do alike: choose packages by name, and bring them about."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgbake.build.plan import Plan, make_plan
from pgbake.bundle.merge import Bundle
from pgbake.cli.app import App
from pgbake.errors import HostError, ManifestError
from pgbake.formats.derivation import Derivation
from pgbake.formats.system import System, host_system

if TYPE_CHECKING:
    from pgbake.build.engine import BuildOptions
    from pgbake.build.provide import Provider
    from pgbake.build.rebuild import Comparison
    from pgbake.events import Sink


def choose(bundle: Bundle, names: Sequence[str]) -> dict[str, Derivation]:
    """Return the derivations that names mean: packages of the bundle, or the bundle itself for none.

    :raises ManifestError: a name is none of the bundle's packages.
    """
    packages = bundle.by_name()
    for name in names:
        if name not in packages:
            near = difflib.get_close_matches(name, packages, 3)
            raise ManifestError(
                f'the bundle has no package "{name}"',
                hint=f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(packages)}",
            )
    return {name: packages[name] for name in names or ("bundle",)}


def realise_plan(
    app: App, plan: Plan, system: System, cores: int | None = None, options: BuildOptions | None = None
) -> None:
    """Do what a plan says, with its progress shown. What killed runs left in the store is removed in any case.

    :raises HostError: the plan builds for another system than this machine's.
    """
    if plan.empty:
        app.store.sweep()
        return
    if system != host_system():
        raise HostError(
            f"this machine cannot build for {system}",
            hint=f"`pgbake plan --system {system}` shows what would be built",
        )
    from pgbake.build.realise import realise

    with app.reporting() as report:
        realise(plan, app.store, input_provider(app, report), report, cores, options)


def input_provider(app: App, report: Sink) -> Provider:
    """Return what brings inputs of the project into the store."""
    from pgbake.build.provide import Provider
    from pgbake.project import cache_dir

    project = app.project
    return Provider(app.store, project.catalogue, lambda: project.mirrors, cache_dir() / "downloads", report)


def rebuild_packages(
    app: App, bundle: Bundle, names: Sequence[str], system: System, cores: int | None, options: BuildOptions
) -> list[Comparison]:
    """Build packages of a bundle a second time, or all of it where none is named, and compare.

    What is not built yet is built first.
    """
    from pgbake.build.rebuild import elsewhere_package, rebuild
    from pgbake.recipes.lowering import Lowering

    goals = list(choose(bundle, names or list(bundle.by_name())).values())
    needed = {path for goal in goals for path in (goal.path, *goal.input_drvs)}
    realise_plan(app, make_plan(bundle.graph, sorted(needed), app.store), system, cores, options)
    lowering = Lowering(app.project.catalogue, app.project.lock, system, app.project.manifest.postgresql)
    elsewhere = elsewhere_package(lowering)
    realise_plan(app, make_plan(lowering.graph, [elsewhere.path], app.store), system, cores, options)
    with app.reporting() as report:
        return rebuild(bundle.graph, goals, elsewhere, app.store, input_provider(app, report), report, cores, options)


def built_bundle(app: App) -> Bundle:
    """Return the bundle of the project for this machine, built where it is not yet."""
    system = host_system()
    bundle = app.project.bundle(system)
    realise_plan(app, make_plan(bundle.graph, [bundle.derivation.path], app.store), system)
    return bundle


def require_built(app: App) -> Bundle:
    """Return the bundle of the project for this machine, which must be in the store already.

    :raises ManifestError: it is not.
    """
    bundle = app.project.bundle(host_system())
    if not app.store.valid([bundle.path]):
        raise ManifestError("the bundle is not built yet", hint="run `pgbake build`")
    return bundle
