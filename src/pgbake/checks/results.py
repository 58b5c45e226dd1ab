"""What came of checks: read from their logs and outputs, and written as JUnit's XML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from xml.etree import ElementTree

import msgspec

from pgbake.build.log import OF_CHECKS, read_log
from pgbake.checks.check import Check
from pgbake.errors import PgbakeError
from pgbake.store.local import LocalStore

#: ``kept``: it had passed before, so it was not run.
State = Literal["passed", "kept", "failed"]


class Test(msgspec.Struct, frozen=True):
    """One test of a check, as the harness tells it (`pgbake.checks.harness.report`).

    :param outcome: ``passed``, ``failed`` or ``skipped``.
    :param reason: of what did not pass.
    """

    __test__: ClassVar[bool] = False  # none of pytest's

    test: str
    outcome: str
    reason: str = ""
    seconds: float = 0
    detail: str = ""


class _Offer(msgspec.Struct):
    offer: str
    text: str


class _Log(msgspec.Struct):
    log: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check.

    :param seconds: that its tests took, when they were run on this machine; None where that is not known.
    :param error: why there are no results, where it failed without any.
    :param logs: the ends of its servers' logs, by the servers' names, where it failed.
    """

    check: Check
    state: State
    tests: tuple[Test, ...]
    seconds: float | None
    error: PgbakeError | None = None
    logs: Mapping[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> tuple[Test, ...]:
        """Those that did not apply, each with its reason."""
        return tuple(test for test in self.tests if test.outcome == "skipped")

    @property
    def failures(self) -> tuple[Test, ...]:
        """Those that failed."""
        return tuple(test for test in self.tests if test.outcome == "failed")


@dataclass
class Told:
    """What the log of a check tells for pgbake."""

    tests: list[Test] = field(default_factory=list)
    #: Files of the project's ``tests`` that ``--accept`` would write, with their contents.
    offers: dict[str, str] = field(default_factory=dict)
    #: The ends of the logs of its servers, where it failed.
    logs: dict[str, str] = field(default_factory=dict)


def read_told(store: LocalStore, check: Check) -> Told | None:
    """Return what the last run of a check on this machine told; None where it was not run here."""
    try:
        text = read_log(store.log_file(check.derivation.path))
    except PgbakeError:
        return None
    told = Told()
    for line in text.splitlines():
        if line.startswith(OF_CHECKS):
            said = line[len(OF_CHECKS) :]
            try:
                value = msgspec.json.decode(said)
                if "test" in value:
                    told.tests.append(msgspec.convert(value, Test))
                elif "offer" in value:
                    offer = msgspec.convert(value, _Offer)
                    told.offers[offer.offer] = offer.text
                elif "log" in value:
                    log = msgspec.convert(value, _Log)
                    told.logs[log.log] = log.text
            except msgspec.MsgspecError:
                continue  # a line that a test wrote itself
    return told


def passed_outcome(store: LocalStore, check: Check, state: State) -> Outcome:
    """Return the outcome of a check whose output is valid."""
    told = read_told(store, check)
    if told is not None and told.tests and not any(test.outcome == "failed" for test in told.tests):
        return Outcome(check, state, tuple(told.tests), sum(test.seconds for test in told.tests))
    return Outcome(check, state, tuple(read_tap((store.physical(check.path) / "results.tap").read_text("utf-8"))), None)


def failed_outcome(store: LocalStore, check: Check, error: PgbakeError) -> Outcome:
    """Return the outcome of a check that has just failed."""
    told = read_told(store, check)
    tests = tuple(told.tests) if told else ()
    if told and any(test.outcome == "failed" for test in tests):
        return Outcome(check, "failed", tests, sum(test.seconds for test in tests), logs=told.logs)
    return Outcome(check, "failed", tests, None, error)


def read_tap(text: str) -> Iterable[Test]:
    """Yield the tests of a check's ``results.tap``."""
    for line in text.splitlines():
        mark, _, rest = line.partition(" - ")
        if mark.startswith(("ok ", "not ok ")):
            name, skip, reason = rest.partition(" # SKIP ")
            outcome = "failed" if mark.startswith("not") else "skipped" if skip else "passed"
            yield Test(name.replace("\\#", "#").replace("\\\\", "\\"), outcome, reason)


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """Return outcomes as JUnit's XML, as continuous integration reads it: a suite for each check."""
    root = ElementTree.Element("testsuites")
    for outcome in outcomes:
        suite = ElementTree.SubElement(
            root, "testsuite", name=outcome.check.name, tests=str(len(outcome.tests) or 1),
            failures=str(len(outcome.failures)), errors=str(int(outcome.error is not None)),
            skipped=str(len(outcome.skipped)), time=f"{outcome.seconds or 0:.3f}",
        )  # fmt: skip
        for test in outcome.tests:
            case = ElementTree.SubElement(
                suite, "testcase", classname=outcome.check.name.replace("/", "."), name=test.test,
                time=f"{test.seconds:.3f}",
            )  # fmt: skip
            if test.outcome == "failed":
                ElementTree.SubElement(case, "failure", message=_printable(test.reason)).text = _printable(test.detail)
            elif test.outcome == "skipped":
                ElementTree.SubElement(case, "skipped", message=_printable(test.reason))
        if outcome.error is not None:
            case = ElementTree.SubElement(suite, "testcase", classname=outcome.check.name, name="the check itself")
            error = ElementTree.SubElement(case, "error", message=_printable(str(outcome.error)))
            error.text = _printable(outcome.error.detail or "")
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _printable(text: str) -> str:
    """Return text without what XML cannot hold."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
