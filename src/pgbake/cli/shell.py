"""``pgbake shell``: a shell with the bundle's programs in PATH."""

from __future__ import annotations

import os

import click

from pgbake.cli.app import App, pass_app
from pgbake.cli.servers import execute


@click.command(
    "shell",
    short_help="Open a shell with the bundle's programs in PATH.",
    epilog="""\b
Example:
  pgbake shell""",
)
@pass_app
def command(app: App) -> None:
    """Open your shell ($SHELL) with the bundle's programs first in PATH. Leave it with exit."""
    from pgbake.cli.goals import built_bundle

    bundle = built_bundle(app)
    app.note(f"the programs of {bundle.path.name} are first in PATH; leave with exit")
    execute(app, bundle.path, [os.environ.get("SHELL", "/bin/sh")], {"PGBAKE_BUNDLE": str(bundle.path)})
