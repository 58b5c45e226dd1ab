"""What a power cut leaves: the writes that had reached the disk at some moment, and nothing else.

    outer.img                btrfs, which can copy a file in an instant
      disk.img               the disk: ext4, mounted at `disk`, where a program works
      cut-N.img              copies of it while the program worked: what the kernel had not yet written is not in them

Run as a program, in a mount namespace of its own with whose end all mounts and loop devices go::

    python -m tests.integration.crash.power DIRECTORY < plan (JSON) > report (JSON)

This module's own program does all of that; `cut_power` starts it for a test.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Size of the disk; the files that stand for it are sparse.
_DISK = "3G"


class PowerLabUnavailable(Exception):
    """This machine lets no loop device be mounted; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What is to be tried.

    :param prepare: a command that fills the disk before; everything of it is on disk.
    :param work: the command during which the power goes.
    :param check: a command that looks at what is left, with the disk at its place. It is given what ``work`` had
        printed before the power went as its standard input.
    :param moments: seconds after the start of ``work`` at which the power goes, each time to the same run of it.
    :param libraries: an unpacked tree with mkfs.btrfs.
    """

    prepare: Sequence[str]
    work: Sequence[str]
    check: Sequence[str]
    moments: Sequence[float]
    libraries: str


@dataclass(frozen=True)
class Cut:
    """What was found after one power cut: the output of ``check`` and how it ended."""

    moment: float
    status: int
    output: str


def moments(chance: random.Random, count: int, seconds: float) -> list[float]:
    """Return random moments within the given time."""
    return sorted(chance.uniform(0.02 * seconds, seconds) for _ in range(count))


def cut_power(directory: Path, plan: Plan) -> list[Cut]:
    """Carry out a plan, whose commands find the disk at ``directory / "disk"``.

    :raises PowerLabUnavailable: loop devices, btrfs or ext4 are refused here.
    """
    # The kernel ends what is mounted in a namespace with its last process, and a loop device with its mount.
    command = ["unshare", "--mount", "--propagation", "private", "--kill-child", "--fork", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.integration.crash.power", str(directory)],
        input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == _UNAVAILABLE:
        raise PowerLabUnavailable(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return [Cut(**cut) for cut in json.loads(done.stdout)]


_UNAVAILABLE = 3


def _call(*argv: str | Path, **environment: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode != 0:
        raise PowerLabUnavailable(f"{' '.join(map(str, argv))}: {done.stderr.strip()}")


def _lay_out(directory: Path, libraries: Path) -> None:
    outer = directory / "outer"
    image = directory / "outer.img"
    with image.open("wb") as file:
        file.truncate(8 << 30)
    paths = ":".join(str(path) for path in (libraries / "usr/lib").glob("*-linux-gnu"))
    _call(libraries / "usr/sbin/mkfs.btrfs", "-q", image, LD_LIBRARY_PATH=paths)
    for place in (outer, directory / "disk"):
        place.mkdir()
    _call("mount", "-o", "loop", image, outer)
    _call("truncate", "-s", _DISK, outer / "disk.img")
    _call("mkfs.ext4", "-q", "-E", "lazy_itable_init=1", outer / "disk.img")
    _call("mount", "-o", "loop", outer / "disk.img", directory / "disk")
    (directory / "disk").chmod(0o755)


def _main(directory: Path, plan: Plan) -> list[Cut]:
    _lay_out(directory, Path(plan.libraries))
    outer, disk, told = directory / "outer", directory / "disk", directory / "told"
    if plan.prepare:
        subprocess.run(plan.prepare, check=True, stdout=sys.stderr)
    subprocess.run(["sync", "-f", str(disk)], check=True)
    said = []
    with told.open("wb") as output, (directory / "said").open("wb") as errors:
        begin = time.monotonic()
        working = subprocess.Popen(plan.work, stdout=output, stderr=errors)
        for number, moment in enumerate(plan.moments):
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            if working.poll() is not None:
                break
            said.append(told.read_text())
            subprocess.run(["cp", "--reflink=always", outer / "disk.img", outer / f"cut-{number}.img"], check=True)
        status = working.wait()
    assert status == 0, (directory / "said").read_text()
    subprocess.run(["umount", str(disk)], check=True)
    cuts = []
    for number, before in enumerate(said):
        image = outer / f"cut-{number}.img"
        # Mounting replays the journal, as at the start of a machine.
        subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
        done = subprocess.run(
            plan.check, input=before, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        cuts.append(Cut(plan.moments[number], done.returncode, done.stdout))
        subprocess.run(["umount", str(disk)], check=True)
        image.unlink()
    return cuts


if __name__ == "__main__":
    try:
        report = _main(Path(sys.argv[1]), Plan(**json.load(sys.stdin)))
    except PowerLabUnavailable as error:
        print(error, file=sys.stderr)
        sys.exit(_UNAVAILABLE)
    print(json.dumps([asdict(cut) for cut in report]))
