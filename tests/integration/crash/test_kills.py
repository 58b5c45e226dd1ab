"""``kill -9`` of pgbake, of its process group and of what it runs, at random moments of everything that it does.

After each: what is valid is whole and still there, nothing runs on, the lock is whole, no download is wrong. Then the
next run comes to its end, builds nothing that was valid, and tidies up.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from pgbake.lock import Lock, load_lock, save_lock
from tests.cache import scratch_directory
from tests.integration.crash.driver import (
    VICTIMS,
    Inspector,
    Process,
    processes_of,
    seeded,
    strike,
    unbuild,
    wait_until,
)
from tests.oracle import Oracle
from tests.projects import EXAMPLE, TestProject, copy_store
from tests.unit.inputs.servers import Server

pytestmark = pytest.mark.integration

#: Packages that are compiled in seconds, and runtime packages that few of the bundle's files need.
SMALL = ("numeral", "prioritize")
RUNTIME = ("libcom-err2", "libkeyutils1", "libkrb5support0", "libunistring2", "tzdata", "zlib1g")


@dataclass
class Stage:
    """Something that pgbake does, to be killed in it.

    :param prepare: makes sure that there is something to do.
    :param seconds: how long it takes, about; kills come within that time.
    :param after: looks at what the run that came to its end has made.
    :param places: no process that names one of these may be left.
    """

    inspector: Inspector
    args: tuple[str, ...]
    prepare: Callable[[], None]
    seconds: float
    after: Callable[[], None] = lambda: None
    places: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    #: What was killed, for whoever reads of a failure.
    story: list[str] = field(default_factory=list)

    def start(self) -> Process:
        environment = {"XDG_CACHE_HOME": str(self.inspector.cache), "no_proxy": "127.0.0.1", **self.environment}
        return Process(self.inspector.project, ("--progress", "json", *self.args), environment)

    def kill(self, chance: random.Random) -> bool:
        """Run and kill; return False where the run had ended before."""
        running = self.start()
        moment = chance.uniform(0, self.seconds)
        victim = chance.choice(VICTIMS)
        try:
            running.process.wait(moment)
            self.seconds = max(self.seconds * 0.8, 0.3)
            assert running.wait() == 0, running.stderr
            return False
        except subprocess.TimeoutExpired:
            what = strike(running, victim, chance)
        self.story.append(f"{moment:.3f} s: {what}")
        print(f"{' '.join(self.args)}: killed at {self.story[-1]}")
        status = running.wait()
        if status >= 0:  # only something that it ran was killed: that is told as any error is
            errors = [line for line in running.stderr.splitlines() if line.startswith("error: ")]
            assert (status, len(errors)) in ((0, 0), (1, 1)), running.stderr
            assert "Traceback" not in running.stderr, running.stderr
        wait_until(lambda: not self.left(), f"the end of {self.left()} after {self.story}", 60)
        return True

    def left(self) -> list[str]:
        return processes_of(self.inspector.project.store, *self.places)

    def run(self, points: int, chance: random.Random, in_a_row: int = 3) -> None:
        """Kill that many times, and let a run come to its end after every few of them."""
        while points > 0:
            self.prepare()
            before = self.inspector.check()
            for _ in range(min(points, in_a_row)):
                if not self.kill(chance):
                    break
                points -= 1
                valid = self.inspector.check()
                assert before.items() <= valid.items(), f"what was valid is gone or made anew: {self.story}"
                before = valid
            last = self.start()
            assert last.wait() == 0, f"{self.story}\n{last.stderr}"
            assert not self.inspector.built_in_vain(last, before), f"built twice: {self.story}"
            valid = self.inspector.check()
            assert before.items() <= valid.items(), f"what was valid is gone or made anew: {self.story}"
            self.inspector.check_tidy(valid)
            self.after()


def building(apart: TestProject, cache: Path, mirror: Server, *, fetching: bool) -> Stage:
    def prepare() -> None:
        unbuild(apart, *SMALL, runtime=RUNTIME if fetching else (), sources=fetching)
        if fetching:
            shutil.rmtree(cache / "pgbake/downloads")
        for path in mirror.files:
            mirror.faults[path] = ["slow"] * 3

    return Stage(Inspector(apart, cache), ("build",), prepare, seconds=5)


def merging(apart: TestProject, cache: Path) -> Stage:
    return Stage(Inspector(apart, cache), ("build",), lambda: unbuild(apart), seconds=4)


def locking(apart: TestProject, cache: Path, *, cold: bool = False) -> Stage:
    """Sources are resolved, and some runtime packages fetched and imported."""
    file = apart.directory / "pgbake.lock"
    inspector = Inspector(apart, cache)
    lock = aged(load_lock(file), runtime=cold)

    def prepare() -> None:
        save_lock(lock, file)
        inspector.locks.add(file.read_text())
        for pin in lock.systems["x86_64-linux"].runtime.values() if cold else ():
            (cache / f"pgbake/downloads/{pin.sha256}-{pin.filename}").unlink(missing_ok=True)
        if cold:
            shutil.rmtree(cache / "pgbake/apt", ignore_errors=True)

    def after() -> None:
        assert file.read_text() == (EXAMPLE / "pgbake.lock").read_text()

    args = ("lock", "--update", "runtime") if cold else ("lock",)
    return Stage(inspector, args, prepare, 10 if cold else 2.5, after)


def aged(lock: Lock, *, runtime: bool) -> Lock:
    """A lock that lacks a source, and where asked for pins older packages at run time."""
    sources = {name: pin for name, pin in lock.sources.items() if name != "numeral"}
    if not runtime:
        return msgspec.structs.replace(lock, sources=sources)
    systems = {
        system: msgspec.structs.replace(
            part,
            runtime={
                name: msgspec.structs.replace(pin, sha256="0" * 64) if name in RUNTIME else pin
                for name, pin in part.runtime.items()
            },
        )
        for system, part in lock.systems.items()
    }
    return msgspec.structs.replace(lock, sources=sources, systems=systems)


def starting(apart: TestProject, cache: Path, data: Path) -> Stage:
    place = data / "one"

    def prepare() -> None:
        if place.exists():
            apart.pgbake("down", "--data", str(place))
            shutil.rmtree(place)

    def after() -> None:
        status = next(server for server in apart.json("status") if server["data"] == str(place))
        assert status["running"]
        assert apart.pgbake("psql", "--data", str(place), "-XAtc", "SELECT 1").stdout == "1\n"
        password = {"PGPASSFILE": status["pgpass"]}
        by_tcp = apart.pgbake("run", "psql", status["tcp-uri"], "-wXAtc", "SELECT 2", environment=password)
        assert by_tcp.stdout == "2\n", "the password that is kept is the server's"
        assert [path.name for path in data.iterdir()] == ["one"]
        assert not [path.name for path in (apart.home / "pgbake/servers").iterdir() if path.name.startswith(".")]

    args = ("up", "--data", str(place))
    return Stage(Inspector(apart, cache), args, prepare, 2.5, after, (data / ".one.new",))


def test_kills_of_up(apart: TestProject, cache: Path, data: Path) -> None:
    starting(apart, cache, data).run(4, seeded("up"), in_a_row=4)


def test_kills_of_lock(apart: TestProject, cache: Path) -> None:
    locking(apart, cache).run(2, seeded("lock"))


def test_kills_of_build(apart: TestProject, cache: Path, mirror: Server) -> None:
    """From the fetching of inputs to the bundle."""
    building(apart, cache, mirror, fetching=True).run(4, seeded("build"), in_a_row=4)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_kills_at_a_hundred_points(apart: TestProject, cache: Path, data: Path, mirror: Server, nix_tree: Path) -> None:
    """Together with those of the test below; at the end all of the store is whole, as real Nix sees it."""
    chance = seeded("hundred")
    starting(apart, cache, data).run(20, chance)
    building(apart, cache, mirror, fetching=True).run(28, chance)
    building(apart, cache, mirror, fetching=False).run(20, chance)
    merging(apart, cache).run(14, chance)
    inspector = Inspector(apart, cache)
    inspector.check(everything=True)
    verify_by_nix(apart, nix_tree)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_kills_of_lock_cold_and_warm(apart: TestProject, cache: Path) -> None:
    chance = seeded("lock, cold and warm")
    locking(apart, cache).run(12, chance)
    locking(apart, cache, cold=True).run(6, chance)


def verify_by_nix(project: TestProject, nix_tree: Path) -> None:
    """Let real Nix hash everything that the database calls valid."""
    with scratch_directory("nix-on-store") as directory:
        oracle = Oracle(directory, nix_tree)
        (oracle.root / "nix").rmdir()
        copy_store(project.store, oracle.root)
        try:
            said = oracle.run("nix-store", "--verify", "--check-contents").stderr.decode()
        finally:
            oracle.remove()
    complaints = [line for line in said.splitlines() if "checking" not in line and "reading" not in line]
    assert not complaints, complaints
