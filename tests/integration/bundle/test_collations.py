"""Data directories after a change of the runtime: used on as they are; and where text may sort otherwise, told so.

The change of libc is a real one: the runtime pin of libc6 is taken from the next Debian release, so PostgreSQL and
its extensions, which are not built anew, run with another glibc that gives another version to its collations.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgbake.errors import PgbakeError
from tests.moves import move_runtime_pin, take_runtime_pin
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@contextmanager
def running(project: TestProject) -> Iterator[Path]:
    """Start a server, and stop it at the end; give its data directory."""
    directory = Path(tempfile.mkdtemp(prefix="pgbake-collations-"))
    directory.chmod(0o755)
    data = directory / "data"
    try:
        project.pgbake("up", "--data", str(data))
        yield data
    finally:
        project.pgbake("down", "--data", str(data), check=False)
        shutil.rmtree(directory)


@pytest.fixture
def data(apart: TestProject) -> Iterator[Path]:
    """The data directory of a running server, in a project that has a store of its own."""
    with running(apart) as data:
        yield data


def sql(project: TestProject, data: Path, *statements: str, database: str = "shop") -> str:
    words = [word for statement in statements for word in ("-c", statement)]
    arguments = ("--data", str(data), "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1")
    return project.pgbake("psql", *arguments, *words).stdout.strip()


def moved(project: TestProject, data: Path) -> Any:
    """Return what `pgbake status` says of collations, by database."""
    (status,) = [status for status in project.json("status") if status["data"] == str(data)]
    assert status["running"]
    return {database["database"]: database for database in status["collations"]}


def fill(project: TestProject, data: Path) -> None:
    """Make a database with indexes of several kinds: those that rely on en_US, on ICU's order, and on none."""
    sql(
        project,
        data,
        "CREATE DATABASE shop LOCALE 'en_US.UTF-8' TEMPLATE template0",
        database="postgres",
    )
    sql(
        project,
        data,
        'CREATE TABLE t (id int PRIMARY KEY, name text, code text COLLATE "C", german text COLLATE "de-x-icu")',
        "INSERT INTO t SELECT i, w, w, w FROM generate_series(1, 2000) i, "
        "LATERAL (SELECT substr(md5(i::text), 1, 5) || chr(33 + i % 900) AS w) x",
        "CREATE INDEX by_name ON t (name)",
        'CREATE UNIQUE INDEX "By Lower" ON t (lower(name), id)',
        "CREATE INDEX by_part ON t (id) WHERE name > 'm'",
        "CREATE INDEX by_equality ON t (id) WHERE name <> 'm'",
        "CREATE INDEX by_code ON t (code)",
        "CREATE INDEX by_pattern ON t (name text_pattern_ops)",
        "CREATE INDEX by_hash ON t USING hash (name)",
        "CREATE INDEX by_german ON t (german)",
        "ALTER TABLE t ADD CONSTRAINT few CHECK (name < 'zzzzz'), ADD CONSTRAINT short CHECK (length(name) < 9)",
        "ALTER TABLE t ADD CONSTRAINT one EXCLUDE USING btree (name WITH =)",
        "CREATE TABLE p (k text) PARTITION BY RANGE (k)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('a') TO ('m')",
        "CREATE INDEX ON p (k)",
        "CREATE EXTENSION amcheck",
    )


def facts(project: TestProject, data: Path) -> str:
    """Return what the indexes find, and that they are sound: amcheck compares every key with its neighbours."""
    return sql(
        project,
        data,
        "SET enable_seqscan = off",
        "SELECT count(*), min(name), max(name) FROM t WHERE name >= ''",
        "SELECT count(*) FROM t WHERE german >= '4' AND german < 'c'",
        "SELECT bt_index_parent_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
        "JOIN pg_am a ON a.oid = c.relam WHERE indrelid = 't'::regclass AND amname = 'btree'",
    )


def test_a_data_directory_is_used_on_after_a_moved_pin(apart: TestProject, data: Path, tmp_path: Path) -> None:
    first = apart.json("up", "--data", str(data))
    fill(apart, data)
    before = facts(apart, data)
    assert before.startswith("2000|")
    move_runtime_pin(apart, "libssl3", tmp_path)
    apart.pgbake("down", "--data", str(data))
    again = apart.pgbake("up", "--data", str(data))
    (status,) = [status for status in apart.json("status") if status["data"] == str(data)]
    assert status["bundle"] != first["bundle"]
    assert facts(apart, data) == before
    assert status["collations"] == []  # the same libc and ICU: nothing to tell
    assert "order of text" not in again.stderr


def test_another_libc_is_told_with_the_indexes_that_rely_on_it(apart: TestProject, data: Path, tmp_path: Path) -> None:
    first = apart.json("up", "--data", str(data))
    fill(apart, data)
    before = facts(apart, data)
    assert moved(apart, data) == {}
    try:
        take_runtime_pin(apart, "libc6", "trixie", tmp_path)
    except PgbakeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"there is no other libc to be had: {error}")
        pytest.skip(f"there is no other libc to be had: {error}")
    apart.pgbake("down", "--data", str(data))
    again = apart.pgbake("up", "--data", str(data))
    assert apart.json("up", "--data", str(data))["bundle"] != first["bundle"]
    assert "the order of text may have changed with the bundle (libc 2.36 -> 2.41)" in again.stderr
    assert "`pgbake status` lists the indexes" in again.stderr

    told = moved(apart, data)
    assert set(told) == {"postgres", "shop", "template1"}
    shop = told["shop"]
    (change,) = shop["changes"]  # ICU's are as they were
    assert (change["provider"], change["recorded"], change["actual"]) == ("libc", "2.36", "2.41")
    assert change["collations"] == ["default"] and change["others"] >= 1
    names = {index["index"] for index in shop["indexes"]}
    assert names == {"public.by_name", 'public."By Lower"', "public.by_part", "public.one", "public.p1_k_idx"}
    assert all(index["collations"] == ["default"] for index in shop["indexes"])
    assert shop["partitioned-tables"] == ["public.p"] and shop["constraints"] == ["public.t: few"]
    for other in ("postgres", "template1"):  # made with C.UTF-8, which has no version
        assert told[other]["indexes"] == [] and told[other]["changes"][0]["collations"] == []
    text = apart.pgbake("status").stdout
    assert "database shop: collations have changed: libc 2.36 -> 2.41 (default" in text
    assert 'index public."By Lower" of public.t relies on default' in text
    assert f"pgbake psql --data {data} -d shop" in text and "REINDEX INDEX CONCURRENTLY public.by_name;" in text

    for name, database in told.items():  # what it says to type is all that there is to do
        script = tmp_path / "repair.sql"
        script.write_text("\n".join(database["repair"]) + "\n")
        sql_file = ("--data", str(data), "-d", name, "-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(script))
        apart.pgbake("psql", *sql_file)
    assert moved(apart, data) == {}
    assert facts(apart, data) == before


def test_a_database_that_does_not_answer_is_told(example: TestProject) -> None:
    with running(example) as data:
        sql(example, data, "CREATE DATABASE \"a 'b' = c\"", database="postgres")
        sql(example, data, "CREATE DATABASE closed CONNECTION LIMIT 0", database="postgres")
        assert moved(example, data) == {}  # a superuser gets in, and any name will do
        sql(example, data, "UPDATE pg_database SET dattablespace = 4711 WHERE datname = 'closed'", database="postgres")
        assert list(moved(example, data)) == ["closed"]
        assert "database closed: its collations could not be looked at: " in example.pgbake("status").stdout


@pytest.mark.full
def test_a_server_that_does_not_answer_holds_nobody_up(example: TestProject) -> None:
    with running(example) as data:
        (status,) = [status for status in example.json("status") if status["data"] == str(data)]
        os.kill(status["pid"], signal.SIGSTOP)
        try:
            begin = time.monotonic()
            text = example.pgbake("status").stdout
            (hung,) = [status for status in example.json("status") if status["data"] == str(data)]
            assert time.monotonic() - begin < 20
        finally:
            os.kill(status["pid"], signal.SIGCONT)
        assert "  it does not answer: " in text
        assert hung["running"] and hung["collations"] is None and "timeout" in hung["failure"]
