"""Local servers, by the commands that a user types."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture
def data(example: TestProject) -> Iterator[Path]:
    """A place for data directories that the server's user can reach; servers in it are stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pgbake-data-"))
    directory.chmod(0o755)
    yield directory
    for status in example.json("status"):
        if status["running"] and status["data"].startswith(str(directory)):
            example.pgbake("down", "--data", status["data"])
    shutil.rmtree(directory)


def sql(project: TestProject, data: Path, *statements: str) -> str:
    """Run statements by psql and return what they print, without decoration."""
    args = [word for statement in statements for word in ("-c", statement)]
    return project.pgbake("psql", "--data", str(data), "-XAt", "-v", "ON_ERROR_STOP=1", *args).stdout.strip()


def up(project: TestProject, data: Path, *args: str) -> Any:
    return project.json("up", "--data", str(data), *args)


def test_up_and_down(example: TestProject, data: Path) -> None:
    one = up(example, data / "one")
    assert one["started"] and one["running"]
    assert sql(example, data / "one", "SHOW data_checksums") == "on"
    assert sql(example, data / "one", "SHOW shared_preload_libraries") == (
        "pg_stat_statements,pgaudit,pglogical,pre_prepare"
    )
    assert sql(example, data / "one", "SHOW wal_level") == "logical"
    again = up(example, data / "one")
    assert not again["started"] and again["pid"] == one["pid"]
    if os.geteuid() == 0:
        owner = Path(f"/proc/{one['pid']}").stat().st_uid
        assert pwd.getpwuid(owner).pw_name in ("postgres", "nobody")
    assert example.json("down", "--data", str(data / "one")) == {"stopped": [str(data / "one")]}
    assert example.json("down", "--data", str(data / "one")) == {"stopped": []}
    failed = example.pgbake("psql", "--data", str(data / "one"), check=False)
    assert failed.returncode == 1
    assert "is not running" in failed.stderr and "hint: start it with `pgbake up`" in failed.stderr


def test_several_side_by_side_keep_their_ports(example: TestProject, data: Path) -> None:
    one, two = up(example, data / "one"), up(example, data / "two")
    assert one["port"] != two["port"]
    for name, server in (("one", one), ("two", two)):
        assert sql(example, data / name, "SHOW port") == str(server["port"])
        sql(example, data / name, f"CREATE TABLE t AS SELECT '{name}' AS name")
    example.pgbake("down", "--data", str(data / "two"))
    assert up(example, data / "two")["port"] == two["port"]
    assert sql(example, data / "two", "SELECT name FROM t") == "two"


def test_the_uris_lead_to_the_server(example: TestProject, data: Path) -> None:
    server = up(example, data / "one")
    for uri, environment in ((server["uri"], {}), (server["tcp-uri"], {"PGPASSFILE": server["pgpass"]})):
        answer = example.pgbake("run", "--", "psql", "-XAtw", uri, "-c", "SELECT 42", environment=environment)
        assert answer.stdout == "42\n"
    refused = example.pgbake("run", "--", "psql", "-XAtw", server["tcp-uri"], "-c", "SELECT 42", check=False)
    assert refused.returncode != 0 and "password" in refused.stderr
    assert Path(server["pgpass"]).stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_one_clear_error(example: TestProject, data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = example.pgbake("up", "--data", str(data / "one"), "--port", str(port), check=False)
    assert failed.returncode == 1
    assert f"error: port {port} is taken" in failed.stderr and "hint:" in failed.stderr
    assert not (data / "one").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
def test_an_unreachable_directory_is_one_clear_error(example: TestProject, data: Path) -> None:
    closed = data / "closed"
    closed.mkdir(mode=0o700)
    failed = example.pgbake("up", "--data", str(closed / "one"), check=False)
    assert failed.returncode == 1
    assert f"who cannot reach {closed / 'one'}" in failed.stderr
    assert f"hint: {closed} is closed to others" in failed.stderr
    assert not list(closed.iterdir())


def test_data_of_another_major_is_left_alone(example: TestProject, data: Path) -> None:
    other = data / "old"
    other.mkdir()
    (other / "PG_VERSION").write_text("14\n")
    if os.geteuid() == 0:
        shutil.chown(other, "nobody")
    failed = example.pgbake("up", "--data", str(other), check=False)
    assert failed.returncode == 1
    assert f"{other} was made by PostgreSQL 14; this bundle is PostgreSQL 15" in failed.stderr
    assert [path.name for path in other.iterdir()] == ["PG_VERSION"]


def test_a_directory_of_something_else_is_left_alone(example: TestProject, data: Path) -> None:
    other = data / "photos"
    other.mkdir()
    (other / "one.jpg").write_text("not a database")
    if os.geteuid() == 0:
        shutil.chown(other, "nobody")
    failed = example.pgbake("up", "--data", str(other), check=False)
    assert failed.returncode == 1
    assert "is not empty and is no data directory of PostgreSQL" in failed.stderr
    assert [path.name for path in other.iterdir()] == ["one.jpg"]


def test_a_wrong_setting_shows_the_servers_own_words(example: TestProject, project: TestProject, data: Path) -> None:
    with (project.directory / "pgbake.toml").open("a") as manifest:
        manifest.write('[settings]\nshared_buffers = "lots"\n')
    failed = project.pgbake("up", "--data", str(data / "one"), check=False)
    assert failed.returncode == 1
    assert 'invalid value for parameter "shared_buffers": "lots"' in failed.stderr
    assert "did not start" in failed.stderr and "Traceback" not in failed.stderr


def test_settings_of_the_manifest_reach_the_server(project: TestProject, data: Path) -> None:
    with (project.directory / "pgbake.toml").open("a") as manifest:
        manifest.write('[settings]\nwork_mem = "7MB"\njit = false\ncluster_name = "it\'s ours"\n')
    up(project, data / "one")
    settings = sql(project, data / "one", "SHOW work_mem", "SHOW jit", "SHOW cluster_name")
    assert settings == "7MB\noff\nit's ours"


def test_the_first_locale_is_the_default_of_a_new_cluster(project: TestProject, data: Path) -> None:
    project.edit('locales = ["C.UTF-8", "en_US.UTF-8"]', 'locales = ["en_US.UTF-8", "C.UTF-8"]')
    up(project, data / "one")
    assert sql(project, data / "one", "SHOW lc_collate") == "en_US.UTF-8"


def test_a_killed_server_starts_again_with_its_data(example: TestProject, data: Path) -> None:
    server = up(example, data / "one")
    sql(example, data / "one", "CREATE TABLE t AS SELECT 1 AS one")
    os.kill(server["pid"], signal.SIGKILL)
    while not any(s["data"] == server["data"] and not s["running"] for s in example.json("status")):
        pass
    assert up(example, data / "one")["started"]
    assert sql(example, data / "one", "SELECT one FROM t") == "1"


def test_a_server_that_was_killed_before_it_wrote_its_pid_starts_again(example: TestProject, data: Path) -> None:
    up(example, data / "one")
    example.pgbake("down", "--data", str(data / "one"))
    (data / "one/postmaster.pid").touch()
    assert up(example, data / "one")["started"]


def test_what_the_server_starts_sees_nothing_of_the_caller(example: TestProject, data: Path) -> None:
    example.pgbake("up", "--data", str(data / "one"), environment={"PGOPTIONS": "-c jit=off", "SECRET": "s3cret"})
    assert "SECRET" not in sql(example, data / "one", "CREATE TABLE e (l text)", "COPY e FROM PROGRAM 'env'", "TABLE e")
