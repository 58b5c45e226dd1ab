from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.inputs.servers import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def other_server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is not reached through the proxy of who runs the tests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
