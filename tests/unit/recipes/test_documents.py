"""The recipes in the documents are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgbake.recipes.recipe import Recipe, load_catalogue
from tests.projects import REPOSITORY

TEXT = (REPOSITORY / "docs/recipes.md").read_text()
EXAMPLES = [
    re.sub(r"^    ", "", block, flags=re.MULTILINE)
    for block in re.findall(r"(?:^(?:    .*)?\n)+", TEXT, re.MULTILINE)
    if "name = " in block
]


def named(example: str) -> str:
    found = re.search(r'name = "(\w+)"', example)
    assert found
    return found[1]


def test_there_are_five_and_one_for_a_debian_package() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_it_is_a_recipe(example: str, tmp_path: Path) -> None:
    (tmp_path / f"{named(example)}.toml").write_text(example)
    recipe = load_catalogue(tmp_path).recipes[named(example)]
    assert recipe.builder or recipe.deb


def test_every_key_of_a_recipe_is_documented() -> None:
    words = TEXT[: TEXT.index("## A C extension")]
    assert [field for field in Recipe.__struct_fields__ if field not in ("major",) and f"`{field}`" not in words] == []


def test_a_user_adds_rules_for_debian_packages(tmp_path: Path) -> None:
    (tmp_path / "debian.toml").write_text('[[runtime]]\nmatch = "postgresql-*-wordlists"\nscripts = ["update-*"]\n')
    assert load_catalogue(tmp_path).debian.runtime[-1].scripts == ("update-*",)
    assert len(load_catalogue(tmp_path).debian.runtime) == len(load_catalogue().debian.runtime) + 1
