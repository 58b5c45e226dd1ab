"""The garbage collector: removes what no root reaches, beside running builds, and safe against kills.

1. It takes ``gc.lock``, as Nix's collector does. From then on a process that wants a new temporary root waits,
   and asks only afterwards what is valid (see `TempRoots.add`); what others had asked before, their temporary roots
   name.
2. It finds the roots, and what they reach.
3. What they do not is forgotten by the database, referrers first, which is on disk before any file moves; then
   it is moved into a scratch directory. A kill in between leaves unregistered trees, or a scratch directory that nobody
   locks: `LocalStore.sweep`, which builds begin with, removes either.
4. It frees ``gc.lock``, and only then deletes, which takes most of the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pgbake.errors import FormatError, host_error
from pgbake.events import Notice, Progressed, Sink, silent, task
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.findroots import Root, find_roots
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.locks import exclusive_lock
from pgbake.store.profiles import Generation, generations, superseded
from pgbake.store.statements import drop_statements
from pgbake.store.usage import DiskUsage

DAY = 86400.0

#: How many paths are forgotten in one transaction.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class GcOptions:
    """What a collection removes. Ages are in seconds.

    :param dry_run: only look.
    :param keep_for: paths that became valid within this time stay, with what they refer to.
    :param keep_outputs: whether outputs of a derivation stay while the derivation does (Nix's ``keep-outputs``).
    :param keep_derivations: whether a derivation stays while an output of its does (Nix's ``keep-derivations``).
    :param keep_generations: how many generations of each profile stay; see :func:`superseded`.
    :param without: links that count as no roots: somebody is to remove them.
    :param older_than: the age beyond which generations go.
    :param max_freed: stop when so many bytes are freed; None: never.
    :param keep_failed: the age beyond which the directories of failed builds go.
    :param keep_logs: the age beyond which logs of derivations that are not there any more go.
    """

    dry_run: bool = False
    keep_for: float = 0
    keep_outputs: bool = False
    keep_derivations: bool = True
    keep_generations: int | None = None
    older_than: float | None = None
    without: tuple[Path, ...] = ()
    max_freed: int | None = None
    keep_failed: float = 7 * DAY
    keep_logs: float = 30 * DAY


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove.

    :param deleted: the paths, each after those that refer to it.
    :param freed: bytes on disk of all that went; a file with a link elsewhere frees nothing.
    :param kept: how many valid paths stay.
    :param links: entries of ``.links`` that went.
    :param failed: kept directories of failed builds that went, and ``logs``: build logs.
    """

    deleted: tuple[PathInfo, ...]
    freed: int
    kept: int
    links: int
    generations: tuple[Generation, ...]
    failed: tuple[Path, ...]
    logs: tuple[Path, ...]
    roots: tuple[Root, ...]


def collect_garbage(store: LocalStore, options: GcOptions | None = None, report: Sink = silent) -> Collected:
    """Remove from a store what no root reaches, and what is left of optimising, failed builds and logs.

    What other processes build meanwhile stays, with what they need.

    :raises StoreError: the store cannot be written.
    :raises HostError: the disk is full or fails. What was valid and is needed is there all the same.
    """
    options = options or GcOptions()
    if not options.dry_run:
        store.require_writable()
    now = time.time()
    usage = DiskUsage(store.links_dir)
    with ExitStack() as stack:
        trash = None if options.dry_run else stack.enter_context(store.scratch())
        with ExitStack() as turn:
            if trash is not None:
                turn.enter_context(exclusive_lock(store.state_dir / "gc.lock", _waiting(report)))
            going = tuple(
                superseded(generations(store.state_dir).values(), options.keep_generations, options.older_than, now)
            )
            for generation in going if trash is not None else ():
                generation.link.unlink(missing_ok=True)
            roots = find_roots(
                store,
                remove_stale=trash is not None,
                without=[*options.without, *(item.link for item in going)],
                report=report,
            )
            infos = store.database.registered()
            alive = reachable(
                infos,
                store.database.outputs(),
                {root.path for root in roots} | _young(infos.values(), now - options.keep_for, options.keep_for),
                keep_outputs=options.keep_outputs,
                keep_derivations=options.keep_derivations,
            )
            dead = referrers_first({path: info for path, info in infos.items() if path not in alive})
            if options.max_freed is not None:
                dead = list(_up_to(options.max_freed, dead, usage, store))
            if trash is not None:
                _withdraw(store, dead, trash)
        if options.max_freed is None:
            for info in dead:
                usage.add(store.physical(info.path) if trash is None else trash / info.path.basename)
        failed = tuple(_older(store.failed_dir, now - options.keep_failed))
        logs = tuple(_orphaned_logs(store, infos.keys() - {info.path for info in dead}, now - options.keep_logs))
        for path in (*failed, *logs):
            usage.add(path)
        links = usage.unused_links()
        if trash is not None:
            _delete(trash, dead, report)
            drop_statements(store, (info.path for info in dead))
            for path in (*failed, *logs):
                remove_tree(path)
            links = [link for link in links if _remove_link(link)]

            def remove(tree: Path) -> None:
                usage.add(tree)
                remove_tree(tree)

            store.sweep(remove)
            store.restore_reserve()
    return Collected(tuple(dead), usage.freed, len(infos) - len(dead), len(links), going, failed, logs, tuple(roots))


def reachable(
    infos: Mapping[StorePath, PathInfo],
    outputs: Mapping[StorePath, Set[StorePath]],
    roots: Iterable[StorePath],
    *,
    keep_outputs: bool = False,
    keep_derivations: bool = True,
) -> set[StorePath]:
    """Return the valid paths that must stay for ``roots``, of which some may not be valid.

    :param infos: of all valid paths.
    :param outputs: of each valid derivation.
    """
    found: set[StorePath] = set()
    pending = [root for root in roots if root in infos]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        info = infos[path]
        pending += info.references
        if keep_derivations and info.deriver is not None and info.deriver in infos:
            pending.append(info.deriver)
        if keep_outputs:
            pending += [output for output in outputs.get(path, ()) if output in infos]
    return found


def referrers_first(infos: Mapping[StorePath, PathInfo]) -> list[PathInfo]:
    """Return what is registered of some paths in an order in which each may be forgotten."""
    try:
        order = list(
            TopologicalSorter({p: (info.references & infos.keys()) - {p} for p, info in infos.items()}).static_order()
        )
    except CycleError:  # of no store that Nix or pgbake made; forgotten in one transaction it can still go
        order = sorted(infos)
    return [infos[path] for path in reversed(order)]


def _waiting(report: Sink) -> Callable[[str], None]:
    return lambda holder: report(Notice("info", f"the store is being collected by {holder}; waiting for it"))


def _young(infos: Iterable[PathInfo], since: float, keep_for: float) -> set[StorePath]:
    return {info.path for info in infos if keep_for and info.registered >= since}


def _up_to(limit: int, dead: Iterable[PathInfo], usage: DiskUsage, store: LocalStore) -> Iterator[PathInfo]:
    for info in dead:
        if usage.freed >= limit:
            return
        usage.add(store.physical(info.path))
        yield info


def _withdraw(store: LocalStore, dead: list[PathInfo], trash: Path) -> None:
    """Forget paths, then move them out of the store."""
    for start in range(0, len(dead), _BATCH):
        paths = [info.path for info in dead[start : start + _BATCH]]
        store.database.invalidate(*paths)
        for path in paths:
            physical = store.physical(path)
            try:
                with suppress(FileNotFoundError):  # deleted by hand
                    if os.geteuid() != 0 and physical.is_dir() and not physical.is_symlink():
                        physical.chmod(0o755)  # only who may write a directory may move it
                    physical.rename(trash / path.basename)
            except OSError as error:
                raise host_error(error, f"cannot delete {path}") from error


def _delete(trash: Path, dead: Iterable[PathInfo], report: Sink) -> None:
    dead = list(dead)
    if not dead:
        return
    title = f"{len(dead)} path{'s' if len(dead) != 1 else ''}"
    with task(report, "gc", "delete", title, sum(info.nar_size for info in dead)):
        done = 0
        for info in dead:
            try:
                remove_tree(trash / info.path.basename)
            except OSError as error:
                raise host_error(error, f"cannot delete {info.path}") from error
            done += info.nar_size
            report(Progressed("gc", done))


def _remove_link(link: Path) -> bool:
    with suppress(FileNotFoundError):
        if link.lstat().st_nlink == 1:  # optimising may have used it meanwhile
            link.unlink()
            return True
    return False


def _older(directory: Path, than: float) -> Iterator[Path]:
    if directory.is_dir():
        for place in sorted(directory.iterdir()):
            with suppress(FileNotFoundError):
                if place.lstat().st_mtime < than:
                    yield place


def _orphaned_logs(store: LocalStore, valid: Set[StorePath], than: float) -> Iterator[Path]:
    if store.log_dir.is_dir():
        for directory in sorted(store.log_dir.iterdir()):
            for file in _older(directory, than):
                with suppress(FormatError):
                    if StorePath.from_basename(directory.name + file.name.removesuffix(".bz2")) not in valid:
                        yield file
