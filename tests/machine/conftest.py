"""The example bundle and its variants, to install on machines that are booted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.formats.system import host_system
from tests.installs import Shelf
from tests.projects import TestProject


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A store with the example bundle alone."""
    project = TestProject.copy(tmp_path_factory.mktemp("example") / "project", tmp_path_factory.mktemp("home"))
    project.pgbake("build")
    bundle = project.project.bundle(host_system())
    with tempfile.TemporaryDirectory(dir=project.store.parent, prefix="shelf-") as directory:
        Path(directory).chmod(0o755)
        yield Shelf.make(Path(directory) / "store", Path(directory) / "home", project.store, bundle.path)
