"""A cache's index: all that it knows of its paths in one object, so that one request answers for all of them.

``pgbake-index``, zstd::

    pgbake-index 1
                                    an empty line before each narinfo
    StorePath: /nix/store/...
    URL: nar/...
    ...

It is a help and no authority: every narinfo in it bears its own signatures, and what it lacks is asked for by name.
A push adds to it last, a collection takes away from it first. Whoever has seen it keeps a copy, and asks for it only
where it has changed::

    CACHE_DIR/caches/SHA256-OF-URL         first line: the etag; then the object as it is
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.cache.objects import Changed, Exists, Missing, ObjectStore, Unchanged
from pgbake.errors import CacheError, FormatError
from pgbake.files import write_whole
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import DIGEST_LENGTH, STORE_DIR
from pgbake.store.locks import directory_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "pgbake-index"

_HEAD = "pgbake-index 1\n"
_FIRST = f"StorePath: {STORE_DIR}/"
#: Bytes, compressed and not: of some 500,000 paths.
_LARGEST = 200_000_000
_LARGEST_TEXT = 600_000_000
#: How often it is written anew when others write it at the same time.
_ATTEMPTS = 20


class Index:
    """The narinfos of a cache by the digests of their paths. Each is parsed when it is asked for."""

    def __init__(self, texts: Mapping[str, str], etag: str | None = None) -> None:
        """``texts``: digest of a store path to its narinfo; ``etag``: of the object that they stood in."""
        self.texts = dict(texts)
        self.etag = etag

    def get(self, digest: str) -> NarInfo | None:
        """Return what is known of a path, or None.

        :raises FormatError: it is damaged.
        """
        text = self.texts.get(digest)
        return NarInfo.parse(text) if text is not None else None

    @classmethod
    def parse(cls, data: bytes, etag: str | None = None) -> Index:
        """Read the object.

        :raises FormatError: it is damaged, or of another version.
        """
        import zstandard

        try:
            machine = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            text = machine.stream_reader(data, read_across_frames=True).read(_LARGEST_TEXT).decode()
        except (zstandard.ZstdError, UnicodeDecodeError, MemoryError) as error:
            raise FormatError(f"the object {NAME} is damaged: {error}") from None
        head, *texts = text.split("\n\n")
        if head + "\n" != _HEAD and text != _HEAD:
            raise FormatError(f"the object {NAME} is damaged, or of another version of pgbake: {head[:50]!r}")
        start = len(_FIRST)
        found = {}
        for entry in texts:
            if not entry.startswith(_FIRST):
                raise FormatError(f"the object {NAME} is damaged: {entry[:80]!r} is no narinfo")
            found[entry[start : start + DIGEST_LENGTH]] = entry if entry.endswith("\n") else f"{entry}\n"
        return cls(found, etag)

    def to_bytes(self) -> bytes:
        """Write the object."""
        import zstandard

        text = "\n".join([_HEAD, *(self.texts[digest] for digest in sorted(self.texts))])
        return zstandard.ZstdCompressor(level=9).compress(text.encode())


def load_index(objects: ObjectStore, copies: Path | None, seen_etag: str | None = None) -> Index | None:
    """Return the index of a cache, or None where it has none.

    :param copies: the directory of kept copies.
    :param seen_etag: what a listing has just told of its etag: where the copy has it, nothing is asked.
    :raises CacheError: the cache refuses, or does not answer.
    :raises FormatError: it is damaged.
    """
    copy = copies / hashlib.sha256(objects.url.encode()).hexdigest() if copies is not None else None
    kept: tuple[str, bytes] | None = None
    if copy is not None:
        with suppress(OSError, ValueError):
            etag, _, data = copy.read_bytes().partition(b"\n")
            kept = etag.decode(), data
    if kept is not None and seen_etag is not None and kept[0] == seen_etag:
        with suppress(FormatError):
            return Index.parse(kept[1], seen_etag)
    try:
        content = objects.get(NAME, _LARGEST, unless=kept[0] if kept else None)
    except Missing:
        return None
    except Unchanged:
        assert kept is not None
        try:
            return Index.parse(kept[1], kept[0])
        except FormatError:  # the copy is damaged
            content = objects.get(NAME, _LARGEST)
    index = Index.parse(content.data, content.etag)
    if copy is not None and content.etag is not None:
        with suppress(OSError):  # a copy saves a transfer; without one it goes as well
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, content.etag.encode() + b"\n" + content.data)
    return index


def change_index(objects: ObjectStore, copies: Path | None, add: Iterable[NarInfo], remove: Iterable[str] = ()) -> None:
    """Add paths to the index of a cache and take others away, whoever else is doing so.

    :param remove: digests of store paths.
    :raises CacheError: the cache refuses, or others write without end.
    """
    new = {info.path.digest: info.to_text() for info in add}
    gone = set(remove)

    def changed(index: Index | None) -> Index | None:
        texts = {} if index is None else index.texts
        after = {digest: text for digest, text in {**texts, **new}.items() if digest not in gone}
        return None if index is not None and after == texts else Index(after)

    rewrite_index(objects, copies, changed)


def rewrite_index(objects: ObjectStore, copies: Path | None, change: Callable[[Index | None], Index | None]) -> None:
    """Replace the index of a cache by what ``change`` makes of it; None leaves it.

    :param change: called again with what others have written meanwhile. A damaged index is given as None.
    :raises CacheError: the cache refuses, or others write without end.
    """
    with alone(objects):
        for _ in range(_ATTEMPTS):
            try:
                index = load_index(objects, copies)
            except FormatError:
                index = None
            after = change(index)
            if after is None:
                return
            try:
                if index is None or index.etag is None:
                    objects.put(NAME, after.to_bytes())
                else:
                    objects.put(NAME, after.to_bytes(), etag=index.etag)
            except (Changed, Exists):
                continue
            return
    raise CacheError(f"the index of {objects.url} is written by others without end", hint="run it again")


@contextmanager
def alone(objects: ObjectStore) -> Iterator[None]:
    """Keep other writers from a cache that is a directory; in a bucket, etags do."""
    if objects.local is None:
        yield
    else:
        objects.local.mkdir(parents=True, exist_ok=True)
        with directory_lock(objects.local):
            yield
