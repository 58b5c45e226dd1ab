"""Roots of a cache: what was pushed for its own sake, and all that belongs to it.

``roots/DIGEST.WHAT.json``, where DIGEST is that of the path, and WHAT what was pushed of it (runtime or build)::

    {"path": "/nix/store/DIGEST-NAME",
     "what": "runtime",
     "system": "x86_64-linux",                      null where the store does not tell
     "closure": ["DIGEST-NAME", ...]}               all that the push had to bring, sorted

The same push writes the same bytes; when it last did so is the object's own time. A push writes its roots before what
they name: see `pgbake.cache.lease`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pgbake.cache.objects import Missing, ObjectStore
from pgbake.errors import FormatError, PgbakeError
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

PREFIX = "roots/"

#: What the merge names bundles: NAME-postgresql-VERSION.
BUNDLE = re.compile(r"(?P<group>.+-postgresql-[0-9]+)(\.[0-9]+)*")

#: Seconds after which a push that finds nothing to send writes its roots again, so that they count as pushed now.
REFRESH = 86_400

_LARGEST = 20_000_000
_WHAT = re.compile(r"[a-z]{1,20}")


@dataclass(frozen=True, slots=True)
class Root:
    """What a push brought for its own sake."""

    path: str
    what: str
    system: str | None
    closure: tuple[str, ...]

    @property
    def name(self) -> str:
        """The object that holds it."""
        return root_name(StorePath.parse(self.path), self.what)

    @property
    def store_path(self) -> StorePath:
        """The path itself."""
        return StorePath.parse(self.path)

    def members(self) -> frozenset[StorePath]:
        """Return all paths that the root keeps."""
        return frozenset(map(StorePath.from_basename, self.closure))

    def to_bytes(self) -> bytes:
        """Write the object."""
        import msgspec  # slow, and a push with nothing to send writes none

        return msgspec.json.encode(self)


def is_bundle_name(name: str) -> bool:
    """Whether the merge could have named a path so."""
    return BUNDLE.fullmatch(name) is not None


def root_name(path: StorePath, what: str) -> str:
    """Return the name of the object of a root."""
    return f"{PREFIX}{path.digest}.{what}.json"


def make_roots(
    store: LocalStore, paths: Iterable[StorePath], what: str, closure: Mapping[StorePath, PathInfo]
) -> list[Root]:
    """Return the roots of a push of ``closure`` in which ``paths`` are what is wanted.

    Each names its own closure, and what belongs to none of theirs, such as what the paths were built from.
    """
    own = {path: store.closure([path]).keys() for path in paths}
    rest = closure.keys() - {member for members in own.values() for member in members}
    return [
        Root(str(path), what, _system(store, closure[path]), tuple(sorted(m.basename for m in members | rest)))
        for path, members in own.items()
    ]


def _system(store: LocalStore, info: PathInfo) -> str | None:
    if info.deriver is not None and store.valid([info.deriver]):
        with suppress(PgbakeError, OSError):
            return store.derivation(info.deriver).system
    return None


def load_root(objects: ObjectStore, name: str) -> Root | None:
    """Read a root; None where it is gone.

    :raises FormatError: it is damaged.
    :raises CacheError: the cache refuses, or does not answer.
    """
    import msgspec

    try:
        root = msgspec.json.decode(objects.get(name, _LARGEST).data, type=Root)
        root.members()
        whole = bool(_WHAT.fullmatch(root.what)) and root.name == name
    except Missing:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, FormatError):
        whole = False
    if not whole:
        raise FormatError(f"{name} in {objects.url} is damaged")
    return root


def is_fresh(modified: float) -> bool:
    """Whether a root that was written at a time (Unix seconds) counts as pushed now."""
    return time.time() - modified < REFRESH
