"""What a change rebuilds: no more than it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.recipes.recipe import SHIPPED
from pgbake.store.local import LocalStore
from tests.moves import move_runtime_pin
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["libssl3", "libc6"])
def test_a_moved_runtime_pin_compiles_nothing(apart: TestProject, name: str, tmp_path: Path) -> None:
    project = apart
    before = project.json("plan")
    assert before["build"] == []
    old = project.json("build")["paths"]["bundle"]
    move_runtime_pin(project, name, tmp_path)
    plan = project.json("plan")
    assert [item["name"] for item in plan["build"]] == ["example-postgresql-15.18"]
    assert [item["name"] for item in plan["fetch"]] == [name]
    new = project.json("build")["paths"]["bundle"]
    assert new != old
    with LocalStore(project.store) as store:
        references = {path.name for path in store.info(StorePath.parse(new)).references}
    assert any(reference.startswith(f"{name}-") and reference.endswith("fix1") for reference in references)
    assert not any(reference.startswith(f"{name}-") and not reference.endswith("fix1") for reference in references)
    assert project.pgbake("run", "--", "psql", "--version").stdout.startswith("psql (PostgreSQL) 15.18")


def test_a_changed_recipe_rebuilds_its_package_and_the_merge(apart: TestProject) -> None:
    project = apart
    recipes = project.directory / "recipes"
    recipes.mkdir()
    shipped = (SHIPPED / "recipes/numeral.toml").read_text()
    (recipes / "numeral.toml").write_text(shipped + 'make = ["COPT=-DCHANGED"]\n')
    plan = project.json("plan")
    assert [item["name"] for item in plan["build"]] == ["postgresql-15-numeral-1.3", "example-postgresql-15.18"]
    built = project.json("build")["built"]
    assert built == ["postgresql-15-numeral-1.3", "example-postgresql-15.18"]
    assert "-DCHANGED" in project.pgbake("log", "numeral").stdout
