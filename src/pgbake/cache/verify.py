"""Verifying a cache: whether all that it tells is there, whole, and signed.

Each NAR is read once, in bounded memory: its file's size and hash, what it unpacks to, and its content address where
it has one. Of a web server, which has no listing, what the index names is looked at.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, cast

from pgbake.cache.cache import CACHE_INFO, BinaryCache, in_parallel
from pgbake.cache.compression import decompressed
from pgbake.cache.incoming import SMALL, IncomingNar
from pgbake.cache.index import NAME as INDEX_NAME
from pgbake.cache.inventory import Inventory, take_inventory
from pgbake.cache.objects import Missing
from pgbake.errors import CacheError, FormatError, PgbakeError
from pgbake.events import Finished, Progressed, Sink, Started
from pgbake.formats import nar
from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath

#: NARs that are read at once, and of those how many large ones.
_AT_ONCE = 16
_LARGE_AT_ONCE = max(2, min(8, os.cpu_count() or 2))
_REPORT_EVERY = 0.1  # seconds

Kind = Literal["cache-info", "narinfo", "nar", "reference", "signature", "index", "root"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a cache.

    :param kind: what is wrong.
    :param name: the object, or for references and signatures the path that it is about.
    :param problem: in words.
    :param path: the path that readers lose by it; None where it is not known, or none is lost.
    """

    kind: Kind
    name: str
    problem: str
    path: StorePath | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    :param findings: what is wrong, sorted; empty of a whole cache.
    :param orphans: NARs that no narinfo names, with their sizes in bytes; no fault: a push that is under way, or was
        stopped, and collections take them away.
    :param checked: bytes of files that were read.
    """

    inventory: Inventory
    findings: tuple[Finding, ...]
    orphans: dict[str, int]
    checked: int = 0

    def lost(self) -> dict[str, StorePath | None]:
        """Return the digests of paths that readers do not get whole, with the paths where they are known."""
        found: dict[str, StorePath | None] = {}
        for finding in self.findings:
            if finding.kind in ("nar", "reference") and finding.path is not None:
                found[finding.path.digest] = finding.path
            elif finding.kind == "narinfo":
                digest = finding.name.removesuffix(".narinfo")
                found[digest] = finding.path or found.get(digest)
        return found


def verify(
    cache: BinaryCache,
    report: Sink,
    check: Callable[[NarInfo, str], None] | None = None,
    *,
    contents: bool = True,
) -> Verification:
    """Look at all that a cache holds.

    :param check: decides whether a narinfo is to be believed; None believes all.
    :param contents: whether NARs are read; else only their sizes are looked at.
    :raises CacheError: the cache refuses, does not answer, or has neither listing nor index.
    """
    found = take_inventory(cache, report, read_all=True)
    findings = _metadata(cache, found, check)
    reader = _Reader(cache, report)
    if contents:
        findings += reader.read_all(found)
    elif found.objects is None:
        asked = list(found.infos.values())
        sizes = in_parallel(cache.objects.has, [info.url for info in asked])
        findings += [problem for info, size in zip(asked, sizes, strict=True) if (problem := _size(info, size))]
    else:
        findings += [
            problem for info in found.infos.values() if (problem := _size(info, found.nars.get(info.url)))
        ]  # fmt: skip
    named = {info.url for info in found.infos.values()}
    orphans = {name: size for name, size in sorted(found.nars.items()) if name not in named}
    order = Kind.__args__  # type: ignore[attr-defined]
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.name, finding.problem))
    return Verification(found, tuple(findings), orphans, reader.done)


def _metadata(cache: BinaryCache, found: Inventory, check: Callable[[NarInfo, str], None] | None) -> list[Finding]:
    findings = []
    if found.info is None:
        problem = "there is none that Nix could read" if found.infos else "there is none: this is no cache"
        findings.append(Finding("cache-info", CACHE_INFO, problem))
    by_digest = {path.digest: path for info in found.infos.values() for path in (info.path, *info.references)}
    by_digest |= {path.digest: path for root, _ in found.roots for path in (root.store_path, *root.members())}
    for name, problem in found.damaged.items():
        is_root = not name.endswith(".narinfo")
        path = by_digest.get(name.removesuffix(".narinfo"))
        findings.append(Finding("root" if is_root else "narinfo", name, problem, path))
    absent: dict[StorePath, list[StorePath]] = {}
    for info in found.infos.values():
        for reference in info.references - found.infos.keys():
            if f"{reference.digest}.narinfo" not in found.damaged:
                absent.setdefault(reference, []).append(info.path)
        if check is not None:
            try:
                check(info, cache.url)
            except PgbakeError as error:
                findings.append(Finding("signature", str(info.path), error.message))
    for path, users in absent.items():
        more = f" and {len(users) - 1} more need it" if len(users) > 1 else " needs it"
        findings.append(Finding("reference", str(path), f"it is not there, and {min(users)}{more}", path))
    return findings + _index(found)


def _index(found: Inventory) -> list[Finding]:
    if found.index_problem is not None:
        return [Finding("index", INDEX_NAME, found.index_problem)]
    if found.index is None:
        return []
    findings = []
    known = {path.digest: info for path, info in found.infos.items()}
    for digest in sorted(found.index.texts.keys() | known.keys()):
        if f"{digest}.narinfo" in found.damaged:
            continue
        try:
            told = found.index.get(digest)
        except FormatError as error:
            findings.append(Finding("index", INDEX_NAME, f"what it tells of {digest} is damaged: {error}"))
            continue
        info = known.get(digest)
        if told is None and info is not None:
            findings.append(Finding("index", INDEX_NAME, f"it lacks {info.path}"))
        elif told is not None and info is None:
            findings.append(Finding("index", INDEX_NAME, f"it names {told.path}, which is not there"))
        elif told != info and info is not None:
            findings.append(Finding("index", INDEX_NAME, f"it tells something else of {info.path}"))
    return findings


def _size(info: NarInfo, size: int | None) -> Finding | None:
    if size is None:
        return Finding("nar", info.url, f"it is not there, and {info.path} needs it", info.path)
    if info.file_size is not None and size != info.file_size:
        return Finding("nar", info.url, f"it has {size} bytes instead of {info.file_size} ({info.path})", info.path)
    return None


@dataclass
class _Reader:
    """Reads NARs and holds them against what was promised."""

    cache: BinaryCache
    report: Sink
    done: int = 0
    _told: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _large: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_LARGE_AT_ONCE))

    def read_all(self, found: Inventory) -> list[Finding]:
        infos = sorted(found.infos.values(), key=lambda info: -info.nar_size)
        total = sum(found.nars.get(info.url, 0) for info in infos)
        begin = time.monotonic()
        self.report(Started("verify", "verify", self.cache.url, total))
        findings = in_parallel(self._read, infos, _AT_ONCE)
        self.report(Finished("verify", "done", time.monotonic() - begin))
        return [finding for finding in findings if finding is not None]

    def _read(self, info: NarInfo) -> Finding | None:
        try:
            if info.nar_size > SMALL:
                with self._large:
                    self._check(info)
            else:
                self._check(info)
        except Missing:
            return _size(info, None)
        except _Wrong as error:
            return Finding("nar", info.url, str(error), info.path)
        return None

    def _check(self, info: NarInfo) -> None:
        with self.cache.objects.open(info.url) as file:
            source = _Counted(file, self._count)
            try:
                with decompressed(info.compression, cast(BinaryIO, source)) as stream:
                    incoming = IncomingNar(info, info.url, stream, lambda _: None)
                    if info.ca is None:
                        for _ in incoming.blocks():
                            pass
                    else:
                        _check_address(incoming, ContentAddress.parse(info.ca))
                while source.read(SMALL):
                    pass
            except (CacheError, FormatError) as error:
                if source.failed:
                    raise
                raise _Wrong(error.message.removeprefix(f"{info.url}: ")) from None
        if info.file_size is not None and source.size != info.file_size:
            raise _Wrong(f"it has {source.size} bytes instead of {info.file_size} ({info.path})")
        if info.file_sha256 is not None and source.digest.digest() != info.file_sha256:
            raise _Wrong(f"its file has another hash than {info.path} tells")

    def _count(self, size: int) -> None:
        with self._turn:
            self.done += size
            if (now := time.monotonic()) - self._told > _REPORT_EVERY:
                self._told = now
                self.report(Progressed("verify", self.done))


class _Wrong(Exception):
    """A NAR is not what was promised."""


def _check_address(incoming: IncomingNar, address: ContentAddress) -> None:
    """Read a NAR whose contents certify its path."""
    info = incoming.info
    whole = hashlib.new(address.algorithm)
    if address.method == "recursive":
        for block in incoming.blocks():
            whole.update(block)
    else:
        with incoming.reader() as reader:
            for event in nar.decode(reader.read):
                if isinstance(event, bytes):
                    whole.update(event)
                elif not isinstance(event, nar.Regular):
                    raise incoming.wrong("is no single file, as its content address says")
            if reader.read(1):
                raise incoming.wrong("goes on after its end")
    if whole.digest() != address.digest:
        raise incoming.wrong(f"is not what its content address says: {info.ca}")


class _Counted(io.RawIOBase):
    """A file that is counted and hashed while it is read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None]) -> None:
        self._file = file
        self._tell = tell
        self.digest = hashlib.sha256()
        self.size = 0
        self.failed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except PgbakeError:  # the cache's fault, not the NAR's
            self.failed = True
            raise
        self.digest.update(data)
        self.size += len(data)
        self._tell(len(data))
        return data
