"""Suites as checks, each with a planted fault: the user's own tests, pgTAP, and what extensions bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgbake.recipes.recipe import SHIPPED
from tests.projects import TestProject

pytestmark = pytest.mark.integration


def write(project: TestProject, name: str, text: str) -> Path:
    file = project.directory / "tests" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(project: TestProject, *names: str) -> dict[str, Any]:
    """Run checks, and return what came of them by name: ``{test: (outcome, reason)}``."""
    done = project.pgbake("check", *names, "--json", check=False)
    assert done.stdout, done.stderr
    outcomes = json.loads(done.stdout)
    for outcome in outcomes:
        assert outcome["error"] is None, outcome
    assert (done.returncode != 0) == any(outcome["state"] == "failed" for outcome in outcomes)
    return {
        outcome["name"]: {test["test"]: (test["outcome"], test.get("reason", "")) for test in outcome["tests"]}
        for outcome in outcomes
    }


@pytest.fixture(scope="module")
def tapped(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """The example with pgTAP."""
    project = TestProject.copy(tmp_path_factory.mktemp("tapped") / "project", example.home)
    project.edit('  "pgvector",\n', '  "pgvector",\n  "pgtap",\n')
    project.pgbake("lock")
    return project


def test_a_difference_is_caught_and_accepted(project: TestProject) -> None:
    write(project, "sql/good.sql", "SELECT 1 AS one;\n")
    write(project, "expected/good.out", "SELECT 1 AS one;\n one \n-----\n   1\n(1 row)\n\n")
    write(project, "sql/bad.sql", "SELECT 2 AS two;\n")
    bad = write(project, "expected/bad.out", "SELECT 2 AS two;\n two \n-----\n   3\n(1 row)\n\n")
    write(project, "sql/new.sql", "SELECT 'new' AS new;\n")
    write(project, "sql/major.sql", "SELECT 'major' AS of;\n")
    general = write(project, "expected/major.out", "another major's\n")
    write(project, "expected/15/major.out", "old\n")
    found = run(project, "regress/own")["regress/own"]
    assert found["good"] == ("passed", "")
    assert found["bad"][0] == "failed"
    assert "tests/expected/bad.out" in found["bad"][1]
    assert "there is no tests/expected/new.out yet" in found["new"][1]
    assert "tests/expected/15/major.out" in found["major"][1]
    shown = project.pgbake("check", "regress/own", check=False).stdout
    assert "-   3" in shown
    assert "+   2" in shown

    accepted = project.pgbake("check", "--accept", "regress/own").stdout
    assert set(accepted.splitlines()) == {f"wrote tests/expected/{name}.out" for name in ("15/major", "bad", "new")}
    assert "   2\n" in bad.read_text()
    assert general.read_text() == "another major's\n"
    assert {outcome for outcome, _ in run(project, "regress/own")["regress/own"].values()} == {"passed"}


def test_alternative_outputs_are_tried(project: TestProject) -> None:
    write(project, "sql/many.sql", "SELECT 1;\n")
    write(project, "expected/many.out", "another machine's\n")
    write(project, "expected/many_1.out", "SELECT 1;\n ?column? \n----------\n        1\n(1 row)\n\n")
    assert run(project, "regress/own")["regress/own"] == {"many": ("passed", "")}


_SPEC = """
setup { CREATE TABLE t (a int); }
teardown { DROP TABLE t; }
session s1
step begin { BEGIN; }
step lock { LOCK TABLE t; }
step commit { COMMIT; }
session s2
step read { SELECT count(*) FROM t; }
permutation begin lock read commit
"""


def test_isolation_is_tested(project: TestProject) -> None:
    write(project, "isolation/wait.spec", _SPEC)
    found = run(project, "isolation/own")["isolation/own"]
    assert "there is no tests/expected/wait.out yet" in found["wait"][1]
    project.pgbake("check", "--accept", "isolation/own")
    expected = project.directory / "tests/expected/wait.out"
    assert "<waiting ...>" in expected.read_text()
    assert run(project, "isolation/own")["isolation/own"] == {"wait": ("passed", "")}
    expected.write_text(expected.read_text().replace("waiting", "running"))
    assert run(project, "isolation/own")["isolation/own"]["wait"][0] == "failed"


def test_faults_of_tap_scripts_are_caught(tapped: TestProject) -> None:
    write(
        tapped,
        "tap/good.sql",
        "SELECT plan(2);\nSELECT ok(true, 'yes');\nSELECT pass('too');\nSELECT * FROM finish();\n",
    )
    write(tapped, "tap/bad.sql", "SELECT plan(2);\nSELECT is(1, 2, 'wrong');\nSELECT pass();\n")
    write(tapped, "tap/short.sql", "SELECT plan(3);\nSELECT pass();\nSELECT * FROM finish();\n")
    write(tapped, "tap/dies.sql", "SELECT no_plan();\nSELECT pass('first');\nSELECT 1 / 0;\nSELECT * FROM finish();\n")
    found = run(tapped, "tap")
    assert {outcome for outcome, _ in found["tap/good"].values()} == {"passed"}
    assert found["tap/bad"]["1 wrong"] == ("failed", "not ok")
    assert found["tap/bad"]["as planned"] == ("passed", "")
    assert found["tap/short"]["as planned"] == ("failed", "it planned 3 tests and ran 1")
    assert found["tap/dies"]["1 first"] == ("passed", "")
    assert "division by zero" in found["tap/dies"]["as planned"][1]


def test_pgtap_must_be_in_the_bundle(project: TestProject) -> None:
    write(project, "tap/a.sql", "SELECT plan(1);\nSELECT pass();\n")
    ((outcome, reason),) = run(project, "tap/a")["tap/a"].values()
    assert outcome == "failed"
    assert 'add "pgtap" to `extensions`' in reason


def test_a_fault_in_an_extensions_suite_is_caught(project: TestProject) -> None:
    assert {outcome for outcome, _ in run(project, "regress/numeral")["regress/numeral"].values()} == {"passed"}
    recipes = project.directory / "recipes"
    recipes.mkdir()
    shipped = (SHIPPED / "recipes/numeral.toml").read_text()
    planted = """\n[suite]\nprepare = "sed -i 's/(1 row)/(2 rows)/' expected/roman.out"\n"""
    (recipes / "numeral.toml").write_text(shipped + planted)
    found = run(project, "regress/numeral")["regress/numeral"]
    assert [name for name, (outcome, _) in found.items() if outcome == "failed"] == ["roman"]


def test_a_suite_may_have_a_command_of_its_own(project: TestProject) -> None:
    recipes = project.directory / "recipes"
    recipes.mkdir()
    shipped = (SHIPPED / "recipes/numeral.toml").read_text()
    command = 'echo "+++ check in $kind +++"; make "$@" installcheck'
    (recipes / "numeral.toml").write_text(f"{shipped}\n[suite]\ncommand = '''{command}'''\n")
    found = run(project, "regress/numeral")["regress/numeral"]
    assert found["regress/roman"] == ("passed", "")
    assert {name.partition("/")[0] for name in found} == {"regress"}


def _numeral(project: TestProject, suite: str) -> dict[str, tuple[str, str]]:
    """Run the suite of the extension numeral with words of its recipe's."""
    recipes = project.directory / "recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "numeral.toml").write_text(f"{(SHIPPED / 'recipes/numeral.toml').read_text()}\n[suite]\n{suite}\n")
    found: dict[str, tuple[str, str]] = run(project, "regress/numeral")["regress/numeral"]
    return found


_STEPS = """[suite.steps]
dies = "echo 'no room is left'; exit 3"
halfway = "echo 'test one                     ... ok           22 ms'; kill -9 $$"
fewer = "echo 'ok 1         - one  2 ms'; echo 1..3"
runs = 'make "$@" installcheck'
silent = "true"
absent = "echo 'the bundle has none'; exit 77"
"""


def test_a_step_that_breaks_off_is_told_and_the_others_are_run(project: TestProject) -> None:
    found = _numeral(project, _STEPS)
    assert found["dies/suite"] == ("failed", "bash ended with status 3, and no test has failed")
    assert found["halfway/one"] == ("passed", "")
    assert found["halfway/suite"][0] == "failed" and "status -9" in found["halfway/suite"][1]
    assert found["fewer/suite"] == ("failed", "3 tests were run, and 1 of them told")
    assert found["runs/roman"] == ("passed", "")
    assert found["silent/suite"] == ("failed", "bash ran no test")
    assert found["absent/suite"] == ("skipped", "the bundle has none")


def test_tests_that_a_dead_server_leaves_are_failures(project: TestProject) -> None:
    """The first test kills the postmaster: neither it nor what is behind it makes fewer tests."""
    kill = r"echo '\! kill -9 $(head -1 /build/servers/main/data/postmaster.pid)' > sql/$first.sql"
    prepare = f"first=$(make -s --eval 'first: ; @echo $(firstword $(REGRESS))' first PG_CONFIG=$pg_config)\n{kill}"
    found = _numeral(project, f"prepare = '''\n{prepare}\n'''")
    failed = {name: reason for name, (outcome, reason) in found.items() if outcome == "failed"}
    assert len(failed) > 1 and "roman" in failed
    assert failed["suite"] == "the server main did not outlive it"


def test_a_suite_that_runs_nothing_fails_where_there_are_tests(project: TestProject) -> None:
    found = _numeral(project, "prepare = \"sed -i 's/^REGRESS/NOT_REGRESS/' Makefile\"")
    ((outcome, reason),) = found.values()
    assert outcome == "failed" and "runs nothing, and its source has expected" in reason
    found = _numeral(project, "prepare = \"sed -i 's/^REGRESS/NOT_REGRESS/' Makefile; rm -r sql expected\"")
    assert found == {"suite": ("skipped", "its source has no tests")}
    found = _numeral(project, 'left_out = "it is about time"')
    assert found == {"suite": ("skipped", "it is not run: it is about time")}


_SCRIPTS = """tap = { scripts = ["t/*.sql"], before = "CREATE EXTENSION numeral; CREATE TABLE seen (n int)" }
prepare = '''
mkdir t
echo "SELECT plan(2); SELECT has_table('seen'); SELECT pass();" > t/good.sql
echo "SELECT plan(2); SELECT is(1, 2, 'wrong'); SELECT pass();" > t/bad.sql
echo "SELECT plan(2); SELECT pass();" > t/short.sql
echo "SELECT plan(1); SELECT 1 / 0;" > t/dies.sql
echo "SELECT plan(2); SELECT skip('not here', 1); SELECT pass();" > t/skips.sql
'''
"""


def test_a_suite_of_pgtap_scripts(tapped: TestProject) -> None:
    found = _numeral(tapped, _SCRIPTS)
    assert found["t/good"] == ("passed", "") and found["t/skips"] == ("passed", "")
    assert found["t/bad"] == ("failed", "not ok: 1 wrong")
    assert found["t/short"] == ("failed", "it planned 2 tests and ran 1")
    assert found["t/dies"][0] == "failed" and "division by zero" in found["t/dies"][1]
    assert [reason for outcome, reason in found.values() if outcome == "skipped"] == ["not here"]


def test_a_suite_of_pgtap_scripts_wants_pgtap(project: TestProject) -> None:
    found = _numeral(project, 'tap = { scripts = ["t/*.sql"] }')
    assert found["suite"][0] == "skipped" and "pgbake add pgtap" in found["suite"][1]


def test_a_suite_that_is_not_there_is_told(project: TestProject) -> None:
    found = run(project, "regress/prioritize")["regress/prioritize"]
    assert found["prioritize"][0] == "skipped"
    assert "does not hold" in found["prioritize"][1]


@pytest.mark.full
def test_contrib_passes(project: TestProject) -> None:
    found = run(project, "regress/contrib", "isolation/contrib")
    results = found["regress/contrib"]
    assert len(results) > 200
    assert {"dblink/dblink", "postgres_fdw/postgres_fdw", "plpython3u/plpython_call"} <= results.keys()
    assert [name for name, (outcome, _) in results.items() if outcome == "skipped"] == ["TAP tests"]
    assert found["isolation/contrib"]["postgres_fdw/eval_plan_qual"] == ("passed", "")
