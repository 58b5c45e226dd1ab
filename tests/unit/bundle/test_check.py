"""A bundle's closure refers to nothing of a build, and keeps its budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgbake.bundle.check import check_budget, check_references, is_compiler
from pgbake.errors import BuildError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.unit.store.texts import text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "root") as store:
        yield store


def bundle(top: StorePath, inputs: dict[StorePath, tuple[str, str]], dev: StorePath | None = None) -> Any:
    derivation = SimpleNamespace(name="postgresql-15.1", output_paths={"dev": dev} if dev else {})
    graph = SimpleNamespace(
        inputs={path: SimpleNamespace(kind=kind, name=name) for path, (kind, name) in inputs.items()},
        derivations={top: derivation},
    )
    return SimpleNamespace(graph=graph, path=top)


def chain(store: LocalStore, name: str) -> tuple[StorePath, StorePath]:
    """Return a path of that name, and one that refers to it by way of a third."""
    below = text(store, name)
    return below, text(store, "bundle", text(store, "package", below))


def test_a_closure_without_a_build_is_fine(store: LocalStore) -> None:
    below, top = chain(store, "gcc-12-base-12.2.0-14")
    check_references(store, bundle(top, {below: ("runtime", "gcc-12-base")}))


@pytest.mark.parametrize(("kind", "what"), [("root", "the build root core"), ("source", "the source core")])
def test_a_build_root_is_refused_and_the_way_told(store: LocalStore, kind: str, what: str) -> None:
    below, top = chain(store, "build-root-bookworm-core")
    with pytest.raises(BuildError) as caught:
        check_references(store, bundle(top, {below: (kind, "core")}))
    assert caught.value.message == f"the bundle refers to {what}: {below.name}, by way of package"
    assert caught.value.detail == f"bundle -> package -> {below.name}"


def test_headers_are_refused(store: LocalStore) -> None:
    below, top = chain(store, "postgresql-15.1-dev")
    with pytest.raises(BuildError, match="headers, the output dev of"):
        check_references(store, bundle(top, {}, below))


@pytest.mark.parametrize(
    ("name", "compiler"),
    [("gcc-12-12.2.0", True), ("clang-14-14.0.6", True), ("rustc-1.63.0", True), ("gcc-12-base-12.2.0-14", False),
     ("libgcc-s1-12.2.0", False), ("libllvm14-14.0.6", False), ("postgresql-15-clang-1", False)],
)  # fmt: skip
def test_compilers_by_name(store: LocalStore, name: str, compiler: bool) -> None:
    below, top = chain(store, name)
    assert is_compiler(below) == compiler
    if compiler:
        with pytest.raises(BuildError, match="a compiler"):
            check_references(store, bundle(top, {}))


def test_the_budget(store: LocalStore) -> None:
    _, top = chain(store, "libbig-1")
    check_budget(store, bundle(top, {}), None)
    check_budget(store, bundle(top, {}), 1_000_000)
    with pytest.raises(BuildError, match=r"more than the 0\.0 MB of `max_closure`; the largest: "):
        check_budget(store, bundle(top, {}), 100)
