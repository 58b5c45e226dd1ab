"""``pgbake lock``: pin every outside input of the manifest."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "lock",
    short_help="Pin every outside input of the manifest.",
    epilog="""\b
Examples:
  pgbake lock                      pin what the manifest asks for and is not pinned yet
  pgbake lock --update             move every pin to what the suite holds today
  pgbake lock --update runtime     move libraries only: a new bundle without a compiler
  pgbake lock --update libssl3     move one library
  pgbake lock --update hll         move one extension
  pgbake lock --check              say whether the lock fits the manifest, as CI wants it""",
)
@click.option("--update", is_flag=True, help="Move pins: all, or those of NAME.")
@click.option("--check", is_flag=True, help="Change nothing; fail if the lock does not fit the manifest.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and change nothing.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@pass_app
def command(app: App, update: bool, check: bool, dry_run: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Pin every outside input: Debian packages by apt's resolver, upstream tarballs by signed indexes.

    Pins that nobody asks to move stay. NAME is an extension, a runtime package, "runtime" (all of those), "debs"
    (all Debian packages with extensions) or "build" (all packages of the build roots).
    """
    from pgbake.cli.locking import make_lock, tell_lock
    from pgbake.formats.system import SYSTEMS
    from pgbake.lock import load_lock
    from pgbake.requirements import requirements

    if names and not update:
        raise click.UsageError("names are only taken with --update")
    project = app.project
    if check:
        required = requirements(project.manifest, project.catalogue, project.directory)
        pinned = load_lock(project.lock_file)
        for system in required.systems:
            required.check(pinned, SYSTEMS[system])
        if as_json:
            app.say_json({"fits": True})
        else:
            app.say(f"{project.lock_file.name} fits {project.manifest_file.name}")
        return
    locked = make_lock(app, project, frozenset(names) if update else None, dry_run=dry_run)
    if as_json:
        app.say_json(locked.as_json())
    else:
        tell_lock(app, project, locked)
