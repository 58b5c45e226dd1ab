"""pg_regress and pg_isolation_regress: running them, and reading what they print, in the styles of all majors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.checks.harness.report import Failure, Report

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
_SUITE = re.compile(r"(?:# )?\+\+\+ (?:\S+ )?(?:install-)?check in (?P<where>\S+) \+\+\+")


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
    """Tells the tests of one run as they come.

    :param source: below it the files ``regression.diffs`` lie.
    :param prefix: before the names of tests.
    :param parts: whether several suites are run, each of which tells its directory first: the prefix from there on.
    """

    report: Report
    source: Path
    known: Known
    prefix: str = ""
    parts: bool = False
    count: int = 0
    failed: int = 0
    #: What else is done with a test that has failed; it returns the reason.
    failure: Callable[[Ran], str] | None = None

    def line(self, line: str) -> None:
        """Take a line of output."""
        where = read_suite(line) if self.parts else None
        if where is not None:
            self.prefix = f"{where}/"
        ran = read_line(line)
        if ran is not None:
            self.test(ran)

    def test(self, ran: Ran) -> None:
        """Tell of one test."""
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


def run_suite(command: Sequence[str], cwd: Path, environment: Mapping[str, str], teller: Teller) -> str:
    """Run a suite and tell its tests; return the last lines of its output.

    :raises Failure: it fails, and no test of it has failed; the end of its output is the detail.
    """
    failed = teller.failed
    status, said = run(command, cwd, environment, teller.line)
    if status != 0 and teller.failed == failed:
        raise Failure(f"{Path(command[0]).name} ended with status {status}, and no test has failed", said)
    return said
