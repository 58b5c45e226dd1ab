"""Verifying caches: every fault is named, and only those; mending them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.mend import mend
from pgbake.cache.push import push
from pgbake.cache.verify import verify
from pgbake.errors import CacheError
from pgbake.events import silent
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree
from pgbake.trust import Trust
from tests.small_closures import add_graph, broken

GRAPH = {"libc": (), "ssl": ("libc",), "pg": ("libc",), "x-postgresql-15.1": ("ssl", "pg"), "other": ()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey.generate("test-1")


@pytest.fixture
def made(store: LocalStore) -> dict[str, StorePath]:
    return add_graph(store, GRAPH)


@pytest.fixture
def cache(tmp_path: Path, store: LocalStore, made: dict[str, StorePath], key: SecretKey) -> BinaryCache:
    cache = BinaryCache(str(tmp_path / "cache"))
    push(store, cache, [made["x-postgresql-15.1"], made["other"]], [key], silent)
    return cache


class Damager:
    """Damages objects of a cache."""

    def __init__(self, cache: BinaryCache, made: dict[str, StorePath]) -> None:
        assert cache.objects.local is not None
        self.top = cache.objects.local
        self.made = made

    def narinfo(self, name: str) -> Path:
        return self.top / f"{self.made[name].digest}.narinfo"

    def nar(self, name: str) -> Path:
        return self.top / NarInfo.parse(self.narinfo(name).read_text()).url

    def flip(self, file: Path, offset: int = -1) -> None:
        data = bytearray(file.read_bytes())
        data[offset] ^= 1
        file.write_bytes(data)


@pytest.fixture
def damager(cache: BinaryCache, made: dict[str, StorePath]) -> Damager:
    return Damager(cache, made)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def lie(d: Damager) -> None:
    """Let a narinfo promise another NAR, which is there and whole."""
    text = d.narinfo("pg").read_text()
    other = NarInfo.parse(d.narinfo("ssl").read_text())
    info = NarInfo.parse(text)
    d.narinfo("pg").write_text(text.replace(info.url, other.url))


DAMAGES: dict[str, tuple[Callable[[Damager], object], str, str, str | None]] = {
    "NAR gone": (lambda d: d.nar("ssl").unlink(), "nar", "it is not there", "ssl"),
    "NAR cut off": (lambda d: cut(d.nar("ssl")), "nar", "", "ssl"),
    "NAR empty": (lambda d: empty(d.nar("ssl")), "nar", "", "ssl"),
    "NAR with a flipped bit": (lambda d: d.flip(d.nar("libc"), 100), "nar", "", "libc"),
    "NAR with a flipped bit at its end": (lambda d: d.flip(d.nar("libc")), "nar", "", "libc"),
    "another's NAR": (lie, "nar", "", "pg"),
    "narinfo gone, others need it": (
        lambda d: d.narinfo("libc").unlink(), "reference", "it is not there, and /nix/store/", "libc",
    ),
    "narinfo empty": (lambda d: empty(d.narinfo("ssl")), "narinfo", "lacks its line StorePath", "ssl"),
    "narinfo cut off": (lambda d: cut(d.narinfo("pg")), "narinfo", "cut off", "pg"),
    "narinfo of another path": (
        lambda d: d.narinfo("pg").write_text(d.narinfo("ssl").read_text()), "narinfo", "tells of /nix/store/", "pg",
    ),
    "narinfo that nobody refers to": (lambda d: empty(d.narinfo("other")), "narinfo", "StorePath", "other"),
    "index damaged": (lambda d: d.flip(d.top / "pgbake-index", 30), "index", "damaged", None),
    "nix-cache-info gone": (lambda d: (d.top / "nix-cache-info").unlink(), "cache-info", "none", None),
    "signature of a key that is not trusted": (
        lambda d: d.narinfo("ssl").write_text(d.narinfo("ssl").read_text().replace("Sig: test-1", "Sig: test-2")),
        "signature", "signed by test-2", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_fault_is_named_and_mended(
    name: str, cache: BinaryCache, store: LocalStore, made: dict[str, StorePath], damager: Damager, key: SecretKey
) -> None:
    damage, kind, problem, lost = DAMAGES[name]
    check = Trust(TrustedKeys((key.public,))).check
    assert verify(cache, silent, check).findings == ()
    damage(damager)
    cache.forget()
    found = verify(cache, silent, check)
    chosen = [finding for finding in found.findings if finding.kind == kind]
    assert chosen, found.findings
    assert all(problem in finding.problem for finding in chosen)
    assert found.lost() == ({made[lost].digest: made[lost]} if lost else {})
    planned = mend(store, cache, [key], silent, check=check, dry_run=True)
    assert verify(cache, silent, check).findings == found.findings, "a dry run changes nothing"
    done = mend(store, cache, [key], silent, check=check)
    assert done.lost == planned.lost == ()
    assert done.mended == planned.mended == ((made[lost],) if lost else ())
    if kind != "signature":
        assert verify(cache, silent, check).findings == ()
        assert broken(damager.top) == []


def test_contents_are_left_alone_when_told(cache: BinaryCache, damager: Damager, made: dict[str, StorePath]) -> None:
    damager.flip(damager.nar("ssl"), 100)
    assert verify(cache, silent, contents=False).findings == ()
    cut(damager.nar("ssl"))
    assert verify(cache, silent, contents=False).lost() == {made["ssl"].digest: made["ssl"]}


def test_index_that_tells_something_else(cache: BinaryCache, damager: Damager, made: dict[str, StorePath]) -> None:
    from pgbake.cache.index import change_index

    info = NarInfo.parse(damager.narinfo("other").read_text())
    change_index(cache.objects, None, [], [made["libc"].digest])
    text = damager.narinfo("ssl").read_text()
    damager.narinfo("ssl").write_text("".join(line for line in text.splitlines(True) if not line.startswith("Sig")))
    damager.narinfo("other").unlink()
    found = verify(cache, silent)
    assert sorted(finding.problem for finding in found.findings) == sorted(
        [
            f"it lacks {made['libc']}",
            f"it tells something else of {made['ssl']}",
            f"it names {info.path}, which is not there",
        ]
    )
    assert list(found.orphans) == [info.url]


def test_what_nobody_has_is_dropped_only_when_told(
    cache: BinaryCache, damager: Damager, made: dict[str, StorePath], tmp_path: Path
) -> None:
    damager.nar("ssl").unlink()
    with LocalStore(tmp_path / "elsewhere") as store:
        done = mend(store, cache, [], silent)
        assert (done.lost, done.dropped, done.mended) == ((str(made["ssl"]),), (), ())
        assert damager.narinfo("ssl").exists()
        done = mend(store, cache, [], silent, drop=True)
    assert set(done.dropped) == {made["ssl"], made["x-postgresql-15.1"]}
    assert broken(damager.top) == []
    found = verify(cache, silent)
    assert found.findings == ()
    assert {path.name for path in found.inventory.infos} == {"libc", "pg", "other"}


def test_a_path_that_others_bring_is_sent_again(
    cache: BinaryCache, damager: Damager, made: dict[str, StorePath], store: LocalStore, tmp_path: Path
) -> None:
    damager.nar("libc").unlink()
    asked: list[StorePath] = []
    with LocalStore(tmp_path / "elsewhere") as other:

        def bring(paths: Iterable[StorePath]) -> None:
            asked.extend(paths)
            add_graph(other, {"libc": ()})

        done = mend(other, cache, [], silent, bring=bring)
    assert asked == [made["libc"]]
    assert (done.mended, done.lost) == ((made["libc"],), ())
    assert verify(cache, silent).findings == ()


def test_what_is_damaged_in_the_store_too_is_not_sent(
    cache: BinaryCache, damager: Damager, made: dict[str, StorePath], store: LocalStore
) -> None:
    from pgbake.errors import StoreError

    damager.nar("ssl").unlink()
    file = store.physical(made["ssl"]) / "data"
    file.chmod(0o644)
    file.write_text("damaged")
    with pytest.raises(StoreError, match="is damaged in the store"):
        mend(store, cache, [], silent)
    assert [finding.path for finding in verify(cache, silent).findings] == [made["ssl"]]
    remove_tree(store.physical(made["ssl"]))


def test_no_cache_is_said_to_be_none(tmp_path: Path) -> None:
    found = verify(BinaryCache(str(tmp_path / "nothing")), silent)
    assert [str(finding) for finding in found.findings] == ["nix-cache-info: there is none: this is no cache"]


def test_a_push_mends_a_nar_of_another_size(
    cache: BinaryCache, store: LocalStore, damager: Damager, made: dict[str, StorePath]
) -> None:
    cut(damager.nar("ssl"))
    push(store, cache, [made["x-postgresql-15.1"]], [], silent)
    assert verify(cache, silent).findings == ()


def test_web_servers_are_not_mended() -> None:
    with pytest.raises(CacheError, match="can only be read"):
        mend(None, BinaryCache("http://127.0.0.1:1/"), [], silent)  # type: ignore[arg-type]
