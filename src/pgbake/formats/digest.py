"""Digests as Nix writes them in narinfo files and content addresses: ``sha256:DIGITS``, or ``sha256-BASE64``.

DIGITS are hexadecimal, Nix's base32 or base64, told apart by how many there are.
"""

from __future__ import annotations

import base64
import binascii

from pgbake.errors import FormatError
from pgbake.formats import base32
from pgbake.formats.storepath import ALGORITHMS


def parse_digest(text: str) -> tuple[str, bytes]:
    """Read a digest; return its algorithm, one of :data:`~pgbake.formats.storepath.ALGORITHMS`, and its raw bytes.

    :raises FormatError: the algorithm is unknown, or the digits are not those of one of its digests.
    """
    algorithm, mark, digits = text.partition(":")
    if not mark:
        algorithm, mark, digits = text.partition("-")
    size = ALGORITHMS.get(algorithm)
    if size is None or not mark:
        raise FormatError(f"{text[:200]!r} is no digest: it begins with none of {', '.join(ALGORITHMS)} and a colon")
    try:
        if mark == ":" and len(digits) == 2 * size:
            if digits != digits.lower():
                raise ValueError
            return algorithm, binascii.unhexlify(digits)
        if mark == ":" and len(digits) == (8 * size + 4) // 5:
            return algorithm, base32.decode(digits)
        digest = base64.b64decode(digits, validate=True)
        if base64.b64encode(digest).decode() != digits:  # bits are set beyond the last byte
            raise ValueError
    except (ValueError, FormatError):
        digest = b""
    if len(digest) != size:
        raise FormatError(f"{text[:200]!r} is no {algorithm} digest in hexadecimal, Nix's base32 or base64")
    return algorithm, digest


def parse_sha256(text: str) -> bytes:
    """Read a digest that must be a sha256, and return its 32 bytes.

    :raises FormatError: it is none.
    """
    algorithm, digest = parse_digest(text)
    if algorithm != "sha256":
        raise FormatError(f"{text[:200]!r} is no sha256")
    return digest


def write_sha256(digest: bytes) -> str:
    """Return a sha256 in the form that narinfo files have: ``sha256:`` and 52 digits of Nix's base32."""
    return f"sha256:{base32.encode(digest)}"
