"""``pgbake builders``: the machines that Nix builds on."""

from __future__ import annotations

import click

from pgbake.cli.lazy import LazyGroup

COMMANDS = {
    "Look": {
        "check": "Ask each builder whether it can build, and say what to do.",
    },
}


@click.group(
    "builders",
    cls=LazyGroup,
    table=COMMANDS,
    module="pgbake.cli.builders_{}",
    short_help="Machines that Nix builds on: check them.",
    epilog="""\b
Examples:
  pgbake builders check
  pgbake --builders 'ssh://root@build1 x86_64-linux' builders check""",
)
def command() -> None:
    """Machines that Nix builds on, beside this one: `[builders]` in the manifest, or --builders.

    They are passed on to the Nix of this machine, which connects to them, copies what builds need, and takes
    the results back.
    """
