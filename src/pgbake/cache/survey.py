"""What a cache really holds of some paths, whatever its index says: looked at before something is sent to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pgbake.cache.cache import CACHE_INFO, BinaryCache, Damaged, in_parallel, narinfo_name
from pgbake.cache.index import NAME as INDEX_NAME
from pgbake.cache.index import Index, load_index
from pgbake.cache.objects import Listed
from pgbake.errors import FormatError
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath

#: Objects of a listing, four requests of S3's; a cache that holds more is asked for each path instead.
_LISTED = 4000


@dataclass(frozen=True, slots=True)
class Survey:
    """What of some paths a cache holds.

    :param present: paths whose narinfo and NAR are there.
    :param damaged: paths whose narinfo is there, and whose NAR is not, or of another size.
    :param unindexed: of what is present, what the index lacks.
    :param unsigned: of what is present, what bears no signature and does not certify itself.
    :param vanished: digests of what the index names and the cache has not.
    :param has_info: whether it has a ``nix-cache-info``; None where that is not known.
    :param objects: names of all that was listed, with the time of their last write (Unix seconds); None where no
        listing was made.
    """

    present: frozenset[StorePath]
    damaged: frozenset[StorePath] = frozenset()
    unindexed: tuple[NarInfo, ...] = ()
    unsigned: tuple[StorePath, ...] = ()
    vanished: frozenset[str] = frozenset()
    has_info: bool | None = None
    objects: Mapping[str, float] | None = None


def survey(cache: BinaryCache, paths: Iterable[StorePath]) -> Survey:
    """Find out which paths a cache really holds: with one listing, or where that would be long, path by path.

    :raises CacheError: the cache refuses, or does not answer.
    """
    paths = set(paths)
    objects: dict[str, Listed] = {}
    for item in cache.objects.list():
        objects[item.name] = item
        if len(objects) > _LISTED:
            return _ask_each(cache, paths)
    listed_index = objects.get(INDEX_NAME)
    index = Index({})
    if listed_index is not None:
        with suppress(FormatError):  # a damaged one is written anew
            index = load_index(cache.objects, cache.copies, listed_index.etag) or index

    def size(name: str) -> int | None:
        return objects[name].size if name in objects else None

    there = {path for path in paths if narinfo_name(path) in objects}
    infos = _known(cache, index, there)
    vanished = {digest for digest in index.texts if f"{digest}.narinfo" not in objects}
    return replace(
        _sort(infos, size, index, frozenset(vanished)),
        has_info=CACHE_INFO in objects,
        objects={name: item.modified for name, item in objects.items()},
    )


def _ask_each(cache: BinaryCache, paths: set[StorePath]) -> Survey:
    index = cache.index() or Index({})
    sizes: dict[str, int | None] = {}

    def ask(name: str) -> None:
        sizes[name] = cache.objects.has(name)

    in_parallel(ask, [narinfo_name(path) for path in paths])
    there = {path for path in paths if sizes[narinfo_name(path)] is not None}
    infos = _known(cache, index, there)
    in_parallel(ask, [info.url for info in infos.values() if info is not None])
    vanished = frozenset(path.digest for path in paths - there if path.digest in index.texts)
    return _sort(infos, sizes.__getitem__, index, vanished)


def _known(cache: BinaryCache, index: Index, paths: Collection[StorePath]) -> dict[StorePath, NarInfo | None]:
    """Return the narinfos of paths from the index or from the cache; None stands for a damaged one."""

    found: dict[StorePath, NarInfo | None] = {}
    for path in paths:
        with suppress(FormatError):
            info = index.get(path.digest)
            if info is not None and info.path == path:
                found[path] = info

    def ask(path: StorePath) -> NarInfo | None:
        try:
            return cache.narinfo(path)
        except Damaged:
            return None

    asked = [path for path in paths if path not in found]
    return found | dict(zip(asked, in_parallel(ask, asked), strict=True))


def _sort(
    infos: Mapping[StorePath, NarInfo | None],
    size: Callable[[str], int | None],
    index: Index,
    vanished: frozenset[str],
) -> Survey:
    good: list[NarInfo] = []
    damaged: set[StorePath] = set()
    for path, info in infos.items():
        found = size(info.url) if info is not None else None
        if info is None or found is None or (info.file_size is not None and info.file_size != found):
            damaged.add(path)
        else:
            good.append(info)
    return Survey(
        frozenset(info.path for info in good),
        frozenset(damaged),
        tuple(info for info in good if info.path.digest not in index.texts),
        unsigned(good),
        vanished,
    )


def unsigned(infos: Iterable[NarInfo]) -> tuple[StorePath, ...]:
    """Return the paths of narinfos that bear no signature and do not certify themselves."""
    return tuple(info.path for info in infos if not info.signatures and not info.certifies_itself)
