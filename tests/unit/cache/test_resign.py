"""Signing a cache with another key: only signatures change, all of them, and nothing that should not be signed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.push import push
from pgbake.cache.resign import sign_cache
from pgbake.cache.verify import verify
from pgbake.errors import CacheError
from pgbake.events import silent
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.trust import Trust
from tests.small_closures import add_graph

OLD, NEW = SecretKey.generate("old-1"), SecretKey.generate("new-1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def made(store: LocalStore) -> dict[str, StorePath]:
    return add_graph(store, {"libc": (), "x-postgresql-15.1": ("libc",)})


@pytest.fixture
def cache(tmp_path: Path, store: LocalStore, made: dict[str, StorePath]) -> BinaryCache:
    cache = BinaryCache(str(tmp_path / "cache"))
    push(store, cache, made.values(), [OLD], silent)
    return cache


def states(cache: BinaryCache) -> dict[str, tuple[int, int]]:
    """Files of the cache with inode and time: what was written anew has others."""
    top = cache.objects.local
    assert top is not None
    files = [file for file in top.rglob("*") if file.is_file() and "lease" not in file.name]
    return {str(file.relative_to(top)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def wrong(cache: BinaryCache, *keys: SecretKey) -> list[str]:
    check = Trust(TrustedKeys(tuple(key.public for key in keys))).check
    return [str(finding) for finding in verify(cache, silent, check).findings]


def test_a_key_is_replaced_in_two_steps(cache: BinaryCache, made: dict[str, StorePath]) -> None:
    before = states(cache)
    planned = sign_cache(cache, [NEW], silent, dry_run=True)
    assert states(cache) == before
    done = sign_cache(cache, [NEW], silent)
    assert done == planned
    assert set(done.changed) == set(made.values())
    assert wrong(cache, OLD) == wrong(cache, NEW) == []
    after = states(cache)
    assert {name for name in before if before[name] != after[name]} == {
        "pgbake-index", *(f"{path.digest}.narinfo" for path in made.values())
    }  # fmt: skip
    again = sign_cache(cache, [NEW], silent)
    assert (again.changed, again.unchanged) == ((), 2)
    assert states(cache) == after
    sign_cache(cache, [], silent, remove=["old-1"])
    assert wrong(cache, NEW) == []
    assert len(wrong(cache, OLD)) == 2


def test_the_last_signature_stays(cache: BinaryCache) -> None:
    before = states(cache)
    with pytest.raises(CacheError, match="2 paths would be left without any signature"):
        sign_cache(cache, [], silent, remove=["old-1"])
    assert states(cache) == before


def test_what_the_old_key_has_not_signed_is_not_signed(
    cache: BinaryCache, store: LocalStore, made: dict[str, StorePath]
) -> None:
    stranger = add_graph(store, {"slipped-in": ()})
    push(store, cache, stranger.values(), [], silent)
    done = sign_cache(cache, [NEW], silent, trusted=TrustedKeys((OLD.public,)))
    assert set(done.changed) == set(made.values())
    assert list(done.passed_over) == [f"{stranger['slipped-in'].digest}.narinfo"]
    assert len(wrong(cache, NEW)) == 1


def test_lines_of_other_tools_stay_and_damage_is_told(cache: BinaryCache, made: dict[str, StorePath]) -> None:
    top = cache.objects.local
    assert top is not None
    file, other = (top / f"{path.digest}.narinfo" for path in made.values())
    file.write_text(file.read_text() + "System: x86_64-linux\n")
    other.write_text("StorePath: nonsense\n")
    done = sign_cache(cache, [NEW], silent)
    assert "\nSystem: x86_64-linux\n" in file.read_text()
    assert done.passed_over[other.name].startswith("it is damaged")


def test_a_run_that_was_stopped_is_finished(
    cache: BinaryCache, made: dict[str, StorePath], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgbake.cache import resign

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resign, "change_index", killed)
        with pytest.raises(KeyboardInterrupt):
            sign_cache(cache, [NEW], silent)
    assert sign_cache(cache, [NEW], silent).changed == ()
    assert wrong(cache, NEW) == []
