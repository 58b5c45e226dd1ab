"""``pgbake rollback``: go back to an earlier generation."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import major_option, restart_option, root_option, timeout_option


@click.command(
    "rollback",
    short_help="Go back to the generation before, or to any other.",
    epilog="""\b
Examples:
  pgbake rollback
  pgbake rollback 3 --restart
  pgbake rollback --dry-run        whether a restart would be needed, and why""",
)
@click.argument("generation", required=False, type=int, metavar="[GEN]")
@major_option
@root_option
@restart_option
@timeout_option
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@json_option
@pass_app
def command(
    app: App,
    generation: int | None,
    major: int | None,
    root: Path | None,
    restart: bool,
    timeout: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make an earlier generation the current one: by default the one before. No network is needed.

    Data and configuration stay as they are.
    """
    from pgbake.cli.installing import answer, installation, on_machine
    from pgbake.install.installation import installed_major

    machine = on_machine(app, root)
    with app.reporting() as report:
        what = installation(machine, report)
        chosen = installed_major(what.profiles, major)
        done = what.rollback(chosen, generation, restart=restart, limit=timeout, dry_run=dry_run)

    def tell() -> None:
        assert done.now is not None
        app.say(f"generation {done.now.number} is current: {done.now.bundle}")

    answer(app, done, as_json, dry_run, tell)
