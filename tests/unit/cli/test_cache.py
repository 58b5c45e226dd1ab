"""``pgbake cache ...``, ``export`` and ``import``, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pgbake.formats.keys import SecretKey
from pgbake.formats.statement import SignedStatement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.small_closures import add_graph

KEY = SecretKey("a-1", bytes(32))


class User:
    """A user with a store, a key and a cache."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "downloads")}
        self.environment |= {"XDG_CONFIG_HOME": str(home / "config"), "PGBAKE_STORE": str(home / "store")}
        self.environment.pop("PGBAKE_SECRET_KEY", None)
        (home / "key").write_text(KEY.export())
        (home / "key").chmod(0o600)

    def run(self, *args: str, status: int = 0, stdin: bytes = b"", store: str = "store") -> str:
        """Run a command; return what it prints, standard error included."""
        environment = {**self.environment, "PGBAKE_STORE": str(self.home / store)}
        done = subprocess.run(
            [sys.executable, "-m", "pgbake", *args], cwd=self.home, env=environment, input=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        text = done.stdout.decode(errors="replace")
        assert done.returncode == status, text
        assert "Traceback" not in text
        return text

    def json(self, *args: str, status: int = 0) -> object:
        """Run a command and read its answer."""
        return json.loads(self.run("--progress", "none", *args, "--json", status=status))


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture
def made(user: User) -> dict[str, StorePath]:
    with LocalStore(user.home / "store") as store:
        made = add_graph(store, {"libc-2": (), "x-postgresql-15.1": ("libc-2",), "x-postgresql-15.2": ("libc-2",)})
    for name in ("x-postgresql-15.1", "x-postgresql-15.2"):
        user.run("push", "--to", "./cache", "--key", "key", "--unchecked", str(made[name]))
    return made


def test_a_cache_from_its_filling_to_its_end(user: User, made: dict[str, StorePath]) -> None:
    assert "index     complete\nsigned    3 by a-1\n" in user.run("cache", "info", "./cache")
    listed = user.run("cache", "ls", "./cache", "x-*")
    assert listed.index(str(made["x-postgresql-15.2"])) < listed.index(str(made["x-postgresql-15.1"]))
    rows = user.json("cache", "ls", "./cache", "--all")
    assert isinstance(rows, list) and {row["path"] for row in rows} == set(map(str, made.values()))
    assert "whole" in user.run("cache", "verify", "./cache", "--trust", str(KEY.public))
    assert "is refused" in user.run(
        "cache", "verify", "./cache", "--trust", str(SecretKey("b-1", bytes(32)).public), status=1
    )
    user.run("cache", "gc", "./cache", status=1)
    planned = user.run("cache", "gc", "./cache", "--keep-last", "1", "--grace", "0s", "--dry-run")
    assert "1 path and 1 NAR would go" in planned
    assert "1 path and 1 NAR went" in user.run("cache", "gc", "./cache", "--keep-last", "1", "--grace", "0s")
    answer = user.json("cache", "info", "./cache")
    assert isinstance(answer, dict) and (answer["paths"], answer["nars"], answer["index"]) == (2, 2, "complete")
    user.run("cache", "gc", "./cache", "--keep-for", "30 days", status=2)


def test_repair(user: User, made: dict[str, StorePath]) -> None:
    for nar in list((user.home / "cache/nar").iterdir()):
        nar.unlink()
    lost = user.run("cache", "verify", "./cache", status=1)
    assert all(f"LOST: {path}" in lost for path in made.values())
    assert "3 problems" in lost and "hint: --repair" in lost
    assert "would be sent again" in user.run("cache", "verify", "--repair", "--dry-run", "./cache", status=1)
    assert "sent again" in user.run("cache", "verify", "--repair", "--key", "key", "./cache")
    assert "whole" in user.run("cache", "verify", "./cache", "--trust", str(KEY.public))
    assert "go with --repair" in user.run("cache", "verify", "--drop", "./cache", status=2)


def test_repair_from_another_cache(user: User, made: dict[str, StorePath]) -> None:
    for path in made.values():
        user.run("push", "--to", "./other", "--key", "key", "--unchecked", str(path))
    for nar in list((user.home / "cache/nar").iterdir()):
        nar.unlink()
    (user.home / "config/pgbake").mkdir(parents=True)
    (user.home / "config/pgbake/config.toml").write_text(f'[trust]\nkeys = ["{KEY.public}"]\n')
    assert "LOST" in user.run("cache", "verify", "--repair", "./cache", status=1, store="empty")
    assert "whole" not in user.run("cache", "verify", "./cache", status=1)
    user.run("cache", "verify", "--repair", "--from", "./other", "./cache", store="empty")
    assert "whole" in user.run("cache", "verify", "./cache")


def test_another_key(user: User, made: dict[str, StorePath]) -> None:
    (user.home / "new").write_text(SecretKey("b-1", bytes(32)).export())
    (user.home / "new").chmod(0o600)
    assert "3 paths would be signed as b-1" in user.run("cache", "sign", "--key", "new", "--dry-run", "./cache")
    assert "3 paths signed as b-1, 0 were so already" in user.run("cache", "sign", "--key", "new", "./cache")
    stated = (user.home / "cache/statements").rglob("*.json")
    signers = [{one.name for one in SignedStatement.parse(file.read_bytes()).signatures} for file in stated]
    assert signers == [{"a-1", "b-1"}] * 2
    assert "0 paths signed as b-1, 3 were so already" in user.run("cache", "sign", "--key", "new", "./cache")
    assert "3 paths without the signatures of a-1" in user.run("cache", "sign", "--remove", "a-1", "./cache")
    assert "left without any signature" in user.run("cache", "sign", "--remove", "b-1", "./cache", status=1)
    assert "no key is named" in user.run("cache", "sign", "./cache", status=2)


def test_export_and_import(user: User, made: dict[str, StorePath]) -> None:
    top = str(made["x-postgresql-15.2"])
    exported = user.run("export", "x.tar", top, "--key", "key")
    assert "exported 2 paths" in exported and "warning: an import refuses x-postgresql-15.2: " in exported
    assert "is refused: it is signed by a-1; no key is trusted" in user.run("import", "x.tar", store="new", status=1)
    done = user.run("import", "x.tar", "--no-check-sigs", "--out-link", "result", store="new")
    assert f"{top}\n" in done and "imported 2 paths" in done
    config = user.home / "config/pgbake/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[trust]\nkeys = ["{KEY.public}"]\n')
    refused = user.run("import", "x.tar", store="unchecked", status=1)
    assert "lacks the statement check that is required: no statement of that kind is in x.tar" in refused
    assert "--unchecked" in refused
    loud = user.run("import", "x.tar", "--unchecked", store="unchecked")
    assert "warning: UNCHECKED" in loud and "imported 2 paths" in loud
    assert os.readlink(user.home / "result").endswith(top)  # noqa: PTH115
    assert "there is no file y.tar" in user.run("import", "y.tar", status=2)
    whole = (user.home / "x.tar").read_bytes()
    cut = user.run("import", "-", "--no-check-sigs", store="cut", stdin=whole[:-2000], status=1)
    assert "standard input: it is cut off in" in cut
    user.run("export", "nowhere/x.tar", top, status=1)
    assert list(user.home.glob(".x.tar*")) == []


def test_a_server_starts_says_where_and_stops(user: User, made: dict[str, StorePath]) -> None:
    command = [sys.executable, "-m", "pgbake", "cache", "serve", "cache", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=user.home, env=user.environment, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            lines = b""
            while not lines.endswith(b"}\n"):
                lines += server.stdout.readline()
            url = json.loads(lines)["url"]
            with urllib.request.urlopen(f"{url}/", timeout=10) as page:
                assert "x-postgresql-15.2" in page.read().decode()
            assert "whole" in user.run("cache", "verify", url)
            assert "can only be read" in user.run("cache", "gc", url, "--keep-last", "1", status=1)
            assert "x-postgresql-15.2" in user.run("cache", "ls", url)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    assert "there is no cache in" in user.run("cache", "serve", "store", status=1)


def test_the_cache_of_the_configuration_is_meant(user: User, made: dict[str, StorePath]) -> None:
    assert "no cache is known" in user.run("cache", "ls", status=2)
    (user.home / "config/pgbake").mkdir(parents=True)
    config = user.home / "config/pgbake/config.toml"
    ours = f'[[cache]]\nurl = "{(user.home / "cache").as_uri()}"\npush = true\n'
    config.write_text(f'{ours}[[cache]]\nurl = "http://127.0.0.1:9/"\n')
    assert "x-postgresql-15.2" in user.run("cache", "ls")
    assert "x-postgresql-15.1" not in user.run("cache", "ls", "*-15.2")
    config.write_text(config.read_text().replace("push = true\n", ""))
    assert "several caches are known" in user.run("cache", "ls", status=2)
