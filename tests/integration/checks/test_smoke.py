"""The example's extensions are created, used, dropped and created again; what has passed is not run again."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

from tests.projects import TestProject


def _own(example: TestProject, tmp_path: Path) -> TestProject:
    """Return a project of the same bundle, for tests to put files into."""
    return TestProject.copy(tmp_path / "own", example.home)


def test_all_pass_and_are_kept(example: TestProject, tmp_path: Path) -> None:
    project = _own(example, tmp_path)
    outcomes = project.json("check", "smoke")
    assert len(outcomes) == 13 and all(outcome["state"] != "failed" for outcome in outcomes)
    assert not [test for outcome in outcomes for test in outcome["tests"] if test["outcome"] != "passed"]
    done = project.pgbake("check", "smoke")
    assert "13 checks passed, 13 of them before" in done.stdout and "checking" not in done.stderr
    listed = project.json("check", "--list", "smoke")
    assert len(listed) == 13 and all(check["passed"] for check in listed)
    assert project.pgbake("check", "--dry-run", "smoke").stdout == "all of them have passed\n"
    assert project.json("check", "smoke", "--changed") == []


def test_a_use_that_fails_is_told_and_run_again(example: TestProject, tmp_path: Path) -> None:
    project = _own(example, tmp_path)
    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    (uses / "pgvector.sql").write_text("SELECT '[1,2]'::vector <-> '[1,3]' = 2;\nSELECT true;\n")
    done = project.pgbake("check", "smoke/pgvector", "smoke/numeral", "--junit", str(tmp_path / "j.xml"), check=False)
    assert done.returncode == 1
    assert "used: its use gave other answers than t: 1" in done.stdout
    assert "error: 1 of 2 checks failed: smoke/pgvector" in done.stderr
    (uses / "pgvector.sql").write_text("SELECT true;\nSELECT nothing();\n")
    assert (
        "psql:<stdin>:2: ERROR" in project.pgbake("check", "smoke/pgvector", check=False).stdout
    )  # the use's own line
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert {suite.get("name"): suite.get("failures") for suite in root} == {"smoke/numeral": "0", "smoke/pgvector": "1"}
    # A text that no run before has had, for the shared store keeps results.
    (uses / "pgvector.sql").write_text(f"-- {uuid4()}\nSELECT '[1,2]'::vector <-> '[1,3]' = 1;\n")
    (outcome,) = project.json("check", "--failed")
    assert (outcome["name"], outcome["state"]) == ("smoke/pgvector", "passed")
    assert project.json("check", "--failed") == []


def test_a_second_run_gives_the_same_bytes(apart: TestProject) -> None:
    path = Path(apart.json("check", "smoke/numeral")[0]["path"])
    file = apart.store / path.relative_to("/") / "results.tap"
    before = file.read_bytes()
    assert b"ok 2 - used\n" in before
    (outcome,) = apart.json("check", "smoke/numeral", "--again")
    assert outcome["state"] == "passed" and file.read_bytes() == before


def test_checks_run_where_the_project_has_no_lock(example: TestProject, tmp_path: Path) -> None:
    project = _own(example, tmp_path)
    (project.directory / "pgbake.lock").unlink()
    done = project.pgbake("check", check=False)
    assert done.returncode == 1 and "pgbake lock" in done.stderr and "Traceback" not in done.stderr
