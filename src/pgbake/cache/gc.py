"""Collecting garbage: taking from a cache what no bundle that is to be kept needs.

What stays: the bundles that a :class:`Retention` keeps, with all that their pushes brought; every path and root
younger than its grace, since a push may be under way; and all that these refer to. What goes, goes in the order in
which no reader sees half of it: from the index, roots, narinfos (those that refer to others first), what lies beside
them (listings, statements), and last the NARs that no narinfo names. A collection that is killed leaves a whole
cache with less in it, and some NARs that the next one takes. `pgbake.cache.lease` tells why pushes are safe beside it;
a tool that does not know the lease, as `nix copy`, is safe only as far as the grace goes.

What is no object of a binary cache is never touched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from pgbake.cache.cache import BinaryCache, in_parallel
from pgbake.cache.index import Index, rewrite_index
from pgbake.cache.inventory import Bundle, Inventory, bundles, take_inventory
from pgbake.cache.lease import Lease, lease
from pgbake.cache.roots import root_name
from pgbake.errors import CacheError
from pgbake.events import Finished, Notice, Planned, Progressed, Sink, Started
from pgbake.formats.storepath import StorePath

#: Seconds for which everything stays.
GRACE = 86_400.0

#: Objects that are deleted between two looks at the lease, and requests for single objects at once.
_BATCH = 1000
_AT_ONCE = 16

STATEMENT = re.compile(r"statements/(?P<digest>[0-9a-df-np-sv-z]{32})/.+")
_LISTING = re.compile(r"(?P<digest>[0-9a-df-np-sv-z]{32})\.ls")


@dataclass(frozen=True, slots=True)
class Retention:
    """Which bundles stay: those that one of these rules keeps.

    :param names: shell patterns of names, with or without the version.
    :param seconds: those that were pushed within that time.
    :param last: so many of each group (name, PostgreSQL's major version, system), the newest; one that is not whole
        does not count, and stays only where its own path is there.
    :param grace: seconds for which everything stays; longer than any push takes.
    """

    names: tuple[str, ...] = ()
    seconds: float | None = None
    last: int | None = None
    grace: float = GRACE

    @property
    def keeps_nothing(self) -> bool:
        """Whether no rule is given, so that every bundle would go."""
        return not self.names and self.seconds is None and self.last is None

    def kept(self, found: Iterable[Bundle], now: float) -> set[StorePath]:
        """Return the bundles that stay."""
        found = sorted(found, key=lambda bundle: (-_age_key(bundle), bundle.path))
        seen: dict[tuple[str, str | None], int] = {}
        stay = set()
        for bundle in found:
            rank = seen.setdefault((bundle.group, bundle.system), 0)
            if not bundle.missing:
                seen[bundle.group, bundle.system] += 1
            age = now - _age_key(bundle)
            if (
                age < self.grace
                or (self.seconds is not None and age <= self.seconds)
                or (self.last is not None and rank < self.last and bundle.path not in bundle.missing)
                or any(fnmatchcase(name, p) for p in self.names for name in (bundle.path.name, bundle.group))
            ):
                stay.add(bundle.path)
        return stay


def _age_key(bundle: Bundle) -> float:
    return bundle.pushed or 0.0


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection takes away, or would.

    :param kept: bundles that stay; ``dropped``: those that go.
    :param paths: narinfos that go, in steps: each path in an earlier one than those that it refers to.
    :param roots: names of root objects that go.
    :param beside: names of what lies beside the narinfos and goes with them.
    :param nars: names of NARs that go.
    :param freed: bytes of all that goes.
    :param pushing: the bundle of a push that seems to be under way, for whose sake no NAR goes.
    """

    kept: tuple[Bundle, ...]
    dropped: tuple[Bundle, ...]
    paths: tuple[tuple[StorePath, ...], ...]
    roots: tuple[str, ...]
    beside: tuple[str, ...]
    nars: tuple[str, ...]
    freed: int
    pushing: StorePath | None = None

    @property
    def dead(self) -> frozenset[StorePath]:
        """All paths that go."""
        return frozenset(path for step in self.paths for path in step)


def plan(inventory: Inventory, retention: Retention, now: float) -> Collection:
    """Decide what goes. Pure.

    :param inventory: of a cache that can be listed, with every narinfo read.
    :param now: Unix seconds.
    :raises CacheError: a narinfo or root is damaged, so that what it needs is not known.
    """
    objects = inventory.objects
    assert objects is not None
    if inventory.damaged:
        name = min(inventory.damaged)
        raise CacheError(
            f"{len(inventory.damaged)} of the cache's objects are damaged, so it is not known what they need; "
            f"the first: {name}: {inventory.damaged[name]}",
            hint="run `pgbake cache verify --repair` first",
        )
    found = bundles(inventory)
    stay = retention.kept(found, now)
    kept = tuple(bundle for bundle in found if bundle.path in stay)
    dropped = tuple(bundle for bundle in found if bundle.path not in stay)
    young = [path for path in inventory.infos if now - (inventory.written(path) or 0) < retention.grace]
    alive, _ = inventory.closure([*young, *(path for bundle in kept for path in bundle.members)])
    dead = inventory.infos.keys() - alive
    pushing = next(
        (b.path for b in kept if b.what and not _is_whole(inventory, b) and now - _age_key(b) < retention.grace), None
    )
    named = {inventory.infos[path].url for path in alive}
    nars = [name for name in inventory.nars if name not in named and now - objects[name].modified >= retention.grace]
    roots = [root_name(bundle.path, what) for bundle in dropped for what in bundle.what]
    digests = {path.digest for path in dead}
    beside = [
        name
        for name in objects
        if (match := STATEMENT.fullmatch(name) or _LISTING.fullmatch(name)) and match["digest"] in digests
    ]
    gone = [*roots, *beside, *(f"{path.digest}.narinfo" for path in dead), *(nars if pushing is None else ())]
    return Collection(
        kept,
        dropped,
        referrers_first({path: inventory.infos[path].references for path in dead}),
        tuple(sorted(roots)),
        tuple(sorted(beside)),
        tuple(sorted(nars)) if pushing is None else (),
        sum(objects[name].size for name in gone),
        pushing,
    )


def _is_whole(inventory: Inventory, bundle: Bundle) -> bool:
    return not bundle.missing and all(map(inventory.has_whole, bundle.members))


def referrers_first(references: Mapping[StorePath, Iterable[StorePath]]) -> tuple[tuple[StorePath, ...], ...]:
    """Return paths in steps such that each comes in an earlier step than those that it refers to.

    Paths that refer to each other in a circle, which only a forged cache has, come last.
    """
    needs = {
        path: {other for other in refs if other in references and other != path} for path, refs in references.items()
    }
    users = dict.fromkeys(references, 0)
    for others in needs.values():
        for other in others:
            users[other] += 1
    steps = []
    step = sorted(path for path, count in users.items() if not count)
    left = set(references)
    while step:
        steps.append(tuple(step))
        left.difference_update(step)
        following = []
        for path in step:
            for other in needs[path]:
                users[other] -= 1
                if not users[other]:
                    following.append(other)
        step = sorted(following)
    return (*steps, tuple(sorted(left))) if left else tuple(steps)


def collect(cache: BinaryCache, retention: Retention, report: Sink, *, dry_run: bool = False) -> Collection:
    """Take away what the retention does not keep; return what went.

    :param dry_run: only find out.
    :raises CacheError: the retention has no rule; the cache refuses, does not answer, can only be read, or holds what
        is damaged.
    """
    if retention.keeps_nothing:
        raise CacheError(
            "nothing says which bundles are kept: all would go",
            hint="give --keep NAME, --keep-for AGE or --keep-last NUMBER; --dry-run shows what that means",
        )
    require_writable(cache)
    if dry_run:
        return plan(take_inventory(cache, report, read_all=True), retention, time.time())
    with lease(cache.objects, "pgbake cache gc", partial(tell_waiting, cache, report)) as held:
        found = plan(take_inventory(cache, report, read_all=True), retention, time.time())
        sweep(cache, found, held, report)
    return found


def require_writable(cache: BinaryCache) -> None:
    """Check that a cache is of a kind that can be written.

    :raises CacheError: it is not.
    """
    if not cache.objects.writable:
        raise CacheError(f"{cache.url} can only be read", hint="name the cache by its s3 or file URL")


def tell_waiting(cache: BinaryCache, report: Sink, holder: str) -> None:
    """Tell that a cache's lease is waited for."""
    report(Notice("info", f"{cache.url} is being worked on by {holder}; waiting for its end"))


def sweep(cache: BinaryCache, found: Collection, held: Lease, report: Sink) -> None:
    """Delete what a plan names, in its order.

    :raises CacheError: the cache refuses, does not answer, or another process has taken the lease.
    """
    steps: list[Sequence[str]] = [found.roots]
    steps += [[f"{path.digest}.narinfo" for path in step] for step in found.paths]
    steps += [found.beside, found.nars]
    total = sum(map(len, steps))
    if not total:
        return
    begin = time.monotonic()
    report(Planned("delete", total))
    report(Started("collect", "delete", cache.url, total))
    held.renew()
    if found.dead:
        _leave_index(cache, {path.digest for path in found.dead})
    done = 0
    for names in steps:
        for start in range(0, len(names), _BATCH):
            held.renew()
            batch = names[start : start + _BATCH]
            _delete(cache, batch)
            done += len(batch)
            report(Progressed("collect", done))
    cache.forget()
    report(Finished("collect", "done", time.monotonic() - begin))


def _leave_index(cache: BinaryCache, digests: set[str]) -> None:
    def changed(index: Index | None) -> Index | None:
        if index is None or not digests & index.texts.keys():
            return None  # a cache without an index gets none by this
        return Index({digest: text for digest, text in index.texts.items() if digest not in digests})

    rewrite_index(cache.objects, cache.copies, changed)


def _delete(cache: BinaryCache, names: Sequence[str]) -> None:
    slices = [names[i : i + _BATCH // _AT_ONCE] for i in range(0, len(names), _BATCH // _AT_ONCE)]
    in_parallel(cache.objects.delete, slices, _AT_ONCE)
