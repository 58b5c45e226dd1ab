"""Stores that can only be read, that lack what they should hold, and that hold what they should not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore, remove_tree
from tests.projects import REPOSITORY, TestProject

pytestmark = pytest.mark.integration

NAMESPACE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")


def script(*commands: str) -> str:
    """Return a shell script that runs commands of pgbake, each followed by its exit status."""
    return "\n".join(f'$pgbake {command} < /dev/null; echo "status $?"' for command in commands)


READ = ("plan", "build", "size --top 1", "why libicu72", "run -- psql --version", "log numeral")


@pytest.fixture
def numbers(example: TestProject) -> str:
    """A part of the bundle's store path's name."""
    return str(example.json("build")["paths"]["bundle"]).rpartition("/")[2]


def assert_that_reading_works(said: str, numbers: str) -> None:
    assert "Nothing to do: everything is in the store." in said
    assert "psql (PostgreSQL) 15.18" in said and "libicu72" in said and numbers in said
    assert "--- phase: build" in said
    assert said.count("status 0") == len(READ), said


def assert_that_writing_is_one_error(said: str, why: str) -> None:
    end = said.partition("status 0\nerror: ")[2]
    assert end.startswith("cannot write to the store at ") and why in end.splitlines()[0], said
    assert "hint: mount it writable, run as its owner, or name a store of your own with --store DIR" in end
    assert said.endswith("status 1\n") and "Traceback" not in said


def test_a_store_that_is_mounted_read_only(project: TestProject, numbers: str) -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.fail("no namespaces here") if os.environ.get("CI") == "true" else pytest.skip("no namespaces here")
    change = f"sed -i 's/\"plsh\",//' {project.directory}/pgbake.toml"
    mount = f"mount --bind {project.store} {project.store} && mount -o remount,bind,ro {project.store} || exit 9"
    lines = [mount, script(*READ), change, script("build --out-link new")]
    done = in_shell(project, "\n".join(lines), NAMESPACE)
    assert_that_reading_works(done, numbers)
    assert_that_writing_is_one_error(done, "its file system is mounted read-only")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_store_of_another_user(example: TestProject, numbers: str) -> None:
    """Who may read it runs servers of its bundles, with data of their own."""
    with tempfile.TemporaryDirectory(prefix="pgbake-reader-") as name:
        directory = Path(name)
        home = directory / "home"
        project = TestProject.copy(directory / "project", home)
        home.mkdir()
        for path in (directory, home, project.directory, project.directory / "pgbake.toml"):
            shutil.chown(path, "nobody")
        user = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", f"HOME={home}")
        change = f"sed -i 's/\"plsh\",//' {project.directory}/pgbake.toml"
        server = ("up", "psql -XAtc 'SELECT 6 * 7'", "down")
        lines = [script(*READ), script(*server), change, script("build --no-link")]
        done = in_shell(project, "\n".join(lines), user)
        reading, _, rest = done.partition("postgresql://")
        assert_that_reading_works(reading, numbers)
        assert "\n42\nstatus 0\n" in rest
        assert_that_writing_is_one_error(rest, "belongs to root")


def test_where_the_store_cannot_be_shown_in_its_place(example: TestProject) -> None:
    """Where no mount can be made there is one clear error, and the doctor names what forbids them."""
    sources = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    forbidden = [sys.executable, "-m", "tests.seccomp", "mount", "--", sys.executable, "-m", "pgbake"]

    def pgbake(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*forbidden, "-C", str(example.directory), *args], env=example.environment() | sources,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for command in (["run", "--", "psql", "--version"], ["up", "--data", str(example.home / "refused")]):
        done = pgbake(*command)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"error: programs cannot be shown the store at {example.store}/nix/store" in done.stderr
        assert "hint: `pgbake doctor` looks for what forbids it" in done.stderr and "bwrap: " in done.stderr
    assert not (example.home / "refused").exists()
    examined = pgbake("doctor", "--offline")
    assert examined.returncode == 1
    assert "bundle's programs: cannot be shown the store at /nix: " in examined.stdout
    assert "seccomp: a filter of system calls is at work" in examined.stdout


def in_shell(project: TestProject, text: str, prefix: tuple[str, ...]) -> str:
    pgbake = f"{sys.executable} -m pgbake -C {project.directory}"
    done = subprocess.run(
        [*prefix, "sh", "-c", text], env=project.environment() | {"pgbake": pgbake}, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.stdout


# --- what is lacking, and what is in the way --------------------------------------------------------


@pytest.fixture
def broken(apart: TestProject) -> TestProject:
    """A copy of the store to break; its bundle is there."""
    apart.pgbake("build")
    return apart


def store_path(project: TestProject, part: str) -> StorePath:
    (path,) = [StorePath.parse(found["path"]) for found in project.json("why", part)]
    return path


def test_a_deleted_runtime_package_is_brought_back(broken: TestProject) -> None:
    bundle = broken.json("build")["paths"]["bundle"]
    lost = store_path(broken, "libicu72")
    physical = broken.store / "nix/store" / lost.basename
    remove_tree(physical)
    assert broken.pgbake("run", "--", "psql", "--version", check=False).returncode == 0, "it was fetched again"
    remove_tree(physical)
    plan = broken.json("plan")
    assert [item["name"] for item in plan["fetch"]] == ["libicu72"] and plan["build"] == []
    assert "libicu72" in broken.pgbake("plan").stdout
    assert broken.json("build")["paths"]["bundle"] == bundle and physical.is_dir()


def test_what_is_gone_is_built_again_and_what_is_in_the_way_is_replaced(broken: TestProject) -> None:
    with LocalStore(broken.store) as store:
        bundle = broken.project.bundle(host_system())
        made = bundle.by_name()
        numeral = StorePath.parse(made["numeral"].outputs["out"].path)
        before = [store.info(path).nar_sha256 for path in (numeral, bundle.path)]
        # Registered and deleted: a package that the bundle refers to, and derivations.
        remove_tree(store.physical(numeral))
        for name in ("postgresql", "numeral", "bundle"):
            remove_tree(store.physical(made[name].path))
        # Not registered, as a killed process leaves it: a directory where the bundle is to come.
        store.database.invalidate(bundle.path)
        closed = store.physical(bundle.path) / "closed"
        remove_tree(store.physical(bundle.path))
        closed.mkdir(parents=True)
        (closed / "file").write_text("foreign")
        closed.chmod(0)
        # Of somebody else.
        foreign = [store.store_dir / "holiday.jpg", broken.store / "nix/notes"]
        for file in foreign:
            file.write_text("mine")
        assert broken.json("build")["built"] == ["postgresql-15-numeral-1.3", "example-postgresql-15.18"]
        assert [store.info(path).nar_sha256 for path in (numeral, bundle.path)] == before
        assert (store.physical(bundle.path) / "receipt.json").is_file() and not closed.exists()
    assert broken.json("plan")["build"] == []
    assert [file.read_text() for file in foreign] == ["mine", "mine"]
