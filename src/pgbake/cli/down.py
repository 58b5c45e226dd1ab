"""``pgbake down``: stop a server."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.servers import data_directory, data_option, servers


@click.command(
    "down",
    short_help="Stop a server.",
    epilog="""\b
Examples:
  pgbake down
  pgbake down --data /srv/pg/one
  pgbake down --all""",
)
@data_option
@click.option("--all", "every", is_flag=True, help="Stop every server that was started here.")
@json_option
@pass_app
def command(app: App, data: Path | None, every: bool, as_json: bool) -> None:
    """Stop the server of the manifest. Its data stays; `pgbake up` starts it again."""
    mine = servers(app)
    chosen = mine.all() if every else [mine.find(data_directory(app, data))]
    stopped = []
    for status in chosen:
        if status.pid is not None:
            mine.down(status)
            stopped.append(str(status.data))
    if as_json:
        app.say_json({"stopped": stopped})
    elif stopped:
        for name in stopped:
            app.say(f"stopped {name}")
    else:
        app.say("nothing to stop: no server is running" if every else f"{chosen[0].data} is not running")
