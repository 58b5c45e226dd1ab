"""All that a cache holds, read once: its objects, narinfos, roots and index; and the bundles among its paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from pgbake.cache.cache import CACHE_INFO, BinaryCache, in_parallel
from pgbake.cache.index import NAME as INDEX_NAME
from pgbake.cache.index import Index, load_index
from pgbake.cache.objects import Listed, Missing
from pgbake.cache.roots import BUNDLE, PREFIX, Root, is_bundle_name, load_root, root_name
from pgbake.errors import CacheError, FormatError, PgbakeError
from pgbake.events import Notice, Sink
from pgbake.formats.narinfo import MAX_NARINFO, CacheInfo, NarInfo
from pgbake.formats.storepath import StorePath

_NARINFO = re.compile(r"[0-9a-df-np-sv-z]{32}\.narinfo")
_NAR = re.compile(r"nar/[A-Za-z0-9_+=@-]+\.nar(\.[a-z0-9]+)?")
_ROOT = re.compile(re.escape(PREFIX) + r"[0-9a-df-np-sv-z]{32}\.[a-z]{1,20}\.json")
_VERSIONED = re.compile(r"(?P<group>.+?)-[0-9].*")


@dataclass(frozen=True)
class Inventory:
    """What a cache holds.

    :param objects: all objects by name; None of a web server, which has no listing: only its index is known then.
    :param info: its ``nix-cache-info``.
    :param index: None where it has none, or a damaged one; ``index_problem`` tells which.
    :param infos: narinfos by path.
    :param damaged: names of narinfos and roots that cannot be read, and why.
    :param roots: roots, with the time of their last write (Unix seconds).
    """

    objects: Mapping[str, Listed] | None
    info: CacheInfo | None
    index: Index | None
    index_problem: str | None
    infos: Mapping[StorePath, NarInfo]
    damaged: Mapping[str, str]
    roots: tuple[tuple[Root, float], ...]

    @cached_property
    def nars(self) -> dict[str, int]:
        """NARs that are there, with their size in bytes; of a web server, those that the index names."""
        if self.objects is None:
            return {info.url: info.file_size or info.nar_size for info in self.infos.values()}
        named = {info.url for info in self.infos.values()}
        return {name: item.size for name, item in self.objects.items() if name in named or _NAR.fullmatch(name)}

    def written(self, path: StorePath) -> float | None:
        """Return when a path's narinfo was last written (Unix seconds); None where nobody tells."""
        return self.objects[f"{path.digest}.narinfo"].modified if self.objects is not None else None

    def closure(self, paths: Iterable[StorePath]) -> tuple[set[StorePath], set[StorePath]]:
        """Return all that paths refer to, themselves included: what of it is there, and what is not."""
        found: set[StorePath] = set()
        missing: set[StorePath] = set()
        pending = list(paths)
        while pending:
            path = pending.pop()
            if path in found or path in missing:
                continue
            info = self.infos.get(path)
            if info is None:
                missing.add(path)
            else:
                found.add(path)
                pending.extend(info.references)
        return found, missing

    def has_whole(self, path: StorePath) -> bool:
        """Whether a path's narinfo and its NAR are there."""
        info = self.infos.get(path)
        size = self.nars.get(info.url) if info is not None else None
        return size is not None and info is not None and info.file_size in (None, size)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A path that was pushed for its own sake.

    :param what: what was pushed of it: runtime, build; empty where the cache has no roots, and its name tells.
    :param pushed: when (Unix seconds); None where nobody tells.
    :param system: such as ``x86_64-linux``; None where nobody tells.
    :param members: all that it keeps.
    :param missing: what of that is not there.
    """

    path: StorePath
    what: tuple[str, ...]
    pushed: float | None
    system: str | None
    members: frozenset[StorePath]
    missing: frozenset[StorePath]

    @property
    def group(self) -> str:
        """Its name without the version, but for PostgreSQL's major: of one group the newest are kept."""
        return group(self.path.name)


def group(name: str) -> str:
    """Return a path's name without its version, but for PostgreSQL's major version."""
    match = BUNDLE.fullmatch(name) or _VERSIONED.fullmatch(name)
    return match["group"] if match else name


def bundles(inventory: Inventory) -> list[Bundle]:
    """Return the bundles of a cache, newest first: its roots, and what is named as bundles are."""
    by_path: dict[StorePath, list[tuple[Root, float]]] = {}
    for root, modified in inventory.roots:
        by_path.setdefault(root.store_path, []).append((root, modified))
    found = []
    for path in by_path.keys() | {path for path in inventory.infos if is_bundle_name(path.name)}:
        roots = by_path.get(path, [])
        tops = frozenset({path}).union(*(root.members() for root, _ in roots))
        members, missing = inventory.closure(tops)
        found.append(
            Bundle(
                path,
                tuple(sorted(root.what for root, _ in roots)),
                max((modified for _, modified in roots), default=None) or inventory.written(path),
                next((root.system for root, _ in roots if root.system), None),
                frozenset(members),
                frozenset(missing),
            )
        )
    return sorted(found, key=lambda bundle: (-(bundle.pushed or 0), bundle.path))


def narinfo_names(cache: BinaryCache) -> list[str]:
    """Return the names of all narinfos of a cache that can be listed.

    :raises CacheError: it cannot, refuses, or does not answer.
    """
    return [item.name for item in cache.objects.list() if _NARINFO.fullmatch(item.name)]


def take_inventory(cache: BinaryCache, report: Sink, *, read_all: bool = False) -> Inventory:
    """Find out all that a cache holds.

    :param read_all: read each narinfo, instead of believing the index where it has one that is there.
    :raises CacheError: the cache refuses, does not answer, or has neither listing nor index.
    """
    objects = None
    if cache.objects.writable:
        objects = {item.name: item for item in cache.objects.list()}
    index, index_problem = None, None
    try:
        listed = objects.get(INDEX_NAME) if objects is not None else None
        if objects is None or listed is not None:
            index = load_index(cache.objects, cache.copies, listed.etag if listed else None)
    except FormatError as error:
        index_problem = error.message
    if objects is None:
        return _from_index(cache, index, index_problem, read_all)
    damaged: dict[str, str] = {}

    def narinfo(name: str) -> NarInfo | None:
        digest = name.removesuffix(".narinfo")
        try:
            info = index.get(digest) if index is not None and not read_all else None
            if info is None:
                info = NarInfo.parse(cache.objects.get(name, MAX_NARINFO).data.decode())
            if info.path.digest != digest:
                raise FormatError(f"it tells of {info.path}")
        except Missing:  # it went meanwhile
            return None
        except (FormatError, UnicodeDecodeError) as error:
            damaged[name] = str(error)
            return None
        return info

    def root(name: str) -> tuple[Root, float] | None:
        try:
            found = load_root(cache.objects, name)
        except FormatError as error:
            damaged[name] = str(error)
            return None
        return (found, objects[name].modified) if found is not None else None

    infos = in_parallel(narinfo, [name for name in objects if _NARINFO.fullmatch(name)])
    roots = in_parallel(root, [name for name in objects if _ROOT.fullmatch(name)])
    return Inventory(
        objects,
        _cache_info(cache, report),
        index,
        index_problem,
        {info.path: info for info in infos if info is not None},
        damaged,
        tuple(found for found in roots if found is not None),
    )


def _from_index(cache: BinaryCache, index: Index | None, problem: str | None, read_all: bool) -> Inventory:
    info = cache.info()
    if index is None:
        if info is None:
            raise CacheError(f"there is no cache at {cache.url}: it has no {CACHE_INFO}", hint="check the URL")
        raise CacheError(
            f"{cache.url} cannot be listed, and has no index of what it holds" + (f" ({problem})" if problem else ""),
            hint="name the cache by its s3 or file URL",
        )
    infos: dict[StorePath, NarInfo] = {}
    damaged: dict[str, str] = {}

    def narinfo(digest: str) -> None:
        name = f"{digest}.narinfo"
        try:
            found = index.get(digest)
            if read_all or found is None:
                found = NarInfo.parse(cache.objects.get(name, MAX_NARINFO).data.decode())
            if found.path.digest != digest:
                raise FormatError(f"it tells of {found.path}")
            infos[found.path] = found
        except (FormatError, UnicodeDecodeError) as error:
            damaged[name] = str(error)
        except Missing:
            pass

    def root(name: str) -> tuple[Root, float] | None:
        with suppress(PgbakeError):  # it only tells when a bundle was pushed, and for which machines
            if (told := cache.objects.look_at(name)) is not None:
                found = load_root(cache.objects, name)
                return (found, told.modified) if found is not None else None
        return None

    in_parallel(narinfo, index.texts)
    names = [root_name(path, what) for path in infos if is_bundle_name(path.name) for what in ("runtime", "build")]
    roots = tuple(found for found in in_parallel(root, names) if found is not None)
    return Inventory(None, info, index, problem, infos, damaged, roots)


def _cache_info(cache: BinaryCache, report: Sink) -> CacheInfo | None:
    try:
        return cache.info()
    except CacheError as error:
        report(Notice("warning", error.message))
        return None
