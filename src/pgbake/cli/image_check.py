"""``pgbake image check``: hold a tree against the contract of the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, flavour_option, port_option, profile_option, unchecked_option
from pgbake.cli.installing import from_option

if TYPE_CHECKING:
    from pgbake.machine.definition import Flavour


@click.command(
    "check",
    short_help="Hold stage 2 against its contract, without booting it.",
    epilog="""\b
Examples:
  pgbake image check                    the manifest's image
  pgbake image check --tree /mnt/disk   any tree that was made of its stage 1""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@click.option(
    "--tree", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="Tree to look at, instead of stage 2.",
)  # fmt: skip
@flavour_option
@profile_option
@cluster_option
@port_option
@unchecked_option
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
    tree: Path | None,
    flavour: Flavour,
    profile: str | None,
    cluster: str,
    port: int,
    unchecked: bool,
    as_json: bool,
) -> int:
    """Compare every path and account of a tree with what stage 1 and the machine definition say, and with nothing
    else: what is missing, what differs, and what nobody has declared is told, all at once. What an image that was never
    booted must not have (keys, identities, logs, passwords) is looked for, too.

    The exit status is 1 where anything deviates.
    """  # fmt: skip
    from pgbake.cli.imaging import Making
    from pgbake.cli.installing import meant_bundle
    from pgbake.cli.trying import deviations_of

    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=False)
    making = Making(app, path, urls, cluster, port, flavour, unchecked, profile)
    if tree is None:
        stage, _ = making.make_stage2()
    else:
        _, told = making.make_stage1()
        stage = making.stage2(told)
    found = deviations_of(stage, tree or stage.root)
    if as_json:
        app.say_json(
            {
                "tree": str(tree or stage.root),
                "deviations": [{"what": each.what, "found": each.found} for each in found],
            }
        )
    else:
        for each in found:
            app.say(f"{each.what}: {each.found}")
        app.say(f"{tree or stage.root}: {len(found) or 'no'} deviation{'' if len(found) == 1 else 's'}")
    return 1 if found else 0
