"""The bundle works where nothing else is: by plain initdb and pg_ctl, in an empty root, with no variable set."""

from __future__ import annotations

import json
import os
import pty
import select
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.store.local import LocalStore
from tests.empty_root import OURS, EmptyRoot, Server, start
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def receipt(example: TestProject, bundle: Bundle) -> Any:
    return json.loads((example.store / str(bundle.path).lstrip("/") / "receipt.json").read_text())


@pytest.fixture
def root(example: TestProject) -> Iterator[EmptyRoot]:
    with tempfile.TemporaryDirectory(prefix="pgbake-root-") as tmp:
        yield EmptyRoot(example.store / "nix/store", Path(tmp))


@pytest.fixture(scope="module")
def server(example: TestProject, bundle: Bundle, receipt: Any) -> Iterator[Server]:
    """A server with everything preloaded that the receipt names."""
    with tempfile.TemporaryDirectory(prefix="pgbake-root-") as tmp:
        root = EmptyRoot(example.store / "nix/store", Path(tmp))
        settings = {"shared_preload_libraries": ",".join(receipt["preload"]), **receipt["settings"]}
        settings |= {"archive_mode": "on", "archive_command": "env > /tmp/archived-%f", "listen_addresses": ""}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        process = start(root, str(bundle.path), options)
        yield Server(root, str(bundle.path))
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("initdb", "expected"),
    [
        ("--locale=C.UTF-8", "c|C.UTF-8|"),
        ("--locale=en_US.UTF-8", "c|en_US.UTF-8|"),
        ("--locale=en_US.UTF-8 --locale-provider=icu --icu-locale=de-AT", "i|en_US.UTF-8|de-AT"),
    ],
)
def test_initdb_with_every_kind_of_locale(root: EmptyRoot, bundle: Bundle, initdb: str, expected: str) -> None:
    process = start(root, str(bundle.path), "-c listen_addresses=''", initdb + " --data-checksums")
    try:
        server = Server(root, str(bundle.path))
        query = "SELECT datlocprovider, datcollate, daticulocale FROM pg_database WHERE datname = 'postgres'"
        assert server.sql(query) == expected
        words = server.sql("SELECT string_agg(w, ' ' ORDER BY w) FROM unnest('{b,A,a,B}'::text[]) w")
        assert words == ("A B a b" if expected.startswith("c|C.") else "a A b B")
        assert server.sql("SELECT lower('ÄÖÜ')") == "äöü"
    finally:
        root.run("/bin/sh", "-c", f"kill -INT $(head -n 1 /tmp/data/postmaster.pid) 2>/dev/null; : {bundle.path}")
        process.kill()
        process.wait()


def test_every_extension_is_created(server: Server, receipt: Any) -> None:
    available = server.sql('SELECT name FROM pg_available_extensions ORDER BY name COLLATE "C"').split("\n")
    assert available == sorted(extension["name"] for extension in receipt["extensions"])
    assert len(available) > 60
    server.sql("CREATE DATABASE every")
    for name in available:
        server.sql(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE', database="every")
    created = server.sql("SELECT count(*) FROM pg_extension", database="every")
    assert created == str(len(available))


@pytest.mark.parametrize(
    ("language", "body", "expected"),
    [
        ("plperl", "use strict; return join('', reverse(split(//, $_[0])));", "ereht"),
        ("plperlu", "use POSIX; use Encode; use Unicode::Normalize; return uc($_[0]);", "THERE"),
        ("plpython3u", "import json, ssl, ctypes, sqlite3, zoneinfo; return json.dumps([args[0]])", '["there"]'),
        ("pltcl", "return [string toupper $1]", "THERE"),
        ("pltclu", "return [encoding convertfrom utf-8 [encoding convertto shiftjis $1]]", "there"),
        ("plpgsql", "BEGIN RETURN upper($1); END", "THERE"),
        ("plsh", '\n#!/bin/sh\necho "$1" again', "there again"),
    ],
)
def test_a_query_in_each_language(server: Server, language: str, body: str, expected: str) -> None:
    server.sql(
        f"CREATE EXTENSION IF NOT EXISTS {language}",
        f"CREATE OR REPLACE FUNCTION f_{language}(text) RETURNS text LANGUAGE {language} AS $body${body}$body$",
    )
    assert server.sql(f"SELECT f_{language}('there')") == expected


def test_pgvector_uses_its_index(server: Server) -> None:
    plan = server.sql(
        "CREATE EXTENSION IF NOT EXISTS vector",
        "CREATE TABLE v AS SELECT i, ARRAY[i, i * 2 % 7, -i]::vector(3) AS v FROM generate_series(1, 2000) i",
        "CREATE INDEX v_hnsw ON v USING hnsw (v vector_l2_ops)",
        "SET enable_seqscan = off; EXPLAIN SELECT i FROM v ORDER BY v <-> '[40,3,-40]' LIMIT 1",
    )
    assert "Index Scan using v_hnsw" in plan
    assert server.sql("SET enable_seqscan = off; SELECT i FROM v ORDER BY v <-> '[40,3,-40]' LIMIT 1") == "40"


def test_icu_and_xml_and_crypto(server: Server) -> None:
    assert server.sql("SELECT 'ä' < 'b' COLLATE \"de-x-icu\"") == "t"
    assert int(server.sql("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'")) > 700
    assert server.sql("SELECT xpath('/a/b/text()', '<a><b>c</b></a>')") == "{c}"
    server.sql("CREATE EXTENSION IF NOT EXISTS pgcrypto", 'CREATE EXTENSION IF NOT EXISTS "uuid-ossp"')
    assert server.sql("SELECT encode(digest('abc', 'sha256'), 'hex')").startswith("ba7816bf")
    assert server.sql("SELECT length(uuid_generate_v1()::text)") == "36"
    assert server.sql("SELECT now() AT TIME ZONE 'Asia/Kolkata' > now() AT TIME ZONE 'America/Lima'") == "t"


def test_what_the_server_starts_sees_no_variable_of_ours(server: Server) -> None:
    server.sql("CREATE EXTENSION IF NOT EXISTS plpython3u", "CREATE EXTENSION IF NOT EXISTS plperlu")
    server.sql(
        "CREATE OR REPLACE FUNCTION py() RETURNS text LANGUAGE plpython3u AS $$\n"
        "import os, subprocess\n"
        "def run(**more):\n"
        "    return subprocess.run(['/bin/sh', '-c', 'env'], capture_output=True, text=True, **more).stdout\n"
        "return run() + run(env=dict(os.environ)) + os.popen('env').read() $$",
        "CREATE OR REPLACE FUNCTION pl() RETURNS text LANGUAGE plperlu AS $$ return `env` . qx(/bin/sh -c env); $$",
    )
    seen = {
        "COPY FROM PROGRAM": server.sql("CREATE TEMP TABLE e (l text); COPY e FROM PROGRAM 'env'; TABLE e"),
        "Python": server.sql("SELECT py()"),
        "Perl": server.sql("SELECT pl()"),
        "psql's \\!": server.psql("-d", "postgres", stdin="\\! env\n"),
    }
    server.sql("SELECT pg_switch_wal()")
    deadline = time.monotonic() + 30
    while not (archived := list(server.root.tmp.glob("archived-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    seen["archive_command"] = archived[0].read_text()
    for what, environment in seen.items():
        assert "PWD=" in environment, what  # it is an environment
        assert not OURS.findall(environment), f"{what} sees {environment}"


# --- the seven patches of nixpkgs, none of which is needed: docs/architecture.md ------------------------


def test_extensions_are_found_in_the_merged_tree(server: Server) -> None:
    """disable-resolve_symlinks: extensions of other packages are found, though programs are reached by links."""
    exe = server.sql("SELECT setting FROM pg_config() WHERE name = 'BINDIR'")
    assert exe == f"{server.bundle}/lib/postgresql/15/bin"
    names = server.sql("SELECT count(*) FROM pg_available_extensions WHERE name IN ('vector', 'pgaudit', 'hstore')")
    assert names == "3"


def test_the_pager_works(server: Server) -> None:
    """less-is-more: nothing called `more` is in the root."""
    argv = [f"{server.bundle}/bin/psql", "-X", "-U", "dba", "-d", "postgres", "-c", r"\pset pager always",
            "-c", "SELECT g FROM generate_series(1, 500) g"]  # fmt: skip
    pid, terminal = pty.fork()
    if pid == 0:
        command = server.root.command(argv, {"TERM": "xterm"})
        os.execvp(command[0], command)
    screen = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and b"(END)" not in screen:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            screen += os.read(terminal, 65536)
        elif b"\r\n:" in screen or b":\x1b[K" in screen:
            os.write(terminal, b"G")  # less waits at a prompt: to the end
    os.write(terminal, b"q")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"(END)" in screen and b"(500 rows)" in screen, screen[-500:]
    assert status == 0


def test_pg_config_finds_pgxs(server: Server) -> None:
    """hardcode-pgxs-path."""
    makefile = server.root.run(f"{server.bundle}/bin/pg_config", "--pgxs").strip()
    assert makefile == f"{server.bundle}/lib/postgresql/15/lib/pgxs/src/makefiles/pgxs.mk"
    assert "PGXS" in server.root.run("/bin/sh", "-c", f"cat {makefile}")
    regress = makefile.replace("makefiles/pgxs.mk", "test/regress/pg_regress")
    assert "PostgreSQL regression test driver" in server.root.run(regress, "--help")


def test_libdir_is_the_merged_directory(server: Server) -> None:
    """specify_pkglibdir_at_runtime."""
    assert server.sql("SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'") == (
        f"{server.bundle}/lib/postgresql/15/lib"
    )
    assert server.sql("LOAD '$libdir/vector'") == ""


def test_directories_are_debians(server: Server) -> None:
    """findstring."""
    config = server.root.run(f"{server.bundle}/bin/pg_config").splitlines()
    values = {line.partition(" = ")[0]: line.partition(" = ")[2] for line in config}
    assert values["SHAREDIR"] == f"{server.bundle}/share/postgresql/15"
    assert values["SYSCONFDIR"] == "/etc/postgresql-common"
    assert "--bindir=/usr/lib/postgresql/15/bin" in values["CONFIGURE"].replace("'", "")


def test_locales_are_the_bundles(server: Server) -> None:
    """locale-binary-path: no program `locale` is in the root, and no locale is outside the bundle."""
    imported = server.sql("SELECT collname FROM pg_collation WHERE collprovider = 'c' AND collname ~ 'utf8' ORDER BY 1")
    assert imported.split("\n") == ["C.utf8", "en_US.utf8"]
    assert server.sql("SELECT pg_import_system_collations('pg_catalog')") == "0"


def test_clients_find_the_server_without_a_host(root: EmptyRoot, server: Server, bundle: Bundle) -> None:
    """socketdir-in-run-13: at PostgreSQL's own place, and at the one that Debian's machines have."""
    assert server.sql("SHOW unix_socket_directories") == "/tmp"
    process = start(root, str(bundle.path), "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql")
    try:
        assert Server(root, str(bundle.path)).sql("SHOW unix_socket_directories") == "/var/run/postgresql"
        assert not list(root.tmp.glob(".s.PGSQL*"))
        ready = root.run(f"{bundle.path}/bin/pg_isready")
        assert ready.strip().endswith("accepting connections")
    finally:
        process.kill()
        process.wait()


def test_the_receipt_tells_the_truth(server: Server, receipt: Any, store: LocalStore) -> None:
    assert (
        server.sql("SELECT collversion FROM pg_collation WHERE collname = 'de-x-icu'")
        == (receipt["collations"]["icu-collator"])
    )
    assert (
        server.sql("SELECT pg_collation_actual_version(oid) FROM pg_collation WHERE collname = 'en_US.utf8'")
        == (receipt["collations"]["libc"])
    )
    versions = server.sql(
        "SELECT name || ' ' || default_version FROM pg_available_extensions ORDER BY name COLLATE \"C\""
    )
    assert versions.split("\n") == [f"{e['name']} {e['version']}" for e in receipt["extensions"]]
    vector = next(e for e in receipt["extensions"] if e["name"] == "vector")
    assert vector["libraries"] == ["vector.so"] and vector["package"] == "pgvector"
    audit = next(e for e in receipt["extensions"] if e["name"] == "pgaudit")
    assert audit["preload"] == ["pgaudit"]
