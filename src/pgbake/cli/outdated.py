"""``pgbake outdated``."""

import click


@click.command("outdated")
def command() -> None:
    """Not yet."""
