"""``pgbake optimise``: make equal files of the store hard links of one another."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.quantities import human_size


@click.command(
    "optimise",
    short_help="Save space: make equal files hard links of one another.",
    epilog="""\b
Examples:
  pgbake optimise --dry-run        say how much it would save
  pgbake optimise""",
)
@click.option("--dry-run", is_flag=True, help="Show what would be saved, and change nothing.")
@json_option
@pass_app
def command(app: App, dry_run: bool, as_json: bool) -> None:
    """Replace files of the store that are equal by hard links of one another, as `nix-store --optimise` does.

    Contents, and so the paths' hashes, stay as they are.
    """
    from pgbake.store.optimise import optimise

    app.require_own_store()
    with app.reporting() as report:
        done = optimise(app.store, dry_run=dry_run, report=report)
    if as_json:
        app.say_json(
            {
                "dry-run": dry_run,
                "files": done.files,
                "saved": done.saved,
                "already": done.already,
                "damaged-links": done.removed,
            }
        )
        return
    would = "would be " if dry_run else ""
    app.say(
        f"{done.files} files {would}linked to equal ones, {human_size(done.saved)} {would}saved; "
        f"{done.already} were links before"
    )
