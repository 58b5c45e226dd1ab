"""Signing keys and signatures: Ed25519 under a name, in Nix's notation.

::

    secret key file      NAME:BASE64 of the seed (32 bytes) and the public key (32 bytes)
    public key           NAME:BASE64 of the public key (32 bytes)
    signature            NAME:BASE64 of 64 bytes

Everything is parsed strictly: a key with a stray character is an error, not a key that never fits.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from pgbake.errors import FormatError

#: Printable ASCII but the colon that ends a name, quotes, and what separates names in lists.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@/=-]{0,127}")
_SEED_SIZE = 32
_PUBLIC_SIZE = 32
_SIGNATURE_SIZE = 64


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What proves a signature: a name and 32 bytes."""

    name: str
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME:BASE64``.

        :raises FormatError: it is no public key; what is wrong with it is told.
        """
        return cls(*_parse(text, "public key", _PUBLIC_SIZE))

    def __str__(self) -> str:
        return f"{self.name}:{base64.b64encode(self.data).decode()}"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether 64 bytes are this key's signature of ``message``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.data).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SecretKey:
    """What makes signatures: a name and the key's seed, which is never shown but by :meth:`export`."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a new key.

        :param name: what trusts it will know it by, such as ``cache.example.org-1``.
        :raises FormatError: the name can not be one.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        check_key_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the content of a secret key file; white space around it does not matter.

        :raises FormatError: it is no secret key. The message shows nothing of it.
        """
        name, data = _parse(text.strip(), "secret key", _SEED_SIZE + _PUBLIC_SIZE)
        key = cls(name, data[:_SEED_SIZE])
        if key.public.data != data[_SEED_SIZE:]:
            raise FormatError(f'the secret key "{name}" is damaged: its public half is another key\'s')
        return key

    @property
    def public(self) -> PublicKey:
        """The key that proves this one's signatures."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def export(self) -> str:
        """Return what a secret key file holds, without a line end."""
        return f"{self.name}:{base64.b64encode(self.seed + self.public.data).decode()}"

    def sign(self, message: bytes) -> Signature:
        """Sign a message."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Signature(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).sign(message))


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """A signature, and the name of the key that made it."""

    name: str
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME:BASE64``.

        :raises FormatError: it is no signature.
        """
        return cls(*_parse(text, "signature", _SIGNATURE_SIZE))

    def __str__(self) -> str:
        return f"{self.name}:{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys whose signatures count. Several may share a name, while one replaces another."""

    keys: tuple[PublicKey, ...] = ()

    def signers(self, message: bytes, signatures: Iterable[Signature]) -> tuple[str, ...]:
        """Return the names of the trusted keys that did sign a message, sorted; empty where none did."""
        return tuple(
            sorted(
                {
                    signature.name
                    for signature in signatures
                    for key in self.keys
                    if key.name == signature.name and key.verify(message, signature.data)
                }
            )
        )


def check_key_name(name: str) -> None:
    """Check the name of a key.

    :raises FormatError: it is empty, or holds what would make lists and files of keys ambiguous.
    """
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{name[:200]!r} can not be the name of a key",
            hint="use letters, digits and . _ + @ / = -, as in cache.example.org-1",
        )


def _parse(text: str, what: str, size: int) -> tuple[str, bytes]:
    # No message shows digits: what is given for a public key may be a secret one.
    name, colon, digits = text.partition(":")
    if not colon:
        raise FormatError(f"this is no {what}: it lacks the colon after its name")
    check_key_name(name)
    try:
        data = base64.b64decode(digits, validate=True)
        canonical = base64.b64encode(data).decode() == digits
    except ValueError:
        data, canonical = b"", False
    if not canonical:
        raise FormatError(f'the {what} "{name}" is not whole: a character of its base64 is wrong or missing')
    if len(data) != size:
        other = {_PUBLIC_SIZE: "a public key", 2 * _PUBLIC_SIZE: "a secret key or a signature"}.get(len(data), "")
        raise FormatError(
            f'the {what} "{name}" has {len(data)} bytes, not {size}' + (f": it seems to be {other}" if other else "")
        )
    return name, data
