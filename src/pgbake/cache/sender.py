"""Sending paths to a cache: NARs, largest first, some at once; narinfos when all that they name is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from pgbake.cache.cache import BinaryCache, narinfo_name
from pgbake.cache.compression import LEVEL
from pgbake.cache.objects import Exists
from pgbake.cache.outgoing import compress_nar, signatures
from pgbake.errors import CacheError
from pgbake.events import Planned, Sink, task, throttled
from pgbake.formats import base32
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

#: NARs that are compressed at once, NARs under way at once, and narinfos.
_COMPRESSED_AT_ONCE = max(2, min(8, os.cpu_count() or 2))
_NARS_AT_ONCE = 8
_NARINFOS_AT_ONCE = 8


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
        tell = throttled(self.report, id)

        def tell_or_stop(done: int) -> None:
            if self._stop.is_set():
                raise CacheError("the push was stopped")
            tell(done)

        return tell_or_stop

    def _send_narinfo(self, info: NarInfo) -> NarInfo | tuple[NarInfo, bool]:
        try:
            self.cache.objects.put(narinfo_name(info.path), info.to_text().encode(), new=info.path not in self.damaged)
        except Exists:
            return info, True
        return info, False
