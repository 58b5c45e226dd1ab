"""What pg_regress prints, in both styles, and lists of known failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgbake.checks.harness import diff
from pgbake.checks.harness.pgregress import Known, Ran, Teller, read_diffs, read_line, read_suite, run_suite
from pgbake.checks.harness.report import Failure, Overdue, Report, Skipped


@pytest.mark.parametrize(
    ("line", "ran"),
    [
        ("test init                         ... ok           22 ms", Ran("init", True, 0.022)),
        ("test init                         ... FAILED       22 ms", Ran("init", False, 0.022)),
        ("     boolean                      ... ok          119 ms", Ran("boolean", True, 0.119)),
        ("test random      ... failed (ignored)       55 ms", Ran("random", True, 0.055)),
        (
            "test psql   ... FAILED (test process exited with exit code 2)       19 ms",
            Ran("psql", False, 0.019, "(test process exited with exit code 2)"),
        ),
        ("ok 1         - test_setup                               1251 ms", Ran("test_setup", True, 1.251)),
        ("ok 12        + char                                       52 ms", Ran("char", True, 0.052)),
        ("not ok 3     - gist                                       52 ms", Ran("gist", False, 0.052)),
        (" ./core/affine .. ok in 60 ms", Ran("core/affine", True, 0.06)),
        (" ../x/loader/Point ........ ok in 5 ms", Ran("x/loader/Point", True, 0.005)),
        (" uninstall .. ok (5355)", Ran("uninstall", True, 0, "5355")),
        (" after-create-script ../regress/hooks/a.sql .. ok ", Ran("after-create-script regress/hooks/a.sql", True)),
        (
            " ./core/legacy .. failed (diff expected obtained: /tmp/pgis_reg/test_30_diff)",
            Ran("core/legacy", False, 0, "diff expected obtained", Path("/tmp/pgis_reg/test_30_diff")),
        ),
        (
            " ./gone . skipped (can't read any ./gone.{sql,dbf})",
            Ran("gone", False, 0, "can't read any ./gone.{sql,dbf}"),
        ),
        ("Checking for shp2pgsql ... found", None),
        ("# parallel group (2 tests):  char boolean", None),
        ("parallel group (2 tests):  char boolean", None),
        ("1..3", None),
        ("============== running regression test queries        ==============", None),
        ("gcc -O2 -o test ... ok", None),
    ],
)
def test_lines_of_all_majors_are_read(line: str, ran: Ran | None) -> None:
    assert read_line(line) == ran


def test_the_suite_of_a_directory_is_recognised() -> None:
    assert read_suite("+++ regress install-check in contrib/cube +++") == "contrib/cube"
    assert read_suite("# +++ isolation check in src/test/isolation +++") == "src/test/isolation"
    assert read_suite("ok 1 - cube 5 ms") is None


def test_differences_are_told_apart_by_test() -> None:
    text = "diff -U3 /e/a.out /r/a.out\n-1\n+2\ndiff -U3 /e/b_1.out /r/b.out\n-3\n+4\n"
    assert read_diffs(text) == {
        "a": "diff -U3 /e/a.out /r/a.out\n-1\n+2",
        "b": "diff -U3 /e/b_1.out /r/b.out\n-3\n+4",
    }


def _tell(tmp_path: Path, known: dict[str, str], *tests: Ran) -> Report:
    report = Report()
    teller = Teller(report, tmp_path, Known(known), "m/")
    for test in tests:
        teller.test(test)
    teller.known.tell(report)
    return report


def test_a_known_failure_is_skipped_with_its_reason(tmp_path: Path) -> None:
    report = _tell(tmp_path, {"m/a": "no network"}, Ran("a", False), Ran("b", True))
    assert [(result.name, result.outcome) for result in report.results] == [("m/a", "skipped"), ("m/b", "passed")]
    assert "no network" in report.results[0].reason
    assert not report.failed


def test_a_known_failure_that_passes_fails(tmp_path: Path) -> None:
    report = _tell(tmp_path, {"m/a": "no network"}, Ran("a", True))
    assert report.failed
    assert "listed as known" in report.results[-1].reason


def test_a_glob_is_out_of_date_only_when_all_of_it_passes(tmp_path: Path) -> None:
    assert not _tell(tmp_path, {"m/*": "no network"}, Ran("a", True), Ran("b", False)).failed


@pytest.mark.parametrize(("sometimes", "outcomes"), [((), ["passed", "failed"]), (("a*",), ["passed"])])
def test_a_known_test_that_passes_fails_unless_it_does_so_sometimes(
    tmp_path: Path, sometimes: tuple[str, ...], outcomes: list[str]
) -> None:
    report, known = Report(), Known({"a*": "why"}, sometimes)
    Teller(report, tmp_path, known).test(Ran("ab", True))
    known.tell(report)
    assert [result.outcome for result in report.results] == outcomes


def test_parts_of_a_suite_are_told_apart(tmp_path: Path) -> None:
    report = Report()
    teller = Teller(report, tmp_path, Known({}), parts=True)
    (tmp_path / "diff").write_text("-a\n+b\n")
    for line in (
        "+++ check in one +++",
        " ./a .. ok in 1 ms",
        "Run tests: 1",
        "+++ check in two +++",
        f" ./a .. failed (diff expected obtained: {tmp_path}/diff)",
    ):
        teller.line(line)
    assert [result.name for result in report.results] == ["one/a", "two/a"]
    assert report.results[1].reason == "its output is not the expected one diff expected obtained"
    assert teller.differences(Ran("a", False, file=tmp_path / "diff")) == "-a\n+b"


def test_a_failure_has_its_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "regression.diffs").write_text("diff -U3 /e/a.out /r/a.out\n-1\n+2\n")
    assert _tell(tmp_path, {}, Ran("a", False)).failed
    assert "    +2" in capsys.readouterr().out


def _run(tmp_path: Path, text: str, status: int = 0, **words: Any) -> list[tuple[str, str, str]]:
    """Return what is told of a program that prints a text; and how it is taken as a whole."""
    report = Report()
    script = f"import sys; sys.stdout.write({text!r}); raise SystemExit({status})"
    known = Known(words.pop("known", {}))
    try:
        run_suite([sys.executable, "-c", script], tmp_path, {}, Teller(report, tmp_path, known, **words))
    except (Failure, Skipped) as came:
        report.add("whole", "skipped" if isinstance(came, Skipped) else "failed", str(came))
    return [(result.name, result.outcome, result.reason) for result in report.results]


_OLD = "test a                         ... ok           22 ms\n"
_OLD_FAILED = "test a                         ... FAILED       22 ms\n"
_NEW = "ok 1         - a                               1251 ms\n"
_POSTGIS = " ./core/a .. ok in 60 ms\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{_OLD}\n======\n All 1 tests passed. \n======\n",
        f"{_NEW}1..1\n# All 1 tests passed.\n",
        f"{_POSTGIS} ./b .. ok in 1 ms\n\nRun tests: 2\nFailed: 0\n",
        f"{_OLD}==\n All 1 tests passed. \n{_OLD}==\n All 1 tests passed. \n",
    ],
)
def test_a_run_that_comes_to_its_end_is_whole(tmp_path: Path, text: str) -> None:
    assert {outcome for _, outcome, _ in _run(tmp_path, text)} == {"passed"}


@pytest.mark.parametrize("first", [_OLD, _NEW, _POSTGIS])
@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_breaks_off_is_told(tmp_path: Path, first: str, status: int) -> None:
    (_, broken) = _run(tmp_path, f"{first}the server is gone\n", status)
    assert broken[:2] == ("suite", "failed")
    assert f"ended with status {status}; the last words: the server is gone" in broken[2]


def test_a_known_failure_hides_no_run_that_breaks_off(tmp_path: Path) -> None:
    told = _run(tmp_path, _OLD_FAILED, 1, known={"a": "why"})
    assert [(name, outcome) for name, outcome, _ in told] == [("a", "skipped"), ("suite", "failed")]


def test_each_test_that_was_not_come_to_is_named(tmp_path: Path) -> None:
    told = _run(tmp_path, f"{_OLD}no space left\n", 2, planned=("a", "b", "c"), prefix="m/", known={"m/c": "why"})
    assert [(name, outcome) for name, outcome, _ in told] == [("m/a", "passed"), ("m/b", "failed"), ("m/c", "skipped")]
    assert told[1][2].endswith("; the last words: no space left")
    told = _run(tmp_path, "initdb: error\n", 2, planned=("a", "b"))
    assert [(name, outcome) for name, outcome, _ in told] == [("a", "failed"), ("b", "failed")]


def test_the_test_that_was_under_way_is_named(tmp_path: Path) -> None:
    told = _run(tmp_path, f"{_OLD}test slow                     ... ", 2)
    assert [(name, outcome) for name, outcome, _ in told] == [("a", "passed"), ("slow", "failed")]


def test_a_part_that_says_nothing_is_told(tmp_path: Path) -> None:
    text = (
        "+++ check in one +++\nmake: *** [one] Error 2\n"
        f"+++ check in two +++\n{_OLD}==\n All 1 tests passed. \n+++ check in three +++\nkilled\n"
    )
    told = _run(tmp_path, text, 2, parts=True)
    assert [(name, outcome) for name, outcome, _ in told] == [
        ("one/suite", "failed"),
        ("two/a", "passed"),
        ("three/suite", "failed"),
    ]
    assert "Error 2" in told[0][2] and "killed" in told[2][2]


def test_tests_of_a_run_that_are_not_told_are_missed(tmp_path: Path) -> None:
    told = _run(tmp_path, f"{_OLD}test b: not as it should be\n==\n All 2 tests passed. \n")
    assert told[1] == ("suite", "failed", "2 tests were run, and 1 of them told")


def test_a_suite_that_runs_nothing_is_a_failure(tmp_path: Path) -> None:
    ((_, outcome, reason),) = _run(tmp_path, "nothing to be done\n")
    assert outcome == "failed" and reason.endswith("ran no test")


def test_a_step_may_say_that_it_does_not_apply(tmp_path: Path) -> None:
    assert _run(tmp_path, "the bundle has no rasters\n", 77) == [("whole", "skipped", "the bundle has no rasters")]
    told = _run(tmp_path, f"{_OLD}so it is\n", 77)
    assert [(name, outcome) for name, outcome, _ in told] == [("a", "passed"), ("suite", "failed")]


def test_what_was_ended_is_told(tmp_path: Path) -> None:
    report = Report()
    teller = Teller(report, tmp_path, Known({}), planned=("a", "b"))

    def take(ran: Ran) -> str:
        raise Overdue("it took too long", "")

    teller.failure = take
    with pytest.raises(Overdue):
        run_suite([sys.executable, "-c", f"print({_OLD_FAILED!r})"], tmp_path, {}, teller)
    assert [(result.name, result.outcome) for result in report.results] == [("b", "failed")]


def test_a_suite_that_fails_without_a_failed_test_is_a_failure(tmp_path: Path) -> None:
    teller = Teller(Report(), tmp_path, Known({}))
    script = "print('ok 1 - a 3 ms'); print('1..1'); print('no such file'); raise SystemExit(2)"
    with pytest.raises(Failure, match="status 2, and no test has failed") as caught:
        run_suite([sys.executable, "-c", script], tmp_path, {}, teller)
    assert "no such file" in caught.value.detail


@pytest.mark.parametrize(
    ("old", "new"), [("a\nb\n", "a\nb\n"), ("a\nb\n", "a\nc\n"), ("a\n", "a"), ("", "a\n"), ("a\n\n", "a\n")]
)
def test_diff_is_that_of_diffutils(
    tmp_path: Path, old: str, new: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = [tmp_path / "old", tmp_path / "new"]
    for file, text in zip(files, (old, new), strict=True):
        file.write_text(text)
    status = diff.main(["-U3", *map(str, files)])
    theirs = subprocess.run(["diff", "-U3", *files], capture_output=True, check=False)
    assert status == theirs.returncode
    ours = capsysbinary.readouterr().out
    assert ours.splitlines()[2:] == theirs.stdout.splitlines()[2:]  # the first two have times


def test_diff_of_a_missing_file(tmp_path: Path) -> None:
    assert diff.main([str(tmp_path / "none"), str(tmp_path / "none")]) == 2
