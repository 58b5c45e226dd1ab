"""The bundle, built once, on hosts that are not like the platform that it was built on.

Unpacked trees of Debian releases, and one of musl and busybox without any glibc. In each, as `/`: initdb, a server
with all that the receipt names, every extension, every language; and the host's own programs, which must run with
the host's libc. What `docs/hosts.md` calls tested is tested here.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.errors import PgbakeError
from tests.debian import debian_tree
from tests.empty_root import OURS
from tests.hosts import PASSWORD, HostRoot, HostServer, running
from tests.musl import musl_tree
from tests.projects import TestProject

pytestmark = pytest.mark.integration

#: The newest Debian, and a host that has no glibc; `make test-full` has the others as well.
HOSTS = [*(pytest.param(suite, marks=pytest.mark.full) for suite in ("bullseye", "bookworm", "trixie")), "sid", "musl"]

LANGUAGES = {
    "plperl": ("return join('', reverse(split(//, $_[0])));", "ereht"),
    "plperlu": ("use POSIX; use Encode; return uc($_[0]);", "THERE"),
    "plpython3u": ("import json, ssl, ctypes, sqlite3; return json.dumps([args[0]])", '["there"]'),
    "pltcl": ("return [string toupper $1]", "THERE"),
    "pltclu": ("return [encoding convertfrom utf-8 [encoding convertto shiftjis $1]]", "there"),
    "plpgsql": ("BEGIN RETURN upper($1); END", "THERE"),
    "plsh": ('\n#!/bin/sh\necho "$1" again', "there again"),
}


def host_tree(name: str) -> Path:
    try:
        return musl_tree() if name == "musl" else debian_tree(name)
    except PgbakeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"there is no tree of {name}: {error}")
        pytest.skip(f"there is no tree of {name}: {error}")


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def receipt(example: TestProject, bundle: Bundle) -> Any:
    return json.loads((example.store / str(bundle.path).lstrip("/") / "receipt.json").read_text())


@pytest.fixture(scope="module")
def server(host: str, example: TestProject, bundle: Bundle, receipt: Any) -> Iterator[HostServer]:
    """A server with everything preloaded that the receipt names."""
    settings = {"shared_preload_libraries": ",".join(receipt["preload"]), **receipt["settings"]}
    settings |= {"archive_mode": "on", "archive_command": "env > /tmp/archived-%f; cat /proc/self/maps > /tmp/maps-%f"}
    settings |= {"listen_addresses": "127.0.0.1", "fsync": "off"}
    with tempfile.TemporaryDirectory(prefix="pgbake-host-") as tmp:
        root = HostRoot(example.store / "nix/store", Path(tmp), tree=host_tree(host))
        services = {"unix": "pam_unix.so", "exec": "pam_exec.so quiet /bin/true", "other": "pam_deny.so"}
        (root.etc / "pam.d").mkdir(exist_ok=True)
        for name, module in services.items():
            (root.etc / "pam.d" / name).write_text(f"auth required {module}\naccount required {module}\n")
        access = [f"host pam_{name} all 127.0.0.1/32 pam pamservice={name}" for name in ("unix", "exec")]
        with running(root, str(bundle.path), settings, access) as server:
            yield server


def is_the_hosts(maps: str, host: str) -> bool:
    """Whether a process whose /proc/PID/maps this is has the host's libc, and nothing of the store."""
    libc = "/lib/ld-musl-" if host == "musl" else r"/usr/lib/[^/]+-linux-gnu/libc[.-]"
    return re.search(rf" {libc}", maps) is not None and "/nix/store" not in maps


def test_every_extension_and_language(server: HostServer, receipt: Any) -> None:
    names = [extension["name"] for extension in receipt["extensions"]]
    assert len(names) > 60
    functions = [
        f"CREATE FUNCTION f_{language}(text) RETURNS text LANGUAGE {language} AS $body${body}$body$"
        for language, (body, _) in LANGUAGES.items()
    ]
    server.sql("CREATE DATABASE every")
    server.sql(
        *(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE' for name in names), *functions, database="every"
    )  # fmt: skip
    assert server.sql("SELECT count(*) FROM pg_extension", database="every") == str(len(names))
    answers = server.sql(*(f"SELECT f_{language}('there')" for language in LANGUAGES), database="every")
    assert answers.split("\n") == [expected for _, expected in LANGUAGES.values()]


def test_a_dump_is_restored(server: HostServer) -> None:
    server.sql("CREATE DATABASE one", "CREATE DATABASE two TEMPLATE template0")
    server.sql(
        "CREATE EXTENSION vector",
        "CREATE TABLE t AS SELECT i, ARRAY[i, i * 2, -i]::vector(3) AS v, chr(i % 200 + 40) AS s "
        "FROM generate_series(1, 500) i",
        "CREATE INDEX ON t USING hnsw (v vector_l2_ops)",
        "CREATE INDEX ON t (s)",
        database="one",
    )
    b = server.bundle
    server.root.run(f"{b}/bin/pg_dump", "-U", "dba", "-Fc", "-f", "/tmp/dump", "one")
    server.root.run(f"{b}/bin/pg_restore", "-U", "dba", "--exit-on-error", "-d", "two", "/tmp/dump")
    query = "SELECT count(*), sum(i), md5(string_agg(s, '' ORDER BY s, i)), min(v <-> '[1,2,3]') FROM t"
    assert server.sql(query, database="two") == server.sql(query, database="one")
    assert server.sql(query, database="two").startswith("500|125250|")


def test_the_server_has_nothing_of_the_hosts_libraries(server: HostServer, host: str) -> None:
    maps = server.sql("LOAD 'plpython3'", "SELECT pg_read_file('/proc/self/maps')")
    libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
    assert len(libraries) > 20 and all(library.startswith("/nix/store/") for library in libraries)
    assert not is_the_hosts(maps, host)


def test_the_hosts_programs_run_as_if_no_bundle_were_there(server: HostServer, host: str) -> None:
    environment = server.program("env")
    assert "PWD=" in environment and not OURS.findall(environment)
    assert is_the_hosts(server.program("cat /proc/self/maps"), host)
    assert is_the_hosts(server.program("cat /proc/$$/maps; :"), host)  # the shell
    assert f"{'musl' if host == 'musl' else 'Debian'}" in server.program("cat /etc/os-release")
    server.sql("COPY (SELECT 'to a program') TO PROGRAM 'cat > /tmp/copied'", "SELECT pg_switch_wal()")
    assert (server.root.tmp / "copied").read_text() == "to a program\n"
    deadline = time.monotonic() + 30
    while not server.sql("SELECT last_archived_wal FROM pg_stat_archiver") and time.monotonic() < deadline:
        time.sleep(0.1)
    archived = next(server.root.tmp.glob("archived-*")).read_text()
    assert "PWD=" in archived and not OURS.findall(archived)
    assert is_the_hosts(next(server.root.tmp.glob("maps-*")).read_text(), host)


def over_tcp(server: HostServer, database: str, password: str) -> str:
    """Return what psql says that connects over the loopback device of the server's own network."""
    return server.program(
        f"PGPASSWORD={password} {server.bundle}/bin/psql -XAtqw -h 127.0.0.1 -U dba -d {database} -c 'SELECT 40 + 2'"
    )


def test_tcp_with_scram(server: HostServer) -> None:
    assert over_tcp(server, "postgres", "scrambled") == "42"
    assert 'password authentication failed for user "dba"' in over_tcp(server, "postgres", "wrong")


def test_pam_by_the_hosts_modules(server: HostServer, host: str) -> None:
    """A module that is made for a newer glibc than the bundle's cannot be loaded, and then nobody gets in."""
    server.sql("CREATE DATABASE pam_unix", "CREATE DATABASE pam_exec")
    refused = 'PAM authentication failed for user "dba"'
    assert refused in over_tcp(server, "pam_unix", "wrong")
    unix = over_tcp(server, "pam_unix", PASSWORD)
    if host in ("bullseye", "bookworm"):
        assert unix == "42" and "Module is unknown" not in server.log()
    else:
        assert refused in unix and "pam_authenticate failed: Module is unknown" in server.log()
    if host != "musl":
        assert over_tcp(server, "pam_exec", "any") == "42"
