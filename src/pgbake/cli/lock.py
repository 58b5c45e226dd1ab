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

    Pins that nobody asks to move stay. NAME is a recipe, a runtime package, "runtime" (all of those)
    or "build" (all packages of the build roots).
    """
    from pgbake.errors import LockError
    from pgbake.events import Notice
    from pgbake.formats.system import SYSTEMS
    from pgbake.lock import load_lock, save_lock
    from pgbake.places import cache_dir
    from pgbake.requirements import requirements
    from pgbake.resolve import Resolver, moves
    from pgbake.store.locks import directory_lock

    if names and not update:
        raise click.UsageError("names are only taken with --update")
    project = app.project
    required = requirements(project.manifest, project.catalogue, project.directory)
    if check:
        pinned = load_lock(project.lock_file)
        for system in required.systems:
            required.check(pinned, SYSTEMS[system])
        if as_json:
            app.say_json({"fits": True})
        else:
            app.say(f"{project.lock_file.name} fits {project.manifest_file.name}")
        return

    with (
        app.reporting() as report,
        directory_lock(
            project.directory,
            lambda holder: report(
                Notice("info", f"{project.lock_file.name} is being made by {holder}; waiting for it")
            ),
        ),
    ):
        # What the other has pinned meanwhile is kept like any pin.
        previous = load_lock(project.lock_file) if project.lock_file.exists() else None
        if previous and not (update and not names) and not dry_run:
            suite = project.manifest.platform.suite
            if previous.platform.suite != suite:
                raise LockError(
                    f"the lock is of {previous.platform.suite}, the manifest's platform is {suite}: every pin moves",
                    hint="`pgbake plan` lists what that touches; take the step with `pgbake lock --update`",
                )
        resolver = Resolver(
            project.manifest,
            project.directory,
            project.catalogue,
            lambda: project.mirrors,
            app.store,
            cache_dir(),
            report,
            previous=previous,
            update=frozenset(names) if update else None,
        )
        lock = resolver.resolve()
        if lock != previous and not dry_run:
            save_lock(lock, project.lock_file)
    moved = moves(previous, lock)
    if as_json:
        app.say_json({"moved": moved, "written": lock != previous and not dry_run})
        return
    for move in moved if previous else ():
        app.say(f"{move.where}: {move.name} {move.before or '(new)'} -> {move.after or '(gone)'}")
    if lock == previous:
        app.say(f"{project.lock_file.name} is up to date; nothing moved")
    else:
        files = sum(len(part.build) + len(part.runtime) for part in lock.systems.values()) + len(lock.sources)
        would = "would pin" if dry_run else "pins"
        app.say(f"{project.lock_file.name} {would} {files} files for {', '.join(lock.systems)}; {len(moved)} moved")
