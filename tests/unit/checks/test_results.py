"""What checks tell is read as it was told, also where a test's own output looks like it."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pgbake.bundle.merge import lower_bundle
from pgbake.checks.check import Check, lower_checks
from pgbake.checks.harness.report import Failure, Report, Skipped
from pgbake.checks.record import Record
from pgbake.checks.results import Outcome, Test, failed_outcome, junit, read_tap, read_told
from pgbake.errors import BuildError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue
from pgbake.store.local import LocalStore


@pytest.fixture
def check(manifest: Manifest, catalogue: Catalogue, lock: Lock, tmp_path: Path) -> Check:
    return lower_checks(
        lower_bundle(manifest, catalogue, lock, SYSTEMS["x86_64-linux"]),
        manifest,
        catalogue,
        lock,
        SYSTEMS["x86_64-linux"],
        tmp_path,
    ).by_name()["smoke/pgvector"]


def write_log(store: LocalStore, check: Check, *lines: str) -> None:
    file = store.log_file(check.derivation.path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bz2.compress("\n".join(lines).encode()))


def said(**value: object) -> str:
    return "@pgbake " + json.dumps(value)


def test_a_log_is_read(check: Check, tmp_path: Path) -> None:
    with LocalStore(tmp_path / "store") as store:
        assert read_told(store, check) is None
        write_log(
            store, check, "noise", said(begin="a"), said(test="a", outcome="passed", seconds=0.5), "@pgbake {broken",
            said(test="b", outcome="failed", reason="why", detail="one\ntwo"), said(offer="expected/a.out", text="x\n"),
            '@pgbake {"test": 7}',
        )  # fmt: skip
        told = read_told(store, check)
        assert told is not None
        assert told.tests == [Test("a", "passed", seconds=0.5), Test("b", "failed", "why", detail="one\ntwo")]
        assert told.offers == {"expected/a.out": "x\n"}
        outcome = failed_outcome(store, check, BuildError("it failed"))
        assert outcome.error is None and [test.test for test in outcome.failures] == ["b"]


def test_a_check_that_told_nothing_has_its_error(check: Check, tmp_path: Path) -> None:
    with LocalStore(tmp_path / "store") as store:
        error = BuildError("the sandbox could not be made")
        assert failed_outcome(store, check, error).error is error


def test_what_a_report_writes_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.test("one # of \\ them"):
        pass
    with report.test("two"):
        raise Skipped("not here")
    report.files["interface.txt"] = "surface\n"
    report.write(tmp_path / "out")
    text = (tmp_path / "out/results.tap").read_text()
    assert text.startswith("TAP version 14\n1..2\n") and "0." not in text  # no seconds
    assert list(read_tap(text)) == [Test("one # of \\ them", "passed"), Test("two", "skipped", "not here")]
    assert (tmp_path / "out/interface.txt").read_text() == "surface\n"
    assert '@pgbake {"begin": "two"}' in capsys.readouterr().out


def test_a_failed_test_does_not_end_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.test("one"):
        raise Failure("wrong", "because\nof this")
    with report.test("two"):
        pass
    assert report.failed and [result.outcome for result in report.results] == ["failed", "passed"]
    assert "not ok - one: wrong" in capsys.readouterr().out


def test_junit_holds_all_even_what_xml_cannot(check: Check) -> None:
    tests = (
        Test("a", "passed", seconds=1.5),
        Test("b", "failed", "bell \x07", detail="\x00"),
        Test("c", "skipped", "n/a"),
    )
    root = ElementTree.fromstring(
        junit([Outcome(check, "failed", tests, 1.5), Outcome(check, "failed", (), None, BuildError("no sandbox"))])
    )
    first, second = root
    assert first.attrib == {
        "name": "smoke/pgvector", "tests": "3", "failures": "1", "errors": "0", "skipped": "1", "time": "1.500",
    }  # fmt: skip
    assert [case.get("name") for case in first] == ["a", "b", "c"]
    assert first.find(".//failure").get("message") == "bell \ufffd"  # type: ignore[union-attr]
    assert second.find(".//error").get("message") == "no sandbox"  # type: ignore[union-attr]


def test_the_last_run_is_remembered(check: Check, tmp_path: Path) -> None:
    record = Record(tmp_path / "records", tmp_path)
    assert record.changed(check) and not record.failed(check)
    record.add([Outcome(check, "failed", (), None)])
    again = Record(tmp_path / "records", tmp_path)
    assert again.failed(check) and not again.changed(check)
    (file,) = (tmp_path / "records").iterdir()
    file.write_text("{damaged")
    assert Record(tmp_path / "records", tmp_path).changed(check)
