"""The example's manifest, the catalogue, and a lock that fits both and that no mirror ever saw."""

from __future__ import annotations

import pytest

from pgbake.lock import Lock
from pgbake.manifest import Manifest, load_manifest
from pgbake.recipes.recipe import Catalogue, load_catalogue
from tests.projects import EXAMPLE
from tests.synthetic import synthetic_lock


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return load_manifest(EXAMPLE / "pgbake.toml")


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="session")
def lock(manifest: Manifest, catalogue: Catalogue) -> Lock:
    return synthetic_lock(manifest, catalogue)
