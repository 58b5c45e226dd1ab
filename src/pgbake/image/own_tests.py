"""The user's own tests of an image, which lie in one directory and run in its booted machine, all of them.

=====================  ==========================================================================================
``NAME.sql``           performed by psql in the database ``postgres``; without an error it has passed; where it prints
                       a plan of TAP, as pgTAP's scripts do, each of its tests counts
``NAME.out``           beside it: what psql must print, errors included, as pg_regress wants it
``test_NAME.py``       a suite of pytest-testinfra, for machines in systemd-nspawn
=====================  ==========================================================================================
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from difflib import unified_diff
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from pgbake.checks.harness.tap import read_tap
from pgbake.errors import HostError
from pgbake.image.boot import Booted, Machine
from pgbake.image.verify import Proof
from pgbake.run import run

#: Lines that a proof shows of what a test has said.
_SHOWN = 30


def sql_tests(machine: Machine, directory: Path) -> Iterator[Proof]:
    """Perform the scripts of a directory, in the order of their names."""
    for file in sorted(directory.glob("*.sql")):
        yield Proof(f"test {file.name}", tuple(_perform(machine, file)))


def _perform(machine: Machine, file: Path) -> Iterator[str]:
    expected = file.with_suffix(".out")
    options = "-Xaq" if expected.exists() else "-XAtq -v ON_ERROR_STOP=1 -f -"
    # Errors stand among the results, as pg_regress has them.
    both = " 2>&1" if expected.exists() else ""
    done = machine.run(
        "sh", "-c", f"exec psql {options} -P pager=off -w -d postgres{both}",
        user="postgres", stdin=file.read_bytes(), check=False,
    )  # fmt: skip
    if expected.exists():
        said, wanted = done.stdout.splitlines(), expected.read_text().splitlines()
        yield from list(unified_diff(wanted, said, expected.name, "printed", lineterm=""))[:_SHOWN]
        return
    tap = read_tap(done.stdout.splitlines())
    for test in tap.tests:
        if not test.passed and not test.directive:
            yield " ".join([f"not ok {test.number} {test.name}", *test.comments])
    if (tap.tests or tap.plans) and (wrong := tap.wrong()):
        yield wrong
    if done.status != 0:
        yield from done.stderr.strip().removeprefix("psql:<stdin>:").splitlines()[:_SHOWN]


def testinfra(machine: Booted, directory: Path) -> Iterator[Proof]:
    """Run the suites of pytest-testinfra of a directory on a machine in systemd-nspawn.

    :raises HostError: there are some, and pytest-testinfra is not installed.
    """
    if not any(directory.glob("test_*.py")):
        return
    if find_spec("testinfra") is None:
        raise HostError(
            f"the tests in {directory} need pytest-testinfra, which is not installed",
            hint=f"{sys.executable} -m pip install pytest-testinfra",
        )
    with tempfile.TemporaryDirectory() as name:
        results = Path(name, "results.xml")
        done = run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "pgbake.image.testinfra_plugin", "-p", "no:cacheprovider",
                f"--hosts=nspawn://{machine.init}", f"--junit-xml={results}", f"--rootdir={directory}",
                "--override-ini=addopts=", "-c", os.devnull, str(directory),
            ],
            sandbox="host", cwd=directory, check=False,
        )  # fmt: skip
        if done.status not in (0, 1) or not results.exists():
            said = (done.stdout.strip() or done.stderr.strip()).splitlines()
            yield Proof("testinfra", tuple(said[-_SHOWN:]))
            return
        for case in ElementTree.parse(results).iter("testcase"):
            wrong = next((each for each in case if each.tag in ("failure", "error")), None)
            skipped = next((each for each in case if each.tag == "skipped"), None)
            found = (
                () if wrong is None else tuple((wrong.text or wrong.get("message") or "failed").splitlines()[-_SHOWN:])
            )
            name = case.get("name", "").replace(f"[nspawn://{machine.init}]", "")
            yield Proof(f"test {case.get('classname', '')}.{name}", found, "" if skipped is None else "skipped")
