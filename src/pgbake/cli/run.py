"""``pgbake run``: one program with the bundle's own in PATH."""

from __future__ import annotations

import click

from pgbake.cli.app import App, pass_app
from pgbake.cli.servers import execute, execute_dev


@click.command(
    "run",
    short_help="Run one program with the bundle's own first in PATH.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  pgbake run -- pg_config --version
  pgbake run -- pg_dump -h /tmp mydb
  pgbake run --dev -- make USE_PGXS=1""",
)
@click.option("--dev", is_flag=True, help="With pg_config, PGXS, headers, and the build root's compiler.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_app
def command(app: App, program: tuple[str, ...], dev: bool) -> None:
    """Run PROGRAM with the bundle's programs first in PATH, and the bundle built first where it is missing.

    Where the store is an ordinary user's own, PROGRAM runs in a namespace that shows it at /nix. With --dev the
    build root's /usr is in place of the machine's, as in `pgbake shell --dev`.
    """
    from pgbake.cli.goals import built_bundle

    if dev:
        execute_dev(app, program)
    execute(app, built_bundle(app).path, program)
