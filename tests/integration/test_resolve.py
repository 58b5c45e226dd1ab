"""`pgbake lock` against the machine's own mirror: what it pins, what it keeps, and what it says has moved."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pgbake.lock import load_lock, save_lock
from tests.projects import EXAMPLE, TestProject

pytestmark = pytest.mark.integration


def text(project: TestProject) -> str:
    return (project.directory / "pgbake.lock").read_text()


@pytest.mark.full
def test_from_nothing_it_is_the_lock_that_is_shipped(apart: TestProject) -> None:
    """The example is frozen to a suite that no longer moves: packages, tarballs and unpacked trees alike."""
    (apart.directory / "pgbake.lock").unlink()
    apart.pgbake("lock")
    assert text(apart) == (EXAMPLE / "pgbake.lock").read_text()


def test_what_nobody_asks_to_move_stays(project: TestProject) -> None:
    before = text(project)
    assert "is up to date; nothing moved" in project.pgbake("lock").stdout
    project.edit('  "plsh",\n', "")
    assert project.json("lock")["moved"] == [
        {"where": "sources", "name": "plsh", "before": "1.20220917", "after": None}
    ]
    project.edit('  "preprepare",\n', '  "plsh",\n  "preprepare",\n')
    assert project.pgbake("lock", "--check", check=False).returncode == 1
    assert "sources: plsh (new) -> 1.20220917" in project.pgbake("lock").stdout
    assert text(project) == before


def test_update_moves_what_it_is_asked_to(project: TestProject) -> None:
    file = project.directory / "pgbake.lock"
    before = text(project)
    lock = load_lock(file)
    old = {
        name: msgspec.structs.replace(lock.sources[name], version="0.1", sha256="0" * 64)
        for name in ("pgaudit", "plsh")
    }
    aged = msgspec.structs.replace(lock, sources={**lock.sources, **old})
    save_lock(aged, file)
    assert project.json("lock")["moved"] == []
    moved = project.json("lock", "--update", "pgaudit", "--dry-run")
    assert moved == {
        "moved": [{"where": "sources", "name": "pgaudit", "before": "0.1", "after": "1.7.0"}],
        "written": False,
    }
    assert load_lock(file) == aged
    shown = project.pgbake("lock", "--update", "pgaudit").stdout
    assert "sources: pgaudit 0.1 -> 1.7.0" in shown and "plsh" not in shown
    project.pgbake("lock", "--update", "plsh")
    assert text(project) == before


def test_a_source_that_no_suite_has_is_one_clear_error(project: TestProject, tmp_path: Path) -> None:
    recipes = project.directory / "recipes"
    recipes.mkdir()
    (recipes / "ghost.toml").write_text(
        'name = "ghost"\nsummary = "s"\nlicence = "MIT"\nbuilder = "pgxs"\nsource = { debian = "no-such-source" }\n'
    )
    project.edit('  "plsh",\n', '  "plsh",\n  "ghost",\n')
    before = text(project)
    failed = project.pgbake("lock", check=False)
    assert failed.returncode == 1
    assert "error: there is no source package no-such-source in bookworm" in failed.stderr
    assert "hint:" in failed.stderr and text(project) == before
