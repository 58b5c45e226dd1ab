"""``pgbake outdated``: which pins have newer versions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.inputs.apt import AptRoot, Suite


@click.command(
    "outdated",
    short_help="Show which pins have newer versions.",
    epilog="""\b
Examples:
  pgbake outdated
  pgbake outdated --exit-code      fail where anything is outdated, as CI may want it""",
)
@click.option("--exit-code", is_flag=True, help="End with status 1 if anything is outdated.")
@json_option
@pass_app
@click.pass_context
def command(ctx: click.Context, app: App, exit_code: bool, as_json: bool) -> None:
    """Show the extensions whose sources or Debian packages have newer versions, and how far libraries and build
    roots are behind. Nothing is changed: `pgbake lock --update` moves what it is asked to.

    A source that is pinned by a URL is only compared with the version that Debian has compiled.
    """
    from pgbake.available import fresh_index, platform_suites
    from pgbake.formats.system import SYSTEMS
    from pgbake.outdated import behind, newer_debs, newer_sources
    from pgbake.places import cache_dir
    from pgbake.requirements import requirements

    project = app.project
    manifest, lock = project.manifest, project.lock
    required = requirements(manifest, project.catalogue, project.directory)
    suites = platform_suites(manifest.platform, project.directory)
    with app.reporting() as report:

        @cache
        def index(of: tuple[Suite, ...], architecture: str) -> AptRoot:
            return fresh_index(of, architecture, project.mirrors, cache_dir(), report, 3600)

        def platform(system: str) -> AptRoot:
            return index(suites, SYSTEMS[system].debian)

        first = next(iter(lock.systems))
        newer = newer_sources(
            lock, required, project.catalogue, manifest.postgresql, lambda: platform(first), index
        ) + newer_debs(lock, required, platform)
        units = behind(lock, platform)
    found = bool(newer) or any(unit.newer for unit in units)
    if as_json:
        app.say_json({"extensions": newer, "units": units})
    else:
        width = max((len(item.name) for item in newer), default=0)
        for item in newer:
            system = f", {item.system}" if item.system and len(lock.systems) > 1 else ""
            app.say(f"{item.name:{width}}  {item.locked} -> {item.newest}  ({item.kind}{system}, {item.where})")
        for unit in units:
            fixes = f", {len(unit.security)} of them security fixes" if unit.security else ""
            app.say(
                f"{unit.unit} ({unit.system}): {len(unit.newer)} of {unit.pins} packages have newer versions{fixes}"
                if unit.newer
                else f"{unit.unit} ({unit.system}): all {unit.pins} packages are the newest"
            )
        if found:
            names = [item.name for item in newer if item.update] + [unit.unit for unit in units if unit.newer]
            if names:
                app.note(f"next: pgbake lock --update {' '.join(dict.fromkeys(names))}")
        else:
            app.say("nothing is outdated")
    if found and exit_code:
        ctx.exit(1)
