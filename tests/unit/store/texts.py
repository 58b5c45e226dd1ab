"""Small store paths with references, for tests of the whole store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pgbake.formats.storepath import StorePath, text_path
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree


def text(store: LocalStore, name: str, *references: StorePath) -> StorePath:
    """Add a text file that names its references."""
    contents = "\n".join([name, *map(str, references)]).encode()
    return store.add_text(text_path(name, hashlib.sha256(contents).digest(), references), contents, references)


def tree(store: LocalStore, name: str, files: dict[str, bytes]) -> StorePath:
    """Add a tree of files; one whose name begins with ``bin/`` is executable."""

    def fill(into: Path) -> None:
        into.mkdir()
        for file, contents in files.items():
            place = into / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(contents)
            if file.startswith("bin/"):
                place.chmod(0o755)

    with store.scratch() as scratch:
        fill(scratch / "tree")
        digest = hash_tree(scratch / "tree").sha256
    return store.add_source(name, digest, fill)


def damage(file: Path, *, in_place: bool = False) -> None:
    """Flip one bit of a file, and leave all else of it as it was.

    :param in_place: whether its other links are damaged with it.
    """
    status = file.stat()
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    if in_place:
        file.chmod(0o644)
        file.write_bytes(contents)
    else:
        parent = file.parent.stat()
        file.parent.chmod(0o755)
        file.unlink()
        file.write_bytes(contents)
        file.parent.chmod(parent.st_mode & 0o7777)
        os.utime(file.parent, ns=(parent.st_atime_ns, parent.st_mtime_ns))
    file.chmod(status.st_mode & 0o777)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
