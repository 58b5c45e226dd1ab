"""Inputs that are fetched at once: what befalls one is not told as another's fault."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgbake.build.provide import Provider
from pgbake.errors import InputError
from pgbake.events import silent
from pgbake.formats.storepath import fixed_output_path
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.recipes.lowering import Input
from pgbake.recipes.recipe import Catalogue
from pgbake.store.local import LocalStore
from tests.unit.inputs.servers import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as started:
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "root") as store:
        yield store


@pytest.fixture
def provider(store: LocalStore, catalogue: Catalogue, server: Server, tmp_path: Path) -> Provider:
    return Provider(store, catalogue, lambda: Mirrors((server.url,)), tmp_path / "downloads", silent)


def source(name: str, contents: bytes) -> Input:
    digest = hashlib.sha256(contents)
    pin = Pin(version="1", path=f"pool/{name}", size=len(contents), sha256=digest.hexdigest())
    return Input("source", name, fixed_output_path(name, "flat", "sha256", digest.digest()), {name: pin})


def test_a_source_comes_into_the_store(provider: Provider, store: LocalStore, server: Server) -> None:
    item = source("file", b"contents")
    server.files["pool/file"] = b"contents"
    provider.provide(item)
    assert store.valid([item.path]) and store.physical(item.path).read_bytes() == b"contents"


def test_one_that_fails_leaves_the_others_alone(provider: Provider, store: LocalStore, server: Server) -> None:
    """Else the others' ends would hide the error that matters."""
    slow = source("slow", b"x" * 1_000_000)
    server.files["pool/slow"] = b"x" * 1_000_000
    server.faults["pool/slow"] = ["slow"]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(provider.provide, slow)
        while not server.asked:
            time.sleep(0.001)
        with pytest.raises(InputError, match="no mirror gave"):
            provider.provide(source("missing", b"missing"))
        other.result()
    assert store.valid([slow.path])


def test_cancel_ends_all_that_is_under_way(provider: Provider, store: LocalStore, server: Server) -> None:
    items = [source(name, b"x" * 100) for name in ("one", "two")]
    for item in items:
        server.files[f"pool/{item.name}"] = b"x" * 100
        server.faults[f"pool/{item.name}"] = ["silent"]
    ended = threading.Event()

    def work(item: Input) -> None:
        try:
            provider.provide(item)
        finally:
            ended.set()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, item) for item in items]
        while len(server.asked) < 2:
            time.sleep(0.001)
        assert not ended.wait(0.3)
        begin = time.monotonic()
        provider.cancel()
        assert all(future.exception(timeout=10) is not None for future in futures)
    assert time.monotonic() - begin < 5 and not store.valid([item.path for item in items])
