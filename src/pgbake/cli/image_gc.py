"""``pgbake image gc``: delete what images were made of and nobody has used for long."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.quantities import DURATION


@click.command(
    "gc",
    short_help="Delete stages and workshops that nobody has used for long.",
    epilog="""\b
Examples:
  pgbake image gc --dry-run        list what would go, and how much space it takes
  pgbake image gc --keep-for 7d""",
)
@click.option(
    "--keep-for", type=DURATION, default="30d", show_default=True, help="Keep what was used within this time: 7d, 12h."
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@json_option
@pass_app
def command(app: App, keep_for: float, dry_run: bool, as_json: bool) -> None:
    """Delete stages with their disks, workshops, and packages of the conventional flavour, whatever their project. They
    are made again when somebody asks for them. What is in use stays; what killed runs have left goes at any age.
    """
    import time

    from pgbake.cli.caches import count
    from pgbake.cli.imaging import images_dir
    from pgbake.image.kept import collect
    from pgbake.quantities import human_size

    unused = collect(images_dir(), time.time() - keep_for, dry_run=dry_run)
    freed = sum(each.freed for each in unused)
    if as_json:
        deleted = [{"path": str(each.directory), "size": each.freed} for each in unused]
        app.say_json({"dry-run": dry_run, "deleted": deleted, "freed": freed})
        return
    for each in unused:
        app.say(f"{human_size(each.freed):>9}  {each.directory}")
    app.say(f"{count(len(unused), 'tree')} {'would be deleted' if dry_run else 'deleted'}, {human_size(freed)} on disk")
