"""A clock that jumps back: between two runs, and in the middle of one.

Only this process's view of the clock can be moved, so libfaketime is loaded into pgbake's own Python. Elapsed time
stays real, as the kernel keeps it when a clock is set.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgbake.errors import PgbakeError
from pgbake.store.local import LocalStore
from tests.debian import debian_tree
from tests.integration.crash.driver import Inspector, Process, unbuild, wait_until
from tests.integration.inputs.conftest import missing
from tests.projects import TestProject

pytestmark = pytest.mark.integration

#: Seconds by which pgbake's clock is wrong.
YEAR = 365 * 86400


class Clock:
    """The clock of processes that are started with ``environment``; it can be set while they run."""

    def __init__(self, file: Path) -> None:
        try:
            tree = debian_tree("bookworm", ("libfaketime",))
        except PgbakeError as error:
            missing(f"libfaketime cannot be had: {error}")
            raise
        (library,) = tree.glob("usr/lib/*/faketime/libfaketimeMT.so.1")
        self._file = file
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: int) -> None:
        """Let the clock be wrong by so many seconds."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(f"{offset:+d}\n")
        temporary.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    clock = Clock(tmp_path / "clock")
    clock.set(-YEAR)
    code = "import time; print(time.time())"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=clock.environment, capture_output=True, text=True, check=True
    )
    assert abs(float(shown.stdout) - (time.time() - YEAR)) < 60, "the clock does move"
    return clock


def test_a_clock_that_jumps_back(apart: TestProject, cache: Path, clock: Clock) -> None:
    inspector = Inspector(apart, cache)
    environment = {**clock.environment, "XDG_CACHE_HOME": str(cache)}
    build = ("--progress", "json", "build", "numeral")

    # Built in the future, changed, and built again in the past: the last build is the one in the past.
    clock.set(YEAR)
    unbuild(apart, "numeral")
    future = Process(apart, build, environment)
    assert future.wait() == 0, future.stderr
    clock.set(-YEAR)
    recipes = apart.directory / "recipes"
    recipes.mkdir()
    (recipes / "numeral.toml").write_text(
        'name = "numeral"\nsummary = "s"\nlicence = "GPL-2.0-or-later"\nbuilder = "pgxs"\n'
        'source = { debian = "postgresql-numeral" }\nmake = ["CHANGED=1"]\n'
    )
    past = Process(apart, build, environment)
    # In the middle it jumps further.
    wait_until(lambda: past.built, "the build has begun")
    clock.set(-2 * YEAR)
    assert past.wait() == 0, past.stderr
    seconds = [event["seconds"] for event in past.events if event["event"] == "Finished"]
    assert seconds and all(isinstance(value, float) and 0 <= value < 600 for value in seconds)
    assert len(past.built) == 1 and past.built != future.built
    with LocalStore(apart.store) as store:
        last = store.database.latest("postgresql-15-numeral-1.3.drv")
        times = [
            row[0]
            for drv in (*future.built, *past.built)
            for row in store.database._select("select registrationTime from ValidPaths where path = ?", drv)
        ]
    assert str(last) == past.built[0] and times[0] > times[1]  # type: ignore[operator]

    # Indexes that were fetched in the future, by a machine that is now in the past.
    for offset in (YEAR, 0):
        clock.set(offset)
        locked = Process(apart, ("lock", "--update", "numeral"), environment)
        assert locked.wait() == 0, locked.stderr
    valid = inspector.check()
    inspector.check_tidy(valid)
