"""``pgbake psql``: psql on the server."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, pass_app
from pgbake.cli.servers import data_directory, data_option, execute, servers
from pgbake.errors import ServerError


@click.command(
    "psql",
    short_help="Open psql on the server.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  pgbake psql
  pgbake psql -c 'SELECT version()'
  pgbake psql --data /srv/pg/one -d mydb""",
)
@data_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL ARGUMENT]...")
@pass_app
def command(app: App, data: Path | None, arguments: tuple[str, ...]) -> None:
    """Open the bundle's psql on the running server, as its superuser. Arguments are psql's own."""
    status = servers(app).find(data_directory(app, data))
    if status.pid is None:
        raise ServerError(f"the server of {status.data} is not running", hint="start it with `pgbake up`")
    connection = {"PGHOST": str(status.data), "PGPORT": str(status.port), "PGUSER": "postgres"}
    execute(app, status.bundle, [f"{status.bundle}/bin/psql", *arguments], {"PGDATABASE": "postgres"} | connection)
