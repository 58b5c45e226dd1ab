"""What several commands do alike: choose packages by name, and bring them about."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

from pgbake.build.plan import Plan, make_plan, missing_inputs
from pgbake.bundle.check import check_references
from pgbake.bundle.merge import Bundle
from pgbake.cli.app import App
from pgbake.errors import CacheError, HostError, ManifestError
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import System, host_system
from pgbake.recipes.lowering import Graph

if TYPE_CHECKING:
    from pgbake.build.engine import BuildOptions
    from pgbake.build.provide import Provider
    from pgbake.build.realise import Takes
    from pgbake.build.rebuild import Comparison
    from pgbake.cache.substituters import Substituters
    from pgbake.events import Sink


def choose(bundle: Bundle, names: Sequence[str]) -> dict[str, Derivation]:
    """Return the derivations that names mean: packages of the bundle, or the bundle itself for none.

    :raises ManifestError: a name is none of the bundle's packages.
    """
    packages = bundle.by_name()
    for name in names:
        if "/" in name:
            raise ManifestError(
                f'the bundle has no package "{name}"',
                hint=f"a check is run by `pgbake check {name}`; what it wrote is told by `pgbake log {name}`",
            )
        if name not in packages:
            near = difflib.get_close_matches(name, packages, 3)
            raise ManifestError(
                f'the bundle has no package "{name}"',
                hint=f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(packages)}",
            )
    return {name: packages[name] for name in names or ("bundle",)}


def realise_goals(
    app: App,
    graph: Graph,
    goals: Iterable[StorePath],
    system: System,
    cores: int | None = None,
    options: BuildOptions | None = None,
    substitute: bool = True,
    takes: Takes | None = None,
) -> Plan:
    """Bring derivations' outputs about, with progress shown, and return what was done for it.

    What caches have is taken from them; what they give wrong is built. What killed runs left in the store is removed
    in any case.

    :param substitute: whether caches are asked.
    :param takes: see :func:`pgbake.build.realise.realise`.
    :raises HostError: something is to be built for another system than this machine's, and not by Nix.
    """
    from pgbake.cache.pull import Ungiven
    from pgbake.cli.caches import substituters, tell_problems, tell_refusals

    goals = list(goals)
    caches = substituters(app) if substitute else None
    told = False
    while True:
        plan = make_plan(graph, goals, app.store, caches)
        if caches is not None and not told:
            tell_refusals(app, caches)
            told = True
        if plan.empty:
            app.store.sweep()
            break
        nix_settings = _nix_settings(app, system) if plan.builds else None
        from pgbake.build.realise import realise

        try:
            with app.reporting() as report:
                provider = input_provider(app, report)
                realise(plan, app.store, provider, report, cores, options, caches, takes, nix_settings)
            break
        except Ungiven as error:
            assert caches is not None
            caches.give_up(error.path)
            caches.problems.append(error)
    if caches is not None:
        _take_statements(app, caches, plan)
        tell_problems(app, caches.problems)
    return plan


def _nix_settings(app: App, system: System) -> dict[str, str]:
    """Return what of Nix's configuration the builds of a system want; nothing where pgbake builds.

    :raises HostError: pgbake builds, and this machine is no such system.
    :raises ManifestError: pgbake builds, and machines of Nix's are named on the command line.
    """
    builders = app.builders
    if app.engine[0] == "nix":
        return builders.nix_settings
    if app.builders_option is not None:
        raise ManifestError(
            f"--builders names machines that Nix builds on, and the engine is local: {app.engine[1]}",
            hint="install Nix here and leave --store away, or leave --builders away",
        )
    if system != host_system():
        raise HostError(
            f"this machine cannot build for {system}",
            hint=f"`pgbake plan --system {system}` shows what would be built; with Nix here, a builder of that system "
            "can build it: see `pgbake builders`",
        )
    if builders.machines:
        app.note("the manifest's builders are Nix's to use; here pgbake builds by itself")
    return {}


def _take_statements(app: App, caches: Substituters, plan: Plan) -> None:
    """Keep what caches state of bundles that came from them: who uses or pushes those on asks for it."""
    from pgbake.cache.statements import is_bundle, take_statements
    from pgbake.cli.caches import settings

    for path in filter(is_bundle, plan.substitutes):
        try:
            take_statements(app.store, caches.caches, path, settings(app).trust)
        except CacheError as error:  # the bundle is there
            caches.problems.append(error)


def realise_build_closure(app: App, names: Sequence[str]) -> list[StorePath]:
    """Bring all about that it takes to build packages of the bundle, or all of it, without any mirror; return it.

    That is every derivation below them, with its outputs, and every outside input.
    """
    system = host_system()
    bundle = app.project.bundle(system)
    below: dict[StorePath, Derivation] = {}

    def visit(path: StorePath) -> None:
        if path not in below:
            for needed in bundle.graph.derivations[path].input_drvs:
                visit(needed)
            below[path] = bundle.graph.derivations[path]

    for goal in choose(bundle, names).values():
        visit(goal.path)
    realise_goals(app, bundle.graph, below, system)
    wanted = {path for derivation in below.values() for path in derivation.input_srcs}
    realise_inputs(app, bundle.graph, wanted)
    for derivation in below.values():
        app.store.add_derivation(derivation)
    outputs = {path for derivation in below.values() for path in derivation.output_paths.values()}
    return sorted(wanted | outputs | below.keys())


def realise_inputs(app: App, graph: Graph, wanted: Set[StorePath]) -> None:
    """Bring outside inputs into the store, from caches or from where they are pinned."""
    from pgbake.build.realise import realise
    from pgbake.cli.caches import substituters, tell_problems

    caches = substituters(app)
    app.store.temp_roots.add(*wanted)
    missing = wanted - app.store.valid(wanted)
    offers = caches.offers(missing) if caches is not None and missing else {}
    plan = Plan(missing_inputs(graph, missing - offers.keys(), app.store), (), (), offers)
    with app.reporting() as report:
        realise(plan, app.store, input_provider(app, report), report, caches=caches)
    if caches is not None:
        tell_problems(app, caches.problems)


def input_provider(app: App, report: Sink) -> Provider:
    """Return what brings inputs of the project into the store."""
    from pgbake.build.provide import Provider
    from pgbake.places import cache_dir

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
    realise_goals(app, bundle.graph, sorted(needed), system, cores, options)
    lowering = Lowering(app.project.catalogue, app.project.lock, system, app.project.manifest.postgresql)
    elsewhere = elsewhere_package(lowering)
    realise_goals(app, lowering.graph, [elsewhere.path], system, cores, options)
    with app.reporting() as report:
        return rebuild(bundle.graph, goals, elsewhere, app.store, input_provider(app, report), report, cores, options)


def built_bundle(app: App) -> Bundle:
    """Return the bundle of the project for this machine, built where it is not yet."""
    system = host_system()
    bundle = app.project.bundle(system)
    realise_goals(app, bundle.graph, [bundle.derivation.path], system)
    check_references(app.store, bundle)
    return bundle


def require_built(app: App) -> Bundle:
    """Return the bundle of the project for this machine, which must be in the store already.

    :raises ManifestError: it is not.
    """
    bundle = app.project.bundle(host_system())
    if not app.store.valid([bundle.path]):
        raise ManifestError("the bundle is not built yet", hint="run `pgbake build`")
    return bundle
