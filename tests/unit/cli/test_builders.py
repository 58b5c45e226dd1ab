"""Builders where pgbake builds by itself, or where nobody is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.projects import TestProject


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestProject:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    project = TestProject.copy(tmp_path / "project", tmp_path / "home")
    return dataclasses.replace(project, store=tmp_path / "store")


def test_builders_are_of_no_use_to_the_local_engine(project: TestProject) -> None:
    done = project.pgbake("build", "--builders", "ssh://build1", check=False)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "error: --builders names machines that Nix builds on, and the engine is local: a store of its own was named",
        "hint: install Nix here and leave --store away, or leave --builders away",
    ]


def test_another_system_wants_another_engine(project: TestProject) -> None:
    done = project.pgbake("build", "--system", "aarch64-linux", check=False)
    assert done.returncode == 1 and "this machine cannot build for aarch64-linux" in done.stderr
    assert "with Nix here, a builder of that system can build it" in done.stderr


def test_a_check_of_nobody(project: TestProject) -> None:
    done = project.pgbake("--builders", "", "builders", "check", check=False)
    assert done.returncode == 2 and "error: no builder is named" in done.stderr
    assert "[[builders.machine]]" in done.stderr


def test_a_check_where_pgbake_builds(project: TestProject, tmp_path: Path) -> None:
    machine = f"ssh://build1 - {tmp_path}/key"
    done = project.pgbake("--builders", machine, "builders", "check", "--json", check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and not told["ok"]
    assert [(one["group"], one["name"], one["state"]) for one in told["findings"]] == [
        ("This machine", "engine", "problem"), ("ssh://build1", "ssh", "problem"),
    ]  # fmt: skip
