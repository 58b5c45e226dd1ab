"""Killing collectors, while others work: what is valid is whole, and the next one leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pgbake.store.local import LocalStore
from pgbake.store.verify import verify
from tests.integration.crash.driver import Inspector, Process, seeded, unbuild, wait_until
from tests.projects import TestProject

pytestmark = pytest.mark.integration


def test_collectors_are_killed(apart: TestProject, tmp_path: Path) -> None:
    """The copy of the store has no roots: all of it is garbage."""
    chance = seeded("collectors are killed")
    inspector = Inspector(apart, tmp_path)
    begun = len(inspector.valid())
    for _ in range(4):
        running = Process(apart, ("gc", "--max-freed", "150MB"))
        time.sleep(chance.uniform(0.15, 0.7))
        running.kill()
        inspector.check(collected=True)
        with LocalStore(apart.store) as store:
            assert verify(store).findings == ()
    assert len(inspector.valid()) <= begun
    last = Process(apart, ("gc",))
    assert last.wait() == 0, last.stderr
    assert inspector.valid() == {}
    inspector.check_tidy({})


def test_a_build_and_two_collectors_at_once(apart: TestProject, tmp_path: Path) -> None:
    inspector = Inspector(apart, tmp_path)
    unbuild(apart, "numeral")
    (apart.store / "nix/var/nix/gcroots").mkdir(exist_ok=True)
    build = Process(apart, ("--progress", "json", "build"))
    wait_until(lambda: any((apart.store / "nix/store").glob("*numeral*.chroot")), "it builds")
    collectors = [Process(apart, ("gc",)) for _ in range(2)]
    for collector in collectors:
        assert collector.wait() == 0, collector.stderr
    assert build.wait() == 0, build.stderr
    assert (apart.directory / "result").is_symlink()
    inspector.check()
    with LocalStore(apart.store) as store:
        assert verify(store).findings == ()
    assert apart.pgbake("run", "--", "psql", "--version").returncode == 0
    assert apart.json("plan")["build"] == []
