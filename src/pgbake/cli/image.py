"""``pgbake image``: images of a bundle."""

from __future__ import annotations

import click

from pgbake.cli.lazy import LazyGroup

COMMANDS = {
    "Machines": {
        "build": "Do all of it: lock, stages, disks, check and test.",
        "lock": "Pin the packages of machine images.",
        "stage1": "Make a machine's tree with everything but the bundle.",
        "stage2": "Install the bundle into stage 1: a tree, and disks.",
        "check": "Hold stage 2 against its contract, without booting it.",
        "test": "Boot stage 2 in a throwaway copy, and try what it must do.",
        "gc": "Delete stages and workshops that nobody has used for long.",
    },
    "Containers": {
        "container": "Make a container image of the bundle, or push it to a registry.",
    },
}


@click.group(
    "image",
    cls=LazyGroup,
    table=COMMANDS,
    module="pgbake.cli.image_{}",
    short_help="Make images of the bundle: machines and containers.",
    epilog="Example: pgbake image container --push registry.example.org/shop:15",
)
def command() -> None:
    """Make images of a bundle: the same files that `pgbake install` puts on a machine, ready to run."""
