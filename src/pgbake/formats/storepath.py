"""Store paths: their parts, and how they follow from what they name.

Every path is ``/nix/store/DIGEST-NAME``. DIGEST is 32 characters of :mod:`~pgbake.formats.base32`, the
sha256 of a *fingerprint* folded to 20 bytes::

    KIND ":sha256:" HEX ":/nix/store:" NAME

    KIND                             HEX                                         what it names
    text[:REF...]                    sha256 of the contents                      a .drv, a text file
    source[:REF...][:self]           sha256 of the NAR                           an import, r:sha256
    output:out                       sha256 of "fixed:out:[r:]ALGO:HEX:"         other fixed outputs
    output:OUTPUT                    the derivation's masked hash modulo         a build's output

Digests that these functions take are raw bytes, not hexadecimal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pgbake.errors import FormatError
from pgbake.formats import base32

STORE_DIR = "/nix/store"

#: Characters of a path's digest.
DIGEST_LENGTH = 32

#: Hash algorithms of fixed outputs, with the bytes of their digests.
ALGORITHMS = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}

Method = Literal["flat", "recursive"]

_PREFIX = STORE_DIR + "/"
_DIGEST = re.compile(f"[{base32.ALPHABET}]{{{DIGEST_LENGTH}}}")
_NAME = re.compile(r"(?!\.)[A-Za-z0-9+._?=-]{1,211}")


def check_name(name: str) -> None:
    """Check the part of a store path after the digest.

    :raises FormatError: it is empty, longer than 211 characters, starts with a dot or holds a
        character other than ``A-Z a-z 0-9 + . _ ? = -``.
    """
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{name[:300]!r} can not be the name of a store path",
            hint="use 1 to 211 characters of A-Z a-z 0-9 + . _ ? = - and no dot in front",
        )


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """A path directly in the store; ordered as its text is.

    :param digest: 32 characters of base32.
    :param name: what follows the digest and the dash.
    :raises FormatError: either breaks its rules.
    """

    digest: str
    name: str

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise FormatError(f"{self.digest[:100]!r} is not the digest of a store path: 32 digits of base32")
        check_name(self.name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a full path such as ``/nix/store/DIGEST-NAME``.

        :raises FormatError: it is no path directly in the store.
        """
        if not text.startswith(_PREFIX):
            raise FormatError(f"{text[:300]!r} is not a path in {STORE_DIR}")
        return cls.from_basename(text[len(_PREFIX) :])

    @classmethod
    def from_basename(cls, text: str) -> Self:
        """Read ``DIGEST-NAME``, a path's last part.

        :raises FormatError: it is not of that form.
        """
        if text[DIGEST_LENGTH : DIGEST_LENGTH + 1] != "-":
            raise FormatError(f"{text[:300]!r} is not a store path: it has no dash after 32 digits of base32")
        return cls(text[:DIGEST_LENGTH], text[DIGEST_LENGTH + 1 :])

    @property
    def basename(self) -> str:
        """``DIGEST-NAME``."""
        return f"{self.digest}-{self.name}"

    def __str__(self) -> str:
        return f"{_PREFIX}{self.digest}-{self.name}"


def text_path(name: str, sha256: bytes, references: Iterable[StorePath] = ()) -> StorePath:
    """Return the path of a text file such as a ``.drv``.

    :param sha256: digest of the contents.
    :raises FormatError: the name is not allowed.
    """
    return _path(_kind("text", references), sha256, name)


def source_path(
    name: str, nar_sha256: bytes, references: Iterable[StorePath] = (), *, self_reference: bool = False
) -> StorePath:
    """Return the path of a file tree that is named by its contents.

    :param nar_sha256: digest of its NAR (with ``self_reference``: of the NAR in which the path's own
        digest is replaced by zero bytes).
    :param references: the other store paths that it mentions.
    :raises FormatError: the name is not allowed.
    """
    return _path(_kind("source", references) + (":self" if self_reference else ""), nar_sha256, name)


def fixed_output_path(name: str, method: Method, algorithm: str, digest: bytes) -> StorePath:
    """Return the path of a fixed output, the same that ``nix-store --add-fixed`` gives.

    :param method: ``flat``: the digest is that of one file's contents; ``recursive``: of the NAR.
    :param algorithm: one of :data:`ALGORITHMS`.
    :raises FormatError: the name or algorithm is unknown to Nix, or the digest has another length.
    """
    if ALGORITHMS.get(algorithm) != len(digest):
        raise FormatError(f"{len(digest)} bytes are no digest of the hash algorithm {algorithm!r}")
    if method == "recursive" and algorithm == "sha256":
        return source_path(name, digest)
    prefix = "r:" if method == "recursive" else ""
    inner = hashlib.sha256(f"fixed:out:{prefix}{algorithm}:{digest.hex()}:".encode()).digest()
    return _path("output:out", inner, name)


def output_path_name(drv_name: str, output: str) -> str:
    """Return the name of an output's path: the derivation's own for ``out``, else ``NAME-OUTPUT``."""
    return drv_name if output == "out" else f"{drv_name}-{output}"


def output_path(drv_name: str, output: str, hash_modulo: bytes) -> StorePath:
    """Return the path of an input-addressed output.

    :param drv_name: the derivation's name, without ``.drv``.
    :param hash_modulo: sha256 of the derivation with its outputs masked.
    :raises FormatError: the resulting name is not allowed.
    """
    return _path(f"output:{output}", hash_modulo, output_path_name(drv_name, output))


def _kind(word: str, references: Iterable[StorePath]) -> str:
    return ":".join([word, *map(str, sorted(set(references)))])


def _path(kind: str, sha256: bytes, name: str) -> StorePath:
    fingerprint = f"{kind}:sha256:{sha256.hex()}:{STORE_DIR}:{name}"
    return StorePath(base32.encode(_fold(hashlib.sha256(fingerprint.encode()).digest())), name)


def _fold(digest: bytes) -> bytes:
    """XOR a sha256 into 20 bytes: byte i lands on i mod 20."""
    folded = bytearray(digest[:20])
    for index, byte in enumerate(digest[20:]):
        folded[index] ^= byte
    return bytes(folded)
