"""Questions about closures: what a path needs, how large that is, and by which way it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore


@dataclass(frozen=True, slots=True)
class ClosureSize:
    """One path of a closure.

    :param size: bytes of its NAR.
    :param alone: bytes that would leave the closure if nothing referred to this path.
    :param brought_by: the paths of the closure that refer to it, sorted by name.
    """

    path: StorePath
    size: int
    alone: int
    brought_by: tuple[StorePath, ...]


def closure_sizes(store: LocalStore, top: StorePath) -> list[ClosureSize]:
    """Return all paths of a closure, the largest first."""
    infos = store.closure([top])
    total = sum(info.nar_size for info in infos.values())
    sizes = [
        ClosureSize(
            path,
            info.nar_size,
            total - sum(infos[other].nar_size for other in _reachable(infos, top, without=path)),
            tuple(sorted((r for r in infos if r != path and path in infos[r].references), key=lambda r: r.name)),
        )
        for path, info in infos.items()
    ]
    return sorted(sizes, key=lambda item: (-item.size, item.path))


def _reachable(infos: Mapping[StorePath, PathInfo], top: StorePath, without: StorePath) -> set[StorePath]:
    if top == without:
        return set()
    found = {top}
    pending = [top]
    while pending:
        new = infos[pending.pop()].references - found - {without}
        found |= new
        pending.extend(new)
    return found


def shortest_way(store: LocalStore, top: StorePath, target: StorePath) -> list[StorePath]:
    """Return a shortest chain of references from ``top`` to ``target``; empty where there is none."""
    came_from: dict[StorePath, StorePath | None] = {top: None}
    pending = deque([top])
    while pending:
        path = pending.popleft()
        if path == target:
            way: list[StorePath] = []
            step: StorePath | None = path
            while step is not None:
                way.append(step)
                step = came_from[step]
            return way[::-1]
        for reference in sorted(store.info(path).references):
            if reference not in came_from:
                came_from[reference] = path
                pending.append(reference)
    return []
