"""What the harness tells is read from a check's log; what crashed is read from a server's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.checks.harness.report import Failure, Overdue, Report
from pgbake.checks.harness.server import Server, Session
from pgbake.checks.results import read_tap
from pgbake.events import Event, Finished, task


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that was never started."""
    receipt = {"postgresql": {"major": 15}, "preload": ["one", "two"], "settings": {"wal_level": "logical", "a": "1"}}
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    session = Session(tmp_path, {"settings": {"a": "2", "b": "2"}}, Report(), tmp_path / "servers")
    server = session.prepare("main", {"b": "3"})
    server.data.mkdir()
    return server


def test_settings_win_over_one_another(server: Server) -> None:
    wanted = {"shared_preload_libraries": "one,two", "wal_level": "logical", "a": "2", "b": "3", "fsync": "off"}
    assert server.settings.items() >= wanted.items()


def write(server: Server, *lines: str) -> None:
    with server.log.open("a") as log:
        log.writelines(f"2026-01-01 00:00:00 UTC [1] : {line}\n" for line in lines)


CRASH = "LOG:  server process (PID 31) was terminated by signal 11: Segmentation fault"
KILLED = "LOG:  server process (PID 31) was terminated by signal 9: Killed"


def test_a_crash_is_told_once_with_the_lines_around_it(server: Server) -> None:
    write(
        server, *(f"LOG:  line {number}" for number in range(30)), CRASH, "DETAIL:  Failed process was running: SELECT"
    )
    (failure,) = server.crashes()
    assert failure.message == f"a process of the server main crashed: {CRASH}"
    lines = failure.detail.splitlines()
    assert "line 20" in lines[0] and lines[-1].endswith("running: SELECT")
    assert server.crashes() == []
    write(server, "PANIC:  could not write")
    assert "PANIC" in server.crashes()[0].message


def test_what_a_check_does_itself_is_no_crash(server: Server) -> None:
    server.may_be_killed = True
    write(server, KILLED)
    assert server.crashes() == []
    write(server, CRASH)
    assert len(server.crashes()) == 1
    server.may_crash = True
    write(server, CRASH)
    assert server.crashes() == []


def test_what_ends_a_check_is_told_of_the_test_that_was_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.test("first"):
        pass
    with pytest.raises(Overdue), report.test("second"):
        raise Overdue("it took too long", "what was going on")
    report.stop("it took too long", "what was going on")
    report.stop("something else", "")
    assert [(result.name, result.outcome) for result in report.results] == [
        ("first", "passed"),
        ("second", "failed"),
        ("the check itself", "failed"),
    ]
    assert "    what was going on" in capsys.readouterr().out


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    def written(name: str) -> bytes:
        report = Report()
        for test in ("one", "two # of \\ them"):
            with report.test(test):
                pass
        report.add("three", "skipped", "not here")
        report.write(tmp_path / name)
        return (tmp_path / name / "results.tap").read_bytes()

    assert written("a") == written("b")
    tests = list(read_tap(written("c").decode()))
    assert [(test.test, test.outcome, test.reason) for test in tests] == [
        ("one", "passed", ""),
        ("two # of \\ them", "passed", ""),
        ("three", "skipped", "not here"),
    ]


def test_a_failure_of_a_test_does_not_end_the_check() -> None:
    report = Report()
    with report.test("one"):
        raise Failure("so it is")
    assert report.failed and report.under_way is None


def test_what_was_cancelled_has_not_failed() -> None:
    events: list[Event] = []
    with pytest.raises(ValueError, match="killed"), task(events.append, "1", "check", "one", cancelled=lambda: True):
        raise ValueError("killed")
    assert [event.outcome for event in events if isinstance(event, Finished)] == ["cancelled"]
