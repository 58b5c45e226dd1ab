"""Pulling: bringing a closure from binary caches into the local store.

Paths travel at the same time, what others refer to first. Each goes from the cache through decompression and sha256
straight to disk, and is moved to its place only when hash and size are those that were signed; it is registered,
together with others that are ready, when all that it refers to is. A pull that fails or is killed keeps what was
registered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pgbake.cache.compression import decompressed
from pgbake.cache.incoming import SMALL, IncomingNar, register
from pgbake.cache.objects import Missing
from pgbake.cache.substituters import Offer, Substituters
from pgbake.errors import CacheError, FormatError, PgbakeError
from pgbake.events import Notice, Planned, Sink, task, throttled
from pgbake.formats.storepath import StorePath
from pgbake.store import tree
from pgbake.store.local import LocalStore, remove_tree

#: Paths under way at once, and of those how many large ones.
_AT_ONCE = 16
_LARGE_AT_ONCE = 2
#: Bytes of NARs from which on the disk is kept at work meanwhile, and seconds between two flushes.
_FLUSHED = 64 << 20
_FLUSH_EVERY = 0.2


class Ungiven(CacheError):
    """A path that caches offer, and that none of them gives whole; ``path`` tells which."""

    def __init__(self, path: StorePath, message: str, *, hint: str | None, detail: str) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.path = path


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.

    :param pulled: the paths brought, with where each came from.
    :param present: of the goals, those that were there already.
    :param nar_size: bytes of the NARs brought; ``file_size``: of what travelled, as far as the caches tell.
    :param problems: what caches did wrong and others made good.
    """

    pulled: tuple[tuple[StorePath, str], ...] = ()
    present: tuple[StorePath, ...] = ()
    nar_size: int = 0
    file_size: int = 0
    problems: tuple[PgbakeError, ...] = ()


def pull(
    store: LocalStore,
    substituters: Substituters,
    goals: Iterable[StorePath],
    report: Sink,
    stop: threading.Event | None = None,
) -> PullResult:
    """Make paths and all that they refer to valid in the store.

    :param stop: set from another thread, it ends the pull.
    :raises CacheError: a path is to be had nowhere, or only damaged.
    :raises PgbakeError: a path is not signed by anybody trusted.
    :raises StoreError: the store cannot be written.
    :raises HostError: the disk is full.
    """
    goals = list(goals)
    store.require_writable()
    store.temp_roots.add(*goals)
    present = store.valid(goals)
    lost = store.lost(present)
    offers = substituters.closure([path for path in goals if path not in present] + sorted(lost), store.hold)
    store.temp_roots.add(*offers)
    puller = Puller(store, substituters, report, stop or threading.Event())
    brought = puller.run(offers)
    return PullResult(
        pulled=tuple((offer.info.path, offer.cache.url) for offer in brought),
        present=tuple(path for path in goals if path in present),
        nar_size=sum(offer.info.nar_size for offer in brought),
        file_size=sum(offer.info.file_size or offer.info.nar_size for offer in brought),
        problems=tuple(substituters.problems),
    )


@dataclass
class Puller:
    """Brings paths from caches into a store."""

    store: LocalStore
    substituters: Substituters
    report: Sink
    stop: threading.Event
    _awaited: set[str] = field(default_factory=set)
    _large: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_LARGE_AT_ONCE))

    def run(self, offers: Mapping[StorePath, list[Offer]]) -> list[Offer]:
        """Bring all paths of a closure; return the offers that were taken, those left out that came otherwise."""
        if not offers:
            return []
        self.report(Planned("pull", len(offers)))
        waits = {path: self._needs(offers, path) for path in offers}
        brought: list[Offer] = []
        unpacked: dict[StorePath, tuple[Offer, ExitStack]] = {}
        there: set[StorePath] = set()
        running: dict[Future[tuple[Offer | None, ExitStack]], StorePath] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool, self._flushing(offers):
            try:
                # Those first that others wait for: nobody holds the lock of a path while another process
                # waits for it with something that this path needs.
                for path in _in_order(offers, waits):
                    running[pool.submit(self._bring, path, offers[path])] = path
                while running:
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        path = running.pop(future)
                        offer, locks = future.result()
                        if offer is None:
                            there.add(path)
                        else:
                            unpacked[path] = offer, locks
                    brought += self._register(unpacked, waits, there)
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                for future, path in running.items():
                    if not future.cancelled() and future.exception() is None:
                        offer, locks = future.result()
                        if offer is not None:
                            unpacked[path] = offer, locks
                with suppress(Exception):  # what is whole is kept for the next pull
                    self._register(unpacked, waits, there)
                raise
            finally:
                for path, (_, locks) in unpacked.items():
                    if not self.store.valid([path]):  # what it needs did not come
                        self.store.discard(path)
                    locks.close()
        return brought

    @contextmanager
    def _flushing(self, offers: Mapping[StorePath, list[Offer]]) -> Iterator[None]:
        """Write to disk while more is unpacked: before a path is registered all of it must be there."""
        if sum(found[0].info.nar_size for found in offers.values()) < _FLUSHED:
            yield
            return
        ended = threading.Event()

        def flush() -> None:
            while not ended.wait(_FLUSH_EVERY):
                with suppress(PgbakeError):  # told when it is registered
                    self.store.flush()

        thread = threading.Thread(target=flush, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _needs(self, offers: Mapping[StorePath, list[Offer]], path: StorePath) -> frozenset[StorePath]:
        return (offers[path][0].info.references & offers.keys()) - {path}

    def _register(
        self,
        unpacked: dict[StorePath, tuple[Offer, ExitStack]],
        waits: Mapping[StorePath, frozenset[StorePath]],
        there: set[StorePath],
    ) -> list[Offer]:
        """Register all that can be, in one step, and take it from ``unpacked``."""
        ready: list[StorePath] = []
        seen = set(there)
        while new := [path for path in unpacked if path not in seen and waits[path] <= seen]:
            ready += new
            seen |= set(new)
        if not ready:
            return []
        register(self.store, [unpacked[path][0].info for path in ready])
        brought = []
        for path in ready:
            offer, locks = unpacked.pop(path)
            locks.close()
            there.add(path)
            brought.append(offer)
        return brought

    def _bring(self, path: StorePath, offers: list[Offer]) -> tuple[Offer | None, ExitStack]:
        """Unpack a path from the first cache that gives it; return that, and what holds its lock until registered."""
        with ExitStack() as locks:
            locks.enter_context(self.store.lock(path, lambda holder: self._waiting(path, holder), self.stop.is_set))
            if self.store.valid([path]):  # another process was faster
                return None, ExitStack()
            with task(self.report, f"pull:{path}", "pull", path.name, offers[0].info.nar_size):
                offer = self._unpack_first(path, offers)
            return offer, locks.pop_all()

    def _waiting(self, path: StorePath, holder: str) -> None:
        if holder not in self._awaited:  # one line, not one for each path of a closure
            self._awaited.add(holder)
            self.report(
                Notice("info", f"{path.name} is being made by {holder}; waiting for it, and what else that makes")
            )

    def _unpack_first(self, path: StorePath, offers: list[Offer]) -> Offer:
        needs = offers[0].info.references
        failed: list[PgbakeError] = []
        for offer in offers:
            if not offer.info.references <= needs:
                continue  # another build of the same: what it needs was not looked for
            try:
                self._unpack(offer)
            except Missing:
                name = f"{offer.info.url} of {path}"
                failed.append(CacheError(f"{offer.cache.url} lacks {name}", hint=_mend(offer)))
            except FormatError as error:
                failed.append(CacheError(f"{offer.cache.url}: the NAR of {path}: {error}", hint=_mend(offer)))
            except CacheError as error:
                if self.stop.is_set():
                    raise
                failed.append(error)
            else:
                self.substituters.problems += failed
                return offer
        raise Ungiven(
            path,
            f"no cache gives {path} as it should be",
            detail="\n".join(f"{error}" for error in failed),
            hint=failed[-1].hint,
        )

    def _unpack(self, offer: Offer) -> None:
        info = offer.info
        with ExitStack() as stack:
            if info.nar_size > SMALL:
                stack.enter_context(self._large)
            if self.stop.is_set():
                raise CacheError("the pull was stopped")
            nar, reader = stack.enter_context(_incoming(offer, self.stop, throttled(self.report, f"pull:{info.path}")))
            self.store.receive(info.path, reader.read, lambda made: nar.verify(reader, made))


def fetch_tree(substituters: Substituters, path: StorePath, nar_sha256: bytes, into: Path) -> bool:
    """Unpack a path as ``into``, which does not exist yet, from the first cache that has it with that very hash.

    :param nar_sha256: raw digest of the NAR.
    :returns: whether any has; one that gives something else is passed over.
    :raises StoreError: it cannot be written.
    :raises HostError: the disk is full.
    """
    for offer in substituters.offers([path], sure=[path]).get(path, ()):
        if offer.info.nar_sha256 != nar_sha256:
            continue
        try:
            with _incoming(offer, threading.Event(), lambda _done: None) as (nar, reader):
                tree.restore(reader.read, into)
                nar.verify(reader, into)
            return True
        except Missing:
            problem: PgbakeError = CacheError(f"{offer.cache.url} lacks {offer.info.url} of {path}", hint=_mend(offer))
        except (CacheError, FormatError) as error:
            problem = error
        substituters.problems.append(problem)
        remove_tree(into)
    return False


@contextmanager
def _incoming(
    offer: Offer, stop: threading.Event, tell: Callable[[int], object]
) -> Iterator[tuple[IncomingNar, BinaryIO]]:
    """Give the NAR that is offered, and the reader of it."""
    info = offer.info
    with ExitStack() as stack:
        source = stack.enter_context(offer.cache.open_nar(info, stop))
        stream = stack.enter_context(decompressed(info.compression, source))
        nar = IncomingNar(info, offer.cache.url, stream, tell, _mend(offer))
        yield nar, stack.enter_context(nar.reader())


def _mend(offer: Offer) -> str:
    return f"its owner can mend it: pgbake cache verify --repair {offer.cache.url}"


def _in_order(
    offers: Mapping[StorePath, list[Offer]], waits: Mapping[StorePath, frozenset[StorePath]]
) -> list[StorePath]:
    """Return paths such that each comes after those that it waits for, large ones early."""
    order: list[StorePath] = []
    left = {path: set(needs) for path, needs in waits.items()}
    users: dict[StorePath, list[StorePath]] = {path: [] for path in offers}
    for path, needs in waits.items():
        for need in needs:
            users[need].append(path)
    ready = [path for path, needs in left.items() if not needs]
    while ready:
        ready.sort(key=lambda path: offers[path][0].info.nar_size)
        path = ready.pop()
        order.append(path)
        for user in users[path]:
            left[user].discard(path)
            if not left[user]:
                ready.append(user)
    if len(order) < len(offers):
        circle = sorted(offers.keys() - set(order))
        raise CacheError(f"a cache tells of paths that refer to each other in a circle: {circle[0]} and others")
    return order
