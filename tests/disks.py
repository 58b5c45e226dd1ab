"""Disks that fill up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs mounted at a new directory; a process that sees the end of this one unmounts it, whatever happens."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        script = (
            'mount -t tmpfs -o size=8g,mode=755 none "$0" && trap "" INT && echo mounted && read -r end; umount -l "$0"'
        )
        self._holder = subprocess.Popen(
            ["sh", "-c", script, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"

    def resize(self, free: int) -> None:
        """Leave so many bytes free."""
        status = os.statvfs(self.place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + free}", self.place], check=True)

    def close(self) -> None:
        """Unmount it."""
        self._holder.communicate()
