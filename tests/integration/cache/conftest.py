"""What tests of caches share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cache.transfers import Place
from tests.oracle import Oracle, OracleUnavailable, newer_nix
from tests.s3 import S3Server, S3Unavailable
from tests.web import WebServer, web_server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    place = Place.make(tmp_path)
    yield place
    place.close()


@pytest.fixture
def web(place: Place) -> Iterator[WebServer]:
    """A web server of the test's cache."""
    with web_server(place.cache) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for all tests, each of which takes a prefix of its own."""
    yield from _s3(tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="module")
def _mortal_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _s3(tmp_path_factory.mktemp("mortal-s3"))


@pytest.fixture
def mortal_s3(_mortal_s3: S3Server) -> S3Server:
    """An S3 server that the test may kill."""
    if not _mortal_s3.is_running:
        _mortal_s3.start()
    return _mortal_s3


def _s3(directory: Path) -> Iterator[S3Server]:
    try:
        server = S3Server(directory)
    except S3Unavailable as error:
        pytest.skip(str(error))
    yield server
    server.kill()


@pytest.fixture(params=["bookworm", "trixie", pytest.param("sid", marks=pytest.mark.full)])
def any_nix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Real Nix of several ages, with an empty store."""
    if request.param == "bookworm":
        tree = request.getfixturevalue("nix_tree")
    else:
        try:
            tree = newer_nix(request.param)
        except OracleUnavailable as error:
            pytest.skip(str(error))
    oracle = Oracle(tmp_path_factory.mktemp("oracle"), tree)
    yield oracle
    oracle.remove()
