"""The example bundle and its variants, to install into trees and containers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installs import Shelf, built_example


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A store with the example bundle alone."""
    store, bundle = built_example(tmp_path_factory.mktemp("example"))
    with tempfile.TemporaryDirectory(dir=store.parent, prefix="shelf-") as directory:
        Path(directory).chmod(0o755)
        yield Shelf.make(Path(directory) / "store", Path(directory) / "home", store, bundle)
