"""A bundle's whole life on a machine with systemd, from a signed cache, under load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgbake.formats.storepath import StorePath
from tests.cache import scratch_directory
from tests.installs import OTHERWISE, Shelf, host_tree, snapshot
from tests.machines import MACHINE, Booted, booted

pytestmark = [pytest.mark.integration, pytest.mark.full]

#: What a machine writes by itself, beside what is installed.
_ITS_OWN = (
    "etc/machine-id", "var/cache/pgbake", "var/lib/private", "var/lib/systemd", "var/log/btmp", "var/log/journal",
    "var/log/lastlog", "var/log/wtmp",
)  # fmt: skip


@pytest.fixture(params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, shelf: Shelf, otherwise: StorePath) -> Iterator[Booted]:
    """A machine of a release, booted; it trusts the key that signs the cache which it serves itself."""
    shelf.offer(shelf.small())
    with scratch_directory("machine") as directory:
        tree = host_tree(directory / "tree", request.param, MACHINE)
        with booted(tree, shelf.root, {shelf.cache: Path("/cache")}) as running:
            running.trust("tests-1", cache="http://127.0.0.1:8080")
            with subprocess.Popen(running.command("pgbake", "cache", "serve", "/cache"), stdout=subprocess.PIPE) as web:
                assert web.stdout is not None and web.stdout.readline()
                try:
                    yield running
                finally:
                    web.kill()


def pgbake(machine: Booted, *args: str) -> dict[str, Any]:
    """Run a command and return its answer."""
    answer: dict[str, Any] = json.loads(machine.pgbake(*args, "--json"))
    return answer


def newest(shelf: Shelf, bundle: StorePath) -> None:
    """Make a bundle the newest of the cache, whatever was pushed before."""
    shelf.offer(bundle)
    for root in (shelf.cache / "roots").iterdir():
        os.utime(root, (1_000_000_000, 1_000_000_000 + (root.name.startswith(bundle.digest))))


def everything(machine: Booted) -> dict[str, str]:
    """Return what the machine holds, but for the store and what it writes by itself."""
    return {name: what for name, what in snapshot(machine.tree).items() if not name.startswith(_ITS_OWN)}


@dataclass
class Load:
    """What became of the transactions of a load.

    :param processed: those that pgbench was told to be committed.
    :param cut: those that were under way when their server ended: committed or not, as the server had come to.
    :param refused: connections that were not to be had; no transaction had begun.
    """

    processed: int = 0
    cut: int = 0
    refused: int = 0

    def count(self, output: str) -> None:
        """Count the runs of pgbench; every word of an error must be one that is known."""
        for line in output.splitlines():
            if found := re.fullmatch(r"number of transactions actually processed: (\d+)(/\d+)?", line):
                self.processed += int(found[1])
            elif re.match(r"number of failed transactions: (?!0 )", line):
                raise AssertionError(line)
            elif "error: client" in line:
                assert re.search(r"client \d+ (aborted|script \d+ aborted)|unexpectedly", line), line
                self.cut += 1
            elif "error: connection to server" in line or "error: could not create connection" in line:
                self.refused += "connection to server" in line
            elif line.startswith(("pgbench: error", "pgbench: fatal")):
                assert "Run was aborted" in line, line


@contextmanager
def loaded(machine: Booted) -> Iterator[Load]:
    """Let two clients of pgbench write, and count what became of each transaction when the block ends."""
    machine.run("rm", "-f", "/tmp/enough")
    load = Load()
    process = subprocess.Popen(
        machine.command("sh", "-c", _LOAD, user="postgres"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    time.sleep(1)
    try:
        yield load
    finally:
        time.sleep(1)
        machine.run("touch", "/tmp/enough")
        output, _ = process.communicate(timeout=60)
    load.count(output)


@pytest.mark.timeout(1500)
def test_a_whole_life(machine: Booted, shelf: Shelf, otherwise: StorePath) -> None:
    before = everything(machine)
    first = pgbake(machine, "install", "example")
    assert first["started"] == ["15/main"] and first["now"]["checks"] == "stated"
    assert machine.run("systemctl", "is-active", "postgresql@15-main").strip() == "active"
    assert machine.sql("SELECT 6 * 7") == "42"
    assert machine.sql("SHOW data_checksums") == "on"
    started = machine.sql("SELECT pg_postmaster_start_time()")
    for language in ("plperl", "plpython3u", "pltcl"):
        machine.sql(f"CREATE EXTENSION {language}")
    machine.sql("CREATE COLLATION english (provider = libc, locale = 'en_US.UTF-8')")

    # Live: an extension, and the library that it brings, in the server that runs.
    newest(shelf, shelf.bundle)
    added = pgbake(machine, "upgrade")
    assert added["live"] and added["restart-reasons"] == []
    machine.sql("CREATE EXTENSION pgpcre")
    assert machine.sql("SELECT 'abc' ~ pcre 'a.c'") == "t"
    assert machine.sql("SELECT pg_postmaster_start_time()") == started
    assert pgbake(machine, "upgrade")["now"] == added["now"], "upgrading again is nothing"

    # Another PostgreSQL: said first, then done under load, and taken back.
    newest(shelf, otherwise)
    machine.pgbake("pull", "--no-link", str(otherwise))
    assert "PostgreSQL 15.18, built anew" in pgbake(machine, "upgrade", "--dry-run")["restart-reasons"]
    machine.run("pgbench", "-i", "-q", "-s", "1", "postgres", user="postgres")
    with loaded(machine) as load:
        switched = pgbake(machine, "upgrade", "--restart")
        assert machine.sql("SHOW server_version") == f"15.18{OTHERWISE}"
        back = pgbake(machine, "rollback", "--restart")
    assert machine.sql("SHOW server_version") == "15.18"
    assert back["now"]["number"] == added["now"]["number"]
    downtimes = [answer["restarted"][0]["downtime"] for answer in (switched, back)]
    assert all(0 < downtime < 30 for downtime in downtimes)
    # Two clients and two restarts. Of what was cut the server alone knows which were committed; nothing else is lost.
    committed = int(machine.sql("SELECT count(*) FROM pgbench_history"))
    print(f"downtimes {downtimes} s; {load}, {committed} committed")
    assert 0 < load.cut <= 4 and load.processed > 0
    assert load.processed <= committed <= load.processed + load.cut
    assert machine.sql(_SUMS) == "t", "what was committed is whole"

    # A server that does not come up: the old one runs again.
    newest(shelf, shelf.broken())
    failed = machine.attempt("pgbake", "upgrade", "--restart")
    assert failed.returncode == 1 and "is_not_there" in failed.stderr, failed.stderr
    assert machine.sql("SELECT 1") == "1"
    assert "pgpcre" in machine.sql("SELECT extname FROM pg_extension")
    assert machine.pgbake("verify", "--no-contents")

    # Older generations, and what only they need; the current one stays though it is not the newest.
    machine.pgbake("gc", "--keep-generations", "1")
    left = json.loads(machine.pgbake("generations", "--json"))
    assert [each["number"] for each in left] == [added["now"]["number"], switched["now"]["number"]]
    assert left[0]["current"]
    assert not (machine.tree / str(shelf.small()).lstrip("/")).exists()
    assert machine.sql("SELECT 'abc' ~ pcre 'a.c'") == "t"

    # Data stays, and is known again; unless asked for, and then all is as it was before, file by file.
    machine.pgbake("uninstall")
    stays = everything(machine)
    assert {name for name in stays.keys() - before.keys() if not name.startswith("var/lib/postgresql/15/main")} <= {
        "var/lib/postgresql", "var/lib/postgresql/15", "var/log/postgresql",
        "var/log/postgresql/postgresql-15-main.log",
    }  # fmt: skip
    machine.pgbake("install", str(shelf.bundle))
    assert int(machine.sql("SELECT count(*) FROM pgbench_history")) == committed
    machine.pgbake("uninstall", "--purge")
    assert everything(machine) == before


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
