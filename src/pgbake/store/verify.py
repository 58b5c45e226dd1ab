"""Verifying a store: what the database says is held against what is on disk.

- every valid path is there, and has the NAR hash that is registered (a bit flipped anywhere in it shows);
- every path that one refers to is valid; on request, what the contents really mention is compared, too;
- each file of ``.links`` has the hash that is its name: one that has not would spread by de-duplication;
- SQLite finds no fault with the database, and its entries make sense.

Hashing takes nearly all of the time, so it is shared out to processes, one for each core.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgbake.errors import StoreError
from pgbake.events import Progressed, Sink, silent, task
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.hashing import Hashed, hash_trees
from pgbake.store.local import LocalStore
from pgbake.store.references import ReferenceScanner
from pgbake.store.tree import hash_tree

FindingKind = Literal["missing", "modified", "unreadable", "reference", "link", "database"]

#: How many files are told of a damaged path.
_MOST_FILES = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    :param kind: ``missing``: a valid path is not there. ``modified``: its contents are others than registered.
        ``unreadable``: it cannot be read. ``reference``: what it refers to is wrong. ``link``: a damaged file of
        ``.links``. ``database``: an entry, or the file itself.
    :param subject: the store path, or the file.
    :param what: what is wrong with it, in words.
    :param path: the store path, where it is one.
    :param referrers: valid paths that refer to it.
    :param files: of a modified path, those that look changed: their metadata are not what the store gives.
    """

    kind: FindingKind
    subject: str
    what: str
    path: StorePath | None = None
    referrers: tuple[StorePath, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what is wrong."""

    paths: int
    nar_bytes: int
    links: int
    findings: tuple[Finding, ...]


def verify(
    store: LocalStore,
    paths: Iterable[StorePath] | None = None,
    *,
    contents: bool = True,
    references: bool = False,
    report: Sink = silent,
) -> Verification:
    """Look for damage in a store. Safe beside builds and collectors: what goes meanwhile is no finding.

    :param paths: only these, with all that they refer to; None: the whole store, with its links.
    :param contents: whether to read the files.
    :param references: whether to compare what the contents mention, which takes ``contents``, and longer.
    :raises StoreError: one of ``paths`` is not valid.
    """
    findings: list[Finding] = [
        Finding("database", str(store.database.file), problem) for problem in store.database.problems()
    ]

    def malformed(path: str, problem: str) -> None:
        findings.append(Finding("database", path, f"its entry is malformed: {problem}"))

    try:
        infos = store.database.registered(malformed)
    except StoreError as error:
        return Verification(0, 0, 0, (*findings, Finding("database", str(store.database.file), error.message)))
    if paths is None:
        links = sorted(os.listdir(store.links_dir)) if contents else []  # noqa: PTH208 - names are what is wanted
        wanted = infos
    else:
        links = []
        store.closure(paths)  # says which is not valid
        wanted = _closure(infos, paths)
    there = {path: info for path, info in wanted.items() if os.path.lexists(store.physical(path))}
    findings += [Finding("missing", str(p), "it is not there any more", p) for p in wanted if p not in there]
    if contents:
        findings += _contents(store, there, infos if references else None, links, report)
    # What a collector took meanwhile is not lost.
    valid = store.database.valid(finding.path for finding in findings if finding.path)
    return Verification(
        len(wanted),
        sum(info.nar_size for info in there.values()) if contents else 0,
        len(links),
        tuple(_told(finding, infos) for finding in findings if finding.path is None or finding.path in valid),
    )


def rescan(store: LocalStore, path: StorePath) -> PathInfo:
    """Return what is registered of a path whose contents are sound, with the size and the references that they have.

    :raises StoreError: its contents are not those that are registered, or cannot be read.
    """
    info = store.info(path)
    # What certifies itself is never scanned: its references are part of its name.
    scanner = ReferenceScanner(store.database.paths() if info.ca is None else info.references)
    found = hash_tree(store.physical(path), [scanner.feed])
    if found.sha256 != info.nar_sha256:
        raise StoreError(f"the contents of {path} are not those that were registered")
    references = scanner.found if info.ca is None else info.references
    return dataclasses.replace(info, nar_size=found.size, references=references)


def _closure(infos: Mapping[StorePath, PathInfo], paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
    found: dict[StorePath, PathInfo] = {}
    pending = list(paths)
    while pending:
        path = pending.pop()
        if path not in found and path in infos:
            found[path] = infos[path]
            pending += infos[path].references
    return dict(sorted(found.items()))


def _told(finding: Finding, infos: Mapping[StorePath, PathInfo]) -> Finding:
    path = finding.path
    if path is None:
        return finding
    referrers = tuple(other for other, info in infos.items() if path in info.references and other != path)
    return dataclasses.replace(finding, referrers=referrers)


def _contents(
    store: LocalStore,
    wanted: Mapping[StorePath, PathInfo],
    known: Collection[StorePath] | None,
    links: Sequence[str],
    report: Sink,
) -> Iterator[Finding]:
    damaged_links: set[int] = set()
    modified: list[Finding] = []
    # Links first: what is wrong with one says which file of a path is damaged.
    for name, seen in hash_trees(store.links_dir, dict.fromkeys(links, 0)):
        file = store.links_dir / name
        if isinstance(seen, Hashed) and name == base32.encode(seen.nar.sha256):
            continue
        with suppress(FileNotFoundError):  # a collector took it
            damaged_links.add(file.lstat().st_ino)
            what = seen if isinstance(seen, str) else f"its contents have the hash {base32.encode(seen.nar.sha256)}"
            yield Finding("link", str(file), what)
    by_name = {path.basename: info for path, info in wanted.items()}
    total = sum(info.nar_size for info in wanted.values())
    title = f"{len(wanted)} path{'s' if len(wanted) != 1 else ''}"
    with task(report, "verify", "verify", title, total):
        done = 0
        sizes = {name: info.nar_size for name, info in by_name.items()}
        for name, seen in hash_trees(store.store_dir, sizes, known):
            info = by_name[name]
            modified += _compare(store, info, seen, damaged_links)
            done += info.nar_size
            report(Progressed("verify", done))
    yield from sorted(modified, key=lambda finding: finding.subject)


def _compare(store: LocalStore, info: PathInfo, seen: Hashed | str, links: Collection[int]) -> Iterator[Finding]:
    path = info.path
    if isinstance(seen, str):
        yield Finding("unreadable", str(path), seen, path)
        return
    if seen.nar.sha256 != info.nar_sha256:
        expected, got = (f"sha256:{base32.encode(digest)}" for digest in (info.nar_sha256, seen.nar.sha256))
        what = f"its contents are not those that were registered: expected {expected}, got {got}"
        if difference := seen.nar.size - info.nar_size:
            what += f", {abs(difference)} bytes {'longer' if difference > 0 else 'shorter'}"
        yield Finding("modified", str(path), what, path, files=tuple(_suspects(store.physical(path), links)))
    elif seen.nar.size != info.nar_size:
        what = f"its entry says that its NAR has {info.nar_size} bytes; it has {seen.nar.size}"
        yield Finding("database", str(path), what, path)
    elif seen.found is not None:
        # What certifies itself was never scanned; nor can it mention what depends on it.
        unknown = seen.found - info.references if info.ca is None else frozenset()
        for other in sorted(unknown):
            yield Finding("reference", str(path), f"its contents mention {other}, which is not registered", path)
        for other in sorted(info.references - seen.found):
            yield Finding("reference", str(path), f"it is registered to refer to {other}, and does not", path)


def _suspects(physical: Path, links: Collection[int]) -> list[str]:
    """Return files of a tree that are not as the store leaves them, or whose common link is damaged."""
    found: list[str] = []
    pending = [physical]
    while pending and len(found) < _MOST_FILES:
        place = pending.pop()
        with suppress(OSError):
            status = place.lstat()
            is_link = stat.S_ISLNK(status.st_mode)
            is_directory = stat.S_ISDIR(status.st_mode)
            odd = stat.S_IMODE(status.st_mode) not in (0o444, 0o555) and not is_link
            if odd or int(status.st_mtime) != 1 or (status.st_ino in links and not is_directory):
                found.append("." if place == physical else str(place.relative_to(physical)))
            if is_directory and not is_link:
                pending += sorted(place.iterdir(), reverse=True)
    return found
