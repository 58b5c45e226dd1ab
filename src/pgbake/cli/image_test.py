"""``pgbake image test``: boot an image in a throwaway copy, and try what it must do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, port_option, tests_dir, unchecked_option
from pgbake.cli.installing import from_option

if TYPE_CHECKING:
    from pgbake.image.stage2 import Stage2
    from pgbake.image.verify import Proof
    from pgbake.image.workshop import Workshop

Way = Literal["nspawn", "qemu", "all"]
#: Seconds that a machine has to come up, by how it is booted; one that is emulated takes its time.
_LIMITS = {"nspawn": 60, "qemu": 600}


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
@cluster_option
@port_option
@unchecked_option
@click.option(
    "--boot", "way", type=click.Choice(["nspawn", "qemu", "all"]), default="nspawn", show_default=True,
    help="Boot the tree, the disk, or first one and then the other.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.IntRange(1), metavar="SECONDS",
    help="How long each machine may take to come up [default: 60, in QEMU 600].",
)  # fmt: skip
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
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
    from pgbake.cli.imaging import made_stage2
    from pgbake.cli.installing import meant_bundle

    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=False)
    stage, tools = made_stage2(app, path, urls, cluster, port, unchecked=unchecked)
    proofs: dict[str, list[Proof]] = {}
    if way in ("nspawn", "all"):
        proofs["nspawn"] = list(_in_nspawn(app, stage, tools, timeout or _LIMITS["nspawn"]))
    if way in ("qemu", "all"):
        proofs["qemu"] = list(_in_qemu(app, stage, tools, timeout or _LIMITS["qemu"]))
    failed = any(proof.found for each in proofs.values() for proof in each)
    if as_json:
        told = [
            {"boot": boot, "name": proof.name, "passed": not proof.found, "found": list(proof.found),
             "note": proof.note}
            for boot, each in proofs.items() for proof in each
        ]  # fmt: skip
        app.say_json({"bundle": str(path), "tree": str(stage.root), "proofs": told})
        return 1 if failed else 0
    for boot, each in proofs.items():
        for proof in each:
            note = f" ({proof.note})" if proof.note else ""
            app.say(f"{'failed' if proof.found else 'passed'}  {boot}: {proof.name}{note}")
            for line in proof.found:
                app.say(f"        {line}")
    return 1 if failed else 0


def _in_nspawn(app: App, stage: Stage2, tools: Workshop, limit: float) -> Iterator[Proof]:
    from pgbake.events import task
    from pgbake.image.boot import booted
    from pgbake.image.own_tests import sql_tests, testinfra
    from pgbake.image.verify import Proof, check_machine, wanted_of

    tests = tests_dir(app)
    wanted, clusters = wanted_of(stage.root)
    with (
        app.reporting() as report,
        task(report, "nspawn", "check", f"boot of {stage.bundle.name} in systemd-nspawn"),
        booted(tools, stage.root, limit) as machine,
    ):
        yield Proof("boot", note=f"{machine.seconds:.1f} s")
        yield from check_machine(machine, stage.stage1, wanted, clusters, stage.migrations)
        yield from sql_tests(machine, tests)
        yield from testinfra(machine, tests)


def _in_qemu(app: App, stage: Stage2, tools: Workshop, limit: float) -> Iterator[Proof]:
    from pgbake.cli.imaging import image_lock, workshop
    from pgbake.events import PhaseChanged, task
    from pgbake.image.emulate import Emulator
    from pgbake.image.verify import wanted_of
    from pgbake.image.verify_disk import check_disk, check_without_cloud

    wanted, clusters = wanted_of(stage.root)
    emulating = workshop(app, image_lock(app), emulator=True)
    with app.reporting() as report:
        (disk,) = stage.disks(tools, app.project.manifest.image.bytes, ["raw"], report)
    with (
        tempfile.TemporaryDirectory(dir=stage.directory, prefix="boot-", ignore_cleanup_errors=True) as name,
        app.reporting() as report,
        task(report, "qemu", "check", f"boot of {stage.bundle.name} in QEMU"),
    ):
        kernel, initrd = ((stage.root / link).resolve() for link in ("vmlinuz", "initrd.img"))
        emulator = Emulator(emulating, disk, kernel, initrd, Path(name))
        emulator.choose_accelerator()
        for each in chain(
            check_disk(emulator, stage.root, stage.stage1, wanted, clusters, stage.migrations, limit),
            check_without_cloud(emulator, limit),
        ):
            report(PhaseChanged("qemu", each.name))
            yield each
