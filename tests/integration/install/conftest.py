"""The example bundle and its variants, to install into trees and containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cache import scratch_directory
from tests.installs import Shelf, built_example


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A store with the example bundle alone."""
    store, bundle = built_example(tmp_path_factory.mktemp("example"))
    with scratch_directory("shelf") as directory:
        yield Shelf.make(directory / "store", directory / "home", store, bundle)
