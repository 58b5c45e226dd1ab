"""``pgbake build``: build the bundle, or one package of it."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app, system_option


@click.command(
    "build",
    short_help="Build the bundle, or one package of it.",
    epilog="""\b
Examples:
  pgbake build                     build what is missing, and point ./result at the bundle
  pgbake build pgvector            build one package
  pgbake build --dry-run           the same as `pgbake plan`""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--out-link", type=click.Path(path_type=Path), help="Link to the bundle to make [default: ./result].")
@click.option("--no-link", is_flag=True, help="Make no link: the result may be collected as garbage.")
@click.option("--cores", type=click.IntRange(1), help="Cores to use together [default: all].")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@system_option
@json_option
@pass_app
def command(
    app: App,
    names: tuple[str, ...],
    out_link: Path | None,
    no_link: bool,
    cores: int | None,
    dry_run: bool,
    system: str | None,
    as_json: bool,
) -> None:
    """Build the bundle of the manifest, or only the packages NAME of it.

    What was built before and has not changed is reused. The answer is the store path.
    """
    from pgbake.build.plan import make_plan
    from pgbake.cli.goals import choose, realise_plan

    target = app.project.system(system)
    bundle = app.project.bundle(target)
    goals = choose(bundle, names)
    plan = make_plan(bundle.graph, [goal.path for goal in goals.values()], app.store)
    if dry_run:
        from pgbake.cli.plan import show_plan

        show_plan(app, plan, as_json)
        return
    realise_plan(app, plan, target, cores)
    if not names and not no_link:
        app.store.link_root(out_link or app.directory / "result", bundle.path)
    paths = {name: goal.outputs["out"].path for name, goal in goals.items()}
    if as_json:
        app.say_json({"paths": paths, "built": [derivation.name for derivation in plan.builds]})
    else:
        for path in paths.values():
            app.say(path)
