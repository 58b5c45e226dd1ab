"""Errors in files that people write name the line that is meant, also where a key stands in several tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.errors import ManifestError
from pgbake.manifest import Manifest, load_manifest
from pgbake.recipes.recipe import Recipe
from pgbake.toml import load_toml

MANIFEST = 'name = "a"\npostgresql = 15\n'
RECIPE = 'name = "x"\nsummary = "s"\nlicence = "l"\nbuilder = "pgxs"\n'


@pytest.mark.parametrize(
    ("kind", "text", "line", "problem", "hint"),
    [
        (Manifest, MANIFEST + '[platform]\nname = "x"\n', 4, 'unknown key "name" in [platform]', "known keys: suite"),
        (Manifest, MANIFEST + "[ platform ]  # here\nsuite = 3\n", 4, "platform.suite: expected str", "in quotes"),
        (Manifest, MANIFEST + "platform.suite = 3\n", 3, "platform.suite: expected str", "in quotes"),
        (Manifest, MANIFEST + "platform = 3\n", 3, "platform: expected object", "write a table"),
        (Manifest, MANIFEST + '[settings]\nwork_mem = ["a"]\n', 3, "settings[...]: expected", ""),
        (Manifest, MANIFEST + '[platform]\nsystems = [\n"x", 3]\n', 4, "platform.systems[1]: expected str", "quotes"),
        (Manifest, MANIFEST + "[platfrm]\n", 3, 'unknown key "platfrm"', "did you mean platform?"),
        (Manifest, MANIFEST + '"extensons" = []\n', 3, 'unknown key "extensons"', "did you mean extensions?"),
        (Manifest, MANIFEST + "extensions = [\n", None, "", "not TOML"),
        (Manifest, 'name = "a"\n', None, 'the key "postgresql" is missing', "add postgresql"),
        (
            Recipe,
            RECIPE + 'source = { debian = "x", name = 1 }\n',
            5,
            'unknown key "name" in [source]',
            "debian, pool, url",
        ),
        (Recipe, RECIPE + 'source.debian = "x"\n[provides.a]\npreload = "x"\n', 7, "preload: expected array", "a list"),
        (Recipe, RECIPE + 'source.debian = "x"\n[provides.a]\nprload = []\n', 7, 'key "prload"', "mean preload?"),
    ],
)
def test_the_line_that_is_meant_is_named(
    tmp_path: Path, kind: type[Manifest | Recipe], text: str, line: int | None, problem: str, hint: str
) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load_toml(file, kind)
    assert caught.value.message.startswith(f"{file}:{line}: " if line else str(file))
    assert problem in caught.value.message and caught.value.hint and hint in caught.value.hint


@pytest.mark.parametrize(
    ("extra", "line", "problem"),
    [
        ('languages = ["plperl", "plruby"]\n', 3, '"plruby" is not known'),
        ('locales = ["english"]\n', 3, '"english" is no locale name'),
        ('extensions = ["a", "a"]\n', 3, '"a" is listed twice'),
        ('[platform]\nsystems = ["x86"]\n', 4, '"x86" is not known'),
        ("[platform]\nsystems = []\n", 4, "there must be one at least"),
    ],
)
def test_a_value_that_means_nothing_is_named(tmp_path: Path, extra: str, line: int, problem: str) -> None:
    file = tmp_path / "pgbake.toml"
    file.write_text(MANIFEST + extra)
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    assert caught.value.message.startswith(f"{file}:{line}: ") and problem in caught.value.message
    assert caught.value.hint


def test_what_is_no_text_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "pgbake.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "directory").mkdir()
    for name, problem in (("pgbake.toml", ":1:1: byte 0xff is not UTF-8"), ("directory", "cannot read")):
        with pytest.raises(ManifestError, match=problem):
            load_manifest(tmp_path / name)
