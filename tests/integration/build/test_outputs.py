"""Outputs of which some are valid already, and outputs that no store should hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pgbake.build.engine import LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.bundle.merge import Bundle
from pgbake.errors import BuildError, PgbakeError, StoreError
from pgbake.events import silent
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.recipes.lowering import Graph
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.tree import hash_tree
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture
def store(apart: TestProject) -> Iterator[LocalStore]:
    """A store to break."""
    with LocalStore(apart.store) as store:
        yield store


@pytest.fixture
def root(bundle: Bundle) -> StorePath:
    """The smallest build root there is."""
    return next(item.path for item in bundle.graph.inputs.values() if (item.kind, item.name) == ("root", "merge"))


def derive(root: StorePath, script: str) -> Derivation:
    return Graph().add("pair", host_system(), root, script, env={"pname": "pair"}, outputs=("out", "doc"))


def build(store: LocalStore, derivation: Derivation) -> dict[str, StorePath]:
    jobs = JobServer(1)
    try:
        LocalEngine(store, jobs, silent).build(derivation, "task")
    finally:
        jobs.close()
    return derivation.output_paths


def test_building_a_lost_output_again_leaves_the_valid_one_alone(store: LocalStore, root: StorePath) -> None:
    derivation = derive(root, "mkdir $out; echo program > $out/program; echo $out > $doc")
    paths = build(store, derivation)
    store.database.invalidate(paths["doc"])
    remove_tree(store.physical(paths["doc"]))
    program = store.physical(paths["out"]) / "program"
    with program.open() as in_use:
        before = os.fstat(in_use.fileno())
        build(store, derivation)
        assert os.path.samestat(before, program.stat()), "what may be in use is not replaced"
    assert store.physical(paths["doc"]).read_text() == f"{paths['out']}\n"
    assert store.info(paths["doc"]).references == {paths["out"]}
    for path in paths.values():
        assert hash_tree(store.physical(path)).sha256 == store.info(path).nar_sha256


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo $doc > $out; echo $out > $doc", BuildError, "refer to each other in a circle"),
        ("mkdir $out; mkfifo $out/pipe; : > $doc", StoreError, "is a fifo"),
        (": > $doc; mkfifo $out", StoreError, "is a fifo"),
    ],
)
def test_outputs_that_no_store_holds(
    store: LocalStore, root: StorePath, script: str, error: type[PgbakeError], message: str
) -> None:
    derivation = derive(root, script)
    with pytest.raises(error, match=message):
        build(store, derivation)
    paths = derivation.output_paths.values()
    assert not store.valid(paths)
    # What is left of it stands in nobody's way.
    fixed = derive(root, "echo 1 > $out; echo 2 > $doc")
    assert store.valid(build(store, fixed).values()) == set(build(store, fixed).values())
