"""Paths on their way out of the store: NARs made, compressed, and held against what was registered, in one pass; and
signatures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import BinaryIO

from pgbake.cache.compression import LEVEL, compressor
from pgbake.errors import FormatError, StoreError
from pgbake.formats.keys import SecretKey, Signature
from pgbake.formats.narinfo import fingerprint
from pgbake.store import tree
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore


def compress_nar(
    store: LocalStore, info: PathInfo, file: BinaryIO, tell: Callable[[int], object], level: int = LEVEL
) -> bytes:
    """Write a path's NAR, compressed with zstd, and return the sha256 of what was written.

    :param tell: called with the bytes of the NAR that are through; what it raises ends the work.
    :param level: of zstd.
    :raises StoreError: the path is damaged.
    """
    machine = compressor(info.nar_size, level)
    digest = hashlib.sha256()
    done = 0

    def write(data: bytes) -> None:
        if data:
            digest.update(data)
            file.write(data)

    def consume(block: memoryview) -> None:
        nonlocal done
        write(machine.compress(block))
        done += len(block)
        tell(done)

    found = tree.hash_tree(store.physical(info.path), [consume])
    write(machine.flush())
    if found.sha256 != info.nar_sha256:
        raise StoreError(
            f"{info.path} is damaged in the store: its contents are not those that were registered",
            hint=f"run `pgbake repair {info.path}`, then push again",
        )
    return digest.digest()


def signatures(info: PathInfo, keys: Iterable[SecretKey]) -> tuple[Signature, ...]:
    """Return the signatures that a path bears, and those that keys make, sorted; a key's name stands once."""
    found: dict[str, Signature] = {}
    for text in info.signatures:
        try:
            signature = Signature.parse(text)
        except FormatError:  # somebody else's notation; nobody could verify it
            continue
        found[signature.name] = signature
    message = fingerprint(info.path, info.nar_sha256, info.nar_size, info.references)
    found |= {key.name: key.sign(message) for key in keys}
    return tuple(found[name] for name in sorted(found))
