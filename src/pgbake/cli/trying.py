"""Trying an image: what `pgbake image test` and `pgbake image build` do alike.

What has passed is kept beside stage 2, so that a chain that is run again does not try the same once more::

    stage2-KEY/passed-nspawn.json     what was tried in systemd-nspawn, and what passed; and passed-qemu.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from pgbake.cli.app import App
from pgbake.cli.imaging import tests_dir

if TYPE_CHECKING:
    from pgbake.cli.imaging import Making
    from pgbake.image.contract import Deviation
    from pgbake.image.stage2 import Stage2
    from pgbake.image.verify import Proof
    from pgbake.image.workshop import Workshop

Way = Literal["nspawn", "qemu", "all"]
boot_option = click.option(
    "--boot", "way", type=click.Choice(["nspawn", "qemu", "all"]), default="nspawn", show_default=True,
    help="Boot the tree, the disk, or first one and then the other.",
)  # fmt: skip
timeout_option = click.option(
    "--timeout", type=click.IntRange(1), metavar="SECONDS",
    help="How long each machine may take to come up [default: 60, in QEMU 600].",
)  # fmt: skip
#: Seconds that a machine has to come up, by how it is booted; one that is emulated takes its time.
_LIMITS = {"nspawn": 60, "qemu": 600}
#: Changes with every change of what is tried.
_VERSION = 2


class Passed(msgspec.Struct, frozen=True):
    """What was tried, and nothing failed.

    :param tried: digest of what else than the image belongs to it: the user's tests.
    """

    tried: str
    proofs: tuple[str, ...]


def deviations_of(stage: Stage2, tree: Path) -> list[Deviation]:
    """Return all in which a tree deviates from the contract of a stage 2, and what in it no image must have."""
    from pgbake.image.contract import Deviation
    from pgbake.image.migrations import migration_parts
    from pgbake.image.tree import leftovers
    from pgbake.image.verify import check_tree

    found = check_tree(tree, stage.stage1, stage.wanted(tree)[0], migration_parts(stage.migrations))
    left = [line.partition(": ") for line in leftovers(tree)]
    return found + [Deviation(what, why) for what, _, why in left]


def ways_of(way: Way) -> tuple[str, ...]:
    """Return how an image is booted."""
    return ("nspawn", "qemu") if way == "all" else (way,)


def passed_before(app: App, stage: Stage2, way: str) -> bool:
    """Whether an image has passed all that would be tried now."""
    from pgbake.image.kept import read_record

    record = read_record(stage.directory / f"passed-{way}.json", Passed)
    return record is not None and record.tried == _tried(app)


def try_image(making: Making, stage: Stage2, tools: Workshop, way: str, timeout: float | None) -> list[Proof]:
    """Boot an image in one way and try it; keep that it has passed, where it has.

    :param timeout: seconds that each machine may take to come up; None: what the way mostly needs, and more.
    :raises PgbakeError: a machine does not come up, or cannot be started here.
    """
    from pgbake.files import write_whole

    limit = timeout or _LIMITS[way]
    tried = _tried(making.app)
    proofs = list((_in_nspawn if way == "nspawn" else _in_qemu)(making, stage, tools, limit))
    file = stage.directory / f"passed-{way}.json"
    if any(proof.found for proof in proofs):
        file.unlink(missing_ok=True)
    else:
        write_whole(file, msgspec.json.encode(Passed(tried, tuple(proof.name for proof in proofs))))
    return proofs


def _tried(app: App) -> str:
    files = sorted(file for file in tests_dir(app).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    words = [f"{_VERSION}", *(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def describe_proofs(way: str, proofs: list[Proof]) -> list[dict[str, object]]:
    """Return what was tried as it is answered to programs."""
    return [
        {"boot": way, "name": each.name, "passed": not each.found, "found": list(each.found), "note": each.note}
        for each in proofs
    ]


def tell_proofs(app: App, way: str, proofs: list[Proof]) -> None:
    """Say what was tried, and all that is wrong."""
    for proof in proofs:
        note = f" ({proof.note})" if proof.note else ""
        app.say(f"{'failed' if proof.found else 'passed'}  {way}: {proof.name}{note}")
        for line in proof.found:
            app.say(f"        {line}")


def _in_nspawn(making: Making, stage: Stage2, tools: Workshop, limit: float) -> Iterator[Proof]:
    from pgbake.events import task
    from pgbake.image.boot import booted
    from pgbake.image.own_tests import sql_tests, testinfra
    from pgbake.image.verify import Proof, check_machine

    app = making.app
    tests = tests_dir(app)
    wanted, clusters = stage.wanted()
    with (
        app.reporting() as report,
        task(report, "nspawn", "check", f"boot of {stage.bundle.name} in systemd-nspawn"),
        booted(tools, stage.root, limit) as machine,
    ):
        yield Proof("boot", note=f"{machine.seconds:.1f} s")
        yield from check_machine(machine, stage.stage1, wanted, clusters, stage.migrations)
        yield from sql_tests(machine, tests)
        yield from testinfra(machine, tests)


def _in_qemu(making: Making, stage: Stage2, tools: Workshop, limit: float) -> Iterator[Proof]:
    from pgbake.cli.imaging import workshop
    from pgbake.events import PhaseChanged, task
    from pgbake.image.clouds import CLOUDS
    from pgbake.image.emulate import Emulator
    from pgbake.image.kept import throwaway
    from pgbake.image.verify_disk import check_disk, check_without_cloud

    app = making.app
    wanted, clusters = stage.wanted()
    emulating = workshop(app, making.lock, emulator=True)
    with app.reporting() as report:
        (disk,) = stage.disks(tools, app.project.manifest.image.bytes, ["raw"], report)
    with (
        throwaway(stage.directory) as bench,
        app.reporting() as report,
        task(report, "qemu", "check", f"boot of {stage.bundle.name} in QEMU"),
    ):
        kernel, initrd = ((stage.root / link).resolve() for link in ("vmlinuz", "initrd.img"))
        emulator = Emulator(emulating, disk, kernel, initrd, clusters[0].port, bench, CLOUDS[making.image.cloud]())
        emulator.choose_accelerator()
        for each in chain(
            check_disk(emulator, stage.root, stage.stage1, wanted, clusters, stage.migrations, limit),
            check_without_cloud(emulator, limit),
        ):
            report(PhaseChanged("qemu", each.name))
            yield each
