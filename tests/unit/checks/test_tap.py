"""Reading TAP as pgTAP writes it."""

from __future__ import annotations

import pytest

from pgbake.checks.harness.report import Report
from pgbake.checks.harness.tap import read_tap, tell


def test_tests_directives_and_comments() -> None:
    tap = read_tap(
        [
            "1..5",
            "ok 1 - first",
            "not ok 2 - second",
            '# Failed test 2: "second"',
            "#         have: 1",
            "ok 3 - third # SKIP no network",
            "not ok 4 - fourth # TODO later",
            "ok 5",
        ]
    )
    report = Report()
    tell(report, tap)
    assert tap.wrong() is None
    assert [(result.name, result.outcome, result.reason) for result in report.results] == [
        ("1 first", "passed", ""),
        ("2 second", "failed", "not ok"),
        ("3 third", "skipped", "no network"),
        ("4 fourth", "skipped", "to do: later"),
        ("5", "passed", ""),
    ]
    assert tap.tests[1].comments == ['# Failed test 2: "second"', "#         have: 1"]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["1..2", "ok 1", "ok 2"], None),
        (["ok 1", "1..1"], None),
        (["1..0 # SKIP not today"], None),
        (["1..2", "ok 1"], "it planned 2 tests and ran 1"),
        (["1..1", "ok 1", "ok 2"], "it planned 1 tests and ran 2"),
        (["ok 1"], "it has no plan: SELECT plan(N) at its beginning, or no_plan() and finish()"),
        ([], "it has no plan: SELECT plan(N) at its beginning, or no_plan() and finish()"),
        (["1..1", "ok 1", "1..1"], "it has several plans"),
        (["1..1", "Bail out! no server"], "it bailed out: no server"),
        (["1..1", "    ok 1 - of a subtest", "    1..1", "ok 1 - parent"], None),
    ],
)
def test_plans(lines: list[str], wrong: str | None) -> None:
    assert read_tap(lines).wrong() == wrong


def test_a_plan_of_none_is_skipped() -> None:
    report = Report()
    tell(report, read_tap(["1..0 # SKIP not today"]))
    assert [(result.outcome, result.reason) for result in report.results] == [("skipped", "not today")]
