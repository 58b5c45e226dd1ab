"""Collecting garbage from caches: what stays, what goes, in which order, and beside pushes."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbake.cache import gc, lease
from pgbake.cache.cache import BinaryCache
from pgbake.cache.gc import Retention, collect, referrers_first
from pgbake.cache.inventory import group
from pgbake.cache.objects import ObjectStore
from pgbake.cache.push import push
from pgbake.errors import CacheError
from pgbake.events import Event, Notice, silent
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.small_closures import add_graph, age, broken, made_up

DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def cache(tmp_path: Path) -> BinaryCache:
    return BinaryCache(str(tmp_path / "cache"))


def directory(cache: BinaryCache) -> Path:
    assert cache.objects.local is not None
    return cache.objects.local


def names(cache: BinaryCache) -> set[str]:
    """The paths that a reader finds, by name."""
    return {NarInfo.parse(file.read_text()).path.name for file in directory(cache).glob("*.narinfo")}


def indexed(cache: BinaryCache) -> set[str]:
    cache.forget()
    index = cache.index()
    return {NarInfo.parse(text).path.name for text in index.texts.values()} if index else set()


def push_names(store: LocalStore, cache: BinaryCache, made: dict[str, StorePath], *wanted: str) -> None:
    push(store, cache, [made[name] for name in wanted], [], silent)


GRAPH = {
    "libc-2": (),
    "ssl-3": ("libc-2",),
    "ssl-4": ("libc-2",),
    "a-postgresql-15.1": ("ssl-3",),
    "a-postgresql-15.2": ("ssl-4",),
    "a-postgresql-16.0": ("ssl-4",),
    "b-postgresql-15.1": ("libc-2",),
}


@pytest.fixture
def filled(store: LocalStore, cache: BinaryCache) -> dict[str, StorePath]:
    """A cache with four bundles; a-15.1 is 40 days old, a-15.2 20, a-16.0 10, b 5."""
    made = add_graph(store, GRAPH)
    for name, days in (
        ("a-postgresql-15.1", 20),
        ("a-postgresql-15.2", 10),
        ("a-postgresql-16.0", 5),
        ("b-postgresql-15.1", 5),
    ):
        push_names(store, cache, made, name)
        age(cache, days * DAY)
    return made


def test_without_a_rule_nothing_goes(cache: BinaryCache, filled: dict[str, StorePath]) -> None:
    with pytest.raises(CacheError, match="all would go") as caught:
        collect(cache, Retention(), silent)
    assert caught.value.hint and "--keep-last" in caught.value.hint
    assert names(cache) == set(GRAPH)


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        (Retention(last=1), {"a-postgresql-15.1", "ssl-3"}),
        (Retention(last=2), set()),
        (Retention(seconds=25 * DAY), {"a-postgresql-15.1", "ssl-3"}),
        (Retention(seconds=12 * DAY), {"a-postgresql-15.1", "ssl-3", "a-postgresql-15.2"}),
        (Retention(names=("b-*",)), {"a-postgresql-15.1", "a-postgresql-15.2", "a-postgresql-16.0", "ssl-3", "ssl-4"}),
        (Retention(names=("a-postgresql-15",)), {"a-postgresql-16.0", "b-postgresql-15.1"}),
        (Retention(names=("nothing",)), set(GRAPH)),
        (Retention(names=("nothing",), grace=7 * DAY), GRAPH.keys() - {"b-postgresql-15.1", "libc-2"}),
    ],
)
def test_what_no_kept_bundle_needs_goes(
    cache: BinaryCache, filled: dict[str, StorePath], retention: Retention, gone: set[str]
) -> None:
    before = {file for file in directory(cache).rglob("*") if file.is_file()}
    told = collect(cache, retention, silent, dry_run=True)
    assert {path.name for path in told.dead} == gone
    assert {file for file in directory(cache).rglob("*") if file.is_file()} == before, "a dry run changes nothing"
    size = sum(file.stat().st_size for file in before if file.name not in ("pgbake-index", "pgbake-lease"))
    done = collect(cache, retention, silent)
    assert names(cache) == indexed(cache) == GRAPH.keys() - gone
    assert broken(directory(cache)) == []
    assert len(list((directory(cache) / "nar").iterdir())) == len(GRAPH) - len(gone)
    left = [file for file in directory(cache).rglob("*") if file.is_file()]
    apart = ("pgbake-index", "pgbake-lease", ".pgbake-lease")
    assert done.freed == size - sum(file.stat().st_size for file in left if file.name not in apart)
    assert not collect(cache, retention, silent).dead, "a second time there is nothing to do"


def test_what_is_not_a_caches_stays_and_what_lies_beside_goes(cache: BinaryCache, filled: dict[str, StorePath]) -> None:
    top = directory(cache)
    gone, kept = filled["a-postgresql-15.1"].digest, filled["b-postgresql-15.1"].digest
    foreign = ["index.html", "nar/readme", "notes/a.txt", f"{gone}.txt", "nar/sub/x.nar.zst", ".hidden", "log/x.drv"]
    ours = [f"statements/{gone}/check.json", f"{gone}.ls", "nar/0orphan.nar.xz"]
    stay = [f"statements/{kept}/check.json", f"{kept}.ls"]
    for name in foreign + ours + stay:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("x")
    age(cache, 2 * DAY)
    (top / "nar/1young.nar.xz").write_text("x")
    collect(cache, Retention(last=1), silent)
    assert [name for name in foreign + stay if not (top / name).exists()] == []
    assert [name for name in ours if (top / name).exists()] == []
    assert (top / "nar/1young.nar.xz").exists()


def test_a_cache_without_roots_has_bundles_by_name(cache: BinaryCache, filled: dict[str, StorePath]) -> None:
    shutil.rmtree(directory(cache) / "roots")
    collect(cache, Retention(last=1), silent)
    assert names(cache) == GRAPH.keys() - {"a-postgresql-15.1", "ssl-3"}


def test_what_a_push_brought_beside_the_closure_stays_with_its_bundle(store: LocalStore, cache: BinaryCache) -> None:
    made = add_graph(store, {"gcc-12": (), "pg.tar.gz": (), "x-postgresql-15.1": (), "y-postgresql-15.1": ()})
    wanted = made["x-postgresql-15.1"]
    push(store, cache, [wanted, made["gcc-12"], made["pg.tar.gz"]], [], silent, roots=[wanted], what="build")
    push(store, cache, [wanted, made["y-postgresql-15.1"]], [], silent)
    age(cache, 9 * DAY)
    collect(cache, Retention(names=("x-*",)), silent)
    assert names(cache) == {"gcc-12", "pg.tar.gz", "x-postgresql-15.1"}
    collect(cache, Retention(names=("y-*",)), silent)
    assert names(cache) == set()
    assert {file.name for file in directory(cache).rglob("*") if file.is_file()} == {
        "nix-cache-info", "pgbake-index", "pgbake-lease", ".pgbake-lease",
    }  # fmt: skip


def test_damage_is_not_guessed_around(cache: BinaryCache, filled: dict[str, StorePath]) -> None:
    (directory(cache) / f"{filled['ssl-4'].digest}.narinfo").write_text("StorePath: x\n")
    with pytest.raises(CacheError, match="damaged") as caught:
        collect(cache, Retention(last=1), silent)
    assert caught.value.hint == "run `pgbake cache verify --repair` first"
    assert len(list(directory(cache).glob("*.narinfo"))) == len(GRAPH)


def test_groups() -> None:
    assert group("a-postgresql-15.18") == "a-postgresql-15"
    assert group("a-b-postgresql-17.2") == "a-b-postgresql-17"
    assert group("pgvector-0.8.0-dev") == "pgvector"
    assert group("hello") == "hello"


# --- what stays, against a naive model; and killed at any moment -----------------------------------------

graphs = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=18),
        st.sets(st.integers(0, count - 1)),
        st.sets(st.integers(0, count - 1)),
    )
)


def naive_closure(edges: dict[str, list[str]], tops: Iterable[str]) -> set[str]:
    found = set(tops)
    while more := {below for name in found for below in edges[name]} - found:
        found |= more
    return found


class Killed(BaseException):
    """The process ends here."""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs, steps=st.integers(0, 40), seed=st.integers(0, 999))
def test_kept_is_the_closure_of_the_kept_and_a_kill_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    graph: tuple[int, list[tuple[int, int]], set[int], set[int]],
    steps: int,
    seed: int,
) -> None:
    count, pairs, pushed, kept = graph
    top = tmp_path_factory.mktemp("gc")
    edges = {f"p{i}": sorted({f"p{b}" for a, b in pairs if a == i and b < i}) for i in range(count)}
    with LocalStore(top / "store") as store:
        made = add_graph(store, edges)
        cache = BinaryCache(str(top / "cache"))
        for i in sorted(pushed):
            push_names(store, cache, made, f"p{i}")
    age(cache, 2 * DAY)
    retention = Retention(names=("no such name", *(f"p{i}" for i in kept)))
    expected = naive_closure(edges, {f"p{i}" for i in pushed & kept})

    left = steps
    real = ObjectStore.delete

    def delete_one_by_one(self: ObjectStore, batch: Iterable[str]) -> None:
        nonlocal left
        batch = list(batch)
        random.Random(seed).shuffle(batch)
        for name in batch:
            if left <= 0:
                raise Killed
            left -= 1
            real(self, [name])

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "delete", delete_one_by_one)
        patch.setattr(lease.Lease, "write", lambda self, holder: None)  # a killed process gives nothing back
        try:
            collect(cache, retention, silent)
        except Killed:
            assert broken(directory(cache)) == []
            assert indexed(cache) <= names(cache)
            assert names(cache) >= expected
    collect(cache, retention, silent)
    assert names(cache) == indexed(cache) == expected
    assert broken(directory(cache)) == []
    assert len(list((directory(cache) / "nar").glob("*"))) == len(expected)


def test_killed_at_each_step(
    store: LocalStore, cache: BinaryCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = add_graph(store, {"a": (), "b": ("a",), "c": ("b",), "k": ("a",), "d": ("c", "a")})
    push_names(store, cache, made, "d")
    push_names(store, cache, made, "k")
    age(cache, 2 * DAY)
    real = ObjectStore.delete
    left = 0

    def delete_one_by_one(self: ObjectStore, batch: Iterable[str]) -> None:
        nonlocal left
        for name in batch:
            if left <= 0:
                raise Killed
            left -= 1
            real(self, [name])

    monkeypatch.setattr(ObjectStore, "delete", delete_one_by_one)
    monkeypatch.setattr(lease.Lease, "write", lambda self, holder: None)
    for step in range(20):
        left = step
        top = tmp_path / f"killed-{step}"
        shutil.copytree(directory(cache), top)
        killed = BinaryCache(str(top))
        try:
            collect(killed, Retention(names=("k",)), silent)
        except Killed:
            assert broken(top) == []
            assert indexed(killed) <= names(killed)
            assert {"k", "a"} <= names(killed)
        else:
            assert names(killed) == {"k", "a"}
            break
    assert step == 1 + 3 + 3  # a root, narinfos, NARs


@given(graph=graphs)
def test_referrers_come_first(graph: tuple[int, list[tuple[int, int]], set[int], set[int]]) -> None:
    count, pairs, _, _ = graph
    paths = [made_up(f"p{i}") for i in range(count)]
    references = {paths[i]: {paths[b] for a, b in pairs if a == i and b <= i} for i in range(count)}
    steps = referrers_first(references)
    place = {path: number for number, step in enumerate(steps) for path in step}
    assert place.keys() == references.keys()
    assert all(place[path] < place[other] for path in paths for other in references[path] - {path})


def test_circles_of_a_forged_cache_end() -> None:
    a, b, c = made_up("a"), made_up("b"), made_up("c")
    assert referrers_first({a: {b}, b: {a}, c: {a}}) == ((c,), tuple(sorted((a, b))))


# --- beside a push ---------------------------------------------------------------------------------------


@contextmanager
def paused(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Let the next call of a function wait; give the events "it is called" and "it may go on"."""
    called, go = threading.Event(), threading.Event()
    real = getattr(module, name)

    def wait(*args: object, **kwargs: object) -> object:
        called.set()
        assert go.wait(20)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, wait)
        yield called, go
        go.set()


def test_a_push_waits_for_a_collection_and_sends_what_it_took(
    store: LocalStore, cache: BinaryCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = add_graph(store, {"shared": (), "old-postgresql-15.1": ("shared",), "new-postgresql-15.2": ("shared",)})
    push_names(store, cache, made, "old-postgresql-15.1")
    age(cache, 9 * DAY)
    events: list[Event] = []
    with paused(monkeypatch, gc, "sweep") as (planned, go):
        other = BinaryCache(str(tmp_path / "cache"))
        collector = threading.Thread(target=lambda: collect(other, Retention(names=("new-*",)), silent))
        collector.start()
        assert planned.wait(20)  # it has decided that all goes
        pusher = threading.Thread(target=lambda: push(store, cache, [made["new-postgresql-15.2"]], [], events.append))
        pusher.start()
        for _ in range(100):
            if any(isinstance(event, Notice) for event in events):
                break
            time.sleep(0.05)
        assert next(e.text for e in events if isinstance(e, Notice)).startswith(
            f"{cache.url} is being worked on by pgbake"
        )
        assert names(cache) == {"shared", "old-postgresql-15.1"}
        go.set()
        collector.join(20)
        pusher.join(20)
    assert names(cache) == indexed(cache) == {"shared", "new-postgresql-15.2"}
    assert broken(directory(cache)) == []


def test_a_collection_leaves_what_a_push_under_way_relies_on(
    store: LocalStore, cache: BinaryCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pgbake.cache import sender

    made = add_graph(store, {"shared": (), "old-postgresql-15.1": ("shared",), "new-postgresql-15.2": ("shared",)})
    push_names(store, cache, made, "old-postgresql-15.1")
    (directory(cache) / "nar/0orphan.nar.zst").write_text("may be what the push is about to send")
    age(cache, 9 * DAY)
    with paused(monkeypatch, sender, "send") as (found, go):
        pusher = threading.Thread(target=lambda: push(store, cache, [made["new-postgresql-15.2"]], [], silent))
        pusher.start()
        assert found.wait(20)  # it believes that "shared" is there
        done = collect(BinaryCache(str(tmp_path / "cache")), Retention(names=("nothing",)), silent)
        assert done.pushing == made["new-postgresql-15.2"]
        assert {path.name for path in done.dead} == {"old-postgresql-15.1"}
        assert (directory(cache) / "nar/0orphan.nar.zst").exists()
        go.set()
        pusher.join(20)
    assert names(cache) == {"shared", "new-postgresql-15.2"}
    assert broken(directory(cache)) == []
    collect(cache, Retention(last=1), silent)
    assert not (directory(cache) / "nar/0orphan.nar.zst").exists()


def test_a_push_with_nothing_to_send_lists_and_asks_no_more(
    store: LocalStore, cache: BinaryCache, filled: dict[str, StorePath], monkeypatch: pytest.MonkeyPatch
) -> None:
    push_names(store, cache, filled, "b-postgresql-15.1")  # its root is fresh now
    asked: list[str] = []
    for method in ("get", "put", "has", "list", "delete"):
        real = getattr(ObjectStore, method)

        def counted(
            self: ObjectStore, *args: object, real: object = real, method: str = method, **kw: object
        ) -> object:
            asked.append(f"{method} {args[0] if args else ''}".strip())
            return real(self, *args, **kw)  # type: ignore[operator]

        monkeypatch.setattr(ObjectStore, method, counted)
    cache.copies = directory(cache).parent / "copies"
    push_names(store, cache, filled, "b-postgresql-15.1")
    asked.clear()
    push_names(store, cache, filled, "b-postgresql-15.1")
    assert asked == ["list"]


def test_pushing_again_makes_a_bundle_young(
    store: LocalStore, cache: BinaryCache, filled: dict[str, StorePath]
) -> None:
    push_names(store, cache, filled, "a-postgresql-15.1")
    collect(cache, Retention(seconds=6 * DAY), silent)
    assert "a-postgresql-15.1" in names(cache)
    assert "a-postgresql-15.2" not in names(cache)


# --- the lease -------------------------------------------------------------------------------------------


def test_one_who_is_alive_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectStore(str(tmp_path))
    told: list[str] = []
    with lease.lease(objects, "pgbake cache gc", told.append) as held:
        waiter = threading.Thread(target=lambda: lease.wait_until_free(objects, told.append), daemon=True)
        waiter.start()
        waiter.join(0.7)
        assert waiter.is_alive()
        assert told[0].startswith("pgbake cache gc, pid ")
        held.write(held.holder)
        assert held.serial == 2
    waiter.join(20)
    assert not waiter.is_alive()
    lease.wait_until_free(objects, told.append)
    assert len(told) == 1


def test_one_who_was_killed_is_not(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    objects.put(lease.NAME, b'{"serial": 3, "holder": "pgbake cache gc, pid 1 on gone"}')
    lease.wait_until_free(objects, lambda _: None)
    with lease.lease(objects, "pgbake cache gc", lambda _: None) as held:
        assert held.serial == 5


def test_a_damaged_lease_is_named(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    objects.put(lease.NAME, b"{")
    with pytest.raises(CacheError, match=r"pgbake-lease in file://.* is damaged"):
        lease.wait_until_free(objects, lambda _: None)
