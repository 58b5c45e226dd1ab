"""Pushing: bringing a closure into a binary cache, so that no reader ever sees half of it.

First the cache is surveyed: a listing tells what is really there, with sizes, whatever the index says. What is
absent or damaged is sent: first the roots, which keep collections from what the push relies on (see
`pgbake.cache.lease`); then NARs, largest first, some at once; a path's narinfo when its NAR and the narinfos of all
that it refers to are there; the index last. A push that is killed leaves whole objects, which the next one finds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pgbake.cache.cache import CACHE_INFO, OWN_INFO, BinaryCache, Damaged, in_parallel, narinfo_name
from pgbake.cache.compression import LEVEL
from pgbake.cache.index import NAME as INDEX_NAME
from pgbake.cache.index import Index, change_index, load_index
from pgbake.cache.lease import wait_until_free
from pgbake.cache.objects import Exists, Listed
from pgbake.cache.outgoing import compress_nar
from pgbake.cache.roots import Root, is_fresh, make_roots
from pgbake.errors import CacheError, FormatError
from pgbake.events import Notice, Planned, Progressed, Sink, task
from pgbake.formats import base32
from pgbake.formats.keys import SecretKey, Signature
from pgbake.formats.narinfo import NarInfo, fingerprint
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

#: Objects of a listing, four requests of S3's; a cache that holds more is asked for each path instead.
_LISTED = 4000
#: NARs that are compressed at once, NARs under way at once, and narinfos.
_COMPRESSED_AT_ONCE = max(2, min(8, os.cpu_count() or 2))
_NARS_AT_ONCE = 8
_NARINFOS_AT_ONCE = 8
_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Survey:
    """What of some paths a cache holds.

    :param present: paths whose narinfo and NAR are there.
    :param damaged: paths whose narinfo is there, and whose NAR is not, or of another size.
    :param unindexed: of what is present, what the index lacks.
    :param unsigned: of what is present, what bears no signature and does not certify itself.
    :param vanished: digests of what the index names and the cache has not.
    :param has_info: whether it has a ``nix-cache-info``; None where that is not known.
    :param objects: names of all that was listed, with the time of their last write (Unix seconds); None where no
        listing was made.
    """

    present: frozenset[StorePath]
    damaged: frozenset[StorePath] = frozenset()
    unindexed: tuple[NarInfo, ...] = ()
    unsigned: tuple[StorePath, ...] = ()
    vanished: frozenset[str] = frozenset()
    has_info: bool | None = None
    objects: Mapping[str, float] | None = None


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


def survey(cache: BinaryCache, paths: Iterable[StorePath]) -> Survey:
    """Find out which paths a cache really holds: with one listing, or where that would be long, path by path.

    :raises CacheError: the cache refuses, or does not answer.
    """
    paths = set(paths)
    objects: dict[str, Listed] = {}
    for item in cache.objects.list():
        objects[item.name] = item
        if len(objects) > _LISTED:
            return _ask_each(cache, paths)
    listed_index = objects.get(INDEX_NAME)
    index = Index({})
    if listed_index is not None:
        with suppress(FormatError):  # a damaged one is written anew
            index = load_index(cache.objects, cache.copies, listed_index.etag) or index

    def size(name: str) -> int | None:
        return objects[name].size if name in objects else None

    there = {path for path in paths if narinfo_name(path) in objects}
    infos = _known(cache, index, there)
    vanished = {digest for digest in index.texts if f"{digest}.narinfo" not in objects}
    return replace(
        _sort(infos, size, index, frozenset(vanished)),
        has_info=CACHE_INFO in objects,
        objects={name: item.modified for name, item in objects.items()},
    )


def _ask_each(cache: BinaryCache, paths: set[StorePath]) -> Survey:
    index = cache.index() or Index({})
    sizes: dict[str, int | None] = {}

    def ask(name: str) -> None:
        sizes[name] = cache.objects.has(name)

    in_parallel(ask, [narinfo_name(path) for path in paths])
    there = {path for path in paths if sizes[narinfo_name(path)] is not None}
    infos = _known(cache, index, there)
    in_parallel(ask, [info.url for info in infos.values() if info is not None])
    vanished = frozenset(path.digest for path in paths - there if path.digest in index.texts)
    return _sort(infos, sizes.__getitem__, index, vanished)


def _known(cache: BinaryCache, index: Index, paths: Collection[StorePath]) -> dict[StorePath, NarInfo | None]:
    """Return the narinfos of paths from the index or from the cache; None stands for a damaged one."""

    found: dict[StorePath, NarInfo | None] = {}
    for path in paths:
        with suppress(FormatError):
            info = index.get(path.digest)
            if info is not None and info.path == path:
                found[path] = info

    def ask(path: StorePath) -> NarInfo | None:
        try:
            return cache.narinfo(path)
        except Damaged:
            return None

    asked = [path for path in paths if path not in found]
    return found | dict(zip(asked, in_parallel(ask, asked), strict=True))


def _sort(
    infos: Mapping[StorePath, NarInfo | None],
    size: Callable[[str], int | None],
    index: Index,
    vanished: frozenset[str],
) -> Survey:
    good: list[NarInfo] = []
    damaged: set[StorePath] = set()
    for path, info in infos.items():
        found = size(info.url) if info is not None else None
        if info is None or found is None or (info.file_size is not None and info.file_size != found):
            damaged.add(path)
        else:
            good.append(info)
    return Survey(
        frozenset(info.path for info in good),
        frozenset(damaged),
        tuple(info for info in good if info.path.digest not in index.texts),
        _unsigned(good),
        vanished,
    )


def _unsigned(infos: Iterable[NarInfo]) -> tuple[StorePath, ...]:
    return tuple(info.path for info in infos if not info.signatures and not info.certifies_itself)


def push(
    store: LocalStore,
    cache: BinaryCache,
    paths: Iterable[StorePath],
    keys: Sequence[SecretKey],
    report: Sink,
    *,
    level: int = LEVEL,
    found: Survey | None = None,
    roots: Iterable[StorePath] | None = None,
    what: str = "runtime",
) -> PushResult:
    """Bring paths and all that they refer to into a cache.

    :param keys: each signs what is sent, beside the signatures that a path bears already.
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
    found = _claim(cache, closure, make_roots(store, paths if roots is None else roots, what, closure), found, report)
    absent = {path: info for path, info in closure.items() if path not in found.present}
    if found.has_info is False or (found.has_info is None and cache.objects.has(CACHE_INFO) is None):
        with suppress(Exists):
            cache.objects.put(CACHE_INFO, OWN_INFO.to_text().encode(), new=True)
    sent = send(store, cache, absent, keys, report, level=level, damaged=found.damaged)
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
        unsigned=_unsigned(made) + found.unsigned,
    )


def _claim(
    cache: BinaryCache, closure: Iterable[StorePath], roots: Sequence[Root], found: Survey | None, report: Sink
) -> Survey:
    """Write the roots that are not there yet; return a survey of which no collection takes anything any more."""
    closure = list(closure)
    found = found or survey(cache, closure)
    objects = found.objects
    if objects is not None and all(root.name in objects and is_fresh(objects[root.name]) for root in roots):
        new: Sequence[Root] = ()
        if found.present.issuperset(closure):
            return found
    else:
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


def send(
    store: LocalStore,
    cache: BinaryCache,
    absent: Mapping[StorePath, PathInfo],
    keys: Sequence[SecretKey],
    report: Sink,
    *,
    level: int = LEVEL,
    damaged: frozenset[StorePath] = frozenset(),
) -> list[tuple[NarInfo, bool]]:
    """Send NARs and narinfos of paths, all that they refer to being among them or there.

    :param damaged: those whose narinfo is replaced.
    :returns: each narinfo, and whether somebody else was faster with it.
    :raises CacheError: the cache refuses, or does not answer.
    :raises StoreError: a path is damaged: nothing of it is sent.
    """
    return _Sender(store, cache, keys, report, level, damaged).send(absent)


@dataclass
class _Sender:
    store: LocalStore
    cache: BinaryCache
    keys: Sequence[SecretKey]
    report: Sink
    level: int
    damaged: frozenset[StorePath]
    _stop: threading.Event = field(default_factory=threading.Event)
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_COMPRESSED_AT_ONCE))

    def send(self, absent: Mapping[StorePath, PathInfo]) -> list[tuple[NarInfo, bool]]:
        if not absent:
            return []
        self.report(Planned("push", len(absent)))
        waits = {path: (info.references & absent.keys()) - {path} for path, info in absent.items()}
        done: dict[StorePath, tuple[NarInfo, bool]] = {}
        ready: dict[StorePath, NarInfo] = {}  # whose NAR is there
        running: dict[Future[NarInfo | tuple[NarInfo, bool]], StorePath] = {}
        with ThreadPoolExecutor(_NARS_AT_ONCE) as nars, ThreadPoolExecutor(_NARINFOS_AT_ONCE) as narinfos:
            try:
                for path in sorted(absent, key=lambda path: -absent[path].nar_size):
                    running[nars.submit(self._send_nar, absent[path])] = path
                while running:
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        path = running.pop(future)
                        result = future.result()
                        if isinstance(result, NarInfo):
                            ready[path] = result
                        else:
                            done[path] = result
                    for path in [path for path in ready if waits[path] <= done.keys()]:
                        running[narinfos.submit(self._send_narinfo, ready.pop(path))] = path
            except BaseException:
                self._stop.set()
                nars.shutdown(wait=True, cancel_futures=True)
                raise
        return list(done.values())

    def _send_nar(self, info: PathInfo) -> NarInfo | tuple[NarInfo, bool]:
        path = info.path
        id = f"push:{path}"
        with (
            task(self.report, id, "push", path.name, info.nar_size),
            self.cache.objects.spool("nar/x") as file,
        ):
            with self._turns:
                file_sha256 = compress_nar(self.store, info, file, self._teller(id), self.level)
            size = file.tell()
            name = f"nar/{base32.encode(file_sha256)}.nar.zst"
            self.cache.objects.put_file(name, file, replace=path in self.damaged)
        return NarInfo(
            path=path,
            url=name,
            compression="zstd",
            nar_sha256=info.nar_sha256,
            nar_size=info.nar_size,
            references=info.references,
            file_sha256=file_sha256,
            file_size=size,
            deriver=info.deriver,
            signatures=signatures(info, self.keys),
            ca=info.ca,
        )

    def _teller(self, id: str) -> Callable[[int], None]:
        told = time.monotonic()

        def tell(done: int) -> None:
            nonlocal told
            if self._stop.is_set():
                raise CacheError("the push was stopped")
            if (now := time.monotonic()) - told > _REPORT_EVERY:
                told = now
                self.report(Progressed(id, done))

        return tell

    def _send_narinfo(self, info: NarInfo) -> NarInfo | tuple[NarInfo, bool]:
        try:
            self.cache.objects.put(narinfo_name(info.path), info.to_text().encode(), new=info.path not in self.damaged)
        except Exists:
            return info, True
        return info, False


def signatures(info: PathInfo, keys: Iterable[SecretKey]) -> tuple[Signature, ...]:
    """Return the signatures that a path bears, and those that keys make, sorted; a key's name stands once."""
    found: dict[str, Signature] = {}
    for text in info.signatures:
        try:
            signature = Signature.parse(text)
        except FormatError:  # somebody else's notation; nobody could verify it
            continue
        found[signature.name] = signature
    message = fingerprint(info.path, info.nar_sha256, info.nar_size, info.references)
    found |= {key.name: key.sign(message) for key in keys}
    return tuple(found[name] for name in sorted(found))
