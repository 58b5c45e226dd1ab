"""Fixtures that tests of several layers share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.oracle import Oracle, OracleUnavailable, unpacked_nix

# A machine may be busy: how long an example takes says nothing of what is tested.
settings.register_profile("pgbake", deadline=None)
settings.load_profile("pgbake")

_left_out: list[str] = []


def pytest_configure() -> None:
    """Heed interrupts: a worker of xdist and what a shell starts with `&` ignore them, as all that they start does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Give the tests of the full tier, which build several servers, an hour each on a busy machine."""
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember what a tier leaves out."""
    _left_out.extend(item.nodeid for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker of xdist tell its controller, which selects nothing itself."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left_out"] = _left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker left out; all of them leave out the same."""
    _left_out[:] = getattr(node, "workeroutput", {}).get("left_out", _left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out, so that nobody takes a tier for all."""
    if _left_out:
        terminalreporter.section(f"left out of this run: {len(_left_out)} tests; `make test-full` runs all")
        for nodeid in _left_out:
            terminalreporter.write_line(nodeid)


@pytest.fixture(scope="session")
def nix_tree() -> Path:
    """The unpacked packages of real Nix, made once for all runs of the tests."""
    try:
        return unpacked_nix()
    except OracleUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"real Nix is missing: {error}")
        pytest.skip(f"real Nix is missing: {error}")


@pytest.fixture
def oracle(nix_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Real Nix with an empty store."""
    oracle = Oracle(tmp_path_factory.mktemp("oracle"), nix_tree)
    yield oracle
    oracle.remove()


@pytest.fixture(scope="module")
def shared_oracle(nix_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Real Nix with one store for all tests of a module, for tests that only add to it."""
    oracle = Oracle(tmp_path_factory.mktemp("oracle"), nix_tree)
    yield oracle
    oracle.remove()
