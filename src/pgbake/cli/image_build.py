"""``pgbake image build``: the whole chain, from the manifest to an image that has passed its tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, flavour_option, port_option, profile_option, unchecked_option
from pgbake.cli.installing import from_option
from pgbake.cli.trying import Way, boot_option, timeout_option
from pgbake.errors import PgbakeError, VerifyError

if TYPE_CHECKING:
    from pgbake.cli.imaging import Making
    from pgbake.formats.storepath import StorePath
    from pgbake.image.disk import Format
    from pgbake.image.stage2 import Stage2
    from pgbake.image.verify import Proof
    from pgbake.image.workshop import Workshop
    from pgbake.machine.definition import Flavour

Target = Literal["disk", "ami", "tree", "container", "aio"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain.

    :param kept: whether all of it is there.
    :param reason: why it is to be done, or what is kept.
    """

    name: str
    kept: bool
    reason: str


@click.command(
    "build",
    short_help="Do all of it: lock, stages, disks, check and test.",
    epilog="""\b
Examples:
  pgbake image build                       a raw disk that has passed its tests
  pgbake image build --dry-run             what is kept, what would be made, and why
  pgbake image build --disk qcow2 --boot all
  pgbake image build --target ami          a disk to be imported into AWS, and how""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@click.option(
    "--target", type=click.Choice(["disk", "ami", "tree", "container", "aio"]), default="disk", show_default=True,
    help="A disk, a disk for AWS, stage 2 alone, a container image, or one with all services.",
)  # fmt: skip
@click.option(
    "--disk", "forms", multiple=True, type=click.Choice(["raw", "qcow2", "vmdk", "vhd"]),
    help="Form of the disk; may be given several times [default: raw].",
)  # fmt: skip
@boot_option
@timeout_option
@flavour_option
@profile_option
@cluster_option
@port_option
@unchecked_option
@click.option("--dry-run", is_flag=True, help="Show the plan, and do nothing.")
@json_option
@click.pass_context
@pass_app
def command(
    app: App,
    context: click.Context,
    bundle: str | None,
    urls: tuple[str, ...],
    target: Target,
    forms: tuple[Format, ...],
    way: Way,
    timeout: int | None,
    flavour: Flavour,
    profile: str | None,
    cluster: str,
    port: int,
    unchecked: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Make an image and try it: pin its packages where they are not, make stage 1, stage 2 and disks where they are not
    kept, hold the tree against its contract, boot it, and run the tests.

    The plan comes first. The chain stops at the first step that fails; run again, it goes on there, since what was
    complete is kept and nothing else is. A container image is what `pgbake image container` makes.
    """
    from pgbake.cli.imaging import Making
    from pgbake.cli.installing import meant_bundle

    if target in ("tree", "container", "aio") and forms:
        raise click.UsageError(f"--disk makes a disk, and --target {target} makes none.")
    if target in ("container", "aio"):
        from pgbake.cli.image_container import command as container

        words = {"bundle": bundle, "urls": urls, "unchecked": unchecked, "dry_run": dry_run, "as_json": as_json}
        words["aio"] = target == "aio"
        context.invoke(container, only_cached=True, **words)
        return 0
    if target == "ami" and set(forms) - {"raw"}:
        raise click.UsageError("AWS takes a raw disk: leave --disk out.")
    wanted: tuple[Format, ...] = () if target == "tree" else forms or ("raw",)
    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=dry_run)
    if target == "ami":
        profile = profile or app.project.manifest.image.profile or "aws"
    making = Making(app, path, urls, cluster, port, flavour, unchecked, profile)
    making.require_bootable()
    chain = Chain(making, path, wanted, way, timeout)
    plan = list(chain.plan())
    if not as_json:
        for step in plan:
            app.say(f"{'kept' if step.kept else 'to do':5}  {step.name:11}  {step.reason}")
    if dry_run:
        if as_json:
            app.say_json({"dry-run": True, "bundle": str(path), "steps": _described(plan)})
        return 0
    answer = chain.perform(plan)
    if as_json:
        app.say_json(answer)
        return 0
    for name, seconds in chain.took.items():
        app.note(f"{name}: {seconds:.1f} s")
    for place in answer["disks"] or [answer["tree"]]:
        app.say(place)
    if target == "ami":
        app.note(_IMPORT.format(disk=answer["disks"][0], name=app.project.manifest.name))
    return 0


#: What to type for AWS, where a role "vmimport" exists (AWS's VM Import/Export User Guide).
_IMPORT = """to import it into AWS:
  aws s3 cp {disk} s3://BUCKET/{name}.raw
  aws ec2 import-snapshot --disk-container Format=RAW,Url=s3://BUCKET/{name}.raw
  aws ec2 register-image --name {name} --architecture x86_64 --virtualization-type hvm --ena-support \\
    --boot-mode uefi-preferred --imds-support v2.0 --root-device-name /dev/xvda \\
    --block-device-mappings 'DeviceName=/dev/xvda,Ebs={{SnapshotId=SNAPSHOT,VolumeType=gp3}}'"""


def _described(plan: list[Step]) -> list[dict[str, Any]]:
    return [{"name": step.name, "kept": step.kept, "reason": step.reason} for step in plan]


class Chain:
    """The chain for one bundle; see the command."""

    def __init__(
        self, making: Making, bundle: StorePath, forms: tuple[Format, ...], way: Way, timeout: int | None
    ) -> None:
        self.app = making.app
        self.making = making
        self.bundle = bundle
        self.forms = forms
        self.way = way
        self.timeout = timeout
        #: Seconds of what was done.
        self.took: dict[str, float] = {}

    def plan(self) -> Iterator[Step]:
        """Yield the steps, each with whether it is kept."""
        from pgbake.cli.imaging import lock_file
        from pgbake.cli.trying import passed_before, ways_of

        stage: Stage2 | None = None
        file = lock_file(self.app, self.making.profile)
        if not file.exists():
            yield Step("lock", False, f"there is no {file.name}")
            yield Step("stage1", False, "its packages are not pinned yet")
            yield Step("stage2", False, "stage 1 is made anew")
        else:
            first = self.making.stage1
            yield Step("lock", True, file.name)
            told = first.record
            why = f"of {len(first.pins)} packages"
            yield Step("stage1", told is not None, why if told else f"{why}, of which none is kept")
            if told is None:
                yield Step("stage2", False, "stage 1 is made anew")
            else:
                stage = self.making.stage2(told)
                what = f"{self.bundle.name}, {len(stage.migrations)} migrations"
                if stage.record is None:
                    stage = None
                yield Step("stage2", stage is not None, what if stage else f"{what}: not made yet")
        for form in self.forms:
            there = stage is not None and (stage.directory / f"disk.{form}").exists()
            yield Step(f"disk {form}", there, "as large as the manifest says" if there else "not written yet")
        yield Step("check", False, "the tree against its contract: a second")
        for way in ways_of(self.way):
            passed = stage is not None and passed_before(self.app, stage, way)
            yield Step(f"test {way}", passed, "passed before" if passed else "not passed yet")

    def perform(self, plan: list[Step]) -> dict[str, Any]:
        """Do what the plan says; return what came of it, as it is answered to programs.

        :raises PgbakeError: a step fails; it is named.
        """
        from pgbake.cli.trying import describe_proofs, ways_of

        app = self.app
        self._step("lock", lambda: self.making.lock)
        self._step("stage1", self.making.make_stage1)
        stage, tools = self._step("stage2", self.making.make_stage2)

        def write_disks() -> list[Path]:
            with app.reporting() as report:
                return stage.disks(tools, app.project.manifest.image.bytes, self.forms, report)

        disks = self._step("disk", write_disks) if self.forms else []
        self._step("check", lambda: self._check(stage))
        proofs = []
        kept = {step.name for step in plan if step.kept}
        for way in ways_of(self.way):
            if f"test {way}" not in kept:
                found = self._step(f"test {way}", lambda way=way: self._test(stage, tools, way))  # type: ignore[misc]
                proofs += describe_proofs(way, found)
        return {
            "dry-run": False, "bundle": str(self.bundle), "steps": _described(plan), "tree": str(stage.root),
            "disks": [str(disk) for disk in disks], "proofs": proofs,
            "seconds": {name: round(seconds, 1) for name, seconds in self.took.items()},
        }  # fmt: skip

    def _step(self, name: str, do: Callable[[], T]) -> T:
        begin = time.monotonic()
        try:
            return do()
        except PgbakeError as error:
            error.message = f"{name}: {error.message}"
            error.hint = error.hint or "run the same command again: what was made before is kept"
            raise
        finally:
            self.took[name] = time.monotonic() - begin

    def _check(self, stage: Stage2) -> None:
        from pgbake.cli.trying import deviations_of

        if found := deviations_of(stage, stage.root):
            raise VerifyError(
                f"{len(found)} deviations from the contract",
                detail="\n".join(f"{each.what}: {each.found}" for each in found),
                hint=f"if somebody has changed it, delete {stage.directory} and run the same command again",
            )

    def _test(self, stage: Stage2, tools: Workshop, way: str) -> list[Proof]:
        from pgbake.cli.trying import try_image

        proofs = try_image(self.making, stage, tools, way, self.timeout)
        if failed := [proof for proof in proofs if proof.found]:
            raise VerifyError(
                f"{len(failed)} of {len(proofs)} tests failed",
                detail="\n".join(f"{proof.name}: {line}" for proof in failed for line in proof.found),
                hint=f"to see all of them: pgbake image test --boot {way}",
            )
        return proofs
