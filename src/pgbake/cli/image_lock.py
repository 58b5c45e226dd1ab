"""``pgbake image lock``: pin the packages of images of machines."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "lock",
    short_help="Pin the packages of machine images.",
    epilog="""\b
Examples:
  pgbake image lock              move every package to what the suite holds today
  pgbake image lock --dry-run    show what would move""",
)
@click.option("--dry-run", is_flag=True, help="Show what would move, and change nothing.")
@json_option
@pass_app
def command(app: App, dry_run: bool, as_json: bool) -> None:
    """Pin every Debian package of a machine's image, and of the programs that make it, in pgbake-image.lock.

    It lies beside pgbake.lock and moves apart from it: a kernel moves without the bundle, and the bundle without the
    kernel.
    """
    from pgbake.cli.imaging import machine_image, resolved
    from pgbake.errors import LockError
    from pgbake.image.lock import IMAGE_LOCK_NAME, load_image_lock, moved, save_image_lock

    project = app.project
    file = project.directory / IMAGE_LOCK_NAME
    try:
        before = load_image_lock(file, project.manifest, machine_image(app))
    except LockError:
        before = None
    lock = resolved(app, before)
    moves = moved(before, lock)
    if not dry_run and lock != before:
        save_image_lock(lock, file)
    if as_json:
        listed = [{"name": name, "before": old, "after": new} for name, (old, new) in moves.items()]
        app.say_json({"dry-run": dry_run, "file": str(file), "moves": listed})
        return
    if before is None:
        app.say(f"{'would pin' if dry_run else 'pinned'} {len(moves)} packages in {IMAGE_LOCK_NAME}")
        return
    for name, (old, new) in moves.items():
        app.say(f"{name} {old or 'new'} -> {new or 'gone'}")
    app.say(f"{len(moves) or 'no'} packages {'would move' if dry_run else 'moved'}")
