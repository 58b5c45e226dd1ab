"""``pgbake info``."""
import click


@click.command("info")
def command() -> None:
    """Not yet."""
