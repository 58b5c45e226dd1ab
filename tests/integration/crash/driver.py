"""Killing pgbake at random moments, and looking at what it left.

A run of the tests has one seed. It is printed with every failure, and ``PGBAKE_CRASH_SEED`` makes a run kill at the
same moments again (as near as the machine's own timing allows).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.tree import hash_tree
from tests.projects import TestProject

SEED = int(os.environ.get("PGBAKE_CRASH_SEED") or random.SystemRandom().randrange(10**9))

Victim = Literal["pgbake", "group", "child"]
VICTIMS: tuple[Victim, ...] = ("pgbake", "group", "child")


def seeded(name: str) -> random.Random:
    """Return the random numbers of one test."""
    print(f"PGBAKE_CRASH_SEED={SEED}")
    return random.Random(f"{SEED} {name}")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


@dataclass
class Process:
    """A pgbake that runs in a session of its own, its output kept in files."""

    project: TestProject
    args: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pgbake", "-C", str(self.project.directory), *self.args],
            env={**self.project.environment(), **self.environment},
            stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=self._stderr, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep it from going on, with whatever it holds locked; its children go on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end, and return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.args} hangs: {self.stderr}") from None

    @property
    def stdout(self) -> str:
        self._stdout.seek(0)
        return self._stdout.read()

    @property
    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    @property
    def events(self) -> list[dict[str, object]]:
        """What ``--progress json`` told."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{") and line.endswith("}")]

    @property
    def built(self) -> list[str]:
        """The derivations that it did build, as their phases tell."""
        return sorted({str(event["id"]) for event in self.events if event["event"] == "PhaseChanged"})

    def children(self) -> list[int]:
        """Return all processes below it."""
        parents: dict[int, list[int]] = {}
        for pid, parent in _parents():
            parents.setdefault(parent, []).append(pid)
        found: list[int] = []
        pending = [self.pid]
        while pending:
            below = parents.get(pending.pop(), [])
            found += below
            pending += below
        return found


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            yield int(stat.parent.name), int(fields[1])


def processes_of(*places: Path) -> list[str]:
    """Return the processes, but for pytest's own, that name one of the places in their command or environment."""
    wanted = [os.fsencode(place) for place in places]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes()
            if any(place in words or place in (process / "environ").read_bytes() for place in wanted):
                found.append(f"{process.name}: {words.replace(bytes(1), b' ').decode(errors='replace')[:300]}")
        except OSError:
            continue
    return found


def strike(running: Process, victim: Victim, chance: random.Random) -> str:
    """Kill, and say what."""
    if victim == "group":
        os.killpg(running.pid, signal.SIGKILL)
        return "its process group"
    if victim == "child" and (children := running.children()):
        child = chance.choice(children)
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            os.kill(child, signal.SIGKILL)
        except OSError:  # it has ended just now
            return "nothing"
        return f"its child {Path(command).name}"
    running.process.kill()
    return "pgbake"


@dataclass(frozen=True)
class Seen:
    """One valid path as the database and the disk have it."""

    nar_hash: str
    inode: int


@dataclass
class Inspector:
    """Looks at a project's store, lock and downloads, and knows what it has looked at before."""

    project: TestProject
    cache: Path
    #: Texts that the lock may have.
    locks: set[str] = field(default_factory=set)
    _good: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.locks.add(self.lock_text)
        self._good = self.valid()  # a copy of a store that other tests have used

    @property
    def lock_text(self) -> str:
        return (self.project.directory / "pgbake.lock").read_text()

    @cached_property
    def store_dir(self) -> Path:
        return self.project.store / "nix/store"

    @cached_property
    def state_dir(self) -> Path:
        return self.project.store / "nix/var/nix"

    def built_in_vain(self, running: Process, valid: Mapping[str, Seen]) -> list[str]:
        """Return what a run built though its outputs were among ``valid`` before."""
        outputs = self._rows("select p.path, o.path from DerivationOutputs o join ValidPaths p on p.id = o.drv")
        return [drv for drv in running.built if all(path in valid for owner, path in outputs if owner == drv)]

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        with sqlite3.connect(self.state_dir / "db/db.sqlite") as database:
            return database.execute(query).fetchall()

    def valid(self) -> dict[str, Seen]:
        """Return all valid paths, each of which is there."""
        rows = self._rows("select path, hash from ValidPaths")
        return {path: Seen(hash, self._physical(path).lstat().st_ino) for path, hash in rows}

    def _physical(self, path: str) -> Path:
        return self.store_dir / path.rpartition("/")[2]

    def check(self, *, everything: bool = False, collected: bool = False) -> dict[str, Seen]:
        """Hold what there is against what must hold at any moment; return the valid paths.

        :param everything: hash every valid path, not only those that are new.
        :param collected: a collector that was told how much to free may leave some of a derivation's outputs.
        """
        assert self._rows("pragma integrity_check") == [("ok",)]
        assert self._rows("pragma foreign_key_check") == []
        valid = self.valid()
        for path, seen in valid.items():
            if everything or self._good.get(path) != seen:
                assert f"sha256:{hash_tree(self._physical(path)).sha256.hex()}" == seen.nar_hash, path
        self._good = valid
        derivations: dict[str, set[bool]] = {path: set() for path in valid if path.endswith(".drv")}
        for drv, output in self._rows(
            "select p.path, o.path from DerivationOutputs o join ValidPaths p on p.id = o.drv"
        ):
            derivations[drv].add(output in valid)
        for drv, outputs in derivations.items():
            whole = len(outputs) == 1 or (collected and outputs)
            assert whole, f"{drv}: no outputs registered, or only some of them valid"
        assert self.lock_text in self.locks
        for file in (self.cache / "pgbake/downloads").glob("*"):
            if file.suffix != ".part":
                with file.open("rb") as stream:
                    assert hashlib.file_digest(stream, "sha256").hexdigest() == file.name[:64], file
        return valid

    def check_tidy(self, valid: Iterable[str]) -> None:
        """Make sure that nothing is left of what was killed, once a run has come to its end."""
        names = {path.rpartition("/")[2] for path in valid} | {".links"}
        assert {path.name for path in self.store_dir.iterdir()} == names
        for directory in ("scratch", "temproots"):
            assert not list((self.state_dir / directory).glob("*")), directory
        assert not list((self.project.store / "nix/var/log/nix/drvs").glob("*/*.new"))
        assert not list(self.project.directory.glob(".*"))
        assert not list((self.cache / "pgbake/downloads").glob("*.part"))


def unbuild(
    project: TestProject,
    *names: str,
    runtime: Iterable[str] = (),
    roots: Iterable[str] = (),
    sources: bool = False,
) -> None:
    """Remove packages of the bundle from a store, with the bundle and whatever else is made of them.

    :param runtime: runtime packages that are removed as well.
    :param roots: build roots that are removed as well.
    :param sources: whether the packages' tarballs go, too.
    """
    bundle = project.project.bundle(host_system())
    with LocalStore(project.store) as store:

        def forget(path: StorePath) -> None:
            for referrer in store.database.referrers(path):
                forget(referrer)
            store.database.invalidate(path)
            remove_tree(store.physical(path))

        for name in ("bundle", *names):
            derivation = bundle.by_name()[name]
            for path in (*derivation.output_paths.values(), derivation.path):
                forget(path)
            for item in bundle.graph.inputs.values() if sources else ():
                if item.kind == "source" and item.path in derivation.input_srcs:
                    forget(item.path)
        for item in bundle.graph.inputs.values():
            if item.name in {"runtime": set(runtime), "root": set(roots)}.get(item.kind, set()):
                forget(item.path)
