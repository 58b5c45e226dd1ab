"""Verifying a store, beside ``nix-store --verify --check-contents`` and ``nix store verify --all`` on the same one.

Run it as ``python -m bench.bench_verify``. The store holds a path of 400 MB in 9,000 files and, where the tests have
built it, the example bundle's closure. Real Nix runs on that very store; what its namespaces take to set up is
measured and taken off. The file cache is warm: runs are in turn, and the first pair does not count.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.bench_tree import make_tree
from pgbake.formats.system import host_system
from pgbake.project import Project
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.tree import hash_tree
from tests.cache import test_cache
from tests.oracle import Oracle, unpacked_nix
from tests.projects import EXAMPLE

RUNS = 5
BAR = 0.6
MEMORY_BAR = 150_000_000

_VERIFY = """
import sys, time
from pathlib import Path
from pgbake.store.local import LocalStore
from pgbake.store.verify import verify
with LocalStore(Path(sys.argv[1])) as store:
    begin = time.perf_counter()
    done = verify(store)
    print(time.perf_counter() - begin)
    assert not done.findings, done.findings
"""


def fill(store: LocalStore, scratch: Path) -> str:
    """Fill the store that is measured; return what is in it."""
    scratch.mkdir()
    make_tree(scratch)
    store.add_source("large", hash_tree(scratch).sha256, lambda into: _copy(scratch, into))
    with LocalStore(test_cache() / "store") as tests:
        bundle = Project(EXAMPLE).bundle(host_system())
        if not tests.valid([bundle.path]):
            return "a path of 400 MB (the example bundle is not built)"
        closure = tests.closure([bundle.path])
        for path in closure:
            _copy(tests.physical(path), store.physical(path))
        store.database.register(closure.values())
        return f"a path of 400 MB and the example's closure of {len(closure)} paths"


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


class Run:
    """One run of a command: its wall time, CPU time and, of all its processes together, peak memory."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.memory = 0
        watcher = threading.Thread(target=self._watch, args=(process,))
        watcher.start()
        self.output, errors = process.communicate()
        self.seconds = time.perf_counter() - begin
        watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if process.returncode != 0:
            raise SystemExit(f"{command[0]} failed: {errors.decode()}")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            self.memory = max(self.memory, sum(map(_proportional, _family(process.pid))))
            time.sleep(0.05)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in _family(int(child)))]


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Print one line for each peer: the best of several runs, taken in turn."""
    with tempfile.TemporaryDirectory(prefix="pgbake-bench-", dir=test_cache()) as name:
        nix = Oracle(_made(Path(name, "oracle")), unpacked_nix())
        with LocalStore(nix.root) as store:
            contents = fill(store, Path(name, "tree"))
        library: list[str | Path] = [sys.executable, "-c", _VERIFY, nix.root]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pgbake",
            "--store",
            nix.root,
            "--progress",
            "none",
            "verify",
        ]
        peers = {
            "nix-store --verify --check-contents": nix.command("nix-store", "--verify", "--check-contents"),
            "nix store verify --all": nix.command("nix", "store", "verify", "--all", "--no-trust"),
        }
        nothing = nix.command("nix-store", "--version")
        commands: dict[str, Sequence[str | Path]] = {
            "library": library,
            "command": command,
            "nothing": nothing,
            **peers,
        }
        runs: dict[str, list[Run]] = {}
        for number in range(RUNS + 1):
            for title, words in commands.items():
                run = Run(words)
                if number:
                    runs.setdefault(title, []).append(run)
        remove_tree(nix.root)
    start = min(run.seconds for run in runs["nothing"])
    ours = min(float(run.output) for run in runs["library"])
    typed = min(run.seconds for run in runs["command"])
    cpu = min(run.cpu for run in runs["library"])
    memory = max(run.memory for title in ("library", "command") for run in runs[title])
    print(f"verify: {contents}; {len(os.sched_getaffinity(0))} cores")
    for title in peers:
        theirs = min(run.seconds for run in runs[title])
        their_cpu = min(run.cpu for run in runs[title])
        print(
            f"verify: {ours:.2f} s ({cpu:.2f} s CPU), {title} {theirs - start:.2f} s ({their_cpu:.2f} s CPU), "
            f"ratio {ours / (theirs - start):.2f} (bar {BAR}); `pgbake verify` {typed:.2f} s as typed, "
            f"`{title.partition(' ')[0]}` {theirs:.2f} s: {typed / theirs:.2f}"
        )
    print(f"verify: peak memory {memory / 1e6:.0f} MB (bar {MEMORY_BAR / 1e6:.0f} MB)")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


if __name__ == "__main__":
    main()
