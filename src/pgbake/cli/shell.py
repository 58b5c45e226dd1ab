"""``pgbake shell``: a shell with the bundle's programs in PATH."""

from __future__ import annotations

import os

import click

from pgbake.cli.app import App, pass_app
from pgbake.cli.servers import execute, execute_dev


@click.command(
    "shell",
    short_help="Open a shell with the bundle's programs in PATH.",
    epilog="""\b
Examples:
  pgbake shell
  pgbake shell --dev               then, in an extension's sources: make USE_PGXS=1""",
)
@click.option("--dev", is_flag=True, help="With pg_config, PGXS, headers, and the build root's compiler.")
@pass_app
def command(app: App, dev: bool) -> None:
    """Open your shell ($SHELL) with the bundle's programs first in PATH. Leave it with exit.

    With --dev it is a shell to compile extensions in: bash of the build root, whose /usr stands in place of the
    machine's, so that what is compiled fits the bundle. The store is read-only there: install with DESTDIR.
    """
    if dev:
        app.note("the build root's /usr is in place of the machine's, pg_config is the bundle's; leave with exit")
        execute_dev(app, ["/bin/bash"])
    from pgbake.cli.goals import built_bundle

    bundle = built_bundle(app)
    app.note(f"the programs of {bundle.path.name} are first in PATH; leave with exit")
    execute(app, bundle.path, [os.environ.get("SHELL", "/bin/sh")], {"PGBAKE_BUNDLE": str(bundle.path)})
