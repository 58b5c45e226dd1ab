"""Installing into the tree of a machine, from outside: what is there after it, and what is there no more."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.events import silent
from pgbake.install.installation import Installation
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.installs import Shelf, host_tree, snapshot

pytestmark = pytest.mark.integration


@pytest.fixture
def tree(shelf: Shelf) -> Iterator[Path]:
    """The tree of a small machine."""
    with scratch_directory("tree") as directory:
        yield host_tree(directory / "tree")


def chroot(tree: Path, *argv: str, user: str = "root") -> str:
    """Run a program in the tree."""
    become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    # The loader finds a program's own directory by /proc.
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/bin:/bin "$@"'
    done = subprocess.run(
        ["unshare", "-m", "-p", "-f", "-n", "--kill-child", "sh", "-c", script, str(tree), *become, *argv],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_install_and_uninstall_leave_a_tree_as_it_was(shelf: Shelf, tree: Path) -> None:
    before = snapshot(tree)
    foreseen = shelf.json("install", shelf.bundle, "--root", tree, "--unchecked", "--dry-run")
    assert snapshot(tree) == before
    done = shelf.json("install", shelf.bundle, "--root", tree, "--unchecked")
    assert done["changes"] == foreseen["changes"]
    after = snapshot(tree)
    made = {change["path"].lstrip("/") for change in done["changes"] if change["what"] not in ("user", "group")}
    assert made <= after.keys()
    assert chroot(tree, "psql", "--version") == "psql (PostgreSQL) 15.18\n"
    real = chroot(tree, "readlink", "-f", "/usr/lib/postgresql/15/bin/postgres")
    assert real.startswith("/nix/var/pgbake/servers/")
    again = shelf.json("install", shelf.bundle, "--root", tree, "--unchecked")
    assert again["changes"] == [] and again["now"] == done["now"]
    assert shelf.pgbake("--store", tree, "verify").returncode == 0
    (tree / "usr/bin/psql").unlink()
    damaged = shelf.pgbake("--store", tree, "verify", "--no-contents", check=False)
    assert damaged.returncode == 1 and "/usr/bin/psql" in damaged.stdout
    shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked")
    record = tree / "nix/var/pgbake/machine.json"
    recorded = record.read_bytes()
    shelf.pgbake("uninstall", "--root", tree)
    assert snapshot(tree) == before
    # Killed when all was gone but the record: nothing is wrong, and the next command takes it away.
    record.write_bytes(recorded)
    assert shelf.pgbake("--store", tree, "verify").returncode == 0
    shelf.pgbake("uninstall", "--root", tree)
    assert not record.exists() and snapshot(tree) == before


def test_what_is_in_the_way_is_named_and_kept(shelf: Shelf, tree: Path) -> None:
    (tree / "etc/postgresql/15/main").mkdir(parents=True)
    conf = tree / "etc/postgresql/15/main/postgresql.conf"
    conf.write_text("port = 5440\n")
    unit = tree / "etc/systemd/system/postgresql@15-main.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text("[Unit]\n")
    before = snapshot(tree)
    refused = shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked", check=False)
    assert refused.returncode == 2
    assert "/etc/postgresql/15/main/postgresql.conf" in refused.stderr
    assert "/etc/systemd/system/postgresql@15-main.service" in refused.stderr
    assert "hint: --divert" in refused.stderr
    assert snapshot(tree) == before
    shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked", "--divert")
    assert "Type=notify" in unit.read_text()
    assert "data_directory" in conf.read_text()
    shelf.pgbake("uninstall", "--root", tree)
    assert snapshot(tree) == before
    unit.unlink()
    shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked", "--adopt")
    assert conf.read_text() == "port = 5440\n"
    shelf.pgbake("uninstall", "--root", tree)
    assert conf.read_text() == "port = 5440\n"


def test_changed_configuration_stays_and_is_known_again(shelf: Shelf, tree: Path) -> None:
    shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked")
    conf = tree / "etc/postgresql/15/main/postgresql.conf"
    with conf.open("a") as file:
        file.write("work_mem = '7MB'\n")
    shelf.pgbake("uninstall", "--root", tree)
    assert "7MB" in conf.read_text()
    assert not (tree / "etc/postgresql/15/main/pg_hba.conf").exists()
    shelf.pgbake("install", shelf.bundle, "--root", tree, "--unchecked")
    assert "7MB" in conf.read_text()
    shelf.pgbake("uninstall", "--root", tree, "--purge")
    assert not (tree / "etc/postgresql").exists()


def test_generations_and_clusters(shelf: Shelf, tree: Path) -> None:
    root = ("--root", tree)
    small = shelf.json("install", shelf.small(), *root, "--unchecked")
    full = shelf.json("install", shelf.bundle, *root, "--unchecked")
    minor = shelf.json("install", shelf.minor(), *root, "--unchecked")
    assert small["now"]["server"] == full["now"]["server"] != minor["now"]["server"]
    frozen = tree / "nix/var/pgbake/servers" / full["now"]["server"] / "current"
    assert str(frozen.readlink()) == str(shelf.bundle)
    shelf.pgbake("--store", tree, "gc")
    assert [g["number"] for g in shelf.json("generations", *root)] == [1, 2, 3]
    back = shelf.json("rollback", *root)
    assert back["now"]["number"] == 2 and str(frozen.readlink()).endswith("current/bundle")
    assert shelf.json("rollback", "1", *root)["now"]["number"] == 1
    assert not (tree / "usr/share/postgresql/15/extension/pgpcre.control").exists()
    created = shelf.json("cluster", "create", "reports", *root)
    assert created["port"] == 5433
    assert (tree / "etc/systemd/system/postgresql@15-reports.service").exists()
    shelf.pgbake("cluster", "drop", "reports", *root)
    assert not (tree / "etc/postgresql/15/reports").exists()
    shelf.pgbake("uninstall", *root)
    assert not (tree / "nix/var/pgbake/profiles").exists()


def test_generations_go_when_a_collector_may_take_them(shelf: Shelf, tree: Path) -> None:
    root, store = ("--root", tree), ("--store", tree)
    for bundle in (shelf.small(), shelf.bundle, shelf.minor()):
        done = shelf.json("install", bundle, *root, "--unchecked")
    assert shelf.json(*store, "gc")["deleted"] == []
    foreseen = shelf.json(*store, "gc", "--keep-generations", "2", "--dry-run")
    assert [number(link) for link in foreseen["generations"]] == [1]
    assert [entry["path"] for entry in foreseen["deleted"]] == [str(shelf.small())]
    foreseen = shelf.json(*store, "gc", "--keep-generations", "1", "--dry-run")
    assert [number(link) for link in foreseen["generations"]] == [2, 1]
    assert str(shelf.bundle) in [entry["path"] for entry in foreseen["deleted"]]
    assert len(shelf.json("generations", *root)) == 3, "nothing was done"
    went = shelf.json(*store, "gc", "--keep-generations", "1")
    assert went["generations"] == foreseen["generations"] and went["deleted"] == foreseen["deleted"]
    (only,) = shelf.json("generations", *root)
    assert only == done["now"]
    assert [place.name for place in (tree / "nix/var/pgbake/servers").iterdir()] == [only["server"]]
    shelf.pgbake(*store, "verify")
    refused = shelf.pgbake("rollback", *root, check=False)
    assert refused.returncode == 2 and "no generation before 3" in refused.stderr
    assert chroot(tree, "/usr/lib/postgresql/15/bin/psql", "--version")


def number(link: str) -> int:
    """Return the number of a generation by its link."""
    return int(Path(link).parent.name)


def test_refusals_change_nothing(shelf: Shelf, tree: Path) -> None:
    before = snapshot(tree)

    def refused(*args: object) -> str:
        done = shelf.pgbake("install", *args, "--root", tree, check=False)
        assert done.returncode != 0 and "hint:" in done.stderr, done.stderr
        assert snapshot(tree) == before
        return done.stderr

    assert "its checks" in refused(shelf.bundle) or "statement check" in refused(shelf.bundle)
    assert "is for aarch64-linux" in refused(shelf.foreign(), "--unchecked")
    assert "no name of a cluster" in refused(shelf.bundle, "--cluster", "a-b")
    data = tree / "var/lib/postgresql/15/main"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("14\n")
    before = snapshot(tree)
    assert "made by PostgreSQL 14" in refused(shelf.bundle, "--unchecked")
    (data / "PG_VERSION").write_text("15\n")
    data.chmod(0o700)
    before = snapshot(tree)
    assert "--adopt" in refused(shelf.bundle, "--unchecked")


def kills(shelf: Shelf, tree: Path, points: int, chance: random.Random) -> None:
    """Kill commands at random moments; each time the old or the new state is there, and the next command works."""
    root = ("--root", str(tree))
    empty = snapshot(tree)
    commands = [
        ("install", str(shelf.small()), *root, "--unchecked"),
        ("install", str(shelf.bundle), *root, "--unchecked"),
        ("rollback", *root),
        ("install", str(shelf.minor()), *root, "--unchecked"),
        ("uninstall", *root),
    ]
    done = 0
    while done < points:
        for command in commands:
            current = tree / "nix/var/pgbake/profiles/15/current"
            old = current.readlink() if current.is_symlink() else None
            process = subprocess.Popen(
                [sys.executable, "-m", "pgbake", *command], env=shelf.environment(), cwd=shelf.home,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            time.sleep(chance.uniform(0.12, 0.6))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                done += 1
            process.wait()
            new = current.readlink() if current.is_symlink() else None
            if new is not None:
                # psql of the state that is current answers, old or new.
                chroot(tree, "/usr/lib/postgresql/15/bin/psql", "--version")
            said = ""
            if command[0] != "uninstall" and new == old:
                shelf.pgbake(*command)
            elif command[0] == "uninstall" and (new is not None or snapshot(tree) != empty):
                again = shelf.pgbake(*command, check=False)
                assert again.returncode in (0, 2)
                said = again.stderr
            with LocalStore(tree) as store:
                assert Installation(store, silent).inspect() == [], (command, said)
        assert snapshot(tree) == empty


def test_kills(shelf: Shelf, tree: Path) -> None:
    kills(shelf, tree, 4, random.Random(os.environ.get("PGBAKE_CRASH_SEED", "install")))


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_kills_at_fifty_points(shelf: Shelf, tree: Path) -> None:
    seed = os.environ.get("PGBAKE_CRASH_SEED") or str(time.time())
    print(f"PGBAKE_CRASH_SEED={seed}")
    kills(shelf, tree, 50, random.Random(hashlib.sha256(seed.encode()).digest()))
