"""A kernel that is too old for the bundle, as `setarch --uname-2.6` shows one: refused at once, by every way in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.build.sandbox import namespace_command
from pgbake.bundle.merge import Bundle
from pgbake.bundle.receipt import read_receipt
from pgbake.store.local import LocalStore
from tests.projects import TestProject

pytestmark = pytest.mark.integration

_OLD = ["setarch", "--uname-2.6"]


@pytest.fixture(scope="module")
def release() -> str:
    """The release that programs see, which begins with 2.6."""
    seen = subprocess.run([*_OLD, "uname", "-r"], capture_output=True, text=True, check=False).stdout.strip()
    if not seen.startswith("2.6."):
        reason = "setarch --uname-2.6 does not make this kernel give itself out as an old one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return seen


@pytest.fixture
def data() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgbake-kernel-"))
    directory.chmod(0o755)
    yield directory / "data"
    shutil.rmtree(directory)


def pgbake(project: TestProject, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_OLD, sys.executable, "-m", "pgbake", "-C", str(project.directory), *args],
        env=project.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def message(store: LocalStore, bundle: Bundle, release: str) -> str:
    major, minor, _ = read_receipt(store.physical(bundle.path)).kernel.split(".")
    return f"needs Linux {major}.{minor} or newer, and this machine runs {release}"


def test_an_old_kernel_is_refused(example: TestProject, data: Path, message: str) -> None:
    commands = [["up", "--data", str(data)], ["run", "--", "psql", "--version"], ["shell"]]
    for command in commands:
        refused = pgbake(example, *command)
        assert (refused.returncode, refused.stdout) == (1, ""), command
        assert f"error: this bundle {message}\nhint: " in refused.stderr
    assert not data.exists()
    example.pgbake("up", "--data", str(data))
    try:
        refused = pgbake(example, "psql", "--data", str(data), "-c", "SELECT 1")
        assert refused.returncode == 1 and f"error: this bundle {message}\n" in refused.stderr
    finally:
        example.pgbake("down", "--data", str(data))


@pytest.mark.parametrize("program", ["psql", "postgres", "pg_ctl"])
def test_a_program_started_without_pgbake_says_so_itself(
    store: LocalStore, bundle: Bundle, message: str, program: str
) -> None:
    """glibc's loader says nothing since 2.36; see catalogue/env/kernel.c."""
    path = f"{bundle.path}/bin/{program}"
    done = subprocess.run(
        [*_OLD, *namespace_command(store, [path, "--version"])], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == f"{path}: this program {message}\n"
