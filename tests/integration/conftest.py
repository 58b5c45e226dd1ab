"""The example bundle, built once for all integration tests of a run, and for later runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.oracle import Oracle
from tests.projects import TestProject, copy_store


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """A copy of the example whose bundle is built."""
    base = tmp_path_factory.mktemp("example")
    base.chmod(0o755)  # servers run as another user, who must get to their data
    base.parent.chmod(0o755)
    project = TestProject.copy(base / "project", base / "home")
    project.pgbake("build")
    return project


@pytest.fixture(scope="session")
def bundle(example: TestProject) -> Bundle:
    """The example's bundle, lowered."""
    return example.project.bundle(host_system())


@pytest.fixture
def store(example: TestProject) -> Iterator[LocalStore]:
    """The shared store, open."""
    with LocalStore(example.store) as store:
        yield store


@pytest.fixture
def nix(example: TestProject, nix_tree: Path) -> Iterator[Oracle]:
    """Real Nix, dropped onto a copy of the store in which the example was built."""
    with nix_on_copy(example, nix_tree) as oracle:
        yield oracle


@contextmanager
def nix_on_copy(project: TestProject, tree: Path) -> Iterator[Oracle]:
    """Give the Nix of a tree, dropped onto a copy of what a project's bundle is made of."""
    with scratch_directory("nix-on-store") as directory:
        oracle = Oracle(directory, tree)
        (oracle.root / "nix").rmdir()
        copy_store(project.store, oracle.root, project.parts())
        yield oracle
        oracle.remove()


@pytest.fixture
def project(example: TestProject, tmp_path: Path) -> TestProject:
    """A further copy of the example, for a test to change."""
    return TestProject.copy(tmp_path / "project", example.home)


@pytest.fixture
def apart(project: TestProject) -> Iterator[TestProject]:
    """A further copy of the example with a copy of its part of the store, for tests of what is built anew."""
    with scratch_directory("apart") as directory:
        copy_store(project.store, directory, project.parts())
        yield dataclasses.replace(project, store=directory)
