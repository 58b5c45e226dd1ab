"""The lease of a cache: who takes things away from it does so alone, and pushes can tell.

``pgbake-lease``, one line of JSON, there from the first collection on::

    {"serial": 7, "holder": "pgbake cache gc, pid 42 on host"}      holder is "" while nobody has it

A push and a collection may begin at the same moment, on two machines that share nothing but a bucket. What keeps a
push from building on a path that is about to go is the order of each side's steps::

    push                                      collection
      p1  list what is there                    g1  take the lease
      p2  write its roots, naming all paths     g2  list what is there, with the roots
      p3  wait until nobody has the lease       g3  delete what no root names; where a root's paths
      p4  list again, and send what is absent       are not all there, a push is at work: no NAR goes
                                                g4  give the lease back

A collection with g1 after p3 sees the roots at g2: they are young, and all that they name stays. One with g1 before p3
is over when p3 is, and p4 tells what it has left. So nothing that a push has found at p4 goes while the push lasts,
and readers see whole closures all the time. Buckets and directories show a write to all who ask after its end, which is
all that this needs. (p1 alone is enough where it shows that nothing is to be done, or that nothing is there.)

A holder that was killed leaves its name. In a directory the kernel frees the lock beside the lease, ``.pgbake-lease``.
Elsewhere a lease that does not change for :data:`EXPIRES` seconds of the one who waits is over: a holder writes it anew
every :data:`RENEW` seconds, and asks nothing more of the cache when it finds that another has taken it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pgbake.cache.objects import Changed, Exists, Missing, ObjectStore
from pgbake.errors import CacheError, PgbakeError
from pgbake.store.locks import acquire, open_lock

NAME = "pgbake-lease"

#: Seconds after which a holder writes its lease again, and after which one that stands still is over. Between the two
#: lies more than any single request takes with all that it is tried again.
RENEW = 30.0
EXPIRES = 180.0
_LOOK_EVERY = 0.5
_LOCK = ".pgbake-lease"
_LARGEST = 10_000

OnWait = Callable[[str], None]


@dataclass
class Lease:
    """A lease that is held; whoever holds it calls :meth:`renew` before each request that deletes."""

    objects: ObjectStore
    holder: str
    serial: int
    _etag: str | None = None
    _written: float = field(default_factory=time.monotonic)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def renew(self) -> None:
        """Make sure that the lease is still ours.

        :raises CacheError: another has taken it, since this process stood still for too long.
        """
        if self._over.is_set() or time.monotonic() - self._written >= 2 * RENEW:
            self.write(self.holder)

    def write(self, holder: str) -> None:
        """Write the lease with a new serial.

        :raises CacheError: another has taken it.
        """
        with self._turn:
            now = time.monotonic()
            try:
                if self._over.is_set():
                    raise Changed
                self._etag = _replace(self.objects, self._etag, self.serial + 1, holder)
            except Changed:
                self._over.set()
                raise CacheError(
                    f"another process has taken over the work on {self.objects.url}, since this one stood still",
                    hint="run the same command again",
                ) from None
            self.serial += 1
            self._written = now

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write it again and again while the ``with`` block runs."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(RENEW):
                with suppress(PgbakeError):  # renew() tells
                    self.write(self.holder)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def lease(objects: ObjectStore, what: str, on_wait: OnWait) -> Iterator[Lease]:
    """Hold the lease of a cache for a ``with`` block; one that another holds is waited for.

    :param what: the command, for others to be told.
    :param on_wait: called once with who holds it, where somebody does.
    :raises CacheError: the cache refuses, or does not answer.
    """
    import socket  # pushes do not take the lease

    holder = f"{what}, pid {os.getpid()} on {socket.gethostname()}"
    with _local_lock(objects, on_wait):
        while True:
            if objects.local is None:
                wait_until_free(objects, on_wait)
            serial, _, etag = _read(objects)
            try:
                etag = _replace(objects, etag, serial + 1, holder)
            except Changed:  # another was faster
                continue
            break
        held = Lease(objects, holder, serial + 1, etag)
        try:
            with held.kept():
                yield held
        finally:
            with suppress(PgbakeError):  # it is over by itself then
                held.write("")


def wait_until_free(objects: ObjectStore, on_wait: OnWait) -> None:
    """Wait until nobody holds the lease of a cache; one that is over is taken away.

    :param on_wait: called once with who holds it, where somebody does.
    :raises CacheError: the cache refuses, or does not answer.
    """
    serial, holder, etag = _read(objects)
    if not holder:
        return
    on_wait(holder)
    since = time.monotonic()
    while holder:
        dead = _is_unlocked(objects) if objects.local is not None else time.monotonic() - since > EXPIRES
        if dead:
            with suppress(Changed):
                _replace(objects, etag, serial + 1, "")
        else:
            time.sleep(_LOOK_EVERY)
        before = etag
        serial, holder, etag = _read(objects)
        if etag != before:
            since = time.monotonic()


def _read(objects: ObjectStore) -> tuple[int, str, str | None]:
    """Return serial, holder ("" for none) and etag."""
    try:
        content = objects.get(NAME, _LARGEST)
    except Missing:
        return 0, "", None
    try:
        value = json.loads(content.data)
        return int(value["serial"]), str(value["holder"]), content.etag
    except (ValueError, TypeError, KeyError):
        raise CacheError(
            f"the object {NAME} in {objects.url} is damaged", hint="delete it while nothing works on the cache"
        ) from None


def _replace(objects: ObjectStore, etag: str | None, serial: int, holder: str) -> str | None:
    """Write the lease where it still has an etag; return its new one.

    :raises Changed: somebody else has written it.
    """
    data = json.dumps({"serial": serial, "holder": holder}).encode()
    try:
        objects.put(NAME, data, new=etag is None, etag=etag)
    except Exists:
        raise Changed from None
    content = objects.get(NAME, _LARGEST)
    if content.data != data:
        raise Changed
    return content.etag


@contextmanager
def _local_lock(objects: ObjectStore, on_wait: OnWait) -> Iterator[None]:
    if objects.local is None:
        yield
        return
    objects.local.mkdir(parents=True, exist_ok=True)
    descriptor = open_lock(objects.local / _LOCK)
    try:
        if not acquire(descriptor, wait=False):
            on_wait(_read(objects)[1] or "another process")
            while not acquire(descriptor, wait=False):
                time.sleep(_LOOK_EVERY)
        yield
    finally:
        os.close(descriptor)


def _is_unlocked(objects: ObjectStore) -> bool:
    assert objects.local is not None
    descriptor = open_lock(objects.local / _LOCK)
    try:
        return acquire(descriptor, wait=False)
    finally:
        os.close(descriptor)
