"""The output of a running build, line by line, and what runs in it when it falls silent."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Silent(Exception):
    """A build has printed nothing for too long; says what was running."""


def lines(process: subprocess.Popen[bytes], max_silent: float | None) -> Iterator[bytes]:
    """Yield a build's output by lines.

    :raises Silent: none of it came for ``max_silent`` seconds.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    begun = b""
    while True:
        if not ready.poll(None if max_silent is None else max_silent * 1000):
            raise Silent(f"still running: {'; '.join(_commands_below(process.pid)) or 'nothing'}")
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            break
        *whole, begun = (begun + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if begun:
        yield begun


def _commands_below(pid: int) -> list[str]:
    """Return the command lines of those processes that descend from ``pid`` and have no children themselves."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def descends(process: int) -> bool:
        while process in parents and process != pid:
            process = parents[process]
        return process == pid

    commands = []
    for process in sorted(parents.keys() - set(parents.values())):
        if process != pid and descends(process):
            with suppress(OSError):
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                commands.append(b" ".join(words).decode(errors="replace").strip()[:120])
    return commands
