"""Small closures of made-up paths, in stores and in caches, for tests of the care of caches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pgbake.cache.cache import BinaryCache
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree


def made_up(name: str) -> StorePath:
    """Return a store path of that name, always the same."""
    return StorePath(base32.encode(hashlib.sha256(name.encode()).digest()[:20]), name)


def add_path(store: LocalStore, name: str, references: Iterable[StorePath] = (), size: int = 100) -> StorePath:
    """Add a path of a made-up digest that refers to others, a program and a directory in it."""
    path = made_up(name)
    if store.valid([path]):
        return path
    references = list(references)
    with store.lock(path):
        staging = store.staging(path)
        tree = staging / "made"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/hello").write_text(f"#!/bin/sh\necho {name}\n")
        (tree / "bin/hello").chmod(0o755)
        (tree / "needs").write_text("".join(f"{reference}\n" for reference in references))
        (tree / "data").write_bytes(hashlib.shake_128(name.encode()).digest(size))
        (tree / "link").symlink_to("bin/hello")
        store.register([store.place(path, tree, candidates=references)])
        remove_tree(staging)
    return path


def add_graph(store: LocalStore, graph: Mapping[str, Iterable[str]]) -> dict[str, StorePath]:
    """Add paths by name; each comes after those that it refers to."""
    made: dict[str, StorePath] = {}
    for name, needs in graph.items():
        made[name] = add_path(store, name, [made[need] for need in needs])
    return made


def age(cache: BinaryCache, seconds: float, pattern: str = "**/*") -> None:
    """Make files of a cache in a directory look older."""
    directory = cache.objects.local
    assert directory is not None
    for file in directory.glob(pattern):
        if file.is_file():
            modified = file.stat().st_mtime - seconds
            os.utime(file, (modified, modified))


def broken(directory: Path) -> list[str]:
    """Say what of a cache in a directory a reader would find broken."""
    from pgbake.formats.narinfo import NarInfo

    found = []
    infos = {file.stem: NarInfo.parse(file.read_text()) for file in directory.glob("*.narinfo")}
    for digest, info in infos.items():
        if info.path.digest != digest:
            found.append(f"{digest} tells of {info.path}")
        if not (directory / info.url).exists():
            found.append(f"{info.path.name} has no NAR")
        found += [f"{info.path.name} lacks {r.name}" for r in info.references if r.digest not in infos]
    return sorted(found)
