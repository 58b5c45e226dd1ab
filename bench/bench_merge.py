"""A new bundle after one library has moved: `pgbake build` with nothing to compile."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from tests.cache import test_cache
from tests.moves import move_runtime_pin
from tests.projects import TestProject, copy_store


def main() -> None:
    """Print how long the new bundle takes, from the command line."""
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        Path(directory).chmod(0o755)
        project = TestProject.copy(Path(directory, "project"), Path(directory, "home"))
        project.pgbake("build")
        copy_store(project.store, Path(directory))
        project = dataclasses.replace(project, store=Path(directory))
        move_runtime_pin(project, "libssl3", Path(directory))
        begin = time.monotonic()
        project.pgbake("build")
        print(f"new bundle after a moved libssl3: {time.monotonic() - begin:.2f} s (bar 5)")
