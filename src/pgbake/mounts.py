"""On which mount a directory lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    :param kind: its type, such as ``ext4``.
    :param options: of the mount and of the file system.
    """

    point: str
    kind: str
    options: frozenset[str]


def mount_of(place: Path) -> Mount:
    """Return the mount that a directory lies on, as /proc/self/mountinfo tells (proc(5)).

    :param place: absolute, with links followed.
    """
    best = Mount("/", "file system", frozenset())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        if place.is_relative_to(point) and len(point) >= len(best.point):  # of two at one place the later counts
            kind, _, super_options = after.split(" ", 2)
            best = Mount(point, kind, frozenset([*before.split()[5].split(","), *super_options.split(",")]))
    return best
