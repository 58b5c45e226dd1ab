"""Mending a cache: what a verification found damaged or missing is pushed again from the local store.

All of it happens under the cache's lease. What is lost and can be had is sent, and the index is written anew. What
cannot be had stays as it is, unless the user wants readers to find nothing instead of half of something: then its
narinfo goes, and those of all that refer to it, before what they refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pgbake.cache.cache import CACHE_INFO, OWN_INFO, BinaryCache
from pgbake.cache.gc import referrers_first, require_writable, tell_waiting
from pgbake.cache.index import Index, rewrite_index
from pgbake.cache.lease import Lease, lease
from pgbake.cache.sender import send
from pgbake.cache.verify import Verification, verify
from pgbake.events import Sink
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

#: Brings paths into the store where it can, from other caches for instance.
Bring = Callable[[Iterable[StorePath]], object]


@dataclass(frozen=True, slots=True)
class Mended:
    """What mending did, or would do.

    :param found: what was wrong.
    :param mended: paths that were sent again.
    :param lost: paths, or digests where that is all that is known, that nobody here has.
    :param dropped: paths that readers do not find any more, the lost ones among them.
    :param index_rewritten: whether the index was written anew.
    """

    found: Verification
    mended: tuple[StorePath, ...] = ()
    lost: tuple[str, ...] = ()
    dropped: tuple[StorePath, ...] = ()
    index_rewritten: bool = False


def mend(
    store: LocalStore,
    cache: BinaryCache,
    keys: Sequence[SecretKey],
    report: Sink,
    *,
    check: Callable[[NarInfo, str], None] | None = None,
    contents: bool = True,
    bring: Bring | None = None,
    drop: bool = False,
    dry_run: bool = False,
) -> Mended:
    """Verify a cache and mend what can be mended.

    :param keys: each signs what is sent, beside the signatures that a path bears already.
    :param check: see :func:`~pgbake.cache.verify.verify`.
    :param bring: called with what is lost and not valid in the store.
    :param drop: take away what cannot be mended, with all that refers to it.
    :param dry_run: only find out.
    :raises CacheError: the cache refuses, does not answer, or can only be read.
    :raises StoreError: a path is damaged in the store, too.
    """
    if dry_run:
        return _mend(store, cache, keys, report, verify(cache, report, check, contents=contents), None, drop, None)
    require_writable(cache)
    with lease(cache.objects, "pgbake cache verify --repair", partial(tell_waiting, cache, report)) as held:
        found = verify(cache, report, check, contents=contents)
        return _mend(store, cache, keys, report, found, bring, drop, held)


def _mend(
    store: LocalStore,
    cache: BinaryCache,
    keys: Sequence[SecretKey],
    report: Sink,
    found: Verification,
    bring: Bring | None,
    drop: bool,
    held: Lease | None,
) -> Mended:
    inventory = found.inventory
    lost = found.lost()
    if None in lost.values():
        here = {path.digest: path for path in store.database.paths()}
        lost = {digest: path or here.get(digest) for digest, path in lost.items()}
    wanted = {path for path in lost.values() if path is not None}
    if bring is not None and (elsewhere := wanted - store.valid(wanted)):
        bring(elsewhere)
    good = {path: info for path, info in inventory.infos.items() if path.digest not in lost}
    sendable = _sendable(store, wanted, good)
    mended = tuple(sorted(sendable))
    unmended = {digest: path for digest, path in lost.items() if path not in sendable}
    names = tuple(sorted(str(path) if path is not None else digest for digest, path in unmended.items()))
    dropped = _referrers(inventory.infos, unmended, sendable) if drop else set()
    if held is None:
        return Mended(found, mended, names, tuple(sorted(dropped)))
    if inventory.info is None and (inventory.infos or mended):
        cache.objects.put(CACHE_INFO, OWN_INFO.to_text().encode())
    held.renew()
    sent = send(store, cache, sendable, keys, report, damaged=frozenset(sendable))
    there = good | {info.path: info for info, _ in sent}
    held.renew()
    rewritten = _write_index(cache, found, {path: info for path, info in there.items() if path not in dropped})
    if drop:
        _drop(cache, found, dropped, unmended, held)
    cache.forget()
    return Mended(found, mended, names, tuple(sorted(dropped)), rewritten)


def _sendable(
    store: LocalStore, wanted: Iterable[StorePath], good: Mapping[StorePath, NarInfo]
) -> dict[StorePath, PathInfo]:
    """Return what is to be sent: what the store has of the lost, and what of their closures the cache has not."""
    return {path: info for path, info in store.closure(store.valid(wanted)).items() if path not in good}


def _referrers(
    infos: Mapping[StorePath, NarInfo], lost: Mapping[str, StorePath | None], sendable: Mapping[StorePath, PathInfo]
) -> set[StorePath]:
    """Return those of the cache's paths that are lost or refer, directly or not, to one that is."""
    users: dict[str, set[StorePath]] = {}
    for path, info in infos.items():
        if path not in sendable:  # these come with references that are there
            for reference in info.references:
                users.setdefault(reference.digest, set()).add(path)
    gone = {path for path in infos if path.digest in lost}
    pending = set(lost)
    while pending:
        new = users.get(pending.pop(), set()) - gone
        gone |= new
        pending |= {path.digest for path in new}
    return gone


def _write_index(cache: BinaryCache, found: Verification, there: Mapping[StorePath, NarInfo]) -> bool:
    """Write the index anew where it should tell something else; what pushes have added meanwhile stays in it."""
    inventory = found.inventory
    if inventory.index is None and inventory.index_problem is None:
        return False  # it never had one
    texts = {path.digest: info.to_text() for path, info in there.items()}
    seen = set(inventory.index.texts) if inventory.index is not None else set()
    seen |= {path.digest for path in inventory.infos} | found.lost().keys()
    written = False

    def changed(index: Index | None) -> Index | None:
        nonlocal written
        before = index.texts if index is not None else {}
        after = {digest: text for digest, text in before.items() if digest not in seen} | texts
        written = index is None or after != before
        return Index(after) if written else None

    rewrite_index(cache.objects, cache.copies, changed)
    return written


def _drop(
    cache: BinaryCache, found: Verification, dropped: set[StorePath], lost: Mapping[str, StorePath | None], held: Lease
) -> None:
    infos = found.inventory.infos
    for step in referrers_first({path: infos[path].references for path in dropped}):
        held.renew()
        cache.objects.delete([f"{path.digest}.narinfo" for path in step])
    held.renew()
    unread = [name for name in found.inventory.damaged if not name.endswith(".narinfo")]
    cache.objects.delete([*unread, *(f"{digest}.narinfo" for digest in sorted(lost))])
