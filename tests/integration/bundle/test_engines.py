"""The local engine and a stock Nix, an older and newer ones, give the same derivations and the same bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.derivation import Derivation
from pgbake.store.local import LocalStore
from tests.integration.conftest import nix_on_copy
from tests.nixhost import NixHost, forget
from tests.oracle import Oracle, OracleUnavailable, newer_nix
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture
def host(request: pytest.FixtureRequest, example: TestProject, suite: str, sandbox: str) -> Iterator[NixHost]:
    """A machine with the Nix of a release, dropped onto a copy of the store in which the example was built."""
    if suite == "bookworm":
        tree: Path = request.getfixturevalue("nix_tree")
    else:
        try:
            tree = newer_nix(suite)
        except OracleUnavailable as error:
            pytest.skip(str(error))
    directory: Path = request.getfixturevalue("tmp_path")
    with nix_on_copy(example, tree) as oracle:
        yield NixHost(oracle, directory, f"sandbox = {sandbox}")


def forget_all(nix: Oracle, derivations: Iterable[Derivation]) -> None:
    """Let Nix forget derivations with their outputs."""
    derivations = list(derivations)
    drvs = [str(one.path) for one in derivations if nix.on_disk(str(one.path)).exists()]
    forget(nix, *(str(path) for one in derivations for path in one.output_paths.values()), *drvs)


def assert_alike(nix: Oracle, store: LocalStore, derivations: Iterable[Derivation]) -> None:
    """What Nix has is what the local engine has: derivations, NAR hashes, references."""
    for derivation in derivations:
        assert nix.on_disk(str(derivation.path)).read_bytes() == derivation.to_aterm()
        for path in derivation.output_paths.values():
            info = store.info(path)
            known = nix.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
            assert known == f"sha256:{base32.encode(info.nar_sha256)}", path.name
            references = nix.run("nix-store", "-q", "--references", str(path)).stdout.decode().split()
            assert references == sorted(str(reference) for reference in info.references), path.name
        deriver = nix.run("nix-store", "-q", "--deriver", str(path)).stdout.decode().strip()
        assert deriver == str(derivation.path)


@pytest.mark.parametrize(
    ("suite", "sandbox"),
    [
        ("bookworm", "true"),
        ("trixie", "false"),
        pytest.param("bookworm", "false", marks=pytest.mark.full),
        pytest.param("trixie", "true", marks=pytest.mark.full),
        pytest.param("sid", "true", marks=pytest.mark.full),
    ],
)
def test_nix_builds_an_extension_and_the_merge_alike(
    host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore
) -> None:
    derivations = [bundle.by_name()[name] for name in ("pgvector", "bundle")]
    forget_all(host.oracle, derivations)
    assert host.pgbake(project, "build").stdout.strip() == str(bundle.path)
    assert_alike(host.oracle, store, derivations)


@pytest.mark.full
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("sandbox", ["true", "false"])
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_nix_builds_every_package_alike(host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore) -> None:
    derivations = list(bundle.by_name().values())
    forget_all(host.oracle, derivations)
    assert host.pgbake(project, "build").stdout.strip() == str(bundle.path)
    assert_alike(host.oracle, store, derivations)
