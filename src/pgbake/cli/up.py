"""``pgbake up``: start a server from the bundle."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.servers import data_directory, data_option, describe, servers


@click.command(
    "up",
    short_help="Start a server from the bundle.",
    epilog="""\b
Examples:
  pgbake up
  pgbake up --port 5433 --data /srv/pg/one     a second one beside it
  psql "$(pgbake up --json | jq -r .uri)\"""",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on [default: the first free from 5432].")
@data_option
@json_option
@pass_app
def command(app: App, port: int | None, data: Path | None, as_json: bool) -> None:
    """Start a server from the bundle of the manifest, and build that first where it is missing.

    The data directory is made at the first start, with checksums. What must be preloaded and set for the
    extensions is taken from the bundle's receipt. The server listens on this machine only. When root types
    this, it runs as "postgres", or as "nobody" where there is no such user.
    """
    from pgbake.cli.goals import built_bundle

    directory = data_directory(app, data)
    bundle = built_bundle(app)
    settings = app.project.manifest.server_settings
    with app.reporting() as report:
        status, started = servers(app).up(directory, bundle.path, port, settings, report)
    if as_json:
        app.say_json(describe(status) | {"started": started})
        return
    app.say(status.uri)
    app.note(f"{'running' if started else 'was running already'} on port {status.port}; data in {status.data}")
    app.note(f"over TCP: {status.tcp_uri}  (password in {status.pgpass}: set PGPASSFILE to it)")
    app.note("next: pgbake psql | pgbake status | pgbake down")
