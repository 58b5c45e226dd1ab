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
  pgbake image lock --dry-run    show what would move
  pgbake image lock --profile container    those of `image container --aio`""",
)
@click.option("--profile", metavar="NAME", help="Those of a profile instead of the manifest's, in a file of their own.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and change nothing.")
@json_option
@pass_app
def command(app: App, profile: str | None, dry_run: bool, as_json: bool) -> None:
    """Pin every Debian package of a machine's image, and of the programs that make it, in pgbake-image.lock.

    It lies beside pgbake.lock and moves apart from it: a kernel moves without the bundle, and the bundle without the
    kernel.
    """
    from pgbake.cli.imaging import lock_file, machine_image, resolved
    from pgbake.errors import LockError
    from pgbake.image.lock import load_image_lock, moved, save_image_lock

    project = app.project
    file = lock_file(app, profile)
    try:
        before = load_image_lock(file, project.manifest, machine_image(app, profile=profile))
    except LockError:
        before = None
    lock = resolved(app, before, profile)
    moves = moved(before, lock)
    if not dry_run and lock != before:
        save_image_lock(lock, file)
    if as_json:
        listed = [{"name": name, "before": old, "after": new} for name, (old, new) in moves.items()]
        app.say_json({"dry-run": dry_run, "file": str(file), "moves": listed})
        return
    if before is None:
        app.say(f"{'would pin' if dry_run else 'pinned'} {len(moves)} packages in {file.name}")
        return
    for name, (old, new) in moves.items():
        app.say(f"{name} {old or 'new'} -> {new or 'gone'}")
    app.say(f"{len(moves) or 'no'} packages {'would move' if dry_run else 'moved'}")
