"""Recipes that are wrong in ways that only their build shows: one error that names the recipe, and what to do."""

from __future__ import annotations

import pytest

from pgbake.recipes.recipe import SHIPPED
from tests.projects import TestProject

pytestmark = pytest.mark.integration


def change_recipe(project: TestProject, name: str, line: str) -> None:
    """Give the project a recipe of its own: the shipped one with a further line."""
    recipes = project.directory / "recipes"
    recipes.mkdir(exist_ok=True)
    shipped = (SHIPPED / f"recipes/{name}.toml").read_text()
    (recipes / f"{name}.toml").write_text(f"{shipped}\n{line}\n")


def fails(project: TestProject, *args: str) -> tuple[str, str, str]:
    """Run a command that must fail; return its error, its hint and all that it said."""
    done = project.pgbake(*args, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    (hint,) = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    return error, hint, done.stderr


def test_a_recipe_that_installs_nothing(apart: TestProject) -> None:
    change_recipe(apart, "numeral", 'make = ["--just-print"]')
    for _ in range(2):  # and it is not valid by then
        error, hint, _said = fails(apart, "build", "numeral")
        assert error == "error: postgresql-15-numeral-1.3 was built, but its makefile installed nothing"
        assert "pgbake log numeral" in hint and "DESTDIR" in hint and "`make` in the recipe" in hint
    assert "--- phase: install" in apart.pgbake("log", "numeral").stdout


def test_a_module_that_lacks_a_symbol(apart: TestProject) -> None:
    change_recipe(apart, "numeral", 'make = ["COPT=-Dpalloc0=no_such_function"]')
    apart.pgbake("build", "numeral")  # a compiler cannot know what the server has
    error, hint, said = fails(apart, "build")
    assert error.startswith("error: example-postgresql-15.18 failed to build in phase check")
    assert "merge: numeral 1.3: lib/postgresql/15/lib/numeral.so wants no_such_function, defined neither by" in said
    assert "pgbake log bundle" in hint
