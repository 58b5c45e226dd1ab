"""The workshop: a store with the smallest build root, in which small builds are tried."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.integration.build.workshop import Workshop
from tests.projects import TestProject


@pytest.fixture
def workshop(example: TestProject, bundle: Bundle, store: LocalStore) -> Iterator[Workshop]:
    root = next(item.path for item in bundle.graph.inputs.values() if (item.kind, item.name) == ("root", "merge"))
    with scratch_directory("workshop") as directory, LocalStore(directory) as own:
        # Hard links, to which nobody writes.
        subprocess.run(["cp", "-al", store.physical(root), own.physical(root)], check=True)
        own.database.register([store.info(root)])
        yield Workshop(own, root)
