"""pg_regress and pg_isolation_regress: running them, and reading what they print, in the styles of all majors."""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.checks.harness.report import Failure, Report, Skipped

#: Lines of a test's differences, and of a program's output, that are kept.
_KEPT = 300
#: Up to 15: ``test NAME ... ok  12 ms``; in a group of parallel ones the name is indented.
_OLD = re.compile(
    r"(?:test |     )(?P<name>\S+) +\.\.\. (?P<state>ok|FAILED|failed \(ignored\))"
    r"(?P<note>.*?)(?: +(?P<ms>\d+) ms)?\s*$"
)
#: From 16 on: ``ok 1  - NAME  12 ms``, and ``+`` in place of ``-`` in a group.
_NEW = re.compile(r"(?P<state>ok|not ok) +\d+ +[-+] (?P<name>\S+)(?P<note>.*?)(?: +(?P<ms>\d+) ms)?\s*$")
#: Of PostGIS's own runner: `` ./core/affine .. ok in 12 ms``, ``.. failed (diff expected obtained: FILE)``.
_POSTGIS = re.compile(
    r" (?P<name>\S.*?) \.+ +(?P<state>ok|failed|skipped)\b *(?:in (?P<ms>\d+) ms|\((?P<note>.*)\))?\s*$"
)
#: The last lines of a run: `` All 5 tests passed.``, `` 1 of 5 tests failed.``; from 16 on ``1..5`` before; PostGIS's.
_END = re.compile(r"(?:# | )(?:All|\d+ of) (?P<count>\d+) tests |1\.\.(?P<plan>\d+)$|Run tests: \d+$")
#: Up to 15: a test that has no outcome yet.
_BEGUN = re.compile(r"(?:test |     )(?P<name>\S+) +\.\.\. *$")
#: The exit status by which a step says that it does not apply (that of automake's tests, too).
SKIPPED = 77
_SUITE = re.compile(r"(?:# )?\+\+\+ (?:\S+ )?(?:install-)?check in (?P<where>\S+) \+\+\+")


class NothingRun(Failure):
    """A suite has ended well, and without a test."""


@dataclass(frozen=True)
class Ran:
    """One test that was run.

    :param note: what the program says beside, such as an exit status.
    :param file: where the differences are, if the program says so.
    """

    name: str
    passed: bool
    seconds: float = 0
    note: str = ""
    file: Path | None = None


def read_line(line: str) -> Ran | None:
    """Return the test that a line of output tells of; None where it tells of none."""
    found = _OLD.match(line) or _NEW.match(line)
    if found is None:
        return _read_postgis(line)
    passed = found["state"] == "ok" or "(ignored)" in found["state"] or found["note"].strip().startswith("# TODO")
    return Ran(found["name"], passed, int(found["ms"] or 0) / 1000, found["note"].strip())


def _read_postgis(line: str) -> Ran | None:
    """Read a line of PostGIS's own runner."""
    found = _POSTGIS.match(line)
    if found is None:
        return None
    note = found["note"] or ""
    said, _, file = note.rpartition(": ")
    at = Path(file) if file.startswith("/") else None
    # Paths are relative to where it was started; those of scripts that prepare others are whole.
    name = re.sub(r"(?<!\S)(?:\.{1,2}/|/\S*/)+", "", found["name"])
    return Ran(name, found["state"] == "ok", int(found["ms"] or 0) / 1000, said if at else note, at)


def read_suite(line: str) -> str | None:
    """Return the directory whose suite begins with a line, as PostgreSQL's makefiles tell it."""
    found = _SUITE.match(line)
    return found["where"] if found else None


def read_end(line: str) -> int | None:
    """Return of how many tests a line says that they were run, which is the end of a run; 0 where it says no number.

    None means that it is another line.
    """
    found = _END.match(line.rstrip())
    return int(found["count"] or found["plan"] or 0) if found else None


def read_diffs(text: str) -> dict[str, str]:
    """Return the differences of each test in a ``regression.diffs``, by the test's name."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("diff -"):
            lines = parts.setdefault(Path(line.split()[-1].strip('"')).stem, [])
        lines.append(line)
    return {name: _shortened(found) for name, found in parts.items()}


def _shortened(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - _KEPT} lines more"] if len(lines) > _KEPT else []
    return "\n".join([*lines[:_KEPT], *more])


@dataclass
class Known:
    """Tests that are known to fail, by globs of their names, each with the reason.

    :param sometimes: those of the globs whose tests pass in other runs.
    """

    reasons: Mapping[str, str]
    sometimes: Collection[str] = ()
    _failed: set[str] = field(default_factory=set)
    _passed: set[str] = field(default_factory=set)

    def reason(self, name: str, passed: bool) -> str | None:
        """Return why a test may fail; None where nobody knows of it. What came of it is kept."""
        found = [glob for glob in self.reasons if fnmatchcase(name, glob)]
        (self._passed if passed else self._failed).update(found)
        return self.reasons[found[0]] if found else None

    def tell(self, report: Report) -> None:
        """Fail those that are listed and passed all the same, so that the list never grows old."""
        for glob in sorted(self._passed - self._failed - set(self.sometimes)):
            report.add(f"{glob} as known", "failed", "it passes, and is listed as known to fail", 0, self.reasons[glob])


@dataclass
class Teller:
    """Tells the tests of one run as they come, and what did not come to its end.

    :param source: below it the files ``regression.diffs`` lie.
    :param prefix: before the names of tests.
    :param parts: whether several suites are run, each of which tells its directory first: the prefix from there on.
    :param planned: tests that are going to be run, as far as that is known.
    """

    report: Report
    source: Path
    known: Known
    prefix: str = ""
    parts: bool = False
    planned: Sequence[str] = ()
    count: int = 0
    failed: int = 0
    #: What else is done with a test that has failed; it returns the reason.
    failure: Callable[[Ran], str] | None = None
    #: Whether a suite has announced the run under way.
    _announced: bool = False
    #: Its tests.
    _told: list[str] = field(default_factory=list)
    #: One of them that has no outcome yet.
    _begun: str = ""
    #: Whether it has said how many there were.
    _ended: bool = False
    #: Its last lines.
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def line(self, line: str) -> None:
        """Take a line of output."""
        where = read_suite(line) if self.parts else None
        if where is not None:
            self.end("the next suite began")
            self.prefix, self._announced = f"{where}/", True
        self._last.append(line.rstrip("\n"))
        if (ran := read_line(line)) is not None:
            self.test(ran)
        elif (ran_in_all := read_end(line)) is not None:
            self._ended, self._begun = True, ""
            if ran_in_all > len(self._told):
                self._broken("suite", f"{ran_in_all} tests were run, and {len(self._told)} of them told")
        elif begun := _BEGUN.match(line):
            self._begun = begun["name"]

    def end(self, how: str) -> None:
        """Tell each test of a run that was not told; and the run, where it has not come to its end.

        :param how: it ended.
        """
        if not self._ended and (self._announced or self._told or self._begun or self.planned):
            missing = [test for test in self.planned if test not in self._told] or [self._begun or "suite"]
            said = next((line.strip() for line in reversed(self._last) if line.strip()), "")
            for test in missing:
                self._broken(test, f"it did not come to its end: {how}; the last words: {said or 'none'}")
        self._announced, self._told, self._begun, self._ended = False, [], "", False

    def _broken(self, test: str, why: str) -> None:
        """Tell that a test has not come to its end."""
        self.failed += 1
        name = self.prefix + test
        known = self.known.reason(name, False)
        if known is not None:
            self.report.add(name, "skipped", f"known to fail: {known}")
        else:
            self.report.add(name, "failed", why, detail="\n".join(self._last))

    def test(self, ran: Ran) -> None:
        """Tell of one test."""
        if self._ended:  # the first of another run
            self._told, self._ended = [], False
        self._told.append(ran.name)
        self._begun = ""
        self.count += 1
        name = self.prefix + ran.name
        reason = self.known.reason(name, ran.passed)
        if ran.passed:
            self.report.add(name, "passed", "", ran.seconds)
            return
        self.failed += 1
        if reason is not None:
            self.report.add(name, "skipped", f"known to fail: {reason}", ran.seconds)
            return
        why = self.failure(ran) if self.failure else "its output is not the expected one"
        self.report.add(name, "failed", f"{why} {ran.note}".strip(), ran.seconds, self.differences(ran))

    def differences(self, ran: Ran) -> str:
        """Return the differences of a test, from the newest file that has them."""
        if ran.file is not None:
            text = ran.file.read_text(encoding="utf-8", errors="replace") if ran.file.is_file() else ""
            return _shortened(text.splitlines())
        files = sorted(self.source.rglob("regression.diffs"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files:
            found = read_diffs(file.read_text(encoding="utf-8", errors="replace")).get(ran.name)
            if found:
                return found
        return ""


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], take: Callable[[str], None]
) -> tuple[int, str]:
    """Run a program, each line of whose output is printed and taken; return its exit status and its last lines."""
    last: list[str] = []
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(f"  {line}", end="", flush=True)  # indented: no line of a test's is taken for one of pgbake's
                last = [*last[-_KEPT:], line]
                take(line)
        except BaseException:
            process.kill()
            raise
    return process.returncode, "".join(last)


def run_suite(command: Sequence[str], cwd: Path, environment: Mapping[str, str], teller: Teller) -> None:
    """Run a suite and tell its tests, those that it did not come to as well.

    :raises Failure: it fails, and no test of it has failed; or it runs none. The end of its output is the detail.
    :raises Skipped: it ran no test and ended with the status :data:`SKIPPED`; its last line is the reason.
    """
    failed, count = teller.failed, teller.count
    name = Path(command[0]).name
    try:
        status, said = run(command, cwd, environment, teller.line)
    except BaseException:
        teller.end(f"{name} was ended")
        raise
    if status == SKIPPED and teller.count == count:
        raise Skipped((said.strip().splitlines() or ["it gives no reason"])[-1])
    teller.end(f"{name} ended with status {status}")
    if teller.failed > failed:
        return
    if status != 0:
        raise Failure(f"{name} ended with status {status}, and no test has failed", said)
    if teller.count == count:
        raise NothingRun(f"{name} ran no test", said)
