"""Two versions of one extension in one bundle: data made under the old one survives the update to the new one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import TestProject

pytestmark = pytest.mark.integration

_CODE = """
#include "postgres.h"
#include "fmgr.h"
#include "utils/builtins.h"
PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(ripe);
Datum ripe(PG_FUNCTION_ARGS) {{ PG_RETURN_TEXT_P(cstring_to_text(psprintf("{version}:%d", PG_GETARG_INT32(0)))); }}
"""

_FUNCTION = "CREATE {replace} FUNCTION ripe(int) RETURNS text LANGUAGE C STRICT AS '$libdir/ripe-{version}', 'ripe';\n"

_RECIPE = """
name = "ripe"
summary = "A small extension of the tests"
licence = "PostgreSQL"
builder = "pgxs"
"""


def tarball(directory: Path, version: str, further: dict[str, str]) -> Path:
    """Make the sources of one version: its library has the version in its name, its scripts name that library."""
    top = directory / f"ripe-{version}"
    top.mkdir()
    files = {
        "Makefile": f"EXTENSION = ripe\nMODULE_big = ripe-{version}\nOBJS = ripe.o\nDATA = $(wildcard *.sql)\n"
        "PGXS := $(shell $(PG_CONFIG) --pgxs)\ninclude $(PGXS)\n",
        "ripe.c": _CODE.format(version=version),
        "ripe.control": f"default_version = '{version}'\n",
        f"ripe--{version}.sql": _FUNCTION.format(version=version, replace=""),
        **further,
    }
    for name, text in files.items():
        (top / name).write_text(text)
    result = directory / f"ripe-{version}.tar.gz"
    subprocess.run(["tar", "-czf", result, "-C", directory, top.name], check=True)
    return result


@pytest.fixture
def data(project: TestProject) -> Iterator[Path]:
    """A place for one server's data, which is stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pgbake-data-"))
    directory.chmod(0o755)
    yield directory / "data"
    project.pgbake("down", "--data", str(directory / "data"), check=False)
    shutil.rmtree(directory)


def test_data_of_the_old_version_survive_the_update(project: TestProject, tmp_path: Path, data: Path) -> None:
    update = _FUNCTION.format(version="2.0", replace="OR REPLACE") + "CREATE TABLE ripe_log (line text);\n"
    new = tarball(tmp_path, "2.0", {"ripe--1.0--2.0.sql": update})
    old = tarball(tmp_path, "1.0", {})
    recipes = project.directory / "recipes"
    recipes.mkdir(exist_ok=True)
    sources = [
        f'[[source]]\nurl = "file://{file}"\nversion = "{version}"\n' for file, version in ((new, "2.0"), (old, "1.0"))
    ]
    (recipes / "ripe.toml").write_text("\n".join((_RECIPE, *sources)))
    (project.directory / "pgbake.toml").write_text(
        'name = "ripe"\npostgresql = 15\nextensions = ["ripe"]\n[extension.ripe]\nolder = ["1.0"]\n'
        '[platform]\nsuite = "bookworm"\nsecurity = false\nupdates = false\n'
    )
    project.pgbake("lock")
    project.pgbake("build")
    project.pgbake("up", "--data", str(data))

    def sql(*statements: str) -> list[str]:
        args = [word for statement in statements for word in ("-c", statement)]
        done = project.pgbake("psql", "--data", str(data), "-XAtq", "-v", "ON_ERROR_STOP=1", *args)
        return done.stdout.splitlines()

    versions = "SELECT version FROM pg_available_extension_versions WHERE name = 'ripe' ORDER BY 1"
    assert sql(versions) == ["1.0", "2.0"]
    assert sql("SELECT default_version FROM pg_available_extensions WHERE name = 'ripe'") == ["2.0"]
    sql("CREATE EXTENSION ripe VERSION '1.0'", "CREATE TABLE t (n int, by text)", "INSERT INTO t VALUES (1, ripe(1))")
    assert sql("SELECT by, ripe(n) FROM t") == ["1.0:1|1.0:1"]
    sql("ALTER EXTENSION ripe UPDATE", "INSERT INTO t VALUES (2, ripe(2))", "INSERT INTO ripe_log VALUES ('updated')")
    assert sql("SELECT by, ripe(n) FROM t ORDER BY n") == ["1.0:1|2.0:1", "2.0:2|2.0:2"]
    assert sql("SELECT extversion FROM pg_extension WHERE extname = 'ripe'") == ["2.0"]
