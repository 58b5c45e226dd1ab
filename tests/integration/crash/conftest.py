"""A project with everything of its own, and servers that end with the test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from pgbake.lock import load_lock
from tests.cache import scratch_directory, test_cache
from tests.projects import TestProject
from tests.unit.inputs.servers import Server, serving


@pytest.fixture
def cache(example: TestProject) -> Iterator[Path]:
    """An ``XDG_CACHE_HOME`` with the downloads and indexes of earlier tests; what is in it is a copy."""
    shared = test_cache() / "pgbake"
    with scratch_directory("cache") as directory:
        (directory / "pgbake/downloads").mkdir(parents=True)
        (directory / "pgbake/apt").mkdir()
        for file in (shared / "downloads").iterdir():
            with suppress(FileNotFoundError):  # what another test fetches has another name when it is whole
                os.link(file, directory / "pgbake/downloads" / file.name)
        for root in (shared / "apt").glob("*/lock"):
            with root.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)  # another test may be updating it
                subprocess.run(["cp", "-a", root.parent, directory / "pgbake/apt"], check=True)
        yield directory


@pytest.fixture
def data(apart: TestProject) -> Iterator[Path]:
    """A place for data directories that the server's user can reach; servers in it are stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pgbake-data-"))
    directory.chmod(0o755)
    yield directory
    for status in apart.json("status"):
        if status["running"] and status["data"].startswith(str(directory)):
            apart.pgbake("down", "--data", status["data"])
    shutil.rmtree(directory)


@pytest.fixture
def mirror(apart: TestProject) -> Iterator[Server]:
    """A mirror on loopback with the files of the lock that were downloaded before; the project's only one."""
    downloads = test_cache() / "pgbake/downloads"
    lock = load_lock(apart.directory / "pgbake.lock")
    pins = [*lock.sources.values(), *lock.systems["x86_64-linux"].runtime.values()]
    with serving() as server:
        for pin in pins:
            file = downloads / f"{pin.sha256}-{pin.filename}"
            if file.exists():
                server.files[quote(pin.path)] = file.read_bytes()
        apart.edit("[platform]\n", f'[platform]\nmirrors = ["{server.url}"]\n')
        yield server
