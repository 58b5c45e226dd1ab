"""What the sources of extensions say of themselves, and the recipes that are drafted from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.inputs.sources import SourceTree
from pgbake.recipes.draft import draft
from pgbake.recipes.recipe import Recipe, load_catalogue
from pgbake.recipes.survey import UNKNOWN_LICENCE, Survey, survey
from pgbake.toml import load_toml

PGXS = (
    "MODULE_big = foo\nEXTENSION = foo\nPG_CONFIG = pg_config\nPGXS := $(shell $(PG_CONFIG) --pgxs)\ninclude $(PGXS)\n"
)
CONTROL = "comment = 'the answer'\ndefault_version = '1.0'\nmodule_pathname = '$libdir/foo'\n"
MIT = "Permission is hereby granted, free of charge, to any person\nobtaining a copy"


def look(files: dict[str, str], label: str = "foo-1.2.3", major: int = 15, place: str = "") -> Survey:
    return survey(SourceTree(label, frozenset(files), files), major, place)


def test_an_extension_of_pgxs() -> None:
    found = look({"Makefile": PGXS, "foo.control": CONTROL, "LICENSE": MIT, "foo.c": "int x;"})
    assert (found.name, found.version, found.builder) == ("foo", "1.2.3", "pgxs")
    assert (found.summary, found.licence) == ("the answer", "MIT")
    assert (found.extensions, found.preload, found.packages) == (("foo",), (), ())


@pytest.mark.parametrize(
    ("files", "builder", "directory"),
    [
        ({"Makefile": PGXS}, "pgxs", ""),
        ({"Makefile": "all:\n\tcc\ninstall: all\n"}, "make", ""),
        ({"CMakeLists.txt": ""}, "cmake", ""),
        ({"CMakeLists.txt": "", "Makefile": PGXS}, "pgxs", ""),
        ({"meson.build": ""}, "meson", ""),
        ({"configure.ac": "", "Makefile.in": ""}, "autotools", ""),
        ({"configure": "", "Makefile": "include Makefile.global\n", "Makefile.global.in": "PGXS"}, "autotools", ""),
        (
            {"Cargo.toml": '[package]\nname = "foo"\n[dependencies]\npgrx = "=0.12.9"\n', "Makefile": PGXS},
            "cargo-pgrx",
            "",
        ),
        ({"pg/Makefile": PGXS, "pg/foo.control": CONTROL, "doc/Makefile": PGXS}, "pgxs", "pg"),
    ],
)
def test_builders(files: dict[str, str], builder: str, directory: str) -> None:
    found = look({"foo.control": CONTROL, **files} if not directory else files)
    assert (found.builder, found.directory) == (builder, directory)


def test_nothing_to_build_with() -> None:
    with pytest.raises(InputError, match=r"nothing in foo-1\.2\.3 says how to build it"):
        look({"foo.control": CONTROL, "foo.c": ""})


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("9.5.0", True),
        (">= 13.0.0, < 17", True),
        ("16.0.0", False),
        (">= 12, < 15", False),
        ("< 15.2", True),
        ("14 - x", True),
    ],
)
def test_versions_of_postgresql_that_meta_states(wanted: str, fits: bool) -> None:
    meta = json.dumps({"name": "foo", "prereqs": {"runtime": {"requires": {"PostgreSQL": wanted}}}})
    files = {"Makefile": PGXS, "META.json": meta}
    if fits:
        assert look(files).name == "foo"
    else:
        with pytest.raises(InputError, match=r"not 15: its META\.json says so"):
            look(files)


def test_versions_of_postgresql_that_pgrx_states() -> None:
    cargo = (
        '[package]\nname = "foo-bar"\nlicense = "MIT/Apache-2.0"\nversion = "0.3.0"\n[dependencies]\npgrx = "0.12"\n'
    )
    found = look({"Cargo.toml": cargo + "[features]\npg15 = []\npg16 = []\n"}, label="main")
    assert (found.name, found.version, found.licence) == ("foo-bar", "0.3.0", "MIT OR Apache-2.0")
    with pytest.raises(InputError, match="is for PostgreSQL 16, 17, not 15"):
        look({"Cargo.toml": cargo + "[features]\npg16 = []\npg17 = []\n"})


@pytest.mark.parametrize(
    ("place", "label", "version"),
    [
        ("https://x/foo/archive/refs/tags/v0.8.0.tar.gz", "v0.8.0", "0.8.0"),
        ("https://x/foo/REL1_7_1.tar.gz", "REL1_7_1", "1_7_1"),
        ("https://x/foo-2.0-rc1.zip", "foo-2.0-rc1", "2.0-rc1"),
        ("https://x/main.tar.gz", "main", "1.0"),
        ("", "foo", "1.0"),
    ],
)
def test_versions(place: str, label: str, version: str) -> None:
    assert look({"Makefile": PGXS, "foo.control": CONTROL}, label, place=place).version == version


def test_a_version_with_a_placeholder_is_none() -> None:
    files = {"Makefile": PGXS, "foo.control": "default_version = '@VERSION@'\n"}
    assert look(files, "foo").version == "0"
    assert look({**files, "META.json": '{"version": "3.1.4"}'}, "foo").version == "3.1.4"


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"META.json": '{"license": "postgresql"}'}, "PostgreSQL"),
        ({"META.json": '{"license": ["apache_2_0", "mit"]}'}, "Apache-2.0 OR MIT"),
        ({"META.json": '{"license": {"PostgreSQL": "http://x"}}'}, "PostgreSQL"),
        ({"LICENSE": "Apache License\n   Version 2.0, January 2004"}, "Apache-2.0"),
        ({"COPYING": "GNU GENERAL PUBLIC LICENSE\n Version 2, June 1991"}, "GPL-2.0-only"),
        ({"LICENSE.md": "Permission to use, copy, modify, and distribute this software and its documentation\n"
          "for any purpose, without fee, and"}, "PostgreSQL"),
        ({"COPYRIGHT": "Redistribution and use in source and binary forms, with\n* Neither the name"}, "BSD-3-Clause"),
        ({"COPYRIGHT": "Redistribution and use in source and binary forms, with"}, "BSD-2-Clause"),
        ({"LICENSE": "all mine"}, UNKNOWN_LICENCE),
        ({"META.json": "[not json"}, UNKNOWN_LICENCE),
        ({}, UNKNOWN_LICENCE),
    ],
)  # fmt: skip
def test_licences(files: dict[str, str], licence: str) -> None:
    assert look({"Makefile": PGXS, **files}).licence == licence


def test_preloading_is_told_by_the_sources() -> None:
    asks = "if (!process_shared_preload_libraries_in_progress) return;"
    assert look({"Makefile": PGXS, "foo.c": asks}).preload == ("foo",)
    assert look({"Makefile": PGXS, "foo.c": f"/* {asks} */"}).preload == ()
    several = PGXS.replace("MODULE_big = foo", "MODULES = one two")
    assert look({"Makefile": several, "two.c": asks, "one.c": ""}).preload == ("two",)


def test_debian_s_packages_are_told_by_includes_libraries_and_modules() -> None:
    files = {
        "Makefile": PGXS + "SHLIB_LINK = -ljson-c -lm\nCFLAGS += $(shell pkg-config --cflags libxml-2.0)\n",
        "foo.c": '#include <curl/curl.h>\n#include "zstd.h"\n#include <openssl/evp.h>\n#include <stdio.h>\n',
        "vendor/zstd.h": "",
    }
    assert look(files).packages == ("libcurl4-openssl-dev", "libjson-c-dev", "libssl-dev", "libxml2-dev")


def test_a_draft_is_a_recipe(tmp_path: Path) -> None:
    files = {
        "Makefile": PGXS,
        "foo.control": CONTROL.replace("the answer", 'the "answer" \\ 42'),
        "foo.c": "#include <curl/curl.h>\nprocess_shared_preload_libraries_in_progress",
    }
    url = "https://example.org/foo/v1.2.3/foo-1.2.3.tar.gz"
    text = draft(look(files, place=url), url=url)
    own = tmp_path / "recipes"
    own.mkdir()
    (own / "foo.toml").write_text(text)
    recipe = load_catalogue(own).recipe("foo")
    assert recipe == load_toml(own / "foo.toml", Recipe)
    assert (recipe.summary, recipe.licence) == ('the "answer" \\ 42', UNKNOWN_LICENCE)
    assert (recipe.build, recipe.preload) == (("libcurl4-openssl-dev",), ("foo",))
    source = recipe.source_for(15, "bookworm")
    assert source and source.url == "https://example.org/foo/v{version}/foo-{version}.tar.gz"
    assert text.startswith("# Drafted by") and "# - the version 1.2.3 is that of the tarball's name" in text
