"""Everything without root: a store of the user's own below their data directory, and programs that run from it.

When root runs the tests, the user is "nobody". All but their home, /tmp and /dev is read-only for the commands,
so nothing can be written anywhere else.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.store.local import LocalStore, remove_tree
from tests.cache import scratch_directory
from tests.cache import test_cache as shared_cache
from tests.projects import EXAMPLE, TestProject, copy_store

pytestmark = pytest.mark.integration

AS_ROOT = os.geteuid() == 0

_READ_ONLY = """
home=$1; shift
mount --bind "$home" "$home"; mount --bind /tmp /tmp
mount -o remount,bind,ro /
if touch "$home/../written" /usr/written 2> /dev/null; then echo "not read-only" >&2; exit 99; fi
exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
"""


@dataclass(frozen=True)
class User:
    """An ordinary user with a home of their own, and a project in it."""

    home: Path

    @property
    def project(self) -> Path:
        return self.home / "project"

    @property
    def store(self) -> Path:
        return self.home / ".local/share/pgbake/store"

    def command(self, *args: str) -> list[str]:
        """Return the command that runs pgbake as this user, with nothing but their home to write to."""
        pgbake = [sys.executable, "-m", "pgbake", "-C", str(self.project), *args]
        if AS_ROOT:
            return ["unshare", "--mount", "sh", "-euc", _READ_ONLY, "sh", str(self.home), *pgbake]
        home = str(self.home)
        binds = ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--bind", "/tmp", "/tmp", "--bind", home, home]
        return ["bwrap", *binds, "--proc", "/proc", "--", *pgbake]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {"HOME": str(self.home), "SHELL": "/bin/sh", "TERM": "dumb", "PS1": "$ ", **kept}

    def pgbake(self, *args: str) -> str:
        """Run pgbake, which must succeed; return its answer."""
        done = subprocess.run(
            self.command(*args), env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.pgbake(*args, "--json"))

    def at_a_terminal(self, typed: str, *args: str) -> str:
        """Run pgbake on a terminal, type something, and return what is on the screen when it has ended."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self.command(*args), env=self.environment, cwd=self.home, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, typed.encode())
        screen = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and select.select([ours], [], [], deadline - time.monotonic())[0]:
            try:
                screen += os.read(ours, 65536)
            except OSError:  # all that had the terminal open have ended
                break
        os.close(ours)
        if process.poll() is None and time.monotonic() >= deadline:
            process.kill()
        assert process.wait() == 0, screen.decode()
        return screen.decode()


@pytest.fixture
def user(example: TestProject) -> Iterator[User]:
    """A user with the example in their home, which is beside the shared store and open to all."""
    # A short name: a server's Unix socket lies in its data directory, and its path must not be longer than 107 bytes.
    with scratch_directory("u") as home:
        made = User(home)
        made.project.mkdir()
        for name in ("pgbake.toml", "pgbake.lock"):
            shutil.copy(EXAMPLE / name, made.project)
        give(made)
        yield made
        for server in made.json("status"):
            if server["running"]:
                made.pgbake("down", "--data", server["data"])
        remove_tree(home / ".local")
        remove_tree(home / ".cache")


def give(user: User) -> None:
    """Make everything in a home its user's, but for files that are hard links to what all may read."""
    if AS_ROOT:
        for directory, _, files in os.walk(user.home):
            shutil.chown(directory, "nobody", "nogroup")
            for file in (Path(directory, name) for name in files):
                if file.lstat().st_nlink == 1:
                    os.chown(file, 65534, 65534, follow_symlinks=False)


def test_all_commands_without_root(user: User, example: TestProject, bundle: Bundle) -> None:
    copy_store(example.store, user.store, example.parts())
    give(user)
    assert user.pgbake("build") == f"{bundle.path}\n"
    assert (user.project / "result").readlink() == Path(str(bundle.path))

    server = user.json("up")
    assert server["started"] and server["data"].startswith(f"{user.home}/.local/share/pgbake/servers/example-15-")
    if AS_ROOT:
        assert Path(f"/proc/{server['pid']}").stat().st_uid == 65534
    assert user.pgbake("psql", "-XAtc", "SELECT current_user, '[1,2]'::text") == "postgres|[1,2]\n"
    created = "CREATE EXTENSION vector; SELECT '[1,2,3]'::vector <-> '[1,2,5]'; DO LANGUAGE plpython3u 'import ssl'"
    assert user.pgbake("psql", "-XAtqc", f"CREATE EXTENSION plpython3u; {created}") == "2\n"
    (status,) = user.json("status")
    assert status["running"] and status["pid"] == server["pid"]
    assert user.pgbake("run", "--", "pg_config", "--version") == "PostgreSQL 15.18\n"
    assert user.pgbake("run", "--", "psql", "-XAtwc", "SELECT 42", server["uri"]) == "42\n"
    typed = "echo bundle=$PGBAKE_BUNDLE psql=$(command -v psql) uid=$(id -u) terminal=$(tty); exit\n"
    uid = 65534 if AS_ROOT else os.geteuid()
    screen = user.at_a_terminal(typed, "shell")
    assert f"bundle={bundle.path} psql={bundle.path}/bin/psql uid={uid} terminal=/dev/pts/" in screen
    assert user.json("down") == {"stopped": [server["data"]]}
    (check,) = user.json("check", "--again", "smoke/pgvector")
    assert check["state"] == "passed"
    assert "ok - created" in user.pgbake("log", "smoke/pgvector")

    manifest = user.project / "pgbake.toml"
    manifest.write_text(manifest.read_text().replace('"plsh",', ""))
    made = user.json("build")
    assert made["built"] == ["example-postgresql-15.18"], "a build in the sandbox, by this user"
    owner = (user.store / "nix/store" / made["paths"]["bundle"].rpartition("/")[2]).stat().st_uid
    assert owner == uid
    assert user.json("doctor", "--offline")["ok"]


@pytest.mark.full
def test_a_user_s_build_from_nothing_equals_root_s(user: User, example: TestProject, bundle: Bundle) -> None:
    """Only the downloads are there already. Every package and the bundle are the same, bit by bit."""
    downloads = user.home / ".cache/pgbake/downloads"
    downloads.parent.mkdir(parents=True)
    subprocess.run(["cp", "-al", str(shared_cache() / "pgbake/downloads"), str(downloads)], check=True)
    give(user)
    assert user.pgbake("build") == f"{bundle.path}\n"
    outputs = [path for derivation in bundle.graph.derivations.values() for path in derivation.output_paths.values()]
    with LocalStore(example.store) as theirs, LocalStore(user.store) as own:
        made = own.database.paths()
        assert set(outputs) | {item.path for item in bundle.graph.inputs.values()} <= set(made)
        different = [path for path in made if own.info(path).nar_sha256 != theirs.info(path).nar_sha256]
        assert not different
        assert {path for path in outputs if own.info(path).ultimate} == set(outputs), "built, not copied"
        assert {own.physical(path).stat().st_uid for path in made} == {65534 if AS_ROOT else os.geteuid()}
