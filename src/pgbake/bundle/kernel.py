"""The oldest kernel that a bundle runs on.

Debian compiles its C library for the system calls of some Linux and later ones, and says so in a note of
libc, of the loader and of every program (``.note.ABI-tag``: Linux Standard Base, NT_GNU_ABI_TAG). The merge
writes the newest of these into the receipt. Programs that are started without pgbake check the same notes
themselves (``catalogue/env/kernel.c``).
"""

from __future__ import annotations

import os
import re

from pgbake.bundle.receipt import Receipt
from pgbake.errors import HostError


def require_kernel(receipt: Receipt) -> None:
    """Check that this machine's kernel is new enough for a bundle. An old receipt tells nothing, and nothing is asked.

    :raises HostError: the kernel is older.
    """
    running = os.uname().release
    needed = _numbers(receipt.kernel)
    if _numbers(running) < needed:
        raise HostError(
            f"this bundle needs Linux {needed[0]}.{needed[1]} or newer, and this machine runs {running}",
            hint="run it on a machine with a newer kernel; the bundle's C library is not made for older ones",
        )


def _numbers(release: str) -> tuple[int, int, int]:
    """Return the numbers that a release begins with: ``6.1.0-27-amd64`` is 6, 1, 0."""
    found = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", release)
    if not found:
        return (0, 0, 0)
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch
