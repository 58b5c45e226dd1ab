"""A stock Nix that is dropped onto a store of pgbake's finds everything as its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.salvage import salvage
from tests.oracle import Oracle

pytestmark = pytest.mark.integration


def ask(nix: Oracle, *args: str) -> list[str]:
    return nix.run("nix-store", *args).stdout.decode().split()


def test_every_path_is_valid_and_whole(nix: Oracle) -> None:
    done = nix.run("nix-store", "--verify", "--check-contents")
    assert done.returncode == 0
    assert b"error" not in done.stderr and b"disappeared" not in done.stderr and b"modified" not in done.stderr


def test_it_knows_of_each_path_what_we_know(nix: Oracle, bundle: Bundle, store: LocalStore) -> None:
    closure = store.closure([bundle.path])
    assert ask(nix, "-qR", str(bundle.path)) and set(ask(nix, "-qR", str(bundle.path))) == {str(p) for p in closure}
    for path, info in closure.items():
        assert ask(nix, "-q", "--references", str(path)) == sorted(str(r) for r in info.references)
    for query, known in (
        ("--hash", [f"sha256:{base32.encode(info.nar_sha256)}" for info in closure.values()]),
        ("--size", [str(info.nar_size) for info in closure.values()]),
        ("--deriver", [str(info.deriver or "unknown-deriver") for info in closure.values()]),
    ):
        assert ask(nix, "-q", query, *map(str, closure)) == known


def test_it_knows_the_outputs_of_derivations_and_reads_logs(nix: Oracle, bundle: Bundle) -> None:
    for derivation in bundle.graph.derivations.values():
        outputs = {output.path for output in derivation.outputs.values()}
        assert set(ask(nix, "-q", "--outputs", str(derivation.path))) == outputs
    pgvector = bundle.by_name()["pgvector"]
    assert "hnsw" in nix.run("nix-store", "--read-log", str(pgvector.path)).stdout.decode()


def test_its_collector_spares_our_roots(nix: Oracle, bundle: Bundle) -> None:
    live = set(ask(nix, "--gc", "--print-live"))
    assert str(bundle.path) not in live, "the project's result link is not in its view"
    root = nix.root / "nix/var/nix/gcroots/mine"
    root.symlink_to(str(bundle.path))
    live = set(ask(nix, "--gc", "--print-live"))
    assert str(bundle.path) in live
    root.unlink()


def test_the_schema_is_nixs_own(oracle: Oracle, tmp_path: Path) -> None:
    def tables(file: Path) -> dict[str, object]:
        with sqlite3.connect(file) as database:
            found: dict[str, object] = {}
            for kind, name in database.execute("select type, name from sqlite_master").fetchall():
                if name.startswith("sqlite_"):
                    continue
                found[f"{kind} {name}"] = (
                    database.execute(f"pragma table_info({name})").fetchall(),
                    database.execute(f"pragma foreign_key_list({name})").fetchall(),
                    database.execute(f"pragma index_info({name})").fetchall(),
                )
            return found

    oracle.run("nix-store", "--init")
    LocalStore(tmp_path).close()
    place = "nix/var/nix/db/db.sqlite"
    assert tables(tmp_path / place) == tables(oracle.root / place)
    schema = "nix/var/nix/db/schema"
    assert (tmp_path / schema).read_text() == (oracle.root / schema).read_text()


def test_our_store_goes_on_where_nix_began(oracle: Oracle) -> None:
    (oracle.tmp("file")).write_text("from nix")
    added = oracle.run("nix-store", "--add", "/tmp/file").stdout.decode().strip()
    with LocalStore(oracle.root) as store:
        path = StorePath.parse(added)
        assert store.valid([path]) and store.physical(path).read_text() == "from nix"


def test_a_salvaged_database_is_nixs_too(nix: Oracle) -> None:
    before = set(ask(nix, "-q", "--references", *ask(nix, "--gc", "--print-dead")))
    file = nix.root / "nix/var/nix/db/db.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("pragma wal_checkpoint(truncate)")
        paths = {path for (path,) in database.execute("select path from ValidPaths")}
    contents = bytearray(file.read_bytes())
    contents[:100] = b"\xff" * 100
    file.write_bytes(contents)
    assert nix.run("nix-store", "--verify", check=False).returncode != 0
    done = salvage(nix.root)
    assert {str(path) for path in done.kept} == paths and done.lost == ()
    assert set(ask(nix, "-q", "--references", *ask(nix, "--gc", "--print-dead"))) == before
    checked = nix.run("nix-store", "--verify", "--check-contents")
    assert b"error" not in checked.stderr and b"modified" not in checked.stderr
