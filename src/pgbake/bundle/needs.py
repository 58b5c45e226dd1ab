"""Who needs which library of a store path: NEEDED entries of ELF files, followed by name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pgbake.bundle.merge_program import files_below, read_elf
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore


def library_needs(store: LocalStore, closure: Sequence[StorePath], target: StorePath) -> dict[str, list[str]]:
    """Return each library of ``target`` that files of the closure need, with those files, sorted.

    Files are named ``PATH-NAME: FILE``, with the path's name without its hash.
    """
    names = {os.path.basename(file) for file in files_below(str(store.physical(target)))}  # noqa: PTH119
    found: dict[str, list[str]] = {}
    for path in closure:
        top = store.physical(path)
        for file in files_below(str(top)):
            full = top / file
            if path == target or full.is_symlink() or not full.is_file():
                continue
            elf = read_elf(str(full))
            for needed in elf.needed if elf else ():
                if needed in names:
                    found.setdefault(needed, []).append(f"{path.name}: {file}")
    return {name: sorted(users) for name, users in sorted(found.items())}
