"""What the commands for images say before anything is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.projects import TestProject


@pytest.fixture
def project(tmp_path: Path) -> TestProject:
    """The example, and nothing built or fetched."""
    made = TestProject.copy(tmp_path / "project", tmp_path / "home")
    return dataclasses.replace(made, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("manifest", "words", "lock"),
    [
        ("", (), "pgbake-image.lock"),
        ("", ("--target", "ami"), "pgbake-image-aws.lock"),
        ("", ("--profile", "aws"), "pgbake-image-aws.lock"),
        ('[image]\nprofile = "aws"\n', ("--target", "ami"), "pgbake-image.lock"),
        ('[image]\nprofile = "aws"\n', ("--profile", "aws"), "pgbake-image.lock"),
    ],
)
def test_a_profile_that_the_manifest_does_not_name_has_a_lock_of_its_own(
    project: TestProject, manifest: str, words: tuple[str, ...], lock: str
) -> None:
    project.edit("[platform]\n", f"{manifest}\n[platform]\n")
    steps = project.json("image", "build", "--dry-run", *words)["steps"]
    assert steps[0] == {"name": "lock", "kept": False, "reason": f"there is no {lock}"}


@pytest.mark.parametrize(
    "words", [("build",), ("build", "--target", "tree"), ("stage2", "--disk", "raw"), ("test", "--unchecked")]
)
def test_a_container_does_not_boot(project: TestProject, words: tuple[str, ...]) -> None:
    done = project.pgbake("image", *words, "--profile", "container", check=False)
    assert done.returncode == 2 and '"container" is for containers' in done.stderr and "--target aio" in done.stderr


def test_where_nothing_is_kept_nothing_goes(project: TestProject) -> None:
    assert project.json("image", "gc") == {"dry-run": False, "deleted": [], "freed": 0}
    assert project.pgbake("image", "gc", "--dry-run").stdout == "0 trees would be deleted, 0 B on disk\n"
