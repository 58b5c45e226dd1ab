"""Bundles of Debian's extensions: sixty on top of PostgreSQL, and one more, from what was downloaded before."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.mirrors import host_mirrors
from pgbake.recipes.recipe import load_catalogue
from tests.cache import test_cache
from tests.projects import TestProject, copy_store
from tests.uses import debian_names

_COUNT = 60


def main() -> None:
    """Print how long sixty extensions take, and one more, from the command line."""
    apt = AptRoot(test_cache() / "pgbake/apt", (Suite("bookworm"),), "amd64", host_mirrors("bookworm"))
    names = debian_names(list(apt.packages("postgresql-15-")), 15, load_catalogue())[: _COUNT + 1]
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        Path(directory).chmod(0o755)
        project = TestProject.copy(Path(directory, "project"), Path(directory, "home"))
        _write(project, ())
        project.pgbake("lock")
        project.pgbake("build")
        copy_store(project.store, Path(directory))
        project = dataclasses.replace(project, store=Path(directory))
        _write(project, names[:_COUNT])
        project.pgbake("lock")  # brings the downloads
        begin = time.monotonic()
        project.pgbake("build")
        print(f"{_COUNT} Debian extensions on top of PostgreSQL: {time.monotonic() - begin:.2f} s (bar 20)")
        _write(project, names)
        project.pgbake("lock")
        _write(project, names[:_COUNT])
        project.pgbake("lock")
        _write(project, names)
        begin = time.monotonic()
        project.pgbake("lock")
        locked = time.monotonic()
        project.pgbake("build")
        now = time.monotonic()
        parts = f"lock {locked - begin:.2f} s, build {now - locked:.2f} s"
        print(f"one more: {now - begin:.2f} s (bar 2): {parts}")


def _write(project: TestProject, names: Sequence[str]) -> None:
    (project.directory / "pgbake.toml").write_text(
        f'name = "debs"\npostgresql = 15\nextensions = {json.dumps(list(names))}\nlanguages = []\n'
        '[platform]\nsuite = "bookworm"\nsecurity = false\nupdates = false\n'
        + "".join(f'[extension.{name}]\norigin = "deb"\n' for name in names)
    )
