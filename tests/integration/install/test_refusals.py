"""What `pgbake install` refuses, on a machine of its own with no systemd: each says why and what to type, and leaves
all as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache import scratch_directory
from tests.installs import Shelf, host_tree, snapshot
from tests.machines import MACHINE, Booted, contained

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def machine(shelf: Shelf) -> Iterator[Booted]:
    """A machine that trusts one key, and a cache with bundles that key has signed; nothing that follows changes it."""
    shelf.offer(shelf.bundle, shelf.foreign(), shelf.future())
    shelf.offer(shelf.small(), checked=False)
    with scratch_directory("machine") as directory:
        tree = host_tree(directory / "tree", "bookworm", (*MACHINE, "nix-bin"))
        # Out of PATH, and so as good as not there; one test brings it back.
        (tree / "usr/bin/nix-store").rename(tree / "usr/lib/nix-store")
        (tree / "sys").mkdir(exist_ok=True)
        with contained(tree, shelf.root, {shelf.cache: Path("/cache")}) as running:
            running.trust("tests-1")
            yield running


def everything(machine: Booted) -> dict[str, str]:
    """Return what the machine has, but for answers of caches that are kept, and what nothing refers to in the store."""
    found = {name: what for name, what in snapshot(machine.tree).items() if not name.startswith("var/cache/pgbake")}
    kept = ("install.lock", "statements")
    state = machine.tree / "nix/var/pgbake"
    found["installed"] = str(sorted(place.name for place in state.glob("*") if place.name not in kept))
    return found


def refused(machine: Booted, *args: object, prefix: tuple[str, ...] = ()) -> str:
    """Try to install, which must be refused with a hint, and change nothing; return what was said."""
    before = everything(machine)
    done = machine.attempt(*prefix, "pgbake", "install", *map(str, args))
    assert done.returncode in (1, 2), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert re.search(r"^error: ", done.stderr, re.MULTILINE) and "\nhint: " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert everything(machine) == before
    return done.stderr


def mounted(options: str, script: str = "") -> tuple[str, ...]:
    """Return the words before a command that sees ``/nix`` mounted so."""
    return ("unshare", "-m", "sh", "-c", f'mkdir -p /nix && mount {options} /nix && {script or ":"} && exec "$@"', "sh")


def stored(machine: Booted) -> list[str]:
    """Return what lies in the machine's store."""
    store = machine.tree / "nix/store"
    return [name for name in os.listdir(store) if not name.startswith(".")] if store.is_dir() else []  # noqa: PTH208


def test_a_key_that_nobody_trusts(machine: Booted, shelf: Shelf) -> None:
    machine.trust("tests-2")
    try:
        said = refused(machine, shelf.bundle)
    finally:
        machine.trust("tests-1")
    assert "sign" in said and "tests-1" in said
    assert stored(machine) == []


def test_checks_that_have_not_passed(machine: Booted, shelf: Shelf) -> None:
    assert "check" in refused(machine, shelf.small())


def test_another_kind_of_machine(machine: Booted, shelf: Shelf) -> None:
    assert "is for aarch64-linux" in refused(machine, shelf.foreign())


def test_a_kernel_that_is_too_old(machine: Booted, shelf: Shelf) -> None:
    assert "needs Linux 99.1" in refused(machine, shelf.future())


def test_the_store_on_a_file_system_that_is_read_only(machine: Booted, shelf: Shelf) -> None:
    said = refused(machine, shelf.bundle, prefix=mounted("-t tmpfs -o ro tmpfs"))
    assert "/nix is mounted read-only" in said and "remount,rw /nix" in said


def test_the_store_where_nothing_may_run(machine: Booted, shelf: Shelf) -> None:
    said = refused(machine, shelf.bundle, prefix=mounted("-t tmpfs -o noexec tmpfs"))
    assert "/nix is mounted noexec" in said and "remount,exec /nix" in said


def test_the_store_on_a_disk_that_is_nearly_full(machine: Booted, shelf: Shelf) -> None:
    said = refused(machine, shelf.bundle, prefix=mounted("-t tmpfs -o size=90m tmpfs"))
    assert re.search(r"/nix has [\d.]+ MB free, and \d+ MB are to come", said), said


def test_the_rest_of_the_machine_read_only(machine: Booted, shelf: Shelf) -> None:
    script = "mount --bind /usr /usr && mount -o remount,bind,ro /usr && exec"
    said = refused(machine, shelf.bundle, prefix=("unshare", "-m", "sh", "-c", f'{script} "$@"', "sh"))
    assert "/usr is mounted read-only" in said


def test_selinux_that_enforces(machine: Booted, shelf: Shelf) -> None:
    script = "mount -t tmpfs tmpfs /sys && mkdir -p /sys/fs/selinux && echo 1 > /sys/fs/selinux/enforce"
    enforcing = ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")
    said = refused(machine, shelf.bundle, prefix=enforcing)
    assert "SELinux is enforcing" in said and "semanage fcontext -a -e /usr /nix" in said
    told = json.loads(machine.attempt(*enforcing, "pgbake", "doctor", "--offline", "--json").stdout)
    (finding,) = [finding for finding in told["findings"] if finding["name"] == "selinux"]
    assert finding["state"] == "warning" and "semanage fcontext -a -e /usr /nix" in finding["hint"]


@pytest.mark.parametrize("options", ["ro", "noexec"])
def test_the_doctor_tells_how_the_store_is_mounted(machine: Booted, options: str) -> None:
    told = machine.attempt(*mounted(f"-t tmpfs -o {options} tmpfs"), "pgbake", "doctor", "--offline").stdout
    assert ("mounted read-only" if options == "ro" else "run programs") in told
    assert f"mount -o remount,{'rw' if options == 'ro' else 'exec'} /nix" in told


def test_a_real_nix_that_owns_the_store(machine: Booted, shelf: Shelf) -> None:
    tree = machine.tree
    (tree / "usr/lib/nix-store").rename(tree / "usr/bin/nix-store")
    try:
        assert "(Nix)" in machine.run("nix-store", "--version")
        said = refused(machine, shelf.bundle)
    finally:
        (tree / "usr/bin/nix-store").rename(tree / "usr/lib/nix-store")
    assert "Nix is installed on this machine and owns /nix" in said


def test_a_server_on_the_port(machine: Booted, shelf: Shelf) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 5432)); print(flush=True); time.sleep(600)"
    with subprocess.Popen(machine.command("python3", "-c", program), stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            said = refused(machine, shelf.bundle)
        finally:
            machine.run("pkill", "-f", "create_server")
    assert "a server runs on port 5432 already" in said and "--port: 5433" in said


def test_a_server_at_the_socket(machine: Booted, shelf: Shelf) -> None:
    program = (
        "import socket, time, os; os.makedirs('/run/postgresql', exist_ok=True); s = socket.socket(socket.AF_UNIX);"
        "s.bind('/run/postgresql/.s.PGSQL.5432'); s.listen(); print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen(machine.command("python3", "-c", program), stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()
            said = refused(machine, shelf.bundle)
        finally:
            machine.run("pkill", "-f", "s.listen")
            machine.run("rm", "-r", "/run/postgresql")
    assert "at its socket" in said


@pytest.mark.parametrize("major", [14, 15])
def test_data_that_is_not_ours(machine: Booted, shelf: Shelf, major: int) -> None:
    data = machine.tree / "var/lib/postgresql/15/main"
    data.mkdir(parents=True, mode=0o700)
    (data / "PG_VERSION").write_text(f"{major}\n")
    try:
        said = refused(machine, shelf.bundle)
    finally:
        machine.run("rm", "-r", "/var/lib/postgresql")
    assert ("made by PostgreSQL 14" if major == 14 else "--adopt") in said


def test_files_that_are_not_ours(machine: Booted, shelf: Shelf) -> None:
    place = machine.tree / "usr/bin/psql"
    place.write_text("#!/bin/sh\n")
    (machine.tree / "usr/lib/postgresql").mkdir()
    (machine.tree / "usr/lib/postgresql/15").symlink_to("/opt/pg")
    try:
        said = refused(machine, shelf.bundle)
    finally:
        machine.run("rm", "-r", "/usr/bin/psql", "/usr/lib/postgresql")
    assert "/usr/bin/psql: a file" in said and "/usr/lib/postgresql/15: a link to /opt/pg" in said
    assert "--divert" in said


def test_not_root(machine: Booted, shelf: Shelf) -> None:
    said = refused(machine, shelf.bundle, prefix=("setpriv", "--reuid=65534", "--clear-groups"))
    assert "only root can install" in said


def test_a_refused_machine_installs_afterwards(machine: Booted, shelf: Shelf) -> None:
    """None of the refusals is of the machine itself: with nothing in the way it installs, and tells who checked."""
    machine.pgbake("install", str(shelf.bundle), "--no-start")
    assert '"checks": "stated"' in machine.pgbake("generations", "--json")
    assert machine.run("psql", "--version") == "psql (PostgreSQL) 15.18\n"
    machine.pgbake("verify", "--no-contents")
    machine.pgbake("uninstall")
