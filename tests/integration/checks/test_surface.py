"""Checks of what a bundle shows to its users: SQL interface, updates, closure, size, licences; with faults planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.projects import EXAMPLE, TestProject

pytestmark = pytest.mark.integration

_MANIFEST = """
name = "surface"
postgresql = 15
extensions = [{names}]
languages = []
locales = ["C.UTF-8"]
[platform]
suite = "bookworm"
security = false
updates = false
"""
_RECIPE = """
name = "{name}"
summary = "A small extension of the tests"
licence = "PostgreSQL"
builder = "pgxs"
[[source]]
path = "../sources/{name}"
version = "{version}"
"""
_CODE = """
#include "postgres.h"
#include "fmgr.h"
#include "miscadmin.h"
PG_MODULE_MAGIC;
"""
_FUNCTION = "PG_FUNCTION_INFO_V1({name});\nDatum {name}(PG_FUNCTION_ARGS) {{ PG_RETURN_INT32(1); }}\n"
_INIT = """
void _PG_init(void);
void _PG_init(void) {{ {body} }}
"""


class Workshop:
    """A project with small extensions of its own."""

    def __init__(self, project: TestProject) -> None:
        self.project = project
        self.names: list[str] = []

    def add(self, name: str, version: str, scripts: dict[str, str], code: str = "", licence: bool = True) -> None:
        """Add an extension, or change it; ``scripts``: SQL by what follows the name, as in ``--1.0.sql``."""
        source = self.project.directory / "sources" / name
        source.mkdir(parents=True, exist_ok=True)
        files = {f"{name}{end}": text for end, text in scripts.items()}
        files[f"{name}.control"] = (
            f"default_version = '{version}'\nmodule_pathname = '$libdir/{name}'\nrelocatable = true\n"
        )
        files["Makefile"] = (
            "EXTENSION = $(basename $(wildcard *.control))\nDATA = $(wildcard *.sql)\n"
            + (f"MODULES = {name}\n" if code else "")
            + "PGXS := $(shell $(PG_CONFIG) --pgxs)\ninclude $(PGXS)\n"
        )  # fmt: skip
        if code:
            files[f"{name}.c"] = _CODE + code
        if licence:
            files["LICENSE"] = "As PostgreSQL.\n"
        for file, text in files.items():
            (source / file).write_text(text)
        recipes = self.project.directory / "recipes"
        recipes.mkdir(exist_ok=True)
        (recipes / f"{name}.toml").write_text(_RECIPE.format(name=name, version=version))
        if name not in self.names:
            self.names.append(name)

    def lock(self) -> None:
        """Write the manifest, and lock it."""
        names = ", ".join(f'"{name}"' for name in self.names)
        (self.project.directory / "pgbake.toml").write_text(_MANIFEST.format(names=names))
        self.project.pgbake("lock")

    def write(self, file: str, text: str) -> None:
        """Write a file of the project's tests."""
        path = self.project.directory / "tests" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def check(self, *names: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Run checks; return their tests by name of check and test."""
        done = self.project.pgbake("check", *names, "--json", check=False)
        return {o["name"]: {test["test"]: test for test in o["tests"]} for o in json.loads(done.stdout)}


@pytest.fixture
def workshop(example: TestProject, tmp_path: Path) -> Workshop:
    return Workshop(TestProject.copy(tmp_path / "surface", example.home))


def _reasons(tests: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the reasons of what failed, by test."""
    return {name: test["reason"] for name, test in tests.items() if test["outcome"] == "failed"}


def test_the_example_passes(example: TestProject, tmp_path: Path) -> None:
    project = TestProject.copy(tmp_path / "own", example.home)
    (project.directory / "tests/interface").mkdir(parents=True)
    reviewed = (EXAMPLE / "tests/interface/15.txt").read_text()
    (project.directory / "tests/interface/15.txt").write_text(reviewed)
    outcomes = {o["name"]: o for o in project.json("check", "interface", "update", "closure", "size", "licence")}
    assert all(outcome["state"] != "failed" for outcome in outcomes.values())
    assert {test["outcome"] for test in outcomes["interface/all"]["tests"]} == {"passed"}
    with LocalStore(project.store) as store:
        top = project.project.bundle(host_system()).path
        total = sum(info.nar_size for info in store.closure([top]).values())
        sizes = Path(outcomes["size/bundle"]["path"]).relative_to("/") / "sizes.txt"
        assert int((project.store / sizes).read_text().split()[0]) == total
    updates = Path(outcomes["update/contrib"]["path"]).relative_to("/") / "updates.txt"
    assert "hstore 1.4 to 1.8: 2 rows in 1 tables" in (project.store / updates).read_text()


def test_an_interface_is_accepted_and_a_change_is_told(workshop: Workshop) -> None:
    one = "CREATE FUNCTION one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';\n"
    workshop.add("birdy", "1.0", {"--1.0.sql": one})
    workshop.lock()
    tests = workshop.check("interface")["interface/all"]
    assert tests["as reviewed"]["reason"] == "not reviewed yet: pgbake check --accept interface"
    assert "wrote tests/interface/15.txt" in workshop.project.pgbake("check", "--accept", "interface").stdout
    text = (workshop.project.directory / "tests/interface/15.txt").read_text()
    assert (
        "[birdy 1.0]\ncontrol: relocatable\nfunction public.one(integer) returns integer; language sql, immutable\n"
        in text
    )
    assert not _reasons(workshop.check("interface")["interface/all"])
    workshop.add("birdy", "1.0", {"--1.0.sql": one.replace("IMMUTABLE", "STABLE SECURITY DEFINER")})
    workshop.lock()
    tests = workshop.check("interface")["interface/all"]
    assert "(birdy): 1 lines more, 1 fewer" in tests["as reviewed"]["reason"]
    assert (
        "+function public.one(integer) returns integer; language sql, stable, security definer"
        in (tests["as reviewed"]["detail"])
    )
    workshop.project.pgbake("check", "--accept", "interface")
    assert not _reasons(workshop.check("interface")["interface/all"])


def test_updates_that_fail_are_told_each_in_its_way(workshop: Workshop) -> None:
    sql = "CREATE FUNCTION {0}() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
    in_c = "CREATE FUNCTION {0}() RETURNS int LANGUAGE C AS 'MODULE_PATHNAME', '{0}';\n"
    good = "CREATE TABLE data (n int); INSERT INTO data VALUES (1), (2); SELECT count(*) = 2 FROM data;\n"
    workshop.add("goodone", "2.0", {"--1.0.sql": sql.format("a"), "--1.0--2.0.sql": sql.format("b"),
                                    "--2.0.sql": sql.format("a") + sql.format("b")})  # fmt: skip
    workshop.write("uses/goodone.sql", good)
    workshop.add("noway", "2.0", {"--1.0.sql": sql.format("a"), "--2.0.sql": sql.format("a")})
    workshop.add("lessened", "2.0", {"--1.0.sql": sql.format("a"), "--1.0--2.0.sql": "SELECT 1;",
                                     "--2.0.sql": sql.format("a") + sql.format("b")})  # fmt: skip
    spoils = "DELETE FROM public.data WHERE n = 2;"
    workshop.add("spoilt", "2.0", {"--1.0.sql": sql.format("a"), "--1.0--2.0.sql": spoils,
                                   "--2.0.sql": sql.format("a")})  # fmt: skip
    workshop.write("uses/spoilt.sql", good)
    workshop.add("removed", "2.0", {"--1.0.sql": in_c.format("gone"), "--1.0--2.0.sql": "DROP FUNCTION gone();",
                                    "--2.0.sql": in_c.format("kept")}, _FUNCTION.format(name="kept"))  # fmt: skip
    workshop.add("broken", "1.0", {"--1.0.sql": "CREATE FUNCTION oops( RETURNS int;\n"}, licence=False)
    workshop.lock()
    outcomes = workshop.check(*(f"update/{name}" for name in workshop.names), "smoke/broken", "licence")
    assert outcomes["update/goodone"]["goodone 1.0 to 2.0"]["outcome"] == "passed"
    assert outcomes["update/broken"]["updates"]["reason"] == "only one version"
    reasons = {name: next(iter(_reasons(tests).values()), "") for name, tests in outcomes.items()}
    assert reasons["update/noway"] == "no script, nor a chain of them, leads from 1.0 to 2.0"
    assert reasons["update/lessened"] == "its objects are others than those of a fresh installation: 1 lines differ"
    assert reasons["update/spoilt"] == "rows are others than before the update"
    assert (
        "its library no longer has a function of it: " in reasons["update/removed"]
        and "gone" in reasons["update/removed"]
    )
    assert "syntax error" in reasons["smoke/broken"]
    assert _reasons(outcomes["licence/bundle"]) == {"broken 1.0": "its licence, PostgreSQL, is nowhere in the bundle"}
    workshop.write(
        "known.toml",
        '[[exception]]\ncheck = "update"\nname = "noway"\nstage = "path"\nreason = "1.0 was never released"\n'
        '[[exception]]\ncheck = "update"\nname = "goodone"\nstage = "update"\nreason = "it is said to fail"\n',
    )
    outcomes = workshop.check("update/noway", "update/goodone")
    assert outcomes["update/noway"]["noway 1.0 to 2.0"]["reason"] == "known: 1.0 was never released"
    assert "is listed as known not to" in outcomes["update/goodone"]["goodone 1.0 to 2.0"]["reason"]


def test_each_update_starts_from_the_same_roles(workshop: Workshop) -> None:
    """A role of one script is no role of the next, be it owner of a table of the use's."""
    role = "CREATE ROLE porter; CREATE TABLE {0} (n int); ALTER TABLE {0} OWNER TO porter;\n"
    script = role.format("things")
    workshop.add("roles", "3.0", {"--1.0.sql": script, "--2.0.sql": script, "--3.0.sql": script,
                                  "--1.0--3.0.sql": "SELECT 1;", "--2.0--3.0.sql": "SELECT 1;"})  # fmt: skip
    workshop.write("uses/roles.sql", "CREATE TABLE own (n int); ALTER TABLE own OWNER TO porter; SELECT true;\n")
    workshop.lock()
    tests = workshop.check("update/roles")["update/roles"]
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "roles 1.0 to 3.0": "passed",
        "roles 2.0 to 3.0": "passed",
    }


def test_what_requires_an_extension_is_as_old_as_it_is(workshop: Workshop) -> None:
    """An update that makes a function anew fails where a newer dependant is there, which nobody can have had."""
    old, new = (f"CREATE FUNCTION rooted() RETURNS int LANGUAGE sql AS 'SELECT {n}';\n" for n in (1, 2))
    above = "CREATE VIEW above AS SELECT rooted();\n"
    workshop.add("roots", "3.0", {
        "--1.0.sql": old, "--1.0--2.0.sql": f"DROP FUNCTION rooted();{new}", "--2.0.sql": new,
        "--2.0--3.0.sql": "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 3';\n",
        "--3.0.sql": f"{new}CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 3';\n",
        "_above.control": "default_version = '3.0'\nrequires = 'roots'\n",
        "_above--2.0.sql": above, "_above--3.0.sql": above, "_above--2.0--3.0.sql": "SELECT 1;\n",
    })  # fmt: skip
    workshop.write(
        "uses/roots.sql",
        "CREATE TABLE seen AS SELECT FROM pg_extension WHERE extname = 'roots_above' AND extversion = '2.0';\n",
    )
    workshop.lock()
    (outcome,) = workshop.project.json("check", "update/roots")
    assert {test["test"]: test["outcome"] for test in outcome["tests"]} == {
        "roots 1.0 to 3.0": "passed",
        "roots 2.0 to 3.0": "passed",
        "roots_above 2.0 to 3.0": "passed",
    }
    updates = workshop.project.store / Path(outcome["path"]).relative_to("/") / "updates.txt"
    assert "roots 1.0 to 3.0: 0 rows in 1 tables\nroots 2.0 to 3.0: 1 rows in 1 tables\n" in updates.read_text()


def test_a_library_that_cannot_be_preloaded_and_marks_of_a_build(workshop: Workshop) -> None:
    """The merge preloads what asks whether it is preloaded; what fails then is seen when a server starts."""
    body = 'if (process_shared_preload_libraries_in_progress) elog(FATAL, "not at the start");'
    function = "CREATE FUNCTION late() RETURNS int LANGUAGE C AS 'MODULE_PATHNAME', 'late';\n"
    code = _INIT.format(body=body) + _FUNCTION.format(name="late")
    workshop.add("late", "1.0", {"--1.0.sql": f"-- made in /build/source/here\n{function}"}, code)
    workshop.lock()
    outcomes = workshop.check("smoke/late", "closure")
    (reason,) = _reasons(outcomes["smoke/late"]).values()
    assert "ended as it started" in reason
    (mark,) = _reasons(outcomes["closure/bundle"]).values()
    assert mark.startswith("1 files hold a name of the build's: ") and "late--1.0.sql: /build/source" in mark


def test_what_works_only_when_it_is_preloaded(workshop: Workshop) -> None:
    """It does not ask the server, so the merge cannot know; its recipe must say so."""
    body = 'if (IsUnderPostmaster) elog(ERROR, "early must be in shared_preload_libraries");'
    function = "CREATE FUNCTION early() RETURNS int LANGUAGE C AS 'MODULE_PATHNAME', 'early';\n"
    workshop.add("early", "1.0", {"--1.0.sql": function}, _INIT.format(body=body) + _FUNCTION.format(name="early"))
    workshop.lock()
    assert "must be in shared_preload_libraries" in _reasons(workshop.check("smoke/early")["smoke/early"])["created"]
    recipe = workshop.project.directory / "recipes/early.toml"
    recipe.write_text(recipe.read_text().replace("[[source]]", 'preload = ["early"]\n[[source]]'))
    assert not _reasons(workshop.check("smoke/early")["smoke/early"])


def test_a_budget_that_is_too_small(example: TestProject, tmp_path: Path) -> None:
    project = TestProject.copy(tmp_path / "own", example.home)
    project.edit('name = "example"', 'name = "example"\nmax_closure = "100MB"')
    done = project.pgbake("check", "size", check=False)
    assert done.returncode == 1 and "more than the 100.0 MB of max_closure" in done.stdout
