"""`pgbake run --dev`: an extension is compiled against the bundle, by the build root's compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.projects import TestProject

pytestmark = pytest.mark.integration

FILES = {
    "Makefile": (
        "MODULES = answer\nEXTENSION = answer\nDATA = answer--1.0.sql\n"
        "PG_CONFIG = pg_config\nPGXS := $(shell $(PG_CONFIG) --pgxs)\ninclude $(PGXS)\n"
    ),
    "answer.control": "default_version = '1.0'\nmodule_pathname = '$libdir/answer'\n",
    "answer--1.0.sql": "CREATE FUNCTION answer() RETURNS int AS 'MODULE_PATHNAME' LANGUAGE C;\n",
    "answer.c": (
        '#include "postgres.h"\n#include "fmgr.h"\nPG_MODULE_MAGIC;\n'
        "PG_FUNCTION_INFO_V1(answer);\nDatum answer(PG_FUNCTION_ARGS) { PG_RETURN_INT32(42); }\n"
    ),
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "answer"
    directory.mkdir()
    for name, text in FILES.items():
        (directory / name).write_text(text)
    return directory


def dev(project: TestProject, where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    pgbake = ["-m", "pgbake", "-C", str(project.directory), "run", "--dev", "--", *command]
    import sys

    return subprocess.run(
        [sys.executable, *pgbake], cwd=where, env=project.environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_extension_is_compiled_and_installed(example: TestProject, sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = dev(example, sources, "sh", "-ec", f"make USE_PGXS=1; make USE_PGXS=1 install DESTDIR={out}; which gcc")
    assert done.returncode == 0, done.stderr
    installed = {path.name for path in out.rglob("*") if path.is_file()}
    assert installed == {"answer.so", "answer.control", "answer--1.0.sql"}
    assert done.stdout.splitlines()[-1] == "/usr/bin/gcc"


def test_the_bundle_cannot_be_written_to(example: TestProject, sources: Path) -> None:
    done = dev(example, sources, "sh", "-ec", "make USE_PGXS=1 install")
    assert done.returncode != 0 and "Read-only file system" in done.stderr


def test_pg_config_tells_of_one_tree(example: TestProject, tmp_path: Path) -> None:
    done = dev(
        example, tmp_path, "sh", "-ec", 'test -e "$(pg_config --includedir-server)/postgres.h"; pg_config --pgxs'
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(example.home))


def test_a_program_that_is_not_there(example: TestProject, tmp_path: Path) -> None:
    done = dev(example, tmp_path, "nosuchprogram")
    assert done.returncode == 1
    assert "error: there is no program nosuchprogram in the build root or the bundle\nhint: " in done.stderr
