"""``pgbake uninstall``: remove PostgreSQL from this machine."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import major_option, root_option


@click.command(
    "uninstall",
    short_help="Remove PostgreSQL from this machine; data stays.",
    epilog="""\b
Examples:
  pgbake uninstall
  pgbake uninstall --major 15 --purge     data and configuration as well
  pgbake uninstall --dry-run""",
)
@major_option
@root_option
@click.option("--purge", is_flag=True, help="Remove data, and configuration that was changed, too.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@json_option
@pass_app
def command(app: App, major: int | None, root: Path | None, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Stop the servers of a major version, and remove exactly what `pgbake install` made. What it moved aside
    comes back.

    Data, and configuration that somebody has changed, stay unless --purge is given. The bundles stay in the store until
    `pgbake gc`.
    """
    from pgbake.cli.installing import answer, installation, on_machine
    from pgbake.install.installation import installed_major

    machine = on_machine(app, root)
    with app.reporting() as report:
        what = installation(machine, report)
        left = {cluster.major for cluster in what.machine.record.clusters}
        record = what.machine.record
        if (
            major is None and not what.profiles.majors() and (record.parts or (purge and record.kept))
        ):  # one that was killed
            major = max(left, default=0)
        chosen = installed_major(what.profiles, major)
        done = what.uninstall(chosen, purge=purge, dry_run=dry_run)

    def tell() -> None:
        app.say(f"PostgreSQL {chosen} is uninstalled" if chosen else "what was left is removed")
        for path in (
            *what.machine.record.kept,
            *(change.path for change in done.plan.changes if change.verb == "restore"),
        ):
            app.say(f"stays: {path}")

    answer(app, done, as_json, dry_run, tell)
