"""Bundles to install on machines that are booted: the example, variants of it, and one with another server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgbake.formats.storepath import StorePath
from tests.cache import scratch_directory
from tests.installs import Shelf, built_example, built_otherwise


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A store with the example bundle alone."""
    store, bundle = built_example(tmp_path_factory.mktemp("example"))
    with scratch_directory("shelf") as directory:
        yield Shelf.make(directory / "store", directory / "home", store, bundle)


@pytest.fixture(scope="session")
def otherwise(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> StorePath:
    """The same bundle with its PostgreSQL, and so all extensions, built otherwise, on the shelf too."""
    store, bundle = built_otherwise(tmp_path_factory.mktemp("otherwise"))
    shelf.take(store, bundle)
    return bundle
