"""Nix's base32: digests as they stand in store paths and narinfo files.

The bytes are one little-endian integer, and its digits are written from the most significant down.
The alphabet leaves out e, o, u and t. Twenty bytes make 32 characters, thirty-two make 52.
"""

from __future__ import annotations

import base64
import re

from pgbake.errors import FormatError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"

# Both halves are in the standard library under other alphabets: RFC 4648's to write, int(..., 32)'s to read.
_FROM_RFC4648 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())
_TO_INT = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_TEXT = re.compile(f"[{ALPHABET}]*")


def encode(data: bytes) -> str:
    """Return ``data`` in Nix's base32: ``ceil(8 * len(data) / 5)`` characters."""
    # Zero bytes in front make whole 40-bit groups, which RFC 4648 writes without padding.
    padded = bytes(-len(data) % 5) + data[::-1]
    digits = (8 * len(data) + 4) // 5
    text = base64.b32encode(padded).translate(_FROM_RFC4648)
    return text[len(text) - digits :].decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes that ``text`` writes in Nix's base32.

    :raises FormatError: a character outside the alphabet, a length that no whole number of bytes
        has, or bits set beyond the last byte.
    """
    if not _TEXT.fullmatch(text):
        raise FormatError(f"{text[:100]!r} is not Nix base32: a character is not one of {ALPHABET}")
    size = len(text) * 5 // 8
    if (8 * size + 4) // 5 != len(text):
        raise FormatError(f"{text[:100]!r} is not Nix base32: no bytes have {len(text)} digits")
    number = int(text.translate(_TO_INT), 32) if text else 0
    try:
        return number.to_bytes(size, "little")
    except OverflowError:
        raise FormatError(f"{text[:100]!r} is not Nix base32: its first digit is too large") from None
