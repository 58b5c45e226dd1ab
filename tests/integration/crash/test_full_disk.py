"""A disk that is full in the middle: one clear error, nothing lost; with more space the same command comes to its end.

The disk is a tmpfs, which is made larger step by step, so that the same command gets a little further each time
before the disk is full.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator

import pytest

from tests.cache import scratch_directory
from tests.disks import SmallDisk
from tests.integration.crash.driver import Inspector, Process, Seen, unbuild
from tests.integration.crash.test_kills import RUNTIME
from tests.projects import TestProject
from tests.unit.inputs.servers import Server

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the disk that is filled"),
]

KB, MB = 1024, 1024 * 1024


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with scratch_directory("disk") as directory:
        disk = SmallDisk(directory / "disk")
        yield disk
        disk.close()


@dataclasses.dataclass
class Attempts:
    """The same command on a disk that is made larger until it is large enough."""

    disk: SmallDisk
    project: TestProject
    inspector: Inspector
    environment: dict[str, str]
    errors: list[str] = dataclasses.field(default_factory=list)

    def run(self, *args: str, free: Iterable[int]) -> None:
        before: dict[str, Seen] = self.inspector.check()
        for size in (*free, 4096 * MB):
            self.disk.resize(size)
            running = Process(self.project, args, self.environment)
            status = running.wait()
            said = running.stderr
            self.disk.resize(4096 * MB)  # to look at what is left takes space, too
            now = self.inspector.check()
            assert before.items() <= now.items(), "what was valid is gone or made anew"
            assert not self.inspector.built_in_vain(running, before)
            before = now
            if status == 0:
                assert self.errors, "it was never full"
                self.inspector.check_tidy(now)
                return
            # What builds print is told as events; of their last lines those that are shown are indented.
            lines = [line for line in said.splitlines() if not line.startswith(("{", "  "))]
            (error,) = [line for line in lines if line.startswith("error: ")]
            self.errors.append(error)
            print(f"{size}: {error}")
            assert status == 1 and len(lines) == 2, said
            assert "No space left on device" in error or "disk is full" in error, said
            (hint,) = [line for line in lines if line.startswith("hint: ")]
            assert "space" in hint or "room" in hint, said
        raise AssertionError("it never came to its end")


@pytest.fixture
def attempts(apart: TestProject, disk: SmallDisk) -> Attempts:
    """A project whose store, downloads, data and own directory lie on the disk."""
    subprocess.run(["cp", "-a", apart.store / "nix", disk.place], check=True)
    shutil.copytree(apart.directory, disk.place / "project")
    home = disk.place / "home"
    project = dataclasses.replace(apart, store=disk.place, directory=disk.place / "project", home=home)
    environment = {"XDG_CACHE_HOME": str(disk.place / "cache"), "no_proxy": "127.0.0.1"}
    return Attempts(disk, project, Inspector(project, disk.place / "cache"), environment)


def test_a_disk_full_in_the_middle_of_a_compilation(attempts: Attempts) -> None:
    unbuild(attempts.project, "numeral")
    attempts.run("--progress", "json", "build", "numeral", free=(100 * KB, 200 * KB, 400 * KB))


@pytest.mark.full
def test_a_disk_full_in_the_middle_of_everything(mirror: Server, attempts: Attempts) -> None:
    """Fetch, unpack, compile, merge."""
    unbuild(attempts.project, "numeral", runtime=RUNTIME, sources=True)
    attempts.run("--progress", "json", "build", free=(0, 64 * KB, 300 * KB, MB, 3 * MB, 6 * MB, 10 * MB, 14 * MB))


@pytest.mark.full
def test_a_disk_full_in_the_middle_of_initdb(attempts: Attempts) -> None:
    data = attempts.disk.place / "one"
    try:
        attempts.run("--progress", "json", "up", "--data", str(data), free=(16 * KB, 5 * MB, 38 * MB, 42 * MB))
    finally:
        attempts.project.pgbake("down", "--data", str(data))
