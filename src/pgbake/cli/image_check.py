"""``pgbake image check``: hold a tree against the contract of the image."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, port_option, unchecked_option
from pgbake.cli.installing import from_option


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
    from pgbake.cli.imaging import image_lock, made_stage1, made_stage2
    from pgbake.cli.installing import meant_bundle
    from pgbake.cli.trying import deviations_of
    from pgbake.formats.system import host_system

    if tree is None:
        path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=False)
        tree = made_stage2(app, path, urls, cluster, port, unchecked=unchecked)[0].root
    stage1, _ = made_stage1(app, image_lock(app), host_system(), cluster, port)
    found = deviations_of(app, stage1, tree)
    if as_json:
        app.say_json({"tree": str(tree), "deviations": [{"what": each.what, "found": each.found} for each in found]})
    else:
        for each in found:
            app.say(f"{each.what}: {each.found}")
        app.say(f"{tree}: {len(found) or 'no'} deviation{'' if len(found) == 1 else 's'}")
    return 1 if found else 0
