"""pgbake as others get it: a wheel for pip, and one file with all that it needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from pgbake import __version__
from pgbake.formats.system import host_system
from pgbake.project import Project
from tests import cache
from tests.cache import scratch_directory
from tests.debian import HOST
from tests.installs import Shelf, built_example, host_tree
from tests.machines import contained
from tests.projects import EXAMPLE, REPOSITORY

pytestmark = pytest.mark.integration

#: Neither these sources nor their environment: what is installed has to suffice.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PGBAKE"))}


def tracked() -> set[str]:
    """Return the files of the package that are kept under version control."""
    command = ["git", "ls-files", "src/pgbake"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return {name.removeprefix("src/") for name in listed.stdout.splitlines() if (REPOSITORY / name).exists()}


def test_a_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, REPOSITORY], check=True, env=ENVIRONMENT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert tracked() <= inside
    assert {name for name in inside if ".dist-info/" not in name} == tracked()
    venv.create(tmp_path / "venv", with_pip=True)
    subprocess.run(
        [tmp_path / "venv/bin/python", *pip[1:], "install", "-c", REPOSITORY / "constraints.txt", wheel],
        check=True, env=ENVIRONMENT,
    )  # fmt: skip

    def pgbake(*args: str) -> str:
        return subprocess.run(
            [tmp_path / "venv/bin/pgbake", *args], env={**ENVIRONMENT, "HOME": str(tmp_path)}, cwd=tmp_path, check=True,
            capture_output=True, text=True,
        ).stdout  # fmt: skip

    assert pgbake("--version").strip() == f"pgbake, version {__version__}"
    assert "install" in pgbake("--help")
    plan = pgbake("--store", str(tmp_path / "store"), "-C", str(EXAMPLE), "plan", "--json")
    assert str(Project(EXAMPLE).bundle(host_system()).path) in plan, "catalogue, C sources and programs are there"
    told = json.loads(pgbake("doctor", "--offline", "--json"))
    assert any(finding["name"] == "python" for finding in told["findings"])


@pytest.mark.full
@pytest.mark.timeout(900)
def test_one_file_installs_where_there_is_no_python(tmp_path_factory: pytest.TempPathFactory) -> None:
    with scratch_directory("one-file") as scratch:
        made = [scratch / "tools/pgbake", scratch / "again"]
        made[0].parent.mkdir()
        for file in made:
            subprocess.run(
                [sys.executable, REPOSITORY / "scripts/self-contained", file], check=True, capture_output=True,
                env={**os.environ, "XDG_CACHE_HOME": str(cache.test_cache())},
            )  # fmt: skip
        assert hashlib.sha256(made[0].read_bytes()).digest() == hashlib.sha256(made[1].read_bytes()).digest()
        store, bundle = built_example(tmp_path_factory.mktemp("example"))
        shelf = Shelf.make(scratch / "store", scratch / "home", store, bundle)
        shelf.offer(bundle)
        # Of another release, so that nothing of this machine's would fit by chance.
        tree = host_tree(scratch / "tree", "trixie", (*HOST, "gzip", "iproute2", "tar"))
        (tree / "sys").mkdir(exist_ok=True)
        assert not list(tree.glob("usr/bin/python*")) and not list(tree.glob("usr/bin/*gcc*"))
        shown = {shelf.cache: Path("/cache"), scratch / "tools": Path("/tools")}
        with contained(tree, shelf.root, shown, command=False) as machine:
            machine.trust("tests-1")
            assert machine.run("/tools/pgbake", "--version").strip() == f"pgbake, version {__version__}"
            machine.run("/tools/pgbake", "install", "example")
            assert machine.sql("SELECT 6 * 7") == "42"
            machine.sql("CREATE EXTENSION plpython3u")
            machine.sql("DO LANGUAGE plpython3u $$ import json, ssl $$")
            machine.run("/tools/pgbake", "verify")
            machine.run("/tools/pgbake", "uninstall", "--purge")
