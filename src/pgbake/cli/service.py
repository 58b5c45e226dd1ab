"""``pgbake service``: the server of an installed machine without systemd."""

from __future__ import annotations

import click

from pgbake.cli.app import App, pass_app


@click.group(
    "service", short_help="Run an installed server where there is no systemd.", epilog="Example: pgbake service run"
)
def command() -> None:
    """Run the server of an installed machine where there is no systemd, as in a container."""


@command.command(
    "run",
    epilog="""\b
Examples:
  pgbake service run
  pgbake service run 15/reports -c log_min_duration_statement=100""",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("cluster", required=False, metavar="[CLUSTER]")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]...")
@pass_app
def run(app: App, cluster: str | None, options: tuple[str, ...]) -> None:
    """Become the server of a cluster, in the foreground: by default 15/main, or the only one. OPTIONs are the server's.

    Directories that begin empty at a boot are made, the data directory at the first start, and then this process is the
    server itself, as the user postgres: signals reach it directly (SIGINT is a fast shutdown, SIGTERM waits for
    clients), and its log goes to standard error.
    """
    from pgbake.cli.installing import installation, on_machine
    from pgbake.events import silent
    from pgbake.install.foreground import become_server

    if cluster is not None and cluster.startswith("-"):
        options = (cluster, *options)
        cluster = None
    become_server(installation(on_machine(app, None), silent), cluster, options)
