"""Power loss: what the store calls valid is on disk, and so is every small file that is said to be written."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import PgbakeError
from tests.cache import scratch_directory
from tests.debian import debian_tree
from tests.integration.crash.driver import seeded, unbuild
from tests.integration.crash.power import Cut, Plan, PowerLabUnavailable, cut_power, moments
from tests.integration.crash.test_kills import RUNTIME, SMALL
from tests.integration.inputs.conftest import missing
from tests.projects import TestProject
from tests.unit.inputs.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def lab() -> Iterator[Path]:
    """A directory for a disk whose power can be cut."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the disk whose power is cut")
    with scratch_directory("power") as directory:
        yield directory


def cut(directory: Path, plan: Plan) -> list[Cut]:
    try:
        return cut_power(directory, plan)
    except PowerLabUnavailable as error:
        missing(f"the power loss cannot be simulated here: {error}")
        raise


def tools() -> str:
    try:
        return str(debian_tree("bookworm", ("btrfs-progs",)))
    except PgbakeError as error:
        missing(f"mkfs.btrfs cannot be had: {error}")
        raise


_WRITING = """
import itertools, os, sys, time
from pathlib import Path
from pgbake.files import write_whole
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.database import Database

disk = Path(sys.argv[1])
{sabotage}
store = LocalStore(disk)
end = time.monotonic() + 3
for number in itertools.count():
    made = store.staging(path := StorePath(f"{{number:0>32}}", "thing")) / "made"
    made.mkdir()
    for name in range(4):
        (made / str(name)).write_bytes(os.urandom(4096 * (1 + number % 9)))
    with store.lock(path):
        store.register([store.place(path, made)])
    write_whole(disk / "small", f"{{number}}\\n".encode() * 2000)
    store.link_root(disk / "result", path)
    print(number, flush=True)
    time.sleep({pause})
    if time.monotonic() > end:
        break
store.close()
"""

_READING = """
import sys
from pathlib import Path
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

disk = Path(sys.argv[1])
told = [int(line) for line in sys.stdin.read().split()]
with LocalStore(disk) as store:
    valid = store.database.paths()
    for path in sorted(valid):
        assert hash_tree(store.physical(path)).sha256 == store.info(path).nar_sha256, f"{path} is not whole"
numbers = {int(path.digest) for path in valid}
assert numbers >= set(told), f"registered, and forgotten: {sorted(set(told) - numbers)}"
if told:
    small = (disk / "small").read_text().split()
    assert len(small) == 2000 and len(set(small)) == 1 and int(small[0]) >= told[-1], "the small file is not whole"
    assert int((disk / "result").readlink().name.partition("-")[0]) >= told[-1]
    assert len(list((disk / "nix/var/nix/gcroots/auto").iterdir())) == 1
print(len(valid), "whole")
"""


def write_and_cut(lab: Path, count: int, sabotage: str = "", pause: float = 0) -> list[Cut]:
    """Write to a store and cut the power.

    :param pause: seconds in which nothing is written, after each path of which it was told that it is there.
    """
    python = [sys.executable, "-c"]
    plan = Plan(
        prepare=(),
        work=[*python, _WRITING.format(sabotage=sabotage, pause=pause), str(lab / "disk")],
        check=[*python, _READING, str(lab / "disk")],
        moments=moments(seeded("power"), count, 3),
        libraries=tools(),
    )
    return cut(lab, plan)


def test_what_is_valid_outlives_a_power_cut(lab: Path) -> None:
    cuts = write_and_cut(lab, 6)
    assert len(cuts) >= 4
    assert [found for found in cuts if found.status != 0] == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("sabotage", "problem"),
    [
        ("LocalStore.flush = lambda self: None", "is not whole"),
        (
            "made = Database.__init__\n"
            "def init(self, *args, **more):\n    made(self, *args, **more)\n"
            "    self._db.execute('pragma synchronous = off')\n"
            "Database.__init__ = init\n"
            "os.fsync = lambda descriptor: None",
            "registered, and forgotten",
        ),
        ("os.fsync = lambda descriptor: None", ""),
    ],
    ids=["trees", "database", "files"],
)
def test_the_power_cut_would_show_what_is_not_flushed(lab: Path, sabotage: str, problem: str) -> None:
    cuts = write_and_cut(lab, 12, sabotage, pause=0.05)
    assert [found for found in cuts if found.status != 0 and problem in found.output], [c.output for c in cuts]


_LOOKING = """
import sys
from pathlib import Path
from tests.integration.crash.driver import Inspector, Process
from tests.projects import TestProject

directory = Path(sys.argv[1])
project = TestProject(directory / "project", directory / "disk", directory / "home")
inspector = Inspector(project, directory / "cache")
before = inspector.check(everything=True)
last = Process(project, ("--progress", "json", "build"), {"XDG_CACHE_HOME": str(directory / "cache")})
assert last.wait() == 0, last.stderr
assert not inspector.built_in_vain(last, before)
after = inspector.check(everything=True)
assert before.items() <= after.items()
inspector.check_tidy(after)
print(len(before), "whole before,", len(after), "after;", len(last.built), "built")
"""


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_build_outlives_a_power_cut(lab: Path, apart: TestProject, mirror: Server) -> None:
    """From the fetching of inputs to the bundle: what was valid stays, and the next run comes to its end."""
    unbuild(apart, *SMALL, runtime=RUNTIME, sources=True)
    shutil.copytree(apart.directory, lab / "project")
    (lab / "cache").mkdir()
    plan = Plan(
        prepare=["cp", "-a", str(apart.store / "nix"), str(lab / "disk")],
        work=[
            "env", f"PGBAKE_STORE={lab / 'disk'}", f"XDG_CACHE_HOME={lab / 'cache'}", "no_proxy=127.0.0.1",
            sys.executable, "-m", "pgbake", "-C", str(lab / "project"), "build",
        ],
        check=["env", "no_proxy=127.0.0.1", sys.executable, "-c", _LOOKING, str(lab)],
        moments=moments(seeded("power during a build"), 10, 4),
        libraries=tools(),
    )  # fmt: skip
    cuts = cut(lab, plan)
    print(*cuts, sep="\n")
    assert len(cuts) >= 3
    assert [found for found in cuts if found.status != 0] == []
