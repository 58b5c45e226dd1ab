"""NARs on their way into the store: counted, hashed, and held against what was promised, in bounded memory."""

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pgbake.cache.compression import is_damage
from pgbake.errors import CacheError
from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.narinfo import NarInfo
from pgbake.store import tree
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

#: Bytes of a NAR up to which it is read whole before it is unpacked.
SMALL = 1 << 20
#: Bytes that are handed on at a time.
BLOCK = 1 << 19
_BLOCKS = 4


@dataclass
class IncomingNar:
    """A NAR on its way, unpacked already: counted and hashed.

    :param info: what it is to be.
    :param where: it comes from, for messages.
    :param tell: called with the bytes that are through.
    :param hint: what to type where it is not what was promised.
    """

    info: NarInfo
    where: str
    stream: BinaryIO
    tell: Callable[[int], object]
    hint: str | None = None
    size: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def blocks(self) -> Iterator[memoryview]:
        """Yield the NAR; all of it is there when this ends.

        :raises CacheError: it is damaged, cut off, or longer than was signed.
        """
        info = self.info
        while True:
            block = memoryview(bytearray(min(BLOCK, info.nar_size - self.size + 1)))
            try:
                count = self.stream.readinto(block)  # type: ignore[attr-defined]
            except Exception as error:
                if not is_damage(error):
                    raise
                raise self.wrong(f"is damaged: {error}") from None
            if not count:
                break
            self.size += count
            if self.size > info.nar_size:
                raise self.wrong(f"is longer than the {info.nar_size} bytes that were promised")
            self._digest.update(block[:count])
            self.tell(self.size)
            yield block[:count]
        if self.size < info.nar_size:
            raise self.wrong(f"has {self.size} bytes instead of {info.nar_size}")
        if self._digest.digest() != info.nar_sha256:
            raise self.wrong("has another hash than was signed")

    def wrong(self, problem: str) -> CacheError:
        """Return the error that says what is wrong with it."""
        return CacheError(f"{self.where}: the NAR of {self.info.path} {problem}", hint=self.hint)

    def reader(self) -> AbstractContextManager[BinaryIO]:
        """Give the NAR as a file; its end is reached only where hash and size are right."""
        return self._in_background() if self.info.nar_size > SMALL else self._at_once()

    def verify(self, reader: BinaryIO, made: Path) -> None:
        """Make sure that what was unpacked at ``made`` is what was promised, before it is moved to its place."""
        if reader.read(1):  # this also brings the end, at which size and hash are looked at
            raise self.wrong("goes on after its end")
        if self.info.ca is None:
            return
        address = ContentAddress.parse(self.info.ca)
        if _content_digest(address, made) != address.digest:
            raise self.wrong(f"is not what its content address says: {self.info.ca}")

    @contextmanager
    def _at_once(self) -> Iterator[BinaryIO]:
        """Give the NAR as a file, read whole."""
        yield io.BytesIO(b"".join(self.blocks()))

    @contextmanager
    def _in_background(self) -> Iterator[BinaryIO]:
        """Give the NAR as a file that another thread fills ahead of its reader: two cores are at work."""
        ahead: queue.Queue[memoryview | BaseException | None] = queue.Queue(_BLOCKS)
        ended = threading.Event()

        def fill() -> None:
            last: BaseException | None = None
            try:
                for block in self.blocks():
                    _put(ahead, block, ended)
                    if ended.is_set():
                        return
            except BaseException as error:
                last = error
            _put(ahead, last, ended)

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        try:
            yield io.BufferedReader(_Blocks(ahead), BLOCK)
        finally:
            ended.set()
            thread.join()


def _put(
    ahead: queue.Queue[memoryview | BaseException | None],
    item: memoryview | BaseException | None,
    ended: threading.Event,
) -> None:
    while not ended.is_set():
        try:
            ahead.put(item, timeout=0.2)
        except queue.Full:
            continue
        return


class _Blocks(io.RawIOBase):
    """Blocks of a queue as a file; an error in the queue is raised."""

    def __init__(self, ahead: queue.Queue[memoryview | BaseException | None]) -> None:
        self._ahead = ahead
        self._block = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._block and not self._ended:
            item = self._ahead.get()
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            if item is None:
                self._ended = True
            else:
                self._block = item
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


def _content_digest(address: ContentAddress, made: Path) -> bytes | None:
    if address.method == "recursive":
        digest = hashlib.new(address.algorithm)
        tree.dump(made, digest.update)
        return digest.digest()
    if made.is_symlink() or not made.is_file():
        return None
    with made.open("rb") as file:
        return hashlib.file_digest(file, address.algorithm).digest()


def register(store: LocalStore, infos: Iterable[NarInfo]) -> None:
    """Register paths that were unpacked in one step; all that they refer to is among them, or valid.

    :raises StoreError: the store cannot be written.
    """
    infos = list(infos)
    derivations = [info.path for info in infos if info.path.name.endswith(".drv")]
    outputs = {path: store.derivation(path).output_paths for path in derivations}
    store.register(map(_path_info, infos), outputs)


def _path_info(info: NarInfo) -> PathInfo:
    return PathInfo(
        path=info.path,
        nar_sha256=info.nar_sha256,
        nar_size=info.nar_size,
        references=info.references,
        deriver=info.deriver,
        ca=info.ca,
        signatures=tuple(map(str, info.signatures)),
    )
