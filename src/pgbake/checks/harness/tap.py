"""A script of pgTAP, performed by psql: each of its tests is a result, and its plan is held."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.checks.harness.report import Failure, Report
from pgbake.checks.harness.server import Server, Session

_TEST = re.compile(r"(?P<state>ok|not ok)\b *(?P<number>\d+)?(?: *- *)?(?P<rest>.*)")
_PLAN = re.compile(r"1\.\.(?P<count>\d+)(?: *# *SKIP\S* *(?P<reason>.*))?", re.IGNORECASE)
_DIRECTIVE = re.compile(r"(?<!\\)# *(?P<word>SKIP|TODO)\S*:? *(?P<reason>.*)", re.IGNORECASE)


@dataclass
class Tap:
    """What a producer of TAP has said.

    :param planned: number of tests; None where there is no plan.
    :param skipped: why the plan says that all of them are left out.
    """

    planned: int | None = None
    plans: int = 0
    skipped: str | None = None
    bailed: str | None = None
    tests: list[TapTest] = field(default_factory=list)
    #: Comments before the first test and after the plan at the end.
    comments: list[str] = field(default_factory=list)

    def wrong(self) -> str | None:
        """Say what is wrong with the whole; None where nothing is."""
        if self.bailed is not None:
            return f"it bailed out: {self.bailed}"
        if self.planned is None:
            return "it has no plan: SELECT plan(N) at its beginning, or no_plan() and finish()"
        if self.plans > 1:
            return "it has several plans"
        if len(self.tests) != self.planned:
            return f"it planned {self.planned} tests and ran {len(self.tests)}"
        return None


@dataclass
class TapTest:
    """One test of TAP's."""

    number: int
    name: str
    passed: bool
    directive: str = ""
    reason: str = ""
    comments: list[str] = field(default_factory=list)


def read_tap(lines: Iterable[str]) -> Tap:
    """Read TAP; subtests, which are indented, count by their parent alone, and other lines are no part of it."""
    tap = Tap()
    for line in lines:
        if line.startswith("#"):
            (tap.tests[-1].comments if tap.tests else tap.comments).append(line)
        elif found := _PLAN.fullmatch(line.rstrip()):
            tap.planned = int(found["count"])
            tap.plans += 1
            tap.skipped = found["reason"] if tap.planned == 0 else None
        elif line.startswith("Bail out!"):
            tap.bailed = line.removeprefix("Bail out!").strip() or "it gives no reason"
        elif found := _TEST.match(line):
            tap.tests.append(_test(found, len(tap.tests) + 1))
    return tap


def _test(found: re.Match[str], number: int) -> TapTest:
    name, directive, reason = found["rest"], "", ""
    if said := _DIRECTIVE.search(name):
        name, directive, reason = name[: said.start()], said["word"].upper(), said["reason"]
    return TapTest(number, name.strip().replace("\\#", "#"), found["state"] == "ok", directive, reason)


def tell(report: Report, tap: Tap) -> None:
    """Tell the tests, and whether the plan was kept."""
    for test in tap.tests:
        name = f"{test.number} {test.name}".strip()
        if test.directive == "SKIP":
            report.add(name, "skipped", test.reason or "its script says so")
        elif test.directive == "TODO" and not test.passed:
            report.add(name, "skipped", f"to do: {test.reason}")
        elif test.passed:
            report.add(name, "passed")
        else:
            report.add(name, "failed", "not ok", detail="\n".join(test.comments))
    if tap.skipped is not None and not tap.tests:
        report.add("all", "skipped", tap.skipped or "its plan says so")


def check(session: Session) -> None:
    """Perform the script."""
    variables = os.environ
    names = {extension["name"] for extension in session.receipt["extensions"]}
    if "pgtap" not in names:
        raise Failure('the bundle does not hold pgTAP: add "pgtap" to `extensions` in pgbake.toml (`pgbake add pgtap`)')
    script = json.loads(Path(variables["files"]).read_text(encoding="utf-8"))[session.spec["file"]]
    server = session.server()
    database = server.create_database("tap")
    server.sql("CREATE EXTENSION pgtap", database)
    with session.report.test("as planned"):
        perform(server, database, script, session.report)


def perform(server: Server, database: str, script: str, report: Report | None = None) -> Tap:
    """Perform a script by psql, which stops at its first error; return what it has said.

    :param report: tells the tests, whatever comes of the whole.
    :raises Failure: it ends early, or does not keep its plan.
    """
    command = [
        f"{server.session.bundle}/bin/psql", "-XAtq", "-P", "pager=off", "-v", "ON_ERROR_STOP=1", "-d", database,
        "-f", "-",
    ]  # fmt: skip
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, errors="replace", check=False,
        env=server.environment | {"PGCLIENTENCODING": "UTF8"}, cwd=server.directory,
    )  # fmt: skip
    print("\n".join(f"  {line}" for line in done.stdout.splitlines()))
    tap = read_tap(done.stdout.splitlines())
    if report is not None:
        tell(report, tap)
    errors = "\n".join(_errors(done.stderr))
    if done.returncode != 0:
        first = next(_errors(done.stderr), f"psql ended with status {done.returncode}")
        raise Failure(f"it ended before its end: {first}", f"{tap.wrong() or ''}\n{errors}".strip())
    wrong = tap.wrong()
    if wrong is not None:
        raise Failure(wrong, errors)
    return tap


def _errors(said: str) -> Iterator[str]:
    for line in said.splitlines():
        if "NOTICE:" not in line:
            yield line.removeprefix("psql:<stdin>:")
