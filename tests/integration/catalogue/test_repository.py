"""A signed repository beside Debian's, on loopback: an extension of it is locked, built, and used on a live server."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pgbake.cache.cache import narinfo_name
from pgbake.cache.index import NAME as INDEX
from pgbake.formats.keys import SecretKey
from pgbake.formats.system import host_system
from tests.cache import scratch_directory
from tests.integration.inputs.repository import Keys, Repository
from tests.projects import EXAMPLE, TestProject

_KEY = SecretKey("birds-1", bytes(range(32)))
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
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="birds-") as directory:  # the server's user reaches it
        Path(directory).chmod(0o755)
        place = ("--data", f"{directory}/data")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        birds.pgbake("up", *place, "--port", port)
        try:
            sql = ("-Atc", "CREATE EXTENSION heron", "-c", "SELECT heron()")
            assert birds.pgbake("psql", *place, "--", *sql).stdout.split()[-1] == "42"
        finally:
            birds.pgbake("down", *place, check=False)


def test_an_unsigned_repository_is_refused(birds: TestProject, repository: Repository) -> None:
    repository.publish(signer=None)
    refused = birds.pgbake("lock", check=False)
    assert refused.returncode != 0 and "birds" in refused.stderr


def test_a_repository_that_a_stranger_signed_is_refused(birds: TestProject, repository: Repository) -> None:
    repository.publish(signer="stranger")
    refused = birds.pgbake("lock", check=False)
    assert refused.returncode != 0
    assert "/birds.gpg the key that signs this repository" in " ".join(refused.stderr.split()), refused.stderr


@pytest.mark.full
def test_a_file_that_the_repository_dropped_comes_from_a_cache(
    birds: TestProject, repository: Repository, tmp_path: Path
) -> None:
    """Another machine with nothing: the cache lost the bundle, which is made again of the cache's files."""
    birds.pgbake("lock")
    birds.pgbake("build")
    cache = tmp_path / "cache"
    everything = ("--what", "build", "--unchecked", "--to", cache.as_uri())
    birds.pgbake("push", *everything, environment={"PGBAKE_SECRET_KEY": _KEY.export()})
    bundle = birds.project.bundle(host_system())
    (cache / narinfo_name(bundle.path)).unlink()
    (cache / INDEX).unlink()
    for deb in repository.root.rglob("*.deb"):
        deb.unlink()
    with scratch_directory("newcomer") as store:
        newcomer = dataclasses.replace(birds, store=store, cache=tmp_path / "downloads")
        with (birds.directory / "pgbake.toml").open("a") as manifest:
            manifest.write(f'[[cache]]\nurl = "{cache.as_uri()}"\n[trust]\nkeys = ["{_KEY.public}"]\n')
        built = newcomer.json("build")
        assert built["built"] == [bundle.derivation.name]
        assert any("postgresql-15-heron" in path for path in built["pulled"])
        assert newcomer.project.bundle(host_system()).path == bundle.path
