"""What is told of an interface that has changed, and of updates that can be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.checks.harness import interface, update
from pgbake.checks.harness.report import Report
from pgbake.checks.harness.server import Session
from pgbake.checks.known import Known
from pgbake.errors import ManifestError

BEFORE = "# head\n\n[a 1]\ncontrol: x\nfunction f()\n\n[b 1]\nfunction g()\n"


def test_a_difference_names_the_extensions() -> None:
    after = BEFORE.replace("function f()", "function f(integer)") + "\n[c 1]\nfunction h()\n"
    message, detail = interface.difference(BEFORE, after, "tests/interface/15.txt")
    assert "(a, b, c)" in message or "(a, c)" in message
    assert "4 lines more, 1 fewer" in message and "pgbake check --accept interface" in message
    assert "-function f()" in detail and "+function f(integer)" in detail


def test_a_long_difference_is_cut() -> None:
    after = BEFORE + "".join(f"function h{number}()\n" for number in range(1000))
    _, detail = interface.difference(BEFORE, after, "tests/interface/15.txt")
    lines = detail.splitlines()
    assert len(lines) == interface._SHOWN + 1 and lines[-1].startswith("... and ")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    directory = tmp_path / "share/postgresql/15/extension"
    directory.mkdir(parents=True)
    for name in (
        "a--1.9",
        "a--1.10",
        "a--1.2",
        "a--2.0",
        "a--1.9--1.10",
        "a--unpackaged",
        "a--unpackaged--1.2",
        "ab--1.0",
    ):
        (directory / f"{name}.sql").touch()
    (directory / "a.control").write_text("default_version = '2.0'\n")
    (directory.parent / "elsewhere").mkdir()
    (directory.parent / "elsewhere/b--1.sql").touch()
    (directory / "b.control").write_text("default_version = '2'\ndirectory = 'elsewhere'\n")
    (tmp_path / "receipt.json").write_text(json.dumps({"postgresql": {"major": 15}}))
    return Session(tmp_path, {}, Report(), tmp_path / "servers")


def test_older_versions_are_those_with_a_script_of_their_own(session: Session) -> None:
    assert update.older(session, {"name": "a", "version": "2.0"}) == ["1.2", "1.9", "1.10"]
    assert update.older(session, {"name": "b", "version": "2"}) == ["1"]


def test_what_is_known_is_of_a_kind_and_a_major(tmp_path: Path) -> None:
    own = tmp_path / "known.toml"
    own.write_text(
        '[[exception]]\ncheck = "update"\nname = "mine"\nstage = "rows"\nversions = ["1"]\nreason = "so"\n'
        '[[exception]]\ncheck = "licence"\nname = "mine"\nmajors = [18]\nreason = "later"\n'
    )
    known = Known(15, own)
    assert {"name": "mine", "reason": "so", "stage": "rows", "versions": ["1"]} in known.of("update")
    assert "mine" not in known.reasons("licence") and known.reasons("licence")["numeral"]
    assert Known(18, own).reasons("licence")["mine"] == "later"


def test_a_file_of_what_is_known_that_is_wrong(tmp_path: Path) -> None:
    own = tmp_path / "known.toml"
    own.write_text('[[exception]]\ncheck = "licence"\nnam = "mine"\nreason = "so"\n')
    with pytest.raises(ManifestError, match=r"known\.toml"):
        Known(15, own).of("licence")
