"""``pgbake image stage2``: stage 1 with the bundle, as a tree and as a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, flavour_option, port_option, profile_option, unchecked_option
from pgbake.cli.installing import from_option

if TYPE_CHECKING:
    from pgbake.image.disk import Format
    from pgbake.machine.definition import Flavour


@click.command(
    "stage2",
    short_help="Install the bundle into stage 1: a tree, and disks.",
    epilog="""\b
Examples:
  pgbake image stage2                                      the manifest's bundle; a tree
  pgbake image stage2 --disk qcow2                         and a disk that boots by UEFI and BIOS
  pgbake image stage2 shop --from https://cache.example.org --disk raw --disk vmdk""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@click.option(
    "--disk", "forms", multiple=True, type=click.Choice(["raw", "qcow2", "vmdk", "vhd"]),
    help="Write a disk in this form, too; may be given several times.",
)  # fmt: skip
@flavour_option
@profile_option
@cluster_option
@port_option
@unchecked_option
@click.option(
    "--replay", is_flag=True, help="See that each migration can be run a second time, whatever the table says."
)
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
    forms: tuple[Format, ...],
    flavour: Flavour,
    profile: str | None,
    cluster: str,
    port: int,
    unchecked: bool,
    replay: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make the tree of a machine with the bundle installed, and disks of it; stage 1 is made where it is not kept.

    The bundle comes from the store or the caches, with the signatures and checks that are demanded; nothing is built.
    The tree is never booted: no machine id, no host key, no log is in it, and a scan proves that. The first boot makes
    the data directory and applies the migrations, which lie in the form of dbmate in migrations of the project;
    that they can be applied is seen here, on a data directory that is thrown away. The same inputs give the same bytes.
    """
    from pgbake.cli.imaging import Making
    from pgbake.cli.installing import meant_bundle

    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=dry_run)
    making = Making(app, path, urls, cluster, port, flavour, unchecked, profile)
    if forms:
        making.require_bootable()
    if dry_run:
        first = making.stage1
        told = first.record
        kept = told is not None and making.stage2(told).record is not None
        answer: dict[str, Any] = {"dry-run": True, "bundle": str(path), "stage1-kept": told is not None, "kept": kept}
        if as_json:
            app.say_json(answer)
        else:
            app.say(f"stage 1 {first.key} {'would be made' if told is None else 'is kept'}")
            app.say(f"stage 2 of {path} {'is kept' if kept else 'would be made'}")
        return
    made, tools = making.make_stage2()
    if replay:
        made.replay()
    with app.reporting() as report:
        disks = made.disks(tools, app.project.manifest.image.bytes, forms, report) if forms else []
    if as_json:
        app.say_json(
            {
                "dry-run": False, "bundle": str(path), "key": made.key, "tree": str(made.root),
                "disks": [str(disk) for disk in disks], "migrations": [each.name for each in made.migrations],
            }
        )  # fmt: skip
        return
    app.say(str(made.root))
    for disk in disks:
        app.say(str(disk))
