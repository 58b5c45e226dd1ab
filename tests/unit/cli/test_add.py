"""`pgbake add` and `pgbake remove` without any network: names, directories, tarballs, and what they refuse."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgbake.cli.main import pgbake
from pgbake.errors import PgbakeError
from pgbake.manifest import load_manifest

MANIFEST = """\
# the shop's
name = "shop"
postgresql = 15
extensions = ["pgvector"]  # for search

[platform]
suite = "bookworm"
"""
FILES = {
    "Makefile": "MODULES = foo\nEXTENSION = foo\nPGXS := $(shell pg_config --pgxs)\ninclude $(PGXS)\n",
    "foo.control": "comment = 'the answer'\ndefault_version = '1.0'\nrequires = 'hstore, cube2'\n",
    "foo.c": '#include "postgres.h"\n#include <curl/curl.h>\n',
    "foo--1.0.sql": "",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PGBAKE_STORE", str(tmp_path / "store"))
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "pgbake.toml").write_text(MANIFEST)
    return directory


def sources(directory: Path, **changed: str | None) -> Path:
    directory.mkdir(parents=True)
    for name, text in {**FILES, **changed}.items():
        if text is not None:
            (directory / name).write_text(text)
    return directory


def run(project: Path, *args: str) -> Result:
    return CliRunner().invoke(pgbake, ["-C", str(project), *args])


def answer(project: Path, *args: str) -> Any:
    result = run(project, *args, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def refused(project: Path, *args: str) -> PgbakeError:
    before = {path: path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()}
    result = run(project, *args)
    assert isinstance(result.exception, PgbakeError), result.output
    assert {path: path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()} == before
    assert not (project / "recipes").exists() or any((project / "recipes").iterdir())
    return result.exception


def test_a_name_is_added_and_the_rest_stays(project: Path) -> None:
    run(project, "add", "--no-lock", "hll@2.17", "plsh", "--origin", "deb")
    text = (project / "pgbake.toml").read_text()
    assert text.startswith(MANIFEST.replace('"pgvector"', '"pgvector", "hll", "plsh"'))
    manifest = load_manifest(project / "pgbake.toml")
    assert manifest.extension["hll"].version == "2.17" and manifest.extension["plsh"].origin == "deb"


def test_a_directory_gets_a_recipe_relative_to_the_manifest(project: Path) -> None:
    sources(project / "foo")
    added = answer(project, "add", "--no-lock", str(project / "foo"))
    assert added["added"][0]["name"] == "foo" and added["moved"] == []
    recipe = (project / "recipes/foo.toml").read_text()
    assert 'source = { path = "../foo", version = "1.0" }' in recipe
    assert 'build = ["libcurl4-openssl-dev"]' in recipe
    assert load_manifest(project / "pgbake.toml").extensions == ("pgvector", "foo")


def test_a_directory_elsewhere_is_named_in_full(project: Path, tmp_path: Path) -> None:
    sources(tmp_path / "foo-1.3")
    result = run(project, "add", "--no-lock", str(tmp_path / "foo-1.3"))
    assert f'path = "{tmp_path}/foo-1.3", version = "1.3"' in (project / "recipes/foo.toml").read_text()
    assert "warning: foo requires the extension cube2: pgbake add cube2" in result.output
    assert "hstore" not in result.output


@pytest.mark.parametrize("as_url", [False, True])
def test_a_tarball_gets_a_recipe_with_its_url(project: Path, tmp_path: Path, as_url: bool) -> None:
    sources(tmp_path / "foo-1.3")
    file = tmp_path / "foo-1.3.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tmp_path / "foo-1.3", "foo-1.3")
    result = run(project, "add", "--no-lock", file.as_uri() if as_url else str(file))
    assert result.exit_code == 0, result.exception
    template = file.as_uri().replace("1.3", "{version}")
    assert f'source = {{ url = "{template}", version = "1.3" }}' in (project / "recipes/foo.toml").read_text()
    assert "the version 1.3 is that of the tarball's name" in result.output


def test_a_dry_run_shows_and_writes_nothing(project: Path, tmp_path: Path) -> None:
    sources(tmp_path / "foo")
    result = run(project, "add", "--dry-run", str(tmp_path / "foo"), "hll")
    assert '+extensions = ["pgvector", "foo", "hll"]' in result.output and 'builder = "pgxs"' in result.output
    assert (project / "pgbake.toml").read_text() == MANIFEST and not (project / "recipes").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("pgvector",), "pgvector is in .* already"),
        (("hll", "hll"), "named twice"),
        (("hstore",), "hstore is part of PostgreSQL"),
        (("./nowhere",), "no directory or tarball ./nowhere"),
        (("https://example.org/foo",), "is no tarball"),
        (("file:///nowhere/foo-1.0.tar.gz",), "cannot read /nowhere/foo-1.0.tar.gz"),
        (("./x.tar.gz", "--origin", "deb"), "is a source, no Debian package"),
        (("pgvector2", "--origin", "source"), "no recipe that builds pgvector2"),
    ],
)
def test_what_cannot_be_added(
    project: Path, words: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    error = refused(project, "add", "--no-lock", *words)
    assert re.search(problem, error.message), error.message
    assert error.hint


def test_sources_that_cannot_be_built_or_are_for_others(project: Path, tmp_path: Path) -> None:
    nothing = sources(tmp_path / "nothing", Makefile=None)
    assert "says how to build it" in refused(project, "add", str(nothing)).message
    meta = '{"prereqs": {"runtime": {"requires": {"PostgreSQL": ">= 16"}}}}'
    newer = sources(tmp_path / "newer", **{"META.json": meta})
    assert "is for PostgreSQL >= 16, not 15" in refused(project, "add", str(newer)).message


def test_a_recipe_that_is_there_stays(project: Path, tmp_path: Path) -> None:
    sources(tmp_path / "foo")
    (project / "recipes").mkdir()
    (project / "recipes/foo.toml").write_text('name = "foo"\ndeb = "postgresql-{major}-foo"\n')
    assert "there is a recipe" in refused(project, "add", str(tmp_path / "foo")).message


def test_where_pinning_fails_nothing_is_changed(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgbake.cli import locking

    def fail(*_args: object, **_kwargs: object) -> None:
        raise PgbakeError("no network")

    monkeypatch.setattr(locking, "make_lock", fail)
    sources(tmp_path / "foo")
    assert refused(project, "add", str(tmp_path / "foo")).message == "no network"
    assert not (project / "recipes").exists()


def test_removing_undoes_adding(project: Path, tmp_path: Path) -> None:
    sources(tmp_path / "foo")
    run(project, "add", "--no-lock", str(tmp_path / "foo"))
    run(project, "add", "--no-lock", "hll@2.17")
    kept = run(project, "remove", "hll", "foo").output
    assert "recipes/foo.toml stays; --recipe deletes it" in kept
    assert (project / "pgbake.toml").read_text().rstrip() == MANIFEST.rstrip()
    run(project, "add", "--no-lock", "foo")
    assert answer(project, "remove", "foo", "--recipe")["recipes"] == [str(project / "recipes/foo.toml")]
    assert not (project / "recipes/foo.toml").exists()


def test_removing_what_is_not_there(project: Path) -> None:
    error = refused(project, "remove", "hll")
    assert 'does not list "hll"' in error.message and "pgvector" in (error.hint or "")


def test_a_dry_run_removes_nothing(project: Path) -> None:
    assert "would be removed" in run(project, "remove", "pgvector", "--dry-run").output
    assert (project / "pgbake.toml").read_text() == MANIFEST
