"""``pgbake image test``: boot an image in a throwaway copy, and try what it must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, flavour_option, port_option, profile_option, unchecked_option
from pgbake.cli.installing import from_option
from pgbake.cli.trying import Way, boot_option, describe_proofs, tell_proofs, timeout_option, try_image, ways_of

if TYPE_CHECKING:
    from pgbake.machine.definition import Flavour


@click.command(
    "test",
    short_help="Boot stage 2 in a throwaway copy, and try what it must do.",
    epilog="""\b
Examples:
  pgbake image test                 in systemd-nspawn: seconds
  pgbake image test --boot all      and its disk in QEMU: minutes
  pgbake image test shop --from https://cache.example.org --timeout 120""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@flavour_option
@profile_option
@cluster_option
@port_option
@unchecked_option
@boot_option
@timeout_option
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
    flavour: Flavour,
    profile: str | None,
    cluster: str,
    port: int,
    unchecked: bool,
    way: Way,
    timeout: int | None,
    as_json: bool,
) -> int:
    """Boot a throwaway overlay of stage 2 and hold the machine against its contract: files, accounts, units, ports, and
    what its server answers, each extension created once. The image itself stays as it is, never booted.

    Your own tests lie in tests/image of the project and run in systemd-nspawn: NAME.sql (pgTAP, or with NAME.out, or
    plain SQL without an error) and test_NAME.py (pytest-testinfra).

    In systemd-nspawn the tree is booted, without network. In QEMU it is the disk, by UEFI, by BIOS and by its kernel
    alone, with the data that a cloud gives and without: SQL is asked from outside, the power fails while rows are
    written, the disk has grown. KVM is used where it shows that it runs the image's kernel. What is missing for QEMU is
    fetched, as pgbake-image.lock pins it.

    The exit status is 1 where anything is wrong.
    """  # fmt: skip
    from pgbake.cli.imaging import Making
    from pgbake.cli.installing import meant_bundle

    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=False)
    making = Making(app, path, urls, cluster, port, flavour, unchecked, profile)
    making.require_bootable()
    stage, tools = making.make_stage2()
    proofs = {each: try_image(making, stage, tools, each, timeout) for each in ways_of(way)}
    failed = any(proof.found for each in proofs.values() for proof in each)
    if as_json:
        told = [answer for boot, each in proofs.items() for answer in describe_proofs(boot, each)]
        app.say_json({"bundle": str(path), "tree": str(stage.root), "proofs": told})
        return 1 if failed else 0
    for boot, each in proofs.items():
        tell_proofs(app, boot, each)
    return 1 if failed else 0
