"""How much disk space goes with trees of the store, where files in them may be hard links of one another.

A file takes its blocks until its last link goes. Links in ``.links`` do not count: a collector removes those
that are the only ones left.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_BLOCK = 512


@dataclass
class DiskUsage:
    """Adds up what removing trees, all of one file system, frees. They must still be whole when they are added.

    :param links_dir: the store's ``.links``.
    :param freed: bytes, of all trees added.
    """

    links_dir: Path
    freed: int = 0
    #: Links seen of each file that has several, by inode.
    _seen: dict[int, int] = field(default_factory=dict)

    @cached_property
    def _linked(self) -> set[int]:
        try:
            with os.scandir(self.links_dir) as entries:
                return {entry.inode() for entry in entries}
        except FileNotFoundError:
            return set()

    def add(self, tree: Path) -> None:
        """Take in one tree; where there is none, nothing."""
        pending = [os.fspath(tree)]
        while pending:
            path = pending.pop()
            try:
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode):
                    with os.scandir(path) as entries:
                        pending += [entry.path for entry in entries]
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1 or self._is_last(status):
                self.freed += status.st_blocks * _BLOCK

    def _is_last(self, status: os.stat_result) -> bool:
        seen = self._seen[status.st_ino] = self._seen.get(status.st_ino, 0) + 1
        return seen == status.st_nlink - (status.st_ino in self._linked)

    def unused_links(self) -> list[Path]:
        """Return the entries of ``.links`` that are alone once the trees are gone; those that already are count."""
        unused = []
        try:
            with os.scandir(self.links_dir) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    seen = self._seen.get(status.st_ino, 0)
                    if status.st_nlink - seen == 1:
                        unused.append(Path(entry.path))
                        if not seen:
                            self.freed += status.st_blocks * _BLOCK
        except FileNotFoundError:
            pass
        return unused
