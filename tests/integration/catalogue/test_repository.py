"""A signed repository beside Debian's, on loopback: an extension of it is locked, built, and used on a live server."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.inputs.repository import Keys, Repository
from tests.projects import EXAMPLE, TestProject

_EXTENSION = "usr/share/postgresql/15/extension"
_FILES = {
    f"{_EXTENSION}/heron.control": "comment = 'a bird'\ndefault_version = '1.0'\nrelocatable = true\n",
    f"{_EXTENSION}/heron--1.0.sql": "CREATE FUNCTION heron() RETURNS int LANGUAGE sql AS 'SELECT 42';\n",
    "usr/share/doc/postgresql-15-heron/copyright": "Files: *\nLicense: Expat\n",
}


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """Two keys: the repository's and a stranger's."""
    keys = Keys.make(tmp_path)
    yield keys
    keys.close()


@pytest.fixture
def repository(tmp_path: Path, keys: Keys) -> Repository:
    """A repository with one extension, signed."""
    repository = Repository(tmp_path / "repository", keys, "birds")
    repository.add("postgresql-15-heron", files=_FILES, Depends="postgresql-15")
    repository.publish()
    return repository


@pytest.fixture
def served(repository: Repository) -> Iterator[str]:
    """Its URL on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(repository.root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def birds(example: TestProject, tmp_path: Path, served: str, keys: Keys) -> TestProject:
    """A project that names the repository."""
    directory = tmp_path / "project"
    directory.mkdir()
    shutil.copy(EXAMPLE / "pgbake.lock", directory)
    shutil.copy(keys.keyring, directory / "birds.gpg")
    (directory / "pgbake.toml").write_text(
        'name = "birds"\npostgresql = 15\nextensions = ["heron"]\n[platform]\nsuite = "bookworm"\n'
        "security = false\nupdates = false\n"
        f'[[platform.repository]]\nname = "birds"\nurl = "{served}"\nsuite = "birds"\nkey = "birds.gpg"\n'
    )
    return TestProject(directory, example.store, example.home)


def test_an_extension_of_a_signed_repository_is_used(birds: TestProject) -> None:
    birds.pgbake("lock")
    birds.pgbake("build")
    birds.pgbake("up")
    try:
        answer = birds.pgbake("psql", "--", "-Atc", "CREATE EXTENSION heron", "-c", "SELECT heron()")
        assert answer.stdout.split()[-1] == "42"
    finally:
        birds.pgbake("down")


def test_an_unsigned_repository_is_refused(birds: TestProject, repository: Repository) -> None:
    repository.publish(signer=None)
    refused = birds.pgbake("lock", check=False)
    assert refused.returncode != 0 and "birds" in refused.stderr


def test_a_repository_that_a_stranger_signed_is_refused(birds: TestProject, repository: Repository) -> None:
    repository.publish(signer="stranger")
    refused = birds.pgbake("lock", check=False)
    assert refused.returncode != 0
    assert "is the key that signs this repository" in refused.stderr
