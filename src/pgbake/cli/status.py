"""``pgbake status``: the servers that were started here."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.servers import describe, servers


@click.command(
    "status",
    short_help="List the servers that were started here.",
    epilog="""\b
Examples:
  pgbake status
  pgbake status --json""",
)
@json_option
@pass_app
def command(app: App, as_json: bool) -> None:
    """List the servers that this user started: whether they run, where, and from which bundle."""
    found = servers(app).all()
    if as_json:
        app.say_json([describe(status) for status in found])
        return
    if not found:
        app.say("no server was started here; `pgbake up` starts one")
    for status in found:
        state = f"running, pid {status.pid}" if status.pid is not None else "down"
        app.say(f"{status.data}: {state}, port {status.port}")
        app.say(f"  bundle {status.bundle}")
        if status.pid is not None:
            app.say(f"  {status.uri}")
