"""A bundle's whole life on a machine with systemd, under load."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installs import Shelf, host_tree, snapshot
from tests.machines import MACHINE, Booted, booted

pytestmark = [pytest.mark.integration, pytest.mark.full]


@pytest.fixture(params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, shelf: Shelf) -> Iterator[Booted]:
    """A machine of a release, booted."""
    for make in (shelf.small, shelf.minor, shelf.broken):
        make()
    with tempfile.TemporaryDirectory(dir=shelf.root.parent, prefix="machine-") as directory:
        tree = host_tree(Path(directory) / "tree", request.param, MACHINE)
        with booted(tree, shelf.root) as running:
            yield running


def install(machine: Booted, bundle: object, *options: str) -> dict[str, Any]:
    """Install from the tests' store."""
    said = machine.pgbake("install", str(bundle), "--from", "local?root=/shelf", "--unchecked", "--json", *options)
    answer: dict[str, Any] = json.loads(said)
    return answer


def accounted(machine: Booted) -> dict[str, str]:
    """What the machine holds where an install writes."""
    kept: dict[str, str] = {}
    for place in ("etc", "usr/bin", "usr/lib/postgresql", "usr/share/postgresql", "var/lib", "var/log"):
        if (machine.tree / place).is_dir():
            kept |= {f"{place}/{name}": what for name, what in snapshot(machine.tree / place).items()}
    quiet = (
        "etc/.pwd.lock", "etc/group-", "etc/gshadow-", "etc/machine-id", "etc/passwd-", "etc/shadow-",
        "var/lib/private", "var/lib/systemd", "var/log/btmp", "var/log/journal", "var/log/lastlog", "var/log/wtmp",
    )  # fmt: skip
    return {name: what for name, what in kept.items() if not name.startswith(quiet)}


@pytest.mark.timeout(900)
def test_a_whole_life(machine: Booted, shelf: Shelf) -> None:
    before = accounted(machine)
    first = install(machine, shelf.small())
    assert first["started"] == ["15/main"]
    assert machine.run("systemctl", "is-active", "postgresql@15-main").strip() == "active"
    assert machine.sql("SELECT 6 * 7") == "42"
    assert machine.sql("SHOW data_checksums") == "on"
    started = machine.sql("SELECT pg_postmaster_start_time()")
    for language in ("plperl", "plpython3u", "pltcl"):
        machine.sql(f"CREATE EXTENSION {language}")
    machine.sql("CREATE COLLATION english (provider = libc, locale = 'en_US.UTF-8')")

    # Live: an extension, and the library that it brings, in the server that runs.
    added = install(machine, shelf.bundle)
    assert added["live"] and added["restart-reasons"] == []
    machine.sql("CREATE EXTENSION pgpcre")
    assert machine.sql("SELECT 'abc' ~ pcre 'a.c'") == "t"
    assert machine.sql("SELECT pg_postmaster_start_time()") == started
    assert install(machine, shelf.bundle)["now"] == added["now"], "installing again is nothing"

    # Another PostgreSQL: said first, then done under load, with every failed transaction counted.
    machine.pgbake("--store", "/", "pull", "--from", "local?root=/shelf", "--no-link", str(shelf.minor()))
    said = install(machine, shelf.minor(), "--dry-run")
    assert said["restart-reasons"] == ["PostgreSQL 15.18 -> 15.99"]
    machine.run("pgbench", "-i", "-q", "-s", "1", "postgres", user="postgres")
    load = subprocess.Popen(
        machine.command("sh", "-c", _LOAD, user="postgres"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    time.sleep(1)
    switched = install(machine, shelf.minor(), "--restart")
    (restarted,) = switched["restarted"]
    assert 0 < restarted["downtime"] < 30
    back = json.loads(machine.pgbake("rollback", "--restart", "--json"))
    assert back["now"]["number"] == added["now"]["number"]
    time.sleep(1)
    machine.run("touch", "/tmp/enough")
    output, _ = load.communicate(timeout=60)
    # Each restart cuts at most one transaction of each client, and each says so; the rest could not connect meanwhile.
    cut = re.findall(r"error: client \d+ .*", output)
    why = "terminating connection|the backend died|server closed"
    assert len(cut) <= 4 and all(re.search(why, line) for line in cut), output
    explained = "connection to server|could not create connection|Run was aborted"
    others = [line for line in re.findall(r"^pgbench: error: .*", output, re.MULTILINE) if "error: client" not in line]
    assert all(re.search(explained, line) for line in others), output
    downtimes = [restarted["downtime"], back["restarted"][0]["downtime"]]
    print(f"downtimes {downtimes} s; {len(cut)} transactions cut, {len(others)} refused connections")
    assert machine.sql("SELECT count(*) FROM pgbench_accounts") == "100000"
    assert machine.sql(_SUMS) == "t", "what was committed is whole"

    # A server that does not come up: the old one runs again.
    failed = machine.attempt(
        "pgbake", "install", str(shelf.broken()), "--from", "local?root=/shelf", "--unchecked", "--restart"
    )
    assert failed.returncode == 1 and "is_not_there" in failed.stderr, failed.stderr
    assert machine.sql("SELECT 1") == "1"
    assert "pgpcre" in machine.sql("SELECT extname FROM pg_extension")
    assert machine.pgbake("verify", "--no-contents")

    machine.pgbake("uninstall", "--purge")
    assert accounted(machine) == before


_LOAD = """
while [ ! -e /tmp/enough ]; do
  pgbench -n -c 2 -T 5 postgres 2>&1
  sleep 0.05
done
"""
_SUMS = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
   AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)
"""
