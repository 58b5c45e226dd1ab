"""The receipt: what a bundle says of itself, in ``receipt.json`` at its root."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pgbake.errors import StoreError


class Server(msgspec.Struct, frozen=True):
    """PostgreSQL itself: ``15.18`` and ``15``."""

    version: str
    major: int


class Packed(msgspec.Struct, frozen=True):
    """One package of the bundle, by the manifest's name for it where it has one."""

    name: str
    version: str
    origin: str = "source"


class Extension(msgspec.Struct, frozen=True):
    """One extension as SQL knows it, and what a server needs set to use it."""

    name: str
    package: str
    version: str
    comment: str
    requires: tuple[str, ...]
    trusted: bool
    libraries: tuple[str, ...]
    preload: tuple[str, ...]
    settings: dict[str, str]


class Receipt(msgspec.Struct, frozen=True):
    """What servers and checks read of a receipt; the file holds more, for people and scanners."""

    version: int
    name: str
    system: str
    postgresql: Server
    extensions: tuple[Extension, ...]
    #: For shared_preload_libraries, and the settings that go with them.
    preload: tuple[str, ...]
    settings: dict[str, str]
    locales: tuple[str, ...]
    collations: dict[str, str]
    #: The oldest Linux that the bundle runs on, such as ``3.2.0``; unknown ("") of bundles that older pgbakes made.
    kernel: str = ""
    packages: tuple[Packed, ...] = ()


def read_receipt(bundle: Path) -> Receipt:
    """Read the receipt of the bundle that lies at ``bundle`` on disk.

    :raises StoreError: there is none, or it is damaged.
    """
    try:
        return msgspec.json.decode((bundle / "receipt.json").read_bytes(), type=Receipt)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{bundle} is no bundle: its receipt cannot be read ({error})") from error
