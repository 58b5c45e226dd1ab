"""``pgbake config``: the configuration of machines, as the one definition has it."""

from __future__ import annotations

import click

from pgbake.cli.lazy import LazyGroup

COMMANDS = {
    "Configuration": {
        "render": "Show or write the files of a machine.",
        "check": "Let each program look at the files that it reads.",
        "diff": "Compare two targets, trees or directories.",
        "drift": "Say where a machine is not as the definition says.",
    },
}


@click.group(
    "config",
    cls=LazyGroup,
    table=COMMANDS,
    module="pgbake.cli.config_{}",
    short_help="The configuration of machines: show, check, compare.",
    epilog="Example: pgbake config render image --to out && pgbake config check",
)
def command() -> None:
    """Look at what machines are configured to be: accounts, directories, files, units and ports of the one definition,
    with the services, the profile and the settings of the manifest.
    """
