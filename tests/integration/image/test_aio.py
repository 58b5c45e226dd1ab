"""The all-in-one container in a real engine: every service at work, one that fails, a clean stop, data that stays."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import Container, Engine, may_run_containers
from tests.projects import TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.full,
    pytest.mark.skipif(not may_run_containers(), reason="containers are made by root"),
]

NAME = "localhost/aio:15"
SERVICES = ("nginx", "pgbackrest", "pgbouncer", "prometheus-postgres-exporter")
WORDS = ("image", "container", "--aio", "--unchecked", "--tag", "aio:15")
_PASSWORD = {"POSTGRES_PASSWORD": "open sesame"}
_POOLER = "postgresql://shop:beans@127.0.0.1:6432/postgres"
_LIMIT = 120


@pytest.fixture(scope="module")
def project(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """The example with services and a migration."""
    project = TestProject.copy(tmp_path_factory.mktemp("aio") / "project", example.home)
    file = project.directory / "pgbake.toml"
    file.write_text(file.read_text() + "".join(f"\n[services.{name}]\n" for name in (*SERVICES, "fail2ban")))
    (project.directory / "migrations").mkdir()
    text = "-- migrate:up\nCREATE TABLE orders (id bigint PRIMARY KEY);\n-- migrate:down\nDROP TABLE orders;\n"
    (project.directory / "migrations/20250101120000_orders.sql").write_text(text)
    return project


@pytest.fixture(scope="module")
def layout(project: TestProject, engine: Engine) -> Path:
    layout = engine.directory / "aio"
    project.pgbake(*WORDS, "--output", str(layout))
    engine.load(layout, "aio:15", NAME)
    return layout


@pytest.fixture
def volume(engine: Engine) -> Iterator[Path]:
    """A directory that is to outlive containers; root's, as an engine would make it."""
    directory = engine.directory / "volume"
    directory.mkdir(mode=0o755)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


def health(container: Container, *names: str) -> dict[str, str]:
    """Return how the services are, as the image's health check tells."""
    lines = container.exec("/usr/lib/pgbake/all-healthy", *names, check=False).splitlines()
    return dict(line.split(": ") for line in lines)


def wait_healthy(container: Container) -> None:
    end = time.monotonic() + _LIMIT
    while set((found := health(container)).values()) != {"healthy"}:
        assert container.running and time.monotonic() < end, f"{found}\n{container.log}"
        time.sleep(0.5)


def test_all_services_work_and_state_lies_on_one_volume(layout: Path, engine: Engine, volume: Path) -> None:
    options = ("--volume", f"{volume}:/var/lib/postgresql")
    with engine.container(NAME, environment=_PASSWORD, options=options) as container:
        wait_healthy(container)
        assert health(container).keys() == {"postgresql", *SERVICES}
        container.ask("CREATE ROLE shop LOGIN PASSWORD 'beans'; GRANT ALL ON orders TO shop", user="postgres")
        assert container.exec("psql", "-XAtqc", "SELECT count(*) FROM orders", _POOLER).strip() == "0"
        container.exec("psql", "-XAtqc", "INSERT INTO orders VALUES (42)", _POOLER)
        end = time.monotonic() + _LIMIT
        while backups(container) != (0, 1):
            assert time.monotonic() < end, container.log
            time.sleep(0.5)

        # One that is ended is started anew; one that stays down is told.
        container.exec("sh", "-c", "kill -9 $(s6-svstat -o pid /run/s6/pgbouncer)")
        container.exec("s6-svc", "-d", "/run/s6/nginx")
        wait_until_told(container, "nginx", "NOT HEALTHY")
        wait_until_told(container, "pgbouncer", "healthy")
        assert health(container, "postgresql") == {"postgresql": "healthy"}
        container.exec("s6-svc", "-u", "/run/s6/nginx")
        wait_healthy(container)
        container.stop()
        assert container.status == 0
        assert "database system is shut down" in container.log and "ready for start up" in container.log
    with engine.container(NAME, environment={"POSTGRES_ONLY": "1"}, options=options) as container:
        container.await_server()
        assert container.ask("SELECT id FROM orders", user="postgres") == "42"
        assert health(container) == {}  # no service but PostgreSQL, whose health is the answer
        names = container.exec("sh", "-c", "cat /proc/[0-9]*/comm").split()
        assert "postgres" in names and "pgbouncer" not in names and "s6-svscan" not in names
        container.stop()
        assert "database system is shut down" in container.log


def backups(container: Container) -> tuple[int, int]:
    """Return what pgBackRest calls the status of its repository, 0 for a good one, and how many backups there are."""
    (stanza,) = json.loads(container.exec("pgbackrest", "info", "--output=json", user="postgres"))
    return stanza["status"]["code"], len(stanza["backup"])


def wait_until_told(container: Container, name: str, word: str) -> None:
    end = time.monotonic() + 30
    while health(container, name) != {name: word}:
        assert time.monotonic() < end, container.log
        time.sleep(0.2)


def test_what_is_refused(layout: Path, engine: Engine) -> None:
    for environment, words in (
        ({}, "superuser password is not specified"),
        ({**_PASSWORD, "POSTGRES_USER": "me"}, "the superuser of this image is postgres"),
    ):
        with engine.container(NAME, environment={**environment, "POSTGRES_ONLY": "1"}) as container:
            assert container.status == 1
            assert words in container.log
    with engine.container(NAME, environment=_PASSWORD, options=("--user", "1234")) as container:
        assert container.status == 1
        assert "starts as root" in container.log


def test_a_second_one_has_the_same_bytes(project: TestProject, layout: Path, engine: Engine) -> None:
    """All layers are kept, and the one of the machine is the same when it is made anew."""
    again = project.json(*WORDS, "--output", str(engine.directory / "again"))
    assert not [layer for layer in again["layers"] if layer["made"]]
    assert again["digest"] == project.json(*WORDS, "--output", str(layout))["digest"]
    planned = project.json(*WORDS, "--dry-run")
    assert [layer["digest"] for layer in planned["layers"]] == [layer["digest"] for layer in again["layers"]]
