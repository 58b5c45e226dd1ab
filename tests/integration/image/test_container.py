"""The image in a real engine, held against the documented behaviour of the official image."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from tests.containers import Container, may_run_containers
from tests.integration.image.conftest import Image

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not may_run_containers(), reason="containers are made by root"),
]

PASSWORD = {"POSTGRES_PASSWORD": "open sesame"}
_DATA = "/var/lib/postgresql/data"


@pytest.fixture
def place(image: Image, tmp_path: Path) -> Iterator[Path]:
    """A directory that containers can mount."""
    directory = image.engine.directory / f"{tmp_path.parent.name}-{tmp_path.name}"
    directory.mkdir()
    directory.chmod(0o755)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


def write(directory: Path, files: Mapping[str, str | bytes], executable: bool = False) -> Path:
    """Write files into a new directory, readable for all."""
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_bytes(text.encode() if isinstance(text, str) else text)
        (directory / name).chmod(0o755 if executable else 0o644)
    return directory


@dataclass(frozen=True)
class Refused:
    """A container that must not start."""

    words: str
    environment: dict[str, str] = field(default_factory=dict)


#: Documented: what the image refuses to start with.
REFUSED = {
    "no password": Refused("superuser password is not specified"),
    "an empty password": Refused("superuser password is not specified", {"POSTGRES_PASSWORD": ""}),
    "another method needs a password": Refused(
        "superuser password is not specified", {"POSTGRES_HOST_AUTH_METHOD": "scram-sha-256"}
    ),
    "a variable and its file": Refused(
        "both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set", {**PASSWORD, "POSTGRES_PASSWORD_FILE": "/x"}
    ),
    "a file that is not there": Refused("which cannot be read", {"POSTGRES_PASSWORD_FILE": "/nowhere"}),
    "options that initdb does not know": Refused("--hocus", {**PASSWORD, "POSTGRES_INITDB_ARGS": "--hocus"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(image: Image, name: str) -> None:
    case = REFUSED[name]
    with image.engine.container(image.name, environment=case.environment) as container:
        assert container.status != 0
        assert case.words in container.log


@pytest.fixture(scope="module")
def plain(image: Image) -> Iterator[Container]:
    """A container with nothing but a password."""
    with image.engine.container(image.name, environment=PASSWORD) as container:
        yield container.await_server()


#: Documented: what a container with nothing but a password is like.
PLAIN: dict[str, tuple[Callable[[Container], str], str]] = {
    "the user is postgres": (lambda c: c.ask("SELECT current_user", "-U", "postgres"), "postgres"),
    "its database is postgres": (lambda c: c.ask("SELECT current_database()", "-U", "postgres"), "postgres"),
    "it listens everywhere": (lambda c: c.ask("SHOW listen_addresses", "-U", "postgres"), "*"),
    "the port": (lambda c: c.ask("SHOW port", "-U", "postgres"), "5432"),
    "its data": (lambda c: c.ask("SHOW data_directory", "-U", "postgres"), _DATA),
    "the locale": (lambda c: c.ask("SHOW lc_messages", "-U", "postgres"), "en_US.utf8"),
    "the password is hashed": (
        lambda c: c.ask("SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = 'postgres'", "-U", "postgres"),
        "SCRAM-SHA-256",
    ),
    "hosts need the password": (
        lambda c: c.exec("tail", "-n", "1", f"{_DATA}/pg_hba.conf").strip(),
        "host all all all scram-sha-256",
    ),
    "loopback needs none": (lambda c: c.ask("SELECT 1", "-U", "postgres", "-h", "127.0.0.1"), "1"),
    "the server is not root's": (lambda c: c.exec("stat", "-c", "%U %u", "/proc/1").strip(), "postgres 999"),
    "it is the first process": (lambda c: c.exec("cat", "/proc/1/comm").strip(), "postgres"),
    "its environment has no password": (
        lambda c: c.exec("sh", "-c", "tr '\\0' '\\n' < /proc/1/environ | grep -c sesame || true").strip(),
        "0",
    ),
    "data is closed to others": (lambda c: c.exec("stat", "-c", "%a", _DATA).strip(), "700"),
    "the socket": (lambda c: c.ask("SHOW unix_socket_directories", "-U", "postgres"), "/run/postgresql"),
    "the version is told": (lambda c: c.exec("sh", "-c", "echo $PG_MAJOR"), "15\n"),
    "psql without a path": (lambda c: c.exec("sh", "-c", "command -v psql"), "/usr/bin/psql\n"),
    "programs where Debian has them": (
        lambda c: c.exec("/usr/lib/postgresql/15/bin/pg_config", "--version"),
        "PostgreSQL 15.18\n",
    ),
    "the sample configuration": (
        lambda c: c.exec(
            "grep", "-c", "^#shared_buffers\\|^shared_buffers", "/usr/share/postgresql/postgresql.conf.sample"
        ),
        "1\n",
    ),
    "bash": (lambda c: c.exec("bash", "-c", "echo $BASH_VERSION | cut -c1"), "5\n"),
    "gosu": (lambda c: c.exec("gosu", "postgres", "id", "-u"), "999\n"),
    "programs of the server": (
        lambda c: c.ask(
            "CREATE TEMP TABLE t (x text); COPY t FROM PROGRAM 'echo one | tr o 0'; SELECT x FROM t", "-U", "postgres"
        ),
        "0ne",
    ),
    "extensions have what they need preloaded": (
        lambda c: c.ask(
            "CREATE EXTENSION pglogical; CREATE EXTENSION vector; SELECT '[1,2]'::vector", "-U", "postgres"
        ),
        "[1,2]",
    ),
    "languages": (
        lambda c: c.ask(
            "CREATE EXTENSION plpython3u; DO LANGUAGE plpython3u 'import ssl, json'; SELECT 1", "-U", "postgres"
        ),
        "1",
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_container_with_nothing_but_a_password(plain: Container, name: str) -> None:
    ask, answer = PLAIN[name]
    assert ask(plain) == answer


def test_trust_is_warned_of(image: Image) -> None:
    with image.engine.container(image.name, environment={"POSTGRES_HOST_AUTH_METHOD": "trust"}) as container:
        container.await_server()
        assert container.exec("tail", "-n", "1", f"{_DATA}/pg_hba.conf").strip() == "host all all all trust"
        assert "warning: POSTGRES_HOST_AUTH_METHOD has been set to" in container.log


def test_variables_from_files(image: Image, place: Path) -> None:
    secrets = write(
        place / "secrets",
        {
            "password": "from a file\n",
            "user": "owner\n",
            "db": "shop\n",
            "args": "--data-checksums --locale='C.UTF-8'\n",
        },
    )
    for file in secrets.iterdir():
        file.chmod(0o400)  # root's only, as engines mount secrets
    environment = {
        "POSTGRES_PASSWORD_FILE": "/run/secrets/password", "POSTGRES_USER_FILE": "/run/secrets/user",
        "POSTGRES_DB_FILE": "/run/secrets/db", "POSTGRES_INITDB_ARGS_FILE": "/run/secrets/args",
    }  # fmt: skip
    with image.engine.container(
        image.name, environment=environment, options=["--volume", f"{secrets}:/run/secrets"]
    ) as container:
        container.await_server()
        login = ("-U", "owner", "-d", "shop")
        assert container.ask("SHOW data_checksums", *login) == "on"
        assert container.ask("SHOW lc_collate", *login) == "C.UTF-8"
        assert container.ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", *login) == "t"
        assert container.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'postgres'", *login) == "0"
        assert container.ask("SELECT count(*) FROM pg_database WHERE datname = 'owner'", *login) == "0"


def test_a_user_has_a_database_of_the_same_name(image: Image) -> None:
    with image.engine.container(image.name, environment={**PASSWORD, "POSTGRES_USER": "Mr. X"}) as container:
        container.await_server()
        assert container.ask("SELECT current_database()", "-U", "Mr. X") == "Mr. X"


_TABLE = "CREATE TABLE seen (number serial, what text)"


def test_scripts_run_in_order_by_their_kind(image: Image, place: Path) -> None:
    """As the superuser in the user's database, and as the user ``postgres`` of the container."""

    def note(what: str) -> str:
        return f"INSERT INTO seen (what) VALUES ('{what}');"

    files: dict[str, str | bytes] = {
        "00-table.sql": _TABLE,
        "10-sourced.sh": 'told=by-the-sourced-one; psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" '
        "-c \"INSERT INTO seen (what) VALUES ('sourced by $(id -un)')\"",
        "11-sees-it.sh": "docker_process_sql -c \"INSERT INTO seen (what) VALUES ('$told')\"",
        "20-executed.sh": '#!/usr/bin/env bash\npsql -U "$POSTGRES_USER" -d "$POSTGRES_DB" '
        "-c \"INSERT INTO seen (what) VALUES ('executed${told:-}')\"",
        "30.sql.gz": gzip.compress(note("gz").encode()),
        "40.sql.xz": lzma.compress(note("xz").encode()),
        "50.sql.zst": zstandard.compress(note("zst").encode()),
        "60-socket-only.sh": "! pg_isready -q -h 127.0.0.1 || exit 1",
        "70-readme.txt": "not for the server",
        # In the order of the language: "a" before "B", which bytes would have the other way round.
        "a.sql": note("a"),
        "B.sql": note("B"),
    }
    scripts = write(place / "scripts", files)
    (scripts / "20-executed.sh").chmod(0o755)
    with image.engine.container(
        image.name, environment={**PASSWORD, "POSTGRES_DB": "shop"},
        options=["--volume", f"{scripts}:/docker-entrypoint-initdb.d:ro"],
    ) as container:  # fmt: skip
        container.await_server()
        found = container.ask("SELECT what FROM seen ORDER BY number", "-U", "postgres", "-d", "shop").splitlines()
        assert "ignoring /docker-entrypoint-initdb.d/70-readme.txt" in container.log
    assert found == ["sourced by postgres", "by-the-sourced-one", "executed", "gz", "xz", "zst", "a", "B"]


def test_a_script_that_fails_fails_the_start_and_the_next_begins_anew(image: Image, place: Path) -> None:
    scripts = write(place / "scripts", {"1.sql": _TABLE, "2.sql": "SELECT 1/0"})
    options = ["--volume", f"{scripts}:/docker-entrypoint-initdb.d:ro"]
    with image.engine.container(image.name, environment=PASSWORD, options=options) as container:
        assert container.status != 0
        assert "division by zero" in container.log
        (scripts / "2.sql").write_text("INSERT INTO seen (what) VALUES ('whole')")
        container.start()
        container.await_server()
        assert container.ask("SELECT what FROM seen", "-U", "postgres") == "whole"


def test_a_first_start_that_is_killed_begins_anew(image: Image, place: Path) -> None:
    scripts = write(place / "scripts", {"1.sql": f"{_TABLE}; INSERT INTO seen (what) VALUES ('x')", "2.sh": "sleep 60"})
    options = ["--volume", f"{scripts}:/docker-entrypoint-initdb.d:ro"]
    with image.engine.container(image.name, environment=PASSWORD, options=options) as container:
        end = time.monotonic() + 60
        while "2.sh" not in container.log:
            assert time.monotonic() < end
            time.sleep(0.1)
        # A server that is not there for good is not healthy.
        assert container.engine.podman("healthcheck", "run", container.id, check=False).returncode != 0
        container.engine.podman("kill", "--signal", "KILL", container.id)
        (scripts / "2.sh").write_text("true")
        container.start()
        container.await_server()
        assert container.ask("SELECT count(*) FROM seen", "-U", "postgres") == "1"
        assert container.engine.podman("healthcheck", "run", container.id).returncode == 0


def test_data_that_is_there_is_left_alone(image: Image, place: Path) -> None:
    data = place / "data"
    data.mkdir(mode=0o755)
    scripts = write(place / "scripts", {"1.sql": "CREATE TABLE made ()"})
    volume = ["--volume", f"{data}:{_DATA}"]
    with image.engine.container(image.name, environment={**PASSWORD, "POSTGRES_USER": "first"}, options=volume) as one:
        one.await_server()
        one.ask("CREATE TABLE kept AS SELECT 42 AS x", "-U", "first")
        one.stop()
        assert one.status == 0
        assert "database system is shut down" in one.log.splitlines()[-1]
    assert data.stat().st_uid == 999
    options = [*volume, "--volume", f"{scripts}:/docker-entrypoint-initdb.d:ro"]
    with image.engine.container(image.name, environment={"POSTGRES_USER": "second"}, options=options) as two:
        two.await_server()
        assert two.ask("SELECT x FROM kept", "-U", "first") == "42"
        assert two.ask("SELECT to_regclass('made') IS NULL", "-U", "first") == "t"
        assert "Skipping initialization" in two.log


#: Documented: what arguments mean.
ARGUMENTS = {
    "options alone are the server's": (("-c", "shared_buffers=17MB"), "17MB"),
    "the server with options": (("postgres", "--shared_buffers=18MB"), "18MB"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_the_server(image: Image, name: str) -> None:
    arguments, answer = ARGUMENTS[name]
    with image.engine.container(image.name, *arguments, environment=PASSWORD) as container:
        container.await_server()
        assert container.ask("SHOW shared_buffers", "-U", "postgres") == answer


#: Documented: other commands run as they are, with no database.
COMMANDS = {
    "another program": (("bash", "-c", "id -u; ls -A $PGDATA"), "0\n"),
    "the version": (("--version",), "postgres (PostgreSQL) 15.18\n"),
    "the version by name": (("postgres", "-V"), "postgres (PostgreSQL) 15.18\n"),
    "a client": (("psql", "--version"), "psql (PostgreSQL) 15.18\n"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_need_no_database(image: Image, name: str) -> None:
    command, answer = COMMANDS[name]
    with image.engine.container(image.name, *command) as container:
        assert container.status == 0
        assert container.log == answer


def test_a_configuration_of_ones_own(image: Image, place: Path) -> None:
    files = write(place / "conf", {"my.conf": "listen_addresses = '*'\nport = 5433\nwork_mem = '7MB'\n"})
    options = ["--volume", f"{files}:/etc/own:ro"]
    arguments = ("-c", "config_file=/etc/own/my.conf", "-c", "unix_socket_directories=/run/postgresql")
    with image.engine.container(image.name, *arguments, environment=PASSWORD, options=options) as container:
        container.await_server()
        assert container.ask("SHOW work_mem", "-U", "postgres", "-p", "5433") == "7MB"


def test_places_of_data_and_wal(image: Image, place: Path) -> None:
    wal = place / "wal"
    wal.mkdir()
    environment = {**PASSWORD, "PGDATA": f"{_DATA}/sub/dir", "POSTGRES_INITDB_WALDIR": "/wal"}
    with image.engine.container(image.name, environment=environment, options=["--volume", f"{wal}:/wal"]) as container:
        container.await_server()
        assert container.exec("readlink", f"{_DATA}/sub/dir/pg_wal") == "/wal\n"
        assert container.ask("SHOW data_directory", "-U", "postgres") == f"{_DATA}/sub/dir"


def test_a_directory_with_something_else_is_refused(image: Image, place: Path) -> None:
    data = write(place / "data", {"letter.txt": "dear"})
    with image.engine.container(image.name, environment=PASSWORD, options=["--volume", f"{data}:{_DATA}"]) as container:
        assert container.status != 0
        assert "is not empty and holds no database" in container.log
    assert (data / "letter.txt").read_text() == "dear"


#: Documented: any user, in /etc/passwd or not, where the data directory is theirs.
USERS = {"nobody": "nobody", "a number that nobody knows": "4321:8765"}


@pytest.mark.parametrize("name", USERS)
def test_any_user(image: Image, place: Path, name: str) -> None:
    data = place / "data"
    data.mkdir(mode=0o700)
    uid = 65534 if USERS[name] == "nobody" else 4321
    os.chown(data, uid, 65534 if uid == 65534 else 8765)
    options = ["--user", USERS[name], "--volume", f"{data}:{_DATA}"]
    with image.engine.container(image.name, environment=PASSWORD, options=options) as container:
        container.await_server()
        assert container.ask("SELECT 1", "-U", "postgres") == "1"
        assert container.exec("stat", "-c", "%u", "/proc/1").strip() == str(uid)
        assert (data / "PG_VERSION").stat().st_uid == uid


def test_another_host_needs_the_password(image: Image) -> None:
    network = ["--network", "podman"]
    with image.engine.container(image.name, environment=PASSWORD, options=network) as server:
        server.await_server()
        words = ("inspect", "--format", "{{.NetworkSettings.IPAddress}}", server.id)
        address = image.engine.podman(*words).stdout.strip()
        client = ("psql", "-XAtw", "-h", address, "-U", "postgres", "-c", "SELECT 'in'")
        for environment, status in (({}, 2), ({"PGPASSWORD": "wrong"}, 2), ({"PGPASSWORD": "open sesame"}, 0)):
            with image.engine.container(image.name, *client, environment=environment, options=network) as other:
                assert other.status == status, other.log


def test_read_only_with_a_volume(image: Image) -> None:
    """No file of the image is written to."""
    options = ["--read-only", "--tmpfs", "/run/postgresql:mode=1777"]
    with image.engine.container(image.name, environment=PASSWORD, options=options) as container:
        container.await_server()
        assert container.ask("CREATE TABLE t (); SELECT 1", "-U", "postgres") == "1"
