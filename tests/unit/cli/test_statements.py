"""Statements travel with a bundle, and one that lacks a required one is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgbake.formats.keys import SecretKey
from pgbake.formats.statement import Statement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.statements import kept_statements
from pgbake.store.tree import hash_tree

KEY, OTHER = SecretKey("a-1", bytes(32)), SecretKey("b-1", bytes(31) + b"\1")


@dataclass(frozen=True)
class Machine:
    """A user with a store, a configuration and no project."""

    home: Path
    cache: Path

    def pgbake(self, *args: str, key: SecretKey | None = KEY) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "HOME": str(self.home), "PGBAKE_STORE": str(self.home / "store"),
            "XDG_CONFIG_HOME": str(self.home / "config"), "PGBAKE_SECRET_KEY": key.export() if key else "",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "pgbake", *args],
            cwd=self.home, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def fails(self, *args: str) -> str:
        done = self.pgbake(*args)
        assert done.returncode != 0 and "Traceback" not in done.stderr and "hint: " in done.stderr, done.stderr
        return done.stderr

    def configure(self, text: str) -> None:
        file = self.home / "config/pgbake/config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'[[cache]]\nurl = "{self.cache.as_uri()}"\npush = true\n[trust]\n{text}\n')

    def write(self, statement: Statement, *keys: SecretKey) -> str:
        (self.home / "statement").write_bytes(statement.sign(keys).to_json())
        return "statement"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "a").mkdir()
    machine = Machine(tmp_path / "a", tmp_path / "cache")
    machine.configure("")
    return machine


@pytest.fixture
def reader(tmp_path: Path) -> Machine:
    (tmp_path / "b").mkdir()
    machine = Machine(tmp_path / "b", tmp_path / "cache")
    machine.configure(f'keys = ["{KEY.public}"]\nstatements = ["check"]')
    return machine


@pytest.fixture
def passed(machine: Machine) -> Statement:
    """That the checks of a path, which is called as bundles are, have passed."""
    (machine.home / "tree").write_text("x")
    digest = hash_tree(machine.home / "tree").sha256

    def fill(place: Path) -> None:
        place.write_text("x")

    with LocalStore(machine.home / "store") as store:
        path = store.add_source("example-postgresql-15.1", digest, fill)
    return Statement(path, digest, "check", {"result": "PASSED", "configuration": []})


def test_a_statement_travels_and_is_required(machine: Machine, reader: Machine, passed: Statement) -> None:
    path = str(passed.path)
    machine.configure("statements = []")
    assert machine.pgbake("push", path).returncode == 0
    machine.configure("")
    said = reader.fails("pull", path)
    assert f"{path} lacks the statement check that is required: no statement of that kind is in" in said
    assert "write statements = [] below [trust]" in said

    said = machine.fails("push", "--statement", machine.write(passed, OTHER), path)
    assert "is not pushed" in said and "is signed by b-1; trusted keys: a-1" in said
    machine.configure(f'keys = ["{OTHER.public}"]')
    machine.pgbake("push", "--statement", machine.write(passed, OTHER), path)
    machine.configure("")
    assert "is signed by b-1; trusted keys: a-1" in reader.fails("pull", path)
    assert not (reader.home / "store/nix/store" / passed.path.basename).exists()

    pushed = machine.pgbake("push", "--json", "--statement", machine.write(passed, KEY), path)
    assert json.loads(pushed.stdout)[0]["statements"] == 1
    assert json.loads(machine.pgbake("push", "--json", path).stdout)[0]["statements"] == 0
    pulled = reader.pgbake("pull", path)
    assert pulled.returncode == 0, pulled.stderr
    with LocalStore(reader.home / "store") as store:
        assert kept_statements(store, passed.path) == {"check": passed.sign([KEY, OTHER])}

    # From there it goes on to a cache that never saw the file.
    elsewhere = reader.cache.with_name("elsewhere")
    assert "1 statement sent" in reader.pgbake("push", "--to", elsewhere.as_uri(), path).stdout
    assert (elsewhere / f"statements/{passed.path.digest}/check.json").read_bytes() == passed.sign(
        [KEY, OTHER]
    ).to_json()


def test_who_asks_for_no_signatures_needs_no_statement(machine: Machine, reader: Machine, passed: Statement) -> None:
    machine.pgbake("push", "--unchecked", str(passed.path))
    assert reader.pgbake("pull", "--no-check-sigs", str(passed.path)).returncode == 0


def test_an_unchecked_bundle_tells_why_it_is_refused(machine: Machine, reader: Machine, passed: Statement) -> None:
    path = str(passed.path)
    said = machine.fails("push", path)
    assert "is not pushed" in said and "lacks the statement check" in said and "--unchecked" in said
    assert not machine.cache.exists()
    assert "Would be refused" in machine.pgbake("push", "--dry-run", path).stdout
    assert "would be pushed UNCHECKED" in machine.pgbake("push", "--dry-run", "--unchecked", path).stdout
    done = machine.pgbake("push", "--unchecked", path)
    assert done.returncode == 0 and "warning: UNCHECKED: " in done.stderr, done.stderr
    assert "says that it was pushed unchecked: " in reader.fails("pull", path)
    done = reader.pgbake("pull", "--unchecked", path)
    assert done.returncode == 0 and "warning: UNCHECKED: " in done.stderr, done.stderr
    # Whoever has it now is told the same when it is to go on.
    assert "says that it was pushed unchecked: " in reader.fails("push", "--to", "./further", path)
    # That does not take back what somebody has checked, here or in the cache.
    machine.pgbake("push", "--statement", machine.write(passed, KEY), path)
    (machine.home / f"store/nix/var/pgbake/statements/{passed.path.digest}/check.json").unlink()
    assert machine.pgbake("push", "--unchecked", path).returncode == 0
    stays = machine.cache / f"statements/{passed.path.digest}/check.json"
    assert stays.read_bytes() == passed.sign([KEY]).to_json()


def test_a_cache_without_statements_is_said(machine: Machine, reader: Machine, passed: Statement) -> None:
    machine.pgbake("push", "--unchecked", str(passed.path))
    shutil.rmtree(machine.cache / "statements")
    said = reader.fails("pull", str(passed.path))
    assert "no statement of that kind is in file://" in said and said.count("error: ") == 1


def test_a_push_without_a_key_says_that_nothing_is_stated(machine: Machine, passed: Statement) -> None:
    done = machine.pgbake("push", "--unchecked", str(passed.path), key=None)
    assert done.returncode == 0 and "no key signs a statement about its checks" in done.stderr
    assert not (machine.cache / "statements").exists()
    assert "there is no none" in machine.fails("push", "--unchecked", "--key", "none", str(passed.path))


def test_an_archive_brings_statements_along(machine: Machine, reader: Machine, passed: Statement) -> None:
    machine.pgbake("push", "--statement", machine.write(passed, KEY), str(passed.path))
    done = machine.pgbake("export", "../x.tar", str(passed.path))
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    first = (machine.home / "../x.tar").read_bytes()
    machine.pgbake("export", "../x.tar", str(passed.path))
    assert (machine.home / "../x.tar").read_bytes() == first
    assert reader.pgbake("import", "../x.tar").returncode == 0
    with LocalStore(reader.home / "store") as store:
        assert kept_statements(store, passed.path) == {"check": passed.sign([KEY])}


def test_what_is_no_bundle_needs_no_statement(machine: Machine, reader: Machine) -> None:
    (machine.home / "tree").write_text("y")
    digest = hash_tree(machine.home / "tree").sha256

    def fill(place: Path) -> None:
        place.write_text("y")

    with LocalStore(machine.home / "store") as store:
        path = store.add_source("pgvector-0.8.0", digest, fill)
    machine.pgbake("push", str(path))
    assert reader.pgbake("pull", str(path)).returncode == 0


def test_a_wrong_statement_is_not_pushed(machine: Machine, passed: Statement) -> None:
    path = str(passed.path)
    other = dataclasses.replace(passed, nar_sha256=bytes(32))
    elsewhere = dataclasses.replace(passed, path=StorePath("0" * 32, "x"))
    assert "nobody has signed" in machine.fails("push", "--statement", machine.write(passed), path)
    assert "other contents" in machine.fails("push", "--statement", machine.write(other, KEY), path)
    assert "which is not pushed" in machine.fails("push", "--statement", machine.write(elsewhere, KEY), path)
    assert "cannot read none" in machine.fails("push", "--statement", "none", path)
    (machine.home / "statement").write_text("{}")
    assert "is no signed statement" in machine.fails("push", "--statement", "statement", path)
    assert not machine.cache.exists()
