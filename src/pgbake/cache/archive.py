"""A closure as one file, for machines without a network: a binary cache in a tar archive.

Members, all of them regular files, in this order::

    nix-cache-info
    pgbake-index                 the narinfos of all paths
    statements/DIGEST/KIND.json  what is stated of them, see `pgbake.cache.statements`; of none, one or some
    DIGEST.narinfo               of each path, those first that others refer to;
    nar/DIGEST.nar.zst           and right behind it its NAR

Owner, group and time are zero, so that the same closure gives the same bytes. The NARs are named by their paths, and
narinfos tell nothing of the compressed files: so all but the NARs is known before the first of them is compressed.
Unpacked by any tar, it is a cache that stock Nix reads as ``file:///DIR``.

An import reads the archive once, from begin to end, and takes a path only when its hash is the one that was signed.
Whatever is not exactly as drawn above is refused; what was complete before stays in the store.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from pgbake.cache.cache import CACHE_INFO, OWN_INFO, narinfo_name
from pgbake.cache.compression import LEVEL, decompressed
from pgbake.cache.gc import referrers_first
from pgbake.cache.incoming import IncomingNar, register
from pgbake.cache.index import NAME as INDEX_NAME
from pgbake.cache.index import Index
from pgbake.cache.outgoing import compress_nar, signatures
from pgbake.cache.statements import statement_name
from pgbake.cache.substituters import Check
from pgbake.errors import CacheError, FormatError, StoreError, host_error
from pgbake.events import Notice, Planned, Sink, task, throttled
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import MAX_NARINFO, CacheInfo, NarInfo
from pgbake.formats.statement import KINDS, MAX_STATEMENT, SignedStatement
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
#: NARs that are compressed at once, and how many may wait in memory or on disk for their turn.
_COMPRESSED_AT_ONCE = 2
_AHEAD = 4
#: Bytes up to which such a NAR waits in memory.
_IN_MEMORY = 4 << 20
_LARGEST_INDEX = 200_000_000
#: Paths, and seconds, after which what was unpacked is registered: that brings all of it to disk.
_REGISTERED = 64
_REGISTER_EVERY = 2.0

HINT = "copy the archive again, or make it anew with `pgbake export`; what is in the store stays"


def export(
    store: LocalStore,
    paths: Iterable[StorePath],
    file: BinaryIO,
    keys: Sequence[SecretKey],
    report: Sink,
    *,
    scratch: Path | None = None,
    level: int = LEVEL,
    statements: Iterable[SignedStatement] = (),
) -> list[NarInfo]:
    """Write paths and all that they refer to as an archive, and return what is in it.

    :param keys: each signs the paths, beside the signatures that they bear already.
    :param scratch: directory for compressed NARs that wait for their turn.
    :param level: of zstd.
    :param statements: about some of the paths.
    :raises StoreError: a path is not valid, or damaged; the archive is not complete then.
    :raises OSError: the file cannot be written.
    """
    closure = store.closure(paths)
    order = _in_order({path: info.references for path, info in closure.items()})
    infos = {path: _narinfo(closure[path], keys) for path in order}
    index = Index({path.digest: info.to_text() for path, info in infos.items()})
    report(Planned("export", len(order)))
    _write_member(file, CACHE_INFO, OWN_INFO.to_text().encode())
    _write_member(file, INDEX_NAME, index.to_bytes())
    named = {statement_name(said.path, said.kind): signed for signed in statements for said in (signed.statement,)}
    for name, signed in sorted(named.items()):
        _write_member(file, name, signed.to_json())
    stop = threading.Event()

    def compressed(path: StorePath) -> BinaryIO:
        spool = cast(BinaryIO, tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch) if scratch else None))  # noqa: SIM115
        id = f"export:{path}"
        with task(report, id, "export", path.name, closure[path].nar_size):
            compress_nar(store, closure[path], spool, _teller(report, id, stop), level)
        return spool

    with ThreadPoolExecutor(_COMPRESSED_AT_ONCE) as pool:
        waiting: list[Future[BinaryIO]] = [pool.submit(compressed, path) for path in order[:_AHEAD]]
        try:
            for number, path in enumerate(order):
                _write_member(file, narinfo_name(path), infos[path].to_text().encode())
                with waiting.pop(0).result() as spool:
                    if number + _AHEAD < len(order):
                        waiting.append(pool.submit(compressed, order[number + _AHEAD]))
                    _write_member(file, infos[path].url, spool)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    file.write(bytes(2 * _BLOCK))
    file.flush()
    return list(infos.values())


def _teller(report: Sink, id: str, stop: threading.Event) -> Callable[[int], None]:
    tell = throttled(report, id)

    def tell_or_stop(done: int) -> None:
        if stop.is_set():
            raise StoreError("the export was stopped")
        tell(done)

    return tell_or_stop


def _narinfo(info: PathInfo, keys: Sequence[SecretKey]) -> NarInfo:
    return NarInfo(
        path=info.path,
        url=_nar_name(info.path),
        compression="zstd",
        nar_sha256=info.nar_sha256,
        nar_size=info.nar_size,
        references=info.references,
        deriver=info.deriver,
        signatures=signatures(info, keys),
        ca=info.ca,
    )


def _nar_name(path: StorePath) -> str:
    return f"nar/{path.digest}.nar.zst"


def _in_order(references: Mapping[StorePath, Iterable[StorePath]]) -> list[StorePath]:
    return list(chain.from_iterable(reversed(referrers_first(references))))


def _write_member(file: BinaryIO, name: str, content: bytes | BinaryIO) -> None:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    header = tarfile.TarInfo(name)
    header.size = source.seek(0, io.SEEK_END)
    source.seek(0)
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    shutil.copyfileobj(source, file, _PIECE)
    file.write(bytes(-header.size % _BLOCK))


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    :param tops: paths of the archive that no other one refers to.
    :param added: paths that are new in the store; ``present``: those that were there.
    :param nar_size: bytes of the NARs added.
    """

    tops: tuple[StorePath, ...]
    added: tuple[StorePath, ...]
    present: tuple[StorePath, ...]
    nar_size: int


def import_archive(
    store: LocalStore,
    file: BinaryIO,
    name: str,
    check: Check,
    report: Sink,
    statements: dict[StorePath, dict[str, SignedStatement]] | None = None,
) -> Imported:
    """Bring the paths of an archive into the store.

    :param file: is read once, from begin to end.
    :param name: of the file, for messages.
    :param check: raises where a path is not signed by whom the user trusts.
    :param statements: takes the archive's statements before the first path is checked; they are not verified.
    :raises CacheError: the archive is damaged, cut off, or no such archive; which path is concerned is told, and that
        those before it are in the store.
    :raises PgbakeError: a path is not signed by anybody trusted: nothing was added.
    :raises StoreError: the store cannot be written.
    :raises HostError: the disk is full.
    """
    store.require_writable()
    return _Importer(store, _Tar(file, name), check, report, statements if statements is not None else {}).run()


@dataclass
class _Importer:
    store: LocalStore
    tar: _Tar
    check: Check
    report: Sink
    statements: dict[StorePath, dict[str, SignedStatement]]
    _added: list[NarInfo] = field(default_factory=list)
    _unpacked: list[tuple[NarInfo, ExitStack]] = field(default_factory=list)
    _registered: float = field(default_factory=time.monotonic)

    def run(self) -> Imported:
        try:
            with self.tar.member(CACHE_INFO) as source:
                CacheInfo.parse(source.small(100_000).decode())
            with self.tar.member(INDEX_NAME) as source:
                index = Index.parse(source.small(_LARGEST_INDEX))
            infos = [info for digest in index.texts if (info := index.get(digest)) is not None]
        except (FormatError, UnicodeDecodeError) as error:
            raise self.tar.wrong(f"{error}") from None
        by_path = {info.path: info for info in infos}
        self._read_statements(by_path)
        self.store.temp_roots.add(*by_path)
        present = self.store.valid(by_path)
        self._require_sound(by_path, present)
        self.report(Planned("import", len(by_path) - len(present)))
        try:
            left = {narinfo_name(path): info for path, info in by_path.items()}
            while left:
                self._next_path(left, index)
            self.tar.end()
        finally:
            try:
                self._register()
            finally:
                for _, locks in self._unpacked:
                    locks.close()
        needed = {reference for info in infos for reference in info.references - {info.path}}
        return Imported(
            tuple(path for path in sorted(by_path) if path not in needed),
            tuple(info.path for info in self._added),
            tuple(sorted(present)),
            sum(info.nar_size for info in self._added),
        )

    def _read_statements(self, paths: Iterable[StorePath]) -> None:
        names = {statement_name(path, kind): (path, kind) for path in paths for kind in KINDS}
        while self.tar.coming() in names:
            path, kind = names.pop(self.tar.coming())
            with self.tar.member() as source:
                try:
                    signed = SignedStatement.parse(source.small(MAX_STATEMENT))
                except FormatError as error:
                    raise self.tar.wrong(f"the statement {kind} about {path}: {error}") from None
            self.statements.setdefault(path, {})[kind] = signed

    def _require_sound(self, infos: Mapping[StorePath, NarInfo], present: set[StorePath]) -> None:
        for path, info in infos.items():
            if info.url != _nar_name(path) or info.compression != "zstd":
                raise self.tar.wrong(f"its index names {info.url} for {path}")
            if path not in present:
                self._require_trusted(info)
        needed = {reference for path, info in infos.items() if path not in present for reference in info.references}
        if lacking := needed - infos.keys() - self.store.valid(needed - infos.keys()):
            raise self.tar.wrong(f"it lacks {min(lacking)}, which others of its paths refer to")

    def _require_trusted(self, info: NarInfo) -> None:
        try:
            self.check(info, self.tar.name)
        except CacheError as error:
            if info.signatures:
                raise
            hint = "sign it when you export it: pgbake export --key FILE; or take it as it is with --no-check-sigs"
            raise CacheError(error.message, hint=hint) from None

    def _next_path(self, left: dict[str, NarInfo], index: Index) -> None:
        with self.tar.member() as source:
            info = left.pop(source.name, None)
            if info is None:
                raise self.tar.misplaced(source.name, "the narinfo of another path of its index")
            text = source.small(MAX_NARINFO)
        path = info.path
        if text.decode(errors="replace") != index.texts[path.digest]:
            raise self.tar.wrong(f"what it tells of {path} is not what its index tells")
        if early := {reference for reference in info.references if narinfo_name(reference) in left}:
            raise self.tar.wrong(f"{path} stands before {min(early)}, which it refers to")
        with self.tar.member(info.url, f"the NAR of {path}") as source:
            if self.store.valid([path]):
                source.skip()
                return
            with ExitStack() as locks:
                # What waits for registration is locked, and the one who is waited for may need it.
                locks.enter_context(self.store.lock(path, lambda holder: self._wait_for(path, holder)))
                if self.store.valid([path]):  # another process was faster
                    source.skip()
                    return
                with task(self.report, f"import:{path}", "import", path.name, info.nar_size):
                    self._unpack(info, source)
                self._unpacked.append((info, locks.pop_all()))
        if len(self._unpacked) >= _REGISTERED or time.monotonic() - self._registered > _REGISTER_EVERY:
            self._register()

    def _wait_for(self, path: StorePath, holder: str) -> None:
        self._register()
        self.report(Notice("info", f"{path.name} is being made by {holder}; waiting for it"))

    def _unpack(self, info: NarInfo, source: _Member) -> None:
        tell = throttled(self.report, f"import:{info.path}")
        try:
            with decompressed("zstd", cast(BinaryIO, source)) as stream:
                nar = IncomingNar(info, self.tar.name, stream, tell, HINT)
                with nar.reader() as reader:
                    self.store.receive(info.path, reader.read, lambda made: nar.verify(reader, made))
        except FormatError as error:
            raise self.tar.wrong(f"the NAR of {info.path}: {error}") from None
        source.skip()  # nothing, where nobody has put something behind it
        if source.skipped:
            raise self.tar.wrong(f"the NAR of {info.path} goes on after its end")

    def _register(self) -> None:
        ready = list(self._unpacked)
        if ready:
            register(self.store, [info for info, _ in ready])
            for info, locks in ready:
                locks.close()
                self._added.append(info)
            del self._unpacked[: len(ready)]
        self._registered = time.monotonic()


class _Tar:
    """A tar archive of regular files that are known by name, read once; nothing else is looked at.

    ``tarfile`` itself reads what long names and extended headers announce into memory, however long that is.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._last = ""
        self._ahead = b""

    def wrong(self, problem: str) -> CacheError:
        """Return the error that says what is wrong with the archive."""
        return CacheError(f"{self.name}: {problem}", hint=HINT)

    def misplaced(self, name: str, expected: str) -> CacheError:
        """Return the error for a member that is not the one that should follow."""
        return self.wrong(f"{name!r} stands where {expected} should{self._after()}")

    def coming(self) -> str:
        """Return the name of the next member; nothing where there is none, or a damaged one."""
        if not self._ahead:
            self._ahead = self.read(_BLOCK, "the next path")
        try:
            return tarfile.TarInfo.frombuf(self._ahead, "ascii", "strict").name
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            return ""

    def member(self, name: str | None = None, what: str | None = None) -> _Member:
        """Give the next member, to be read to its end.

        :param name: that it must have.
        :param what: it is, for messages.
        """
        what = what or name or "the next path"
        block, self._ahead = self._ahead or self.read(_BLOCK, what), b""
        if not any(block):
            raise self.wrong(f"it ends where {what} should follow{self._after()}")
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            problem = f"it is damaged{self._after()}" if self._last else "it is no archive of `pgbake export`"
            raise self.wrong(f"{problem}: {error}") from None
        is_file = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and header.size >= 0
        if not is_file or name not in (None, header.name):
            raise self.misplaced(header.name, what)
        self._last = header.name
        return _Member(self, header.name, what if name else header.name, header.size)

    def _after(self) -> str:
        return f" after {self._last}" if self._last else ""

    def read(self, size: int, what: str) -> bytes:
        """Read so many bytes of the archive; ``what`` they are is for messages."""
        try:
            data = self._file.read(size)
            while data and len(data) < size and (more := self._file.read(size - len(data))):
                data += more
        except OSError as error:
            raise host_error(error, f"cannot read {self.name}") from error
        if len(data) < size:
            raise self.wrong(f"it is cut off in {what}; what was complete before is in the store")
        return data

    def end(self) -> None:
        """Make sure that nothing follows."""
        ahead, self._ahead = self._ahead, b""
        if any(ahead + self.read(2 * _BLOCK - len(ahead), "its end")):
            raise self.wrong(f"something follows where its end should be{self._after()}")


class _Member(io.RawIOBase):
    """One member of an archive as a file; leaving its ``with`` block passes over the padding behind it."""

    def __init__(self, tar: _Tar, name: str, what: str, size: int) -> None:
        self._tar = tar
        self.name = name
        self.what = what
        self.left = size
        self.skipped = 0
        self._padding = -size % _BLOCK

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        data = self._tar.read(size, self.what)
        self.left -= size
        return data

    def small(self, most: int) -> bytes:
        """Read all of it, which is no more than ``most`` bytes."""
        if self.left > most:
            raise self._tar.wrong(f"{self.what} is larger than {most} bytes")
        return self.read()

    def skip(self) -> None:
        """Read to the end; ``skipped`` tells how much that was."""
        while data := self.read(_PIECE):
            self.skipped += len(data)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self._tar.read(self._padding, self.what)
        super().__exit__(kind, *rest)
