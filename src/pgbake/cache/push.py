"""Pushing: bringing a closure into a binary cache, so that no reader ever sees half of it.

First the cache is surveyed: a listing tells what is really there, with sizes, whatever the index says. What is
absent or damaged is sent: first the roots, which keep collections from what the push relies on (see
`pgbake.cache.lease`); then NARs, largest first, some at once; a path's narinfo when its NAR and the narinfos of all
that it refers to are there; the index last. A push that is killed leaves whole objects, which the next one finds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgbake.cache.cache import CACHE_INFO, OWN_INFO, BinaryCache, in_parallel
from pgbake.cache.compression import LEVEL
from pgbake.cache.index import change_index
from pgbake.cache.objects import Exists
from pgbake.cache.roots import Root, is_fresh, make_roots, root_name
from pgbake.cache.survey import Survey, survey, unsigned
from pgbake.errors import CacheError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore

if TYPE_CHECKING:
    from pgbake.events import Sink
    from pgbake.formats.keys import SecretKey
    from pgbake.formats.narinfo import NarInfo
    from pgbake.store.database import PathInfo


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did.

    :param sent: paths whose contents were sent.
    :param present: paths that were there already.
    :param skipped: paths that somebody else sent at the same time.
    :param nar_size: bytes of the NARs sent; ``file_size``: of what they were compressed to.
    :param unsigned: paths, sent now or before, that bear no signature and do not certify themselves: nobody will
        trust them.
    """

    sent: tuple[StorePath, ...] = ()
    present: tuple[StorePath, ...] = ()
    skipped: tuple[StorePath, ...] = ()
    nar_size: int = 0
    file_size: int = 0
    unsigned: tuple[StorePath, ...] = ()


def push(
    store: LocalStore,
    cache: BinaryCache,
    paths: Iterable[StorePath],
    keys: Sequence[SecretKey] | Callable[[], Sequence[SecretKey]],
    report: Sink,
    *,
    level: int = LEVEL,
    found: Survey | None = None,
    roots: Iterable[StorePath] | None = None,
    what: str = "runtime",
) -> PushResult:
    """Bring paths and all that they refer to into a cache.

    :param keys: each signs what is sent, beside the signatures that a path bears already; a function that gives them
        is called where something is sent.
    :param level: of zstd.
    :param found: what :func:`survey` found of the closure, where that was done already.
    :param roots: those of the paths for whose sake the others are pushed; all where nothing is said.
    :param what: one word for what of them is pushed; see `pgbake.cache.roots`.
    :raises CacheError: the cache refuses, does not answer, or can only be read.
    :raises StoreError: a path is not valid, or damaged: nothing of it is sent.
    """
    if not cache.objects.writable:
        raise CacheError(f"{cache.url} can only be read", hint="push to its s3 or file URL")
    paths = list(paths)
    closure = store.closure(paths)
    found = found or survey(cache, closure)
    wanted = paths if roots is None else list(roots)
    if not _is_done(found, closure, [root_name(path, what) for path in wanted]):
        found = _claim(cache, closure, make_roots(store, wanted, what, closure), found, report)
    absent = {path: info for path, info in closure.items() if path not in found.present}
    if found.has_info is False or (found.has_info is None and cache.objects.has(CACHE_INFO) is None):
        with suppress(Exists):
            cache.objects.put(CACHE_INFO, OWN_INFO.to_text().encode(), new=True)
    sent = _send(store, cache, absent, keys, report, level, found.damaged) if absent else []
    # Also what an earlier push, or another tool, brought and did not write down.
    made = [info for info, raced in sent if not raced]
    if made or found.unindexed or found.vanished:
        change_index(cache.objects, cache.copies, [*found.unindexed, *made], found.vanished)
    cache.forget()
    return PushResult(
        sent=tuple(info.path for info in made),
        present=tuple(path for path in closure if path in found.present),
        skipped=tuple(info.path for info, raced in sent if raced),
        nar_size=sum(info.nar_size for info in made),
        file_size=sum(info.file_size or 0 for info in made),
        unsigned=unsigned(made) + found.unsigned,
    )


def _is_done(found: Survey, closure: Collection[StorePath], roots: Iterable[str]) -> bool:
    """Whether all is there, and pushed just now."""
    return _are_fresh(found, roots) and found.present.issuperset(closure)


def _are_fresh(found: Survey, roots: Iterable[str]) -> bool:
    objects = found.objects
    return objects is not None and all(name in objects and is_fresh(objects[name]) for name in roots)


def _claim(
    cache: BinaryCache, closure: Collection[StorePath], roots: Sequence[Root], found: Survey, report: Sink
) -> Survey:
    """Write the roots that are not there yet; return a survey of which no collection takes anything any more."""
    # What claims and sends is imported only where something is to be sent: most pushes find all of it there.
    from pgbake.cache.lease import wait_until_free
    from pgbake.events import Notice

    objects = found.objects
    # Those that are fresh are written as well: something is sent, and they may not name it yet.
    new = roots
    while True:
        in_parallel(lambda root: cache.objects.put(root.name, root.to_bytes()), new)
        wait_until_free(cache.objects, lambda holder: report(Notice("info", _waiting(cache, holder))))
        if not found.present and objects is not None and not any(root.name in objects for root in roots):
            return found  # nothing is built on what is there
        found = survey(cache, closure)
        new = [root for root in roots if not _is_there(cache, found, root.name)]
        if not new:
            return found


def _is_there(cache: BinaryCache, found: Survey, name: str) -> bool:
    return name in found.objects if found.objects is not None else cache.objects.has(name) is not None


def _waiting(cache: BinaryCache, holder: str) -> str:
    return f"{cache.url} is being worked on by {holder}; waiting for its end"


def _send(
    store: LocalStore,
    cache: BinaryCache,
    absent: Mapping[StorePath, PathInfo],
    keys: Sequence[SecretKey] | Callable[[], Sequence[SecretKey]],
    report: Sink,
    level: int,
    damaged: frozenset[StorePath],
) -> list[tuple[NarInfo, bool]]:
    from pgbake.cache.sender import send

    return send(store, cache, absent, keys() if callable(keys) else keys, report, level=level, damaged=damaged)
