"""A binary cache: a plain static one of Nix's, with an index of our own beside it.

::

    nix-cache-info                      what it is
    DIGEST.narinfo                      of each path
    nar/FILEHASH.nar.zst                its contents, named by the compressed file's sha256
    pgbake-index                        all narinfos in one object: see `pgbake.cache.index`
    statements/DIGEST/KIND.json         signed statements about a path

An object is written before what names it: a NAR before its narinfo, a narinfo before those that refer to its path,
and the index last. So no reader ever finds half of something.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pgbake.cache.index import Index, load_index
from pgbake.cache.objects import Missing, ObjectStore
from pgbake.errors import CacheError, FormatError
from pgbake.formats.narinfo import MAX_NARINFO, CacheInfo, NarInfo
from pgbake.formats.storepath import StorePath

#: Requests for small objects that are under way at once.
REQUESTS_AT_ONCE = 24

CACHE_INFO = "nix-cache-info"

#: What our caches say of themselves: Nix asks them before the one that it comes with, which has 40.
OWN_INFO = CacheInfo(priority=30, want_mass_query=True)

T = TypeVar("T")
R = TypeVar("R")


class Damaged(CacheError):
    """What a cache tells of a path is damaged, or of another path."""

    def __init__(self, path: StorePath, url: str, message: str) -> None:
        super().__init__(message, hint=f"its owner can mend it: pgbake cache verify --repair '{url}'")
        self.path = path


def narinfo_name(path: StorePath) -> str:
    """Return the name of the object that tells of a path."""
    return f"{path.digest}.narinfo"


class BinaryCache:
    """One binary cache. Its methods may be called from several threads."""

    trusted = False

    def __init__(self, url: str, copies: Path | None = None, priority: int | None = None) -> None:
        """Make a client; nothing is asked yet.

        :param copies: where copies of indexes are kept; None keeps none.
        :param priority: instead of what the cache says of itself.
        :raises CacheError: the URL is none.
        """
        self.objects = ObjectStore(url)
        self.copies = copies
        self._priority = priority
        self._index: Index | None = None
        self._asked = False
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        """What it is called in messages."""
        return self.objects.url

    def info(self) -> CacheInfo | None:
        """Return what the cache says of itself; None where nothing is there that does.

        :raises CacheError: it refuses, does not answer, or is a cache of another store directory.
        """
        try:
            return CacheInfo.parse(self.objects.get(CACHE_INFO, 100_000).data.decode())
        except Missing:
            return None
        except (FormatError, UnicodeDecodeError) as error:
            raise CacheError(f"{CACHE_INFO} in {self.url} is wrong: {error}") from None

    @property
    def priority(self) -> int:
        """Lower is asked first; where nothing else is said, what the cache says of itself."""
        if self._priority is None:
            info = self.info()
            self._priority = info.priority if info is not None else CacheInfo().priority
        return self._priority

    def index(self) -> Index | None:
        """Return the cache's index, asked for once; None where it has none, or a damaged one.

        :raises CacheError: it refuses, or does not answer.
        """
        with self._turn:
            if not self._asked:
                try:
                    self._index = load_index(self.objects, self.copies)
                except FormatError:  # each path is asked for instead
                    self._index = None
                self._asked = True
            return self._index

    def forget(self) -> None:
        """Ask for the index again when it is needed next."""
        with self._turn:
            self._asked = False

    def narinfo(self, path: StorePath) -> NarInfo | None:
        """Ask for one path by name; None where the cache has none.

        :raises CacheError: it refuses, or does not answer.
        :raises Damaged: what it has is damaged.
        """
        name = narinfo_name(path)
        try:
            text = self.objects.get(name, MAX_NARINFO).data.decode()
            info = NarInfo.parse(text)
        except Missing:
            return None
        except (FormatError, UnicodeDecodeError) as error:
            raise Damaged(path, self.url, f"{name} in {self.url} is damaged: {error}") from None
        if info.path != path:
            raise Damaged(path, self.url, f"{name} in {self.url} tells of {info.path} instead of {path}")
        return info

    def open_nar(self, info: NarInfo, stop: threading.Event) -> AbstractContextManager[BinaryIO]:
        """Give the file of a NAR as a stream; see :meth:`ObjectStore.open`."""
        return self.objects.open(info.url, stop)

    def by_name(self, paths: Iterable[StorePath]) -> dict[StorePath, NarInfo]:
        """Ask for paths by name that the index told of; nothing where the cache has none, and was so asked before.

        :raises CacheError: it refuses, does not answer, or what it has is damaged.
        """
        if self.index() is None:
            return {}
        return {info.path: info for info in in_parallel(self.narinfo, paths) if info is not None}

    def query(
        self, paths: Iterable[StorePath], sure: Iterable[StorePath] = (), damaged: list[Damaged] | None = None
    ) -> dict[StorePath, NarInfo]:
        """Return what the cache knows of paths, those that it has not left out.

        With an index that is one request; without one, one for each path, some at once.

        :param sure: those of the paths that are asked for by name where the index lacks them, for somebody may have
            added them with another tool.
        :param damaged: takes the errors of paths that are left out because what the cache has of them is damaged.
        :raises CacheError: it refuses, or does not answer.
        :raises Damaged: what it has of a path is damaged, and ``damaged`` is None.
        """
        paths = set(paths)
        sure = set(sure)
        found: dict[StorePath, NarInfo] = {}
        index = self.index()
        asked = paths | sure
        if index is not None:
            for path in asked:
                try:
                    info = index.get(path.digest)
                except FormatError:
                    sure.add(path)
                    continue
                if info is not None and info.path == path:
                    found[path] = info
            asked = sure - found.keys()

        def ask(path: StorePath) -> NarInfo | None:
            try:
                return self.narinfo(path)
            except Damaged as error:
                if damaged is None:
                    raise
                damaged.append(error)
                return None

        found |= {info.path: info for info in in_parallel(ask, asked) if info is not None}
        return found


def in_parallel(ask: Callable[[T], R], items: Iterable[T], at_once: int = REQUESTS_AT_ONCE) -> list[R]:
    """Call ``ask`` for all items, some at once, and return the answers in their order; the first error is raised."""
    items = list(items)
    if len(items) < 2:
        return [ask(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # slow, and one request needs none

    with ThreadPoolExecutor(min(at_once, len(items))) as pool:
        futures = [pool.submit(ask, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
