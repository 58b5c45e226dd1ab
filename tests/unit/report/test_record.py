"""Which bundle is the one before, and reading earlier reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pgbake.errors import ManifestError
from pgbake.report.collect import cut
from pgbake.report.facts import Comparison, Side
from pgbake.report.page import render
from pgbake.report.record import ReportRecord, read_side
from tests.reports import facts


def test_the_one_before_stays_when_a_report_is_written_again(tmp_path: Path) -> None:
    first, second, third = (replace(facts().side, path=f"/nix/store/{number}") for number in range(3))

    def report() -> ReportRecord:
        return ReportRecord(tmp_path / "reports", tmp_path)

    def path_before(side: Side) -> str | None:
        before = report().before(side.path)
        return before.side.path if before else None

    assert path_before(first) is None
    report().keep(first, None)
    assert path_before(first) is None
    for _ in range(2):
        assert path_before(second) == first.path
        report().keep(second, report().before(second.path))
    assert path_before(third) == second.path
    report().keep(third, report().before(third.path))
    assert path_before(third) == second.path
    assert ReportRecord(tmp_path / "reports", tmp_path / "other").before(third.path) is None


def test_what_was_found_in_the_store_is_kept_for_the_first_report(tmp_path: Path) -> None:
    side = facts().side
    other = Comparison(replace(side, path="/nix/store/other"), "found in the store")
    ReportRecord(tmp_path, tmp_path).keep(side, other)
    assert ReportRecord(tmp_path, tmp_path).before(side.path) == other


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    ReportRecord(tmp_path, tmp_path).keep(facts().side, None)
    next(tmp_path.glob("*.json")).write_text("{")
    assert ReportRecord(tmp_path, tmp_path).before("/nix/store/x") is None


def test_a_page_and_its_json_tell_the_same(tmp_path: Path) -> None:
    report = facts()
    (tmp_path / "page.html").write_text(render(report))
    (tmp_path / "facts.json").write_bytes(msgspec.json.encode(report))
    assert read_side(tmp_path / "page.html") == read_side(tmp_path / "facts.json") == report.side


@pytest.mark.parametrize("content", ["", "{}", "<html></html>", "\x00", "[1, 2"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ManifestError, match="is no report"):
        read_side(tmp_path / "file")
    with pytest.raises(ManifestError, match="cannot read"):
        read_side(tmp_path / "missing")


def test_long_texts_keep_begin_and_end() -> None:
    assert cut("a\nb", 100) == ("a\nb", 0)
    lines = [f"line {number:04}" for number in range(1000)]
    shown, left_out = cut("\n".join(lines), 2000)
    assert shown.startswith("line 0000\n") and shown.endswith("\nline 0999")
    assert f"[... {left_out} lines are left out here ...]" in shown
    assert shown.count("\n") + left_out == len(lines)
    assert len(shown) < 2100
    assert len(cut("x" * 100_000, 12_000)[0]) < 2100
