"""``pgbake build``: build the bundle, or one package of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, builders_option, engine_option, json_option, pass_app, system_option
from pgbake.errors import BuildError

if TYPE_CHECKING:
    from pgbake.build.rebuild import Comparison
    from pgbake.places import Engine

#: How many of an output's differing files are listed.
_SHOWN_DIFFERENCES = 20


@click.command(
    "build",
    short_help="Build the bundle, or one package of it.",
    epilog="""\b
Examples:
  pgbake build                     build what is missing, and point ./result at the bundle
  pgbake build pgvector            build one package
  pgbake build --dry-run           the same as `pgbake plan`
  pgbake build --rebuild           build all of it once more, elsewhere, and compare the bits
  pgbake build --keep-failed       keep the directory of a build that fails, for `pgbake enter`
  pgbake build --engine nix --builders 'ssh://root@build1 - - 2; ssh://root@build2 - - 2'""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--out-link", type=click.Path(path_type=Path), help="Link to the bundle to make [default: ./result].")
@click.option("--no-link", is_flag=True, help="Make no link: the result may be collected as garbage.")
@click.option("--cores", type=click.IntRange(1), help="Cores to use together [default: all].")
@click.option("--rebuild", is_flag=True, help="Build what is there a second time, and compare.")
@click.option("--keep-failed", is_flag=True, help="Keep the directory of a build that fails, or that differs.")
@click.option(
    "--max-silent-time",
    type=click.FloatRange(0),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Stop a build that prints nothing for so long; 0: never.",
)
@click.option("--no-substitute", is_flag=True, help="Take nothing from binary caches: build all that is missing.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@engine_option()
@builders_option()
@system_option
@json_option
@pass_app
def command(
    app: App,
    names: tuple[str, ...],
    out_link: Path | None,
    no_link: bool,
    cores: int | None,
    rebuild: bool,
    keep_failed: bool,
    max_silent_time: float,
    no_substitute: bool,
    dry_run: bool,
    engine: Engine | None,
    builders: str | None,
    system: str | None,
    as_json: bool,
) -> None:
    """Build the bundle of the manifest, or only the packages NAME of it.

    What was built before and has not changed is reused, and what a binary cache has is taken from it.

    The answer is the store path.

    With --rebuild, the bundle and all its packages, or the packages NAME, are then built a second time: with
    another clock, time zone, uid, host name, number of cores, umask, order of directories and kernel release.
    The answer is which outputs came out the same, and what differs with its likely cause; the exit status is 1
    if anything does. The store stays as it is.
    """
    from pgbake.build.engine import BuildOptions
    from pgbake.bundle.check import check_budget, check_references
    from pgbake.cli.goals import choose, realise_goals, rebuild_packages

    app.engine_choice = engine or app.engine_choice
    app.builders_option = app.builders_option if builders is None else builders
    target = app.project.system(system)
    bundle = app.project.bundle(target)
    options = BuildOptions(max_silent_time or None, keep_failed)
    if rebuild and not dry_run:
        show_comparisons(app, rebuild_packages(app, bundle, names, target, cores, options), as_json)
        return
    goals = choose(bundle, names)
    wanted = [goal.path for goal in goals.values()]
    if dry_run:
        from pgbake.cli.plan import show_plan_of

        show_plan_of(app, bundle, wanted, as_json, substitute=not no_substitute)
        return
    plan = realise_goals(app, bundle.graph, wanted, target, cores, options, substitute=not no_substitute)
    if not names:
        check_references(app.store, bundle)
        check_budget(app.store, bundle, app.project.manifest.closure_budget)
    if not names and not no_link:
        app.store.link_root(out_link or app.directory / "result", bundle.path)
    paths = {name: goal.outputs["out"].path for name, goal in goals.items()}
    if as_json:
        app.say_json(
            {
                "paths": paths,
                "built": [derivation.name for derivation in plan.builds],
                "pulled": [str(path) for path in plan.substitutes],
            }
        )
    else:
        for path in paths.values():
            app.say(path)


def show_comparisons(app: App, comparisons: Sequence[Comparison], as_json: bool) -> None:
    """Print what came out of a second build; end with status 1 if it is not the same."""
    differing = [comparison for comparison in comparisons if not comparison.same]
    if as_json:
        app.say_json({"same": not differing, "outputs": [_as_json(comparison) for comparison in comparisons]})
    else:
        width = max(len(f"{comparison.package}!{comparison.output}") for comparison in comparisons)
        for comparison in comparisons:
            name = f"{comparison.package}!{comparison.output}"
            app.say(f"{name:{width}}  {'the same bits' if comparison.same else 'DIFFERS'}  {_hash(comparison.first)}")
            if not comparison.same:
                app.say(f"{'':{width}}  second build   {_hash(comparison.second)}")
            for difference in comparison.differences[:_SHOWN_DIFFERENCES]:
                app.say(f"    {difference.file or comparison.path.name}: {difference.what}: {difference.cause}")
            if (more := len(comparison.differences) - _SHOWN_DIFFERENCES) > 0:
                app.say(f"    ... and {more} files more; --json lists all")
            if comparison.kept:
                app.say(f"    the second build is kept in {comparison.kept}")
    if differing:
        packages = ", ".join(sorted({comparison.package for comparison in differing}))
        raise BuildError(
            f"{len(differing)} of {len(comparisons)} outputs came out with other bits: of {packages}",
            hint=None if differing[0].kept else "`pgbake build --rebuild --keep-failed` keeps the second build",
        )
    if not as_json:
        app.say(f"{len(comparisons)} outputs, built twice: all the same")


def _as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "package": comparison.package,
        "output": comparison.output,
        "path": str(comparison.path),
        "same": comparison.same,
        "nar-hashes": [_hash(comparison.first), _hash(comparison.second)],
        "differences": [asdict(difference) for difference in comparison.differences],
        "kept": str(comparison.kept) if comparison.kept else None,
    }


def _hash(digest: bytes) -> str:
    from pgbake.formats import base32

    return f"sha256:{base32.encode(digest)}"
