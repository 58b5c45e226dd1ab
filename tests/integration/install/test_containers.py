"""Installed servers where there is no systemd: in the foreground, several, by Debian's tools, by other people's
scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbake.formats.system import host_system
from tests import cache
from tests.cache import scratch_directory
from tests.installs import Shelf, host_tree, snapshot, write_other_major
from tests.machines import MACHINE, Booted, contained
from tests.projects import TestProject

pytestmark = pytest.mark.integration

#: From the tests' store.
_FROM_SHELF = ("--from", "local?root=/shelf", "--unchecked")


@contextmanager
def container(shelf: Shelf, *packages: str) -> Iterator[Booted]:
    """Give a container with further packages of Debian's, unpacked."""
    with scratch_directory("machine") as directory:
        tree = host_tree(directory / "tree", "bookworm", (*MACHINE, *packages))
        (tree / "sys").mkdir(exist_ok=True)
        with contained(tree, shelf.root) as machine:
            yield machine


def install(machine: Booted, shelf: Shelf, *options: str) -> None:
    """Install from the tests' store."""
    machine.pgbake("install", str(shelf.bundle), *_FROM_SHELF, *options)


def test_a_server_in_the_foreground(shelf: Shelf) -> None:
    with container(shelf) as machine:
        install(machine, shelf, "--no-start")
        with subprocess.Popen(
            machine.command("pgbake", "service", "run", "15/main", "-c", "work_mem=7MB"), stderr=subprocess.PIPE,
            text=True,
        ) as server:  # fmt: skip
            deadline = time.monotonic() + 120
            while machine.attempt("pg_isready", "-q").returncode != 0:
                assert server.poll() is None and time.monotonic() < deadline, server.communicate()
                time.sleep(0.1)
            assert machine.sql("SHOW work_mem") == "7MB"
            assert machine.sql("SHOW data_checksums") == "on"
            machine.sql("CREATE EXTENSION pgaudit")
            (row,) = json.loads(machine.pgbake("cluster", "list", "--json"))
            # The process is the server itself: no pgbake is between it and whoever started it.
            programs = machine.run("readlink", "-f", f"/proc/{row['pid']}/exe").strip()
            assert programs.endswith("/lib/postgresql/15/bin/postgres")
            again = machine.attempt("pgbake", "service", "run")
            assert again.returncode == 1 and "runs already" in again.stderr
            machine.run("kill", "-INT", str(row["pid"]))
            assert server.stderr is not None
            log = server.stderr.read()
            assert server.wait(60) in (0, -signal.SIGINT), log
            assert "received fast shutdown request" in log and "database system is shut down" in log


def test_a_second_cluster(shelf: Shelf) -> None:
    with container(shelf) as machine:
        install(machine, shelf)
        created = json.loads(machine.pgbake("cluster", "create", "reports", "--json"))
        assert (created["cluster"], created["port"]) == ("15/reports", 5433)
        query = ("psql", "-XAtqc", "SHOW data_directory", "-d", "postgres", "-p")
        assert machine.run(*query, "5432", user="postgres").strip() == "/var/lib/postgresql/15/main"
        assert machine.run(*query, "5433", user="postgres").strip() == "/var/lib/postgresql/15/reports"
        machine.pgbake("cluster", "drop", "reports", "--purge")
        assert machine.sql("SELECT 1") == "1"
        assert not (machine.tree / "var/lib/postgresql/15/reports").exists()


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_two_major_versions_side_by_side(shelf: Shelf, tmp_path: Path) -> None:
    project = TestProject(tmp_path / "project", cache.test_cache() / "store", tmp_path / "home")
    write_other_major(project.directory, 17)
    project.pgbake("lock")
    project.pgbake("build")
    newer = project.project.bundle(host_system()).path
    shelf.take(project.store, newer)
    with container(shelf) as machine:
        before = snapshot(machine.tree)
        install(machine, shelf)
        machine.pgbake("install", str(newer), *_FROM_SHELF)
        clusters = json.loads(machine.pgbake("cluster", "list", "--json"))
        assert [(row["cluster"], row["port"], bool(row["pid"])) for row in clusters] == [
            ("15/main", 5432, True), ("17/main", 5433, True)
        ]  # fmt: skip
        for major, port in ((15, 5432), (17, 5433)):
            psql = f"/usr/lib/postgresql/{major}/bin/psql"
            assert machine.run(psql, "--version").startswith(f"psql (PostgreSQL) {major}.")
            said = machine.run(
                psql, "-XAtqc", "SHOW server_version", "-p", str(port), "-d", "postgres", user="postgres"
            )
            assert said.startswith(f"{major}.")
            machine.run(psql, "-XAtqc", "CREATE EXTENSION numeral", "-p", str(port), "-d", "postgres", user="postgres")
        assert machine.run("psql", "--version").startswith("psql (PostgreSQL) 15."), "the first keeps the plain names"
        ambiguous = machine.attempt("pgbake", "rollback")
        assert ambiguous.returncode == 2 and "--major" in ambiguous.stderr
        machine.pgbake("uninstall", "--major", "15", "--purge")
        assert machine.run("psql", "--version").startswith("psql (PostgreSQL) 17.")
        assert machine.run(
            "psql", "-XAtqc", "SELECT 1", "-p", "5433", "-d", "postgres", user="postgres"
        ).strip() == "1"  # fmt: skip
        machine.pgbake("verify", "--no-contents")
        machine.pgbake("uninstall", "--purge")
        after = {name: what for name, what in snapshot(machine.tree).items() if not name.startswith("var/cache/pgbake")}
        assert after == before


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("major", "suite"), [(17, "trixie"), (18, "sid")])
def test_an_extension_is_added_to_a_running_server(shelf: Shelf, tmp_path: Path, major: int, suite: str) -> None:
    """With a library that the bundle did not have; `tests/machine` has the same of 15."""
    project = TestProject(tmp_path / "project", cache.test_cache() / "store", tmp_path / "home")
    bundles = []
    for extensions in (("numeral",), ("numeral", "http")):
        write_other_major(project.directory, major, extensions, suite)
        project.pgbake("lock")
        project.pgbake("build")
        bundles.append(project.project.bundle(host_system()).path)
        shelf.take(project.store, bundles[-1])
    libraries = [
        {file.name for file in (shelf.root / str(bundle).lstrip("/")).glob("lib/*/libcurl*")} for bundle in bundles
    ]
    assert not libraries[0] and libraries[1]
    with container(shelf) as machine:
        first, second = bundles
        done = json.loads(machine.pgbake("install", str(first), *_FROM_SHELF, "--json"))
        assert done["started"] == [f"{major}/main"]
        started = machine.sql("SELECT pg_postmaster_start_time()")
        done = json.loads(machine.pgbake("install", str(second), *_FROM_SHELF, "--json"))
        assert done["live"] and done["restart-reasons"] == []
        machine.sql("CREATE EXTENSION http")
        assert machine.sql("SELECT urlencode('a b')") == "a+b"
        assert machine.sql("SELECT pg_postmaster_start_time()") == started


def test_debians_tools_work_on_ours(shelf: Shelf) -> None:
    with container(shelf, "postgresql-common") as machine:
        install(machine, shelf)
        (row,) = json.loads(machine.run("pg_lsclusters", "--json"))
        assert (str(row["version"]), row["cluster"], row["port"], row["running"]) == ("15", "main", "5432", 1), row
        assert machine.run("readlink", "/usr/bin/psql").strip().endswith("pg_wrapper")
        assert machine.sql("SELECT 6 * 7") == "42", "by pg_wrapper"
        machine.run("pg_ctlcluster", "15", "main", "stop")
        assert " down " in machine.run("pg_lsclusters")
        machine.run("pg_ctlcluster", "15", "main", "start")
        machine.run("pg_ctlcluster", "15", "main", "reload")
        machine.run("pg_createcluster", "15", "theirs", "--start")
        said = machine.run("pg_lsclusters", "-h").splitlines()
        assert [line.split()[:4] for line in said] == [
            ["15", "main", "5432", "online"],
            ["15", "theirs", "5433", "online"],
        ]
        where = machine.run(
            "psql", "--cluster", "15/theirs", "-XAtqc", "SHOW data_directory", "-d", "postgres", user="postgres"
        )
        assert where.strip() == "/var/lib/postgresql/15/theirs"
        machine.run("pg_dropcluster", "15", "theirs", "--stop")
        machine.pgbake("verify", "--no-contents")


def test_a_script_of_the_conventional_paths_runs_unchanged(shelf: Shelf) -> None:
    """What somebody wrote for Debian's PostgreSQL does the same, word for word, with ours."""
    with container(shelf, "postgresql-15") as machine:
        machine.run("useradd", "--system", "--user-group", "--home-dir", "/var/lib/postgresql", "postgres")
        machine.run("install", "-d", "-o", "postgres", "-g", "postgres", "/var/lib/postgresql", "/var/log/postgresql")
        # As the maintainer script does, by ucf: a cluster's name is set there.
        machine.run("install", "-Dt", "/etc/postgresql-common", "/usr/share/postgresql-common/createcluster.conf")
        machine.run("pg_createcluster", "15", "main", "--locale=C.UTF-8", "--", "--data-checksums")
        assert machine.run("readlink", "-f", "/usr/lib/postgresql/15/bin/postgres").startswith("/usr/lib/postgresql/")
        theirs = life(machine)
    with container(shelf) as machine:
        install(machine, shelf, "--no-start")
        machine.run(
            "/usr/lib/postgresql/15/bin/initdb", "-D", "/var/lib/postgresql/15/main", "--locale=C.UTF-8",
            "--data-checksums", "-A", "peer", user="postgres",
        )  # fmt: skip
        ours = life(machine)
    assert ours == theirs
    assert "checksums on" in ours and "dumped and restored" in ours


def life(machine: Booted) -> str:
    """Run the script's actions, and return what they print."""
    place = machine.tree / "usr/local/bin/database"
    machine.run("groupadd", "--system", "adm")  # which Debian's base-passwd has made on any real machine
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(_SCRIPT)
    place.chmod(0o755)
    return "".join(
        machine.run("database", action) for action in ("start", "status", "check", "restart", "check", "stop")
    )


#: Of nobody's but an administrator's, who knows where Debian has its PostgreSQL.
_SCRIPT = """\
#!/bin/sh
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/15/main
conf=/etc/postgresql/15/main
log=/var/log/postgresql/postgresql-15-main.log

as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/var/lib/postgresql "$@"; }

case $1 in
start)
  install -d -m 2775 -o postgres -g postgres /var/run/postgresql
  install -d -m 2775 -g postgres /var/log/postgresql
  touch "$log"; chown postgres:adm "$log"; chmod 640 "$log"
  cd /
  as_postgres "$bin/pg_ctl" start -s -w -D "$data" -l "$log" -o "-c config_file=$conf/postgresql.conf"
  echo started
  ;;
stop)
  as_postgres "$bin/pg_ctl" stop -s -w -D "$data" -m fast
  echo stopped
  ;;
restart)
  "$0" stop
  "$0" start
  ;;
status)
  pg_isready -h /var/run/postgresql
  test -s /var/run/postgresql/15-main.pid
  test "$(readlink -f /usr/share/postgresql/15)" != ""
  ls /usr/share/postgresql/15/extension/plpgsql.control
  ;;
check)
  cd /
  as_postgres psql -X -A -t -c "SELECT 'checksums ' || current_setting('data_checksums')" postgres
  as_postgres psql -X -A -t -c "SELECT current_setting('config_file'), current_setting('hba_file'),
    current_setting('data_directory'), current_setting('cluster_name')" postgres
  as_postgres createdb one
  as_postgres psql -X -q -c "CREATE EXTENSION hstore; CREATE TABLE t AS SELECT 'a=>1'::hstore AS h" one
  as_postgres pg_dump -Fc -f /tmp/one.dump one
  as_postgres createdb two
  as_postgres pg_restore -d two /tmp/one.dump
  as_postgres psql -X -A -t -c "SELECT h -> 'a' || ' row dumped and restored' FROM t" two
  as_postgres dropdb one
  as_postgres dropdb two
  grep -c 'ready to accept connections' "$log" > /dev/null
  ;;
esac
"""
