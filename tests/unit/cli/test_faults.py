"""Mirrors that give the wrong thing, and a disk that is full: one error and one hint from the command."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from pgbake.inputs.pins import Pin
from pgbake.lock import Lock, load_lock
from tests.unit.cli.test_errors import Project
from tests.unit.inputs.servers import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def project(server: Server) -> Iterator[Project]:
    """The example, with a mirror on loopback; not below pytest's own directory, which builds cannot enter."""
    with tempfile.TemporaryDirectory(prefix="pgbake-project-") as directory:
        Path(directory).chmod(0o755)
        made = Project(Path(directory))
        made.edit("[platform]", f'[platform]\nmirrors = ["{server.url}"]')
        yield made


@pytest.fixture
def lock(project: Project) -> Lock:
    return load_lock(project.directory / "pgbake.lock")


NO_PROXY = {"no_proxy": "127.0.0.1"}


def run(project: Project) -> tuple[str, str, str]:
    """Build something that must be fetched; return error, hint and all that was said."""
    error, hint = project.fails("build", "pgvector", environment=NO_PROXY)
    return error, hint, project.run("build", "pgvector", environment=NO_PROXY).stderr


def test_a_file_that_no_mirror_has_is_named(project: Project, server: Server, lock: Lock) -> None:
    error, hint, said = run(project)
    path = unquote(server.asked[0][0])
    assert path in {pin.path for pin in lock.sources.values()} | {pin.path for pin in _build_pins(lock)}
    assert error.startswith("no mirror gave ") and f"{server.url}/" in said and ": 404 Not Found" in said
    assert "pgbake lock" in hint


def test_wrong_contents_are_refused_and_kept_out_of_the_store(project: Project, server: Server, lock: Lock) -> None:
    pins = [*lock.sources.values(), *_build_pins(lock)]
    wrong = b"somebody else's"
    for pin in pins:
        server.files[quote(pin.path)] = wrong
    error, hint, said = run(project)
    assert error.startswith("wrong content of ") and f"{server.url}/pool/" in error and "do not use this mirror" in hint
    assert hashlib.sha256(wrong).hexdigest() in said and any(f"expected sha256 {pin.sha256}" in said for pin in pins)
    assert not list((project.store / "nix/store").glob("*-*"))
    downloads = [file.name for file in (project.cache / "pgbake/downloads").iterdir() if file.suffix != ".part"]
    assert not downloads, "nothing that is wrong is kept"


def _build_pins(lock: Lock) -> list[Pin]:
    return [pin for part in lock.systems.values() for pin in part.build.values()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_one_error(project: Project) -> None:
    project.store.mkdir()
    fill = f'mount -t tmpfs -o size=4m,mode=755 none {project.store} && exec "$@"'  # less than a store reserves
    error, hint = project.fails("plan", prefix=("unshare", "--mount", "sh", "-c", fill, "sh"))
    assert "cannot create a store" in error and "No space left on device" in error and "free disk space" in hint
