"""The words of recipes reach the programs that they are for as they are written."""

from __future__ import annotations

import subprocess

import pytest

from pgbake.recipes.builders import build_environment, build_script, configuring
from pgbake.recipes.recipe import Builder, Recipe

WORDS = (
    ("OPTFLAGS=", "OPTFLAGS="),
    ("A=$pg_config", "A=/build/pg_config"),
    ("-DX=$major", "-DX=15"),
    ("SHLIB_LINK=$(libpq) ${more}", "SHLIB_LINK=$(libpq) ${more}"),
    ("A=$(shell date)", "A=$(shell date)"),
    ('A="x y" \\n `z` $', 'A="x y" \\n `z` $'),
)


@pytest.mark.parametrize(("word", "seen"), WORDS)
def test_a_word_is_evaluated_but_for_what_is_make_s(word: str, seen: str) -> None:
    recipe = Recipe("a", builder="pgxs", make=(word, "second"))
    environment = build_environment(recipe, 15, "1.0")
    script = 'pg_config=/build/pg_config; eval "makeFlags=($makeFlags)"; printf "%s\\n" "${makeFlags[@]}"'
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{seen}\nsecond\n"


@pytest.mark.parametrize(
    "builder", ["postgresql", "pgxs", "make", "autotools", "cmake", "meson", "cargo", "cargo-pgrx"]
)
def test_every_script_is_a_script(builder: Builder) -> None:
    script = build_script(Recipe("a", builder=builder, outputs={"dev": ("usr/include",)}))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "take $dev usr/include" in script


def test_suites_are_configured_as_builds_are() -> None:
    recipe = Recipe(name="a", builder="cmake")
    assert configuring(Recipe(name="a", builder="pgxs")) == ""
    begin, _, steps = configuring(recipe).rpartition("phase configure")
    assert "unpack() {" in begin
    assert f"phase configure{steps}" in build_script(recipe)
    assert "phase build" not in steps
