"""Statements beside the paths of a cache, and in the local store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.statements import (
    fetch_statement,
    require_statements,
    statement_name,
    store_statement,
)
from pgbake.errors import CacheError
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.statement import SignedStatement, Statement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.statements import drop_statements, keep_statement, kept_statements
from pgbake.trust import Trust

PATH = StorePath("0" * 32, "bundle")
NAR = bytes(32)
ONE, TWO = SecretKey("a-1", bytes(32)), SecretKey("a-2", bytes(31) + b"\1")
PASSED = Statement(PATH, NAR, "check", {"result": "PASSED"})
TRUST = Trust(TrustedKeys((ONE.public,)), statements=("check",))


@pytest.fixture
def cache(tmp_path: Path) -> BinaryCache:
    return BinaryCache((tmp_path / "cache").as_uri())


@pytest.fixture
def other(tmp_path: Path) -> BinaryCache:
    return BinaryCache((tmp_path / "other").as_uri())


def test_a_statement_is_stored_once(cache: BinaryCache, tmp_path: Path) -> None:
    assert fetch_statement(cache, PATH, "check") is None
    assert store_statement(cache, PASSED.sign([ONE]))
    assert (tmp_path / f"cache/statements/{PATH.digest}/check.json").read_bytes() == PASSED.sign([ONE]).to_json()
    assert not store_statement(cache, PASSED.sign([ONE]))
    assert require_statements([cache], PATH, NAR, TRUST) == [PASSED.sign([ONE])]


def test_signatures_of_the_same_are_joined_and_another_replaces_it(cache: BinaryCache) -> None:
    store_statement(cache, PASSED.sign([TWO]))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: store_statement(cache, PASSED.sign([key])), [ONE, SecretKey("b", bytes(32))]))
    found = fetch_statement(cache, PATH, "check")
    assert found is not None and [one.name for one in found.signatures] == ["a-1", "a-2", "b"]
    newer = Statement(PATH, NAR, "check", {"result": "WARNED"}).sign([ONE])
    assert store_statement(cache, newer)
    assert fetch_statement(cache, PATH, "check") == newer


def test_nothing_wanted_asks_nothing(cache: BinaryCache) -> None:
    assert require_statements([cache], PATH, NAR, Trust()) == []


@pytest.mark.parametrize(
    ("signed", "problem"),
    [
        (None, "no statement of that kind is in file:"),
        (PASSED.sign([TWO]), "signed by a-2; trusted keys: a-1"),
        (Statement(PATH, b"\1" * 32, "check", PASSED.predicate).sign([ONE]), "other contents"),
        (Statement(PATH, NAR, "check", {"result": "FAILED"}).sign([ONE]), "did not pass"),
    ],
)
def test_a_bundle_without_a_good_one_is_refused(
    cache: BinaryCache, other: BinaryCache, signed: SignedStatement | None, problem: str
) -> None:
    if signed is not None:
        store_statement(cache, signed)
    with pytest.raises(CacheError, match=problem) as caught:
        require_statements([cache], PATH, NAR, TRUST)
    assert str(PATH) in caught.value.message and caught.value.hint
    store_statement(other, PASSED.sign([ONE]))
    assert require_statements([cache, other], PATH, NAR, TRUST) == [PASSED.sign([ONE])]


def test_one_at_the_wrong_place_is_about_something_else(cache: BinaryCache) -> None:
    elsewhere = Statement(StorePath("1" * 32, "bundle"), bytes(32), "check", PASSED.predicate).sign([ONE])
    cache.objects.put(statement_name(PATH, "check"), elsewhere.to_json())
    with pytest.raises(CacheError, match="something else"):
        require_statements([cache], PATH, NAR, TRUST)


@pytest.mark.parametrize("damage", [b"", b"{}", PASSED.sign([ONE]).to_json()[:-1], b"<html>"])
def test_a_damaged_one_is_an_error_and_is_mended_by_the_next_push(cache: BinaryCache, damage: bytes) -> None:
    cache.objects.put(statement_name(PATH, "check"), damage)
    with pytest.raises(CacheError, match="is damaged"):
        fetch_statement(cache, PATH, "check")
    with pytest.raises(CacheError, match="is damaged"):
        require_statements([cache], PATH, NAR, TRUST)
    assert store_statement(cache, PASSED.sign([ONE]))
    assert fetch_statement(cache, PATH, "check") == PASSED.sign([ONE])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


def test_a_store_keeps_them(store: LocalStore) -> None:
    assert kept_statements(store, PATH) == {}
    keep_statement(store, PASSED.sign([ONE]))
    assert keep_statement(store, PASSED.sign([TWO])) == PASSED.sign([ONE, TWO])
    said = Statement(PATH, NAR, "provenance", {}).sign([ONE])
    keep_statement(store, said)
    assert kept_statements(store, PATH) == {"check": PASSED.sign([ONE, TWO]), "provenance": said}
    newer = Statement(PATH, b"\1" * 32, "check", {"result": "FAILED"}).sign([])
    keep_statement(store, newer)
    assert kept_statements(store, PATH)["check"] == newer


def test_they_go_with_their_paths(store: LocalStore) -> None:
    other = StorePath("9" * 32, PATH.name)
    drop_statements(store, [PATH])
    keep_statement(store, PASSED.sign([ONE]))
    drop_statements(store, [other])
    assert kept_statements(store, PATH)
    drop_statements(store, [PATH])
    assert not kept_statements(store, PATH)


def test_a_damaged_one_is_passed_over_and_replaced(store: LocalStore) -> None:
    keep_statement(store, PASSED.sign([ONE]))
    file = next((store.root / "nix/var/pgbake/statements").rglob("*.json"))
    file.write_bytes(b"{")
    assert kept_statements(store, PATH) == {}
    keep_statement(store, PASSED.sign([TWO]))
    assert kept_statements(store, PATH) == {"check": PASSED.sign([TWO])}
