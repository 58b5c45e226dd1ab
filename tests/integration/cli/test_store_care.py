"""The store's commands, as a user types them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore, remove_tree
from tests.namespaces import with_nix_at
from tests.projects import TestProject
from tests.unit.store.texts import damage

pytestmark = pytest.mark.integration


@pytest.fixture
def built(apart: TestProject) -> TestProject:
    apart.pgbake("build")
    return apart


def runtime_package(project: TestProject, name: str) -> Path:
    inputs = project.project.bundle(host_system()).graph.inputs.values()
    (path,) = [item.path for item in inputs if (item.kind, item.name) == ("runtime", name)]
    return project.store / "nix/store" / path.basename


def test_damage_is_named_and_mended(built: TestProject) -> None:
    numeral = StorePath.parse(built.project.bundle(host_system()).by_name()["numeral"].outputs["out"].path)
    module = next((built.store / "nix/store" / numeral.basename).rglob("numeral.so"))
    icu = next(runtime_package(built, "libicu72").rglob("libicuuc.so.72.*"))
    damage(module)
    damage(icu)
    remove_tree(runtime_package(built, "libxml2"))
    failed = built.pgbake("verify", "result", check=False)
    assert failed.returncode == 1 and "hint: run `pgbake repair`" in failed.stderr and "Traceback" not in failed.stderr
    assert failed.stdout.count("modified ") == 2 and failed.stdout.count("missing ") == 1
    assert str(numeral) in failed.stdout and "needed by " in failed.stdout
    plan = {item["subject"].partition("-")[2]: item["way"] for item in built.json("repair", "--dry-run")["outcomes"]}
    assert sorted(plan.values()) == ["rebuilt", "unpacked", "unpacked"]
    assert built.pgbake("verify", "--no-contents", check=False).returncode == 1
    mended = {item["subject"]: item["way"] for item in built.json("repair")["outcomes"]}
    assert mended[str(numeral)] == "rebuilt" and len(mended) == 3
    assert "all as registered" in built.pgbake("verify").stdout
    assert "nothing to repair" in built.pgbake("repair").stdout


def test_only_what_nothing_needs_goes(built: TestProject) -> None:
    if os.geteuid() == 0:  # other tests' builds use files of the same names, which counts as use
        built = dataclasses.replace(built, around=("unshare", "--pid", "--fork", "--mount-proc"))
    link = built.directory / "result"
    assert {"path": str(link.readlink()), "kind": "link", "holder": str(link)} in built.json("roots")
    would = built.json("gc", "--dry-run")
    assert built.pgbake("gc", "--dry-run").stdout.splitlines()[-1].split()[0] == str(len(would["deleted"]))
    done = built.json("gc")
    assert sorted(item["path"] for item in done["deleted"]) == sorted(item["path"] for item in would["deleted"])
    assert built.json("plan")["build"] == [] and built.pgbake("run", "--", "psql", "--version").returncode == 0
    assert "all as registered" in built.pgbake("verify").stdout
    (built.directory / "result").unlink()
    assert built.json("gc", "--keep-for", "52w")["deleted"] == []
    rest = built.json("gc")
    assert rest["kept"] == 0 and rest["freed"] >= 0
    assert [path.name for path in (built.store / "nix/store").iterdir()] == [".links"]


def test_equal_files_are_linked(built: TestProject) -> None:
    would = built.json("optimise", "--dry-run")
    done = built.json("optimise")
    assert (done["files"], done["saved"]) == (would["files"], would["saved"]) and done["files"] > 100
    assert built.json("optimise")["files"] == 0
    assert "all as registered" in built.pgbake("verify").stdout


def test_a_damaged_database_is_made_anew(built: TestProject) -> None:
    file = built.store / "nix/var/nix/db/db.sqlite"
    file.write_bytes(b"not a database any more" * 10 + file.read_bytes()[230:])
    failed = built.pgbake("build", check=False)
    assert failed.returncode == 1 and "is damaged: file is not a database" in failed.stderr
    assert "hint: run `pgbake repair`" in failed.stderr
    would = built.pgbake("repair", "--dry-run", check=False)
    assert would.returncode == 1 and "hint: `pgbake repair` makes a new one" in would.stderr
    done = built.pgbake("repair")
    assert f"{file}\n  made anew: " in done.stdout and "not proven" not in done.stdout
    assert built.json("plan")["build"] == [] and built.json("plan")["fetch"] == []
    built.pgbake("verify")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgbake-elsewhere-") as directory:
        yield Path(directory)


def test_they_need_no_project(example: TestProject, elsewhere: Path) -> None:
    def pgbake(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pgbake", "-C", str(elsewhere), "--store", str(elsewhere / "store"), *args]
        return subprocess.run(command, env=example.environment(), capture_output=True, text=True, check=False)

    for args in (["gc"], ["gc", "--dry-run"], ["roots"], ["verify"], ["repair"], ["optimise"]):
        done = pgbake(*args)
        assert done.returncode == 0, done.stderr
    assert "0 paths deleted" in pgbake("gc").stdout
    for args, problem in (
        (["gc", "--keep-for", "7"], "'7' is no age"),
        (["gc", "--older-than", "-7d"], "is no age"),
        (["gc", "--max-freed", "5X"], "'5X' is no size"),
        (["verify", "result"], "result is no store path, nor a link to one"),
        (["verify", f"/nix/store/{'0' * 32}-nothing"], "is not in the store"),
    ):
        done = pgbake(*args)
        assert done.returncode in (1, 2) and problem in done.stderr and "Traceback" not in done.stderr


def pretend_nix(elsewhere: Path) -> dict[str, str]:
    """Return the environment of a machine on which Nix is installed, as programs in PATH tell, and builds nothing."""
    (elsewhere / "nix-store").write_text("#!/bin/sh\n")
    (elsewhere / "nix-store").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{elsewhere}:{os.environ['PATH']}", "XDG_DATA_HOME": str(elsewhere / "data"), "PGBAKE_ENGINE": "local",
    }  # fmt: skip
    environment.pop("PGBAKE_STORE", None)
    return environment


def contents(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return when each file and directory was written last, its size, and what else a change would show in.

    Not when its inode changed: other tests link these files, and let go of them, meanwhile.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        found[str(path)] = (
            status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid, status.st_gid, status.st_ino,
        )  # fmt: skip
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine's store is root's")
def test_a_store_that_nix_owns_is_not_touched(elsewhere: Path) -> None:
    environment = pretend_nix(elsewhere)
    (elsewhere / "root").symlink_to("/")
    (elsewhere / "nix").mkdir()

    def pgbake(*args: str) -> subprocess.CompletedProcess[str]:
        command = with_nix_at(elsewhere / "nix", [sys.executable, "-m", "pgbake", "-C", str(elsewhere), *args])
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    for args in (["gc"], ["verify"], ["repair"], ["optimise"], ["roots"]):
        for root in ("/", str(elsewhere / "root")):
            done = pgbake("--store", root, *args)
            assert done.returncode == 1 and done.stdout == "", done.stdout
            assert "belongs to Nix, which is installed on this machine" in done.stderr
            assert "hint: leave --store" in done.stderr
        done = pgbake(*args)
        assert done.returncode == 0, done.stderr
    assert list((elsewhere / "nix").iterdir()) == []
    assert (elsewhere / "data/pgbake/store/nix/store").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine's store is root's")
def test_what_was_built_before_nix_came_is_taken_from_there(built: TestProject, elsewhere: Path) -> None:
    """Nix owns /nix from pgbake's next command on: nothing is written there, and nothing is built again."""
    environment = pretend_nix(elsewhere)
    before = contents(built.store / "nix")
    command = [sys.executable, "-m", "pgbake", "-C", str(built.directory), "build", "--no-link", "--json"]
    done = subprocess.run(
        with_nix_at(built.store / "nix", command), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["built"] == [] and answer["paths"]["bundle"] in answer["pulled"]
    after = contents(built.store / "nix")
    assert [
        (path, before.get(path), after.get(path)) for path in before | after if before.get(path) != after.get(path)
    ] == []
    with LocalStore(elsewhere / "data/pgbake/store") as store:
        assert store.valid([StorePath.parse(answer["paths"]["bundle"])])
