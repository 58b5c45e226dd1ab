"""Another local store as a source of paths: Nix's own, once it owns ``/nix``, or another user's.

It is written as Nix writes it, ``local?root=DIR``, or ``local`` for the one at ``/nix``. What its owner registered is
believed without signatures, as Nix believes it: whoever could forge it could replace pgbake itself. It is only read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qsl

from pgbake.cache.cache import Damaged
from pgbake.errors import CacheError, FormatError, StoreError
from pgbake.formats.keys import Signature
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store import tree
from pgbake.store.database import SCHEMA_VERSION, Database, PathInfo

SCHEME = "local"


def is_local_store(url: str) -> bool:
    """Whether a URL names a local store and no binary cache."""
    return url.partition("?")[0] == SCHEME


class LocalSource:
    """The valid paths of a local store that is not ours to write."""

    trusted = True

    def __init__(self, url: str, priority: int = 0) -> None:
        """Open the store.

        :raises CacheError: there is none, or one that pgbake cannot read.
        """
        self.url = url
        self.priority = priority
        self.root = Path(dict(parse_qsl(url.partition("?")[2])).get("root", "/"))
        state = self.root / "nix/var/nix/db"
        try:
            version = (state / "schema").read_text().strip()
            if version != SCHEMA_VERSION:
                raise CacheError(f"{url} has schema {version}; pgbake knows schema {SCHEMA_VERSION}")
            self._database = Database(state / "db.sqlite", read_only=True)
        except (OSError, StoreError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise CacheError(
                f"{url} cannot be read: {state}: {what}", hint=f"name the root of a store: {SCHEME}?root=DIR"
            ) from error

    def query(
        self, paths: Iterable[StorePath], sure: Iterable[StorePath] = (), _damaged: list[Damaged] | None = None
    ) -> dict[StorePath, NarInfo]:
        """Return what is valid there of paths; see :meth:`pgbake.cache.cache.BinaryCache.query`."""
        found = {}
        for path in {*paths, *sure}:
            info = self._database.info(path)
            if info is not None and os.path.lexists(self._physical(path)):
                found[path] = _narinfo(info)
        return found

    def by_name(self, paths: Iterable[StorePath]) -> dict[StorePath, NarInfo]:
        """Return nothing: there is no list beside the database."""
        return {}

    @contextmanager
    def open_nar(self, info: NarInfo, stop: threading.Event) -> Iterator[BinaryIO]:
        """Give the NAR of a path as a stream."""
        reading, writing = os.pipe()

        def dump() -> None:
            # A reader that has had enough closes its end; a file that cannot be read ends the NAR too early.
            with os.fdopen(writing, "wb") as pipe, suppress(BrokenPipeError, StoreError):
                tree.dump(self._physical(info.path), pipe.write)

        thread = threading.Thread(target=dump, daemon=True)
        thread.start()
        try:
            with os.fdopen(reading, "rb", 1 << 16) as stream:
                yield stream
        finally:
            thread.join()

    def _physical(self, path: StorePath) -> Path:
        return self.root / "nix/store" / path.basename


def _narinfo(info: PathInfo) -> NarInfo:
    signatures = []
    for text in info.signatures:
        with suppress(FormatError):
            signatures.append(Signature.parse(text))
    return NarInfo(
        path=info.path,
        url=info.path.basename,
        compression="none",
        nar_sha256=info.nar_sha256,
        nar_size=info.nar_size,
        references=info.references,
        deriver=info.deriver,
        signatures=tuple(signatures),
        ca=info.ca,
    )
