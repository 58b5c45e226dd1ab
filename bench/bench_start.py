"""How long pgbake takes to do nothing: `--help`, and `build` where everything is built."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.projects import TestProject

RUNS = 10


def best(command: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """Return the shortest of several runs, in seconds of wall time."""
    times = []
    for _ in range(RUNS):
        begin = time.monotonic()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        times.append(time.monotonic() - begin)
    return min(times)


def main() -> None:
    """Print both times, their bars, and what a bare interpreter takes."""
    python = best([sys.executable, "-c", "pass"])
    pgbake = [str(Path(sys.executable).with_name("pgbake"))]
    shown = best([*pgbake, "--help"])
    print(f"pgbake --help: {shown:.3f} s (bar 0.2); python alone {python:.3f} s")
    with tempfile.TemporaryDirectory() as directory:
        project = TestProject.copy(Path(directory, "project"), Path(directory, "home"))
        project.pgbake("build")
        command = [*pgbake, "-C", str(project.directory), "build"]
        nothing = best(command, project.environment())
        # Without any network but for a loopback that is down, as in an aeroplane.
        offline = best(["unshare", "--net", *command], project.environment())
        trace = subprocess.run(
            ["strace", "-f", "-e", "trace=connect,sendto", *command],
            env=project.environment(), capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    requests = [line for line in trace.splitlines() if "AF_INET" in line]
    print(f"pgbake build, nothing to do: {nothing:.3f} s (bar 0.35), without network {offline:.3f} s")
    print(f"network requests of it: {len(requests)} (bar 0)")
