"""What a binary cache tells of itself and of a path: ``nix-cache-info`` and ``DIGEST.narinfo``.

Lines of ``Key: value``, each ended by a line feed::

    StorePath: /nix/store/DIGEST-NAME
    URL: nar/FILEHASH.nar.zst            below the cache's own URL
    Compression: zstd                    or xz, bzip2, gzip, none; bzip2 where the line is missing
    FileHash: sha256:BASE32              of the compressed file; may be missing
    FileSize: 123                        bytes; may be missing
    NarHash: sha256:BASE32
    NarSize: 456                         bytes
    References: DIGEST-NAME ...          sorted; empty for none
    Deriver: DIGEST-NAME.drv             may be missing, or unknown-deriver
    Sig: KEY:BASE64                      any number of lines
    CA: text:sha256:BASE32               may be missing

A signature is that of the *fingerprint* ``1;STOREPATH;NARHASH;NARSIZE;REFERENCE,REFERENCE`` with full paths. Keys
that are not known are passed over, as Nix does; ``nix-cache-info`` has ``StoreDir``, ``WantMassQuery`` and
``Priority``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from pgbake.errors import FormatError
from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.digest import parse_sha256, write_sha256
from pgbake.formats.keys import Signature
from pgbake.formats.storepath import STORE_DIR, StorePath

#: Bytes of the longest narinfo that is read: one with 20,000 references.
MAX_NARINFO = 2_000_000

COMPRESSIONS = ("none", "zstd", "xz", "bzip2", "gzip")

#: How the file of each compression ends.
EXTENSIONS = {"none": "", "zstd": ".zst", "xz": ".xz", "bzip2": ".bz2", "gzip": ".gz"}

_MANY = frozenset({"Sig"})
#: Each may cost a verification.
_MOST_SIGNATURES = 100
_URL = re.compile(r"(?:[A-Za-z0-9_+=~@-][A-Za-z0-9._+=~@%-]*/)*[A-Za-z0-9_+=~@-][A-Za-z0-9._+=~@%?&-]*")
_NUMBER = re.compile(r"[0-9]{1,18}")

T = TypeVar("T")


def fingerprint(path: StorePath, nar_sha256: bytes, nar_size: int, references: Iterable[StorePath]) -> bytes:
    """Return what signatures of a path sign."""
    names = ",".join(map(str, sorted(references)))
    return f"1;{path};{write_sha256(nar_sha256)};{nar_size};{names}".encode()


@dataclass(frozen=True, slots=True)
class NarInfo:
    """What a cache tells of one path. None of it is believed before a signature or the contents prove it.

    :param url: of its NAR, relative to the cache.
    :param compression: one of :data:`COMPRESSIONS`.
    :param nar_sha256: raw digest of the NAR.
    :param nar_size: bytes of the NAR.
    :param file_sha256: raw digest of the compressed file.
    :param file_size: bytes of the compressed file.
    """

    path: StorePath
    url: str
    compression: str
    nar_sha256: bytes
    nar_size: int
    references: frozenset[StorePath] = frozenset()
    file_sha256: bytes | None = None
    file_size: int | None = None
    deriver: StorePath | None = None
    signatures: tuple[Signature, ...] = ()
    ca: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a narinfo file.

        :raises FormatError: it is none; what is wrong with it is told.
        """
        fields = _fields(text, "narinfo")

        def one(key: str, read: Callable[[str], T]) -> T:
            try:
                return read(fields[key][0])
            except KeyError:
                raise FormatError(f"a narinfo lacks its line {key}") from None

        def perhaps(key: str, read: Callable[[str], T]) -> T | None:
            return read(fields[key][0]) if fields.get(key, [""])[0] else None

        path = one("StorePath", StorePath.parse)
        compression = perhaps("Compression", str) or "bzip2"
        if compression not in COMPRESSIONS:
            raise FormatError(f"{path} is compressed with {compression[:50]!r}; known: {', '.join(COMPRESSIONS)}")
        ca = perhaps("CA", str)
        if ca is not None:
            ContentAddress.parse(ca)
        if len(fields.get("Sig", ())) > _MOST_SIGNATURES:
            raise FormatError(f"{path} bears {len(fields['Sig'])} signatures, more than {_MOST_SIGNATURES}")
        deriver = perhaps("Deriver", str)
        return cls(
            path=path,
            url=one("URL", _url),
            compression=compression,
            nar_sha256=one("NarHash", parse_sha256),
            nar_size=one("NarSize", _number),
            references=frozenset(map(StorePath.from_basename, (perhaps("References", str) or "").split())),
            file_sha256=perhaps("FileHash", parse_sha256),
            file_size=perhaps("FileSize", _number),
            deriver=StorePath.from_basename(deriver) if deriver and deriver != "unknown-deriver" else None,
            signatures=tuple(map(Signature.parse, fields.get("Sig", ()))),
            ca=ca,
        )

    def to_text(self) -> str:
        """Write the narinfo file."""
        lines = [
            f"StorePath: {self.path}",
            f"URL: {self.url}",
            f"Compression: {self.compression}",
            *([f"FileHash: {write_sha256(self.file_sha256)}"] if self.file_sha256 is not None else ()),
            *([f"FileSize: {self.file_size}"] if self.file_size is not None else ()),
            f"NarHash: {write_sha256(self.nar_sha256)}",
            f"NarSize: {self.nar_size}",
            f"References: {' '.join(path.basename for path in sorted(self.references))}",
            *([f"Deriver: {self.deriver.basename}"] if self.deriver is not None else ()),
            *(f"Sig: {signature}" for signature in self.signatures),
            *([f"CA: {self.ca}"] if self.ca is not None else ()),
        ]
        return "\n".join(lines) + "\n"

    @property
    def fingerprint(self) -> bytes:
        """What its signatures sign."""
        return fingerprint(self.path, self.nar_sha256, self.nar_size, self.references)

    @property
    def certifies_itself(self) -> bool:
        """Whether its path follows from its content address, so that its contents alone can prove it."""
        return self.ca is not None and ContentAddress.parse(self.ca).path(self.path.name, self.references) == self.path


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache tells of itself.

    :param priority: caches of lower numbers are asked first.
    :param want_mass_query: whether it does not mind to be asked for many paths.
    """

    priority: int = 50
    want_mass_query: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a ``nix-cache-info`` file.

        :raises FormatError: it is none, or that of a cache for another store directory.
        """
        fields = _fields(text, "nix-cache-info")
        store_dir = fields.get("StoreDir", [STORE_DIR])[0]
        if store_dir != STORE_DIR:
            raise FormatError(f"it is a cache of paths in {store_dir[:200]}, not in {STORE_DIR}")
        return cls(
            priority=_number(fields.get("Priority", ["50"])[0]),
            want_mass_query=fields.get("WantMassQuery", ["0"])[0] == "1",
        )

    def to_text(self) -> str:
        """Write the ``nix-cache-info`` file."""
        return f"StoreDir: {STORE_DIR}\nWantMassQuery: {int(self.want_mass_query)}\nPriority: {self.priority}\n"


def _fields(text: str, what: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if text and not text.endswith("\n"):
        raise FormatError(f"a {what} does not end with a line's end: it seems to be cut off")
    for line in text.split("\n")[:-1]:
        key, mark, value = line.partition(":")
        if not mark:
            raise FormatError(f"a {what} has a line without a colon: {line[:100]!r}")
        values = found.setdefault(key, [])
        if values and key not in _MANY:
            raise FormatError(f"a {what} has two lines {key[:100]}")
        values.append(value.strip())
    return found


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise FormatError(f"{text[:100]!r} is no number")
    return int(text)


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise FormatError(f"{text[:200]!r} is no URL below a cache's own")
    return text
