"""A project with a store of its own, and the example bundle that all integration tests share.

The store lies in `tests.cache`'s directory and stays between runs:
PostgreSQL is built once. It is not the machine's ``/nix``, so programs of it run in a namespace that
shows it there, which is also what an ordinary user gets.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.project import Project
from pgbake.store.local import LocalStore
from tests.cache import test_cache

REPOSITORY = Path(__file__).parent.parent
EXAMPLE = REPOSITORY / "example"


@dataclass(frozen=True)
class TestProject:
    """A directory with a manifest, a store, and a place for servers; and the command to work on it."""

    __test__ = False

    directory: Path
    store: Path
    home: Path
    #: Where its downloads are kept; None: with those of all tests.
    cache: Path | None = None
    #: The command that its commands are run by, if any.
    around: tuple[str, ...] = ()

    @classmethod
    def copy(cls, directory: Path, home: Path) -> TestProject:
        """Make a copy of the example in ``directory``, with the shared store."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("pgbake.toml", "pgbake.lock"):
            shutil.copy(EXAMPLE / name, directory)
        return cls(directory, test_cache() / "store", home)

    def environment(self) -> dict[str, str]:
        """Return the environment of its commands."""
        return {
            **os.environ,
            "PGBAKE_STORE": str(self.store),
            "XDG_CACHE_HOME": str(self.cache or test_cache()),
            "XDG_DATA_HOME": str(self.home),
        }

    def pgbake(
        self, *args: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pgbake`` in the project."""
        done = subprocess.run(
            [*self.around, sys.executable, "-m", "pgbake", "-C", str(self.directory), *args],
            env={**self.environment(), **(environment or {})},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"pgbake {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args: str) -> Any:
        """Run ``pgbake ... --json`` and return its answer."""
        return json.loads(self.pgbake(*args, "--json").stdout)

    @property
    def project(self) -> Project:
        """The project as the library sees it, read anew."""
        return Project(self.directory)

    def parts(self) -> set[StorePath]:
        """Return what its bundle is made of: inputs, derivations and outputs, valid or not."""
        bundle = self.project.bundle(host_system())
        parts = {item.path for item in bundle.graph.inputs.values()}
        for derivation in bundle.by_name().values():
            parts |= {derivation.path, *derivation.output_paths.values()}
        return parts

    def edit(self, old: str, new: str) -> None:
        """Change the manifest."""
        file = self.directory / "pgbake.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def copy_store(store: Path, root: Path, own: Iterable[StorePath] | None = None) -> None:
    """Copy what is valid in the store below ``store`` to one below ``root``, for a test to add to or to break.

    Files below directories are hard links, which nobody writes to. The database is a copy, and so are paths that are
    files: whoever uses one of the store's must not seem to use one of the copy's. Others may be at work in the store.

    :param root: on the same file system.
    :param own: copy these alone, so far as they are valid, with their closure; None: all.
    """
    LocalStore(root).close()  # lays it out
    with (
        closing(sqlite3.connect(store / "nix/var/nix/db/db.sqlite")) as database,
        closing(sqlite3.connect(root / "nix/var/nix/db/db.sqlite")) as copy,
    ):
        database.backup(copy)
    with LocalStore(store) as source, LocalStore(root) as target:
        paths = set(target.database.paths())
        kept = paths if own is None else set(target.closure(target.database.valid(own)))
        target.database.invalidate(*(paths - kept))
        places = [source.physical(path) for path in kept]
        for options, group in (
            ("-al", [place for place in places if place.is_dir()]),
            ("-a", [place for place in places if not place.is_dir()]),
        ):
            names = b"\0".join(os.fsencode(place) for place in group)
            subprocess.run(["xargs", "-0r", "cp", options, "-t", target.store_dir], input=names, check=True)
        for path in kept:
            if (log := source.build_log(path)).exists():
                target.build_log(path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(log, target.build_log(path))
