"""Hashing many trees at once, in forked processes: one for each core, each with its share of the trees.

Forking takes a few milliseconds; starting an interpreter, or the standard library's pool of processes, takes longer
than hashing most stores.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import selectors
import signal
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgbake.errors import StoreError
from pgbake.formats.storepath import StorePath
from pgbake.store.references import ReferenceScanner
from pgbake.store.tree import NarHash, hash_tree

_PR_SET_PDEATHSIG = 1
#: Each answer of a process goes before the next as its length, in so many bytes, and its pickle.
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Hashed:
    """A tree's NAR hash, and the store paths that it mentions where they were looked for."""

    nar: NarHash
    found: frozenset[StorePath] | None


Answer = tuple[str, Hashed | str]


def hash_trees(
    directory: Path, sizes: Mapping[str, int], candidates: Collection[StorePath] | None = None
) -> Iterator[Answer]:
    """Hash trees of a directory; yield the name of each as it is done, with its hash or what went wrong with it.

    :param sizes: the trees' names, and how many bytes they have, about.
    :param candidates: store paths to look for.
    :raises StoreError: a process was killed.
    """
    cores = len(os.sched_getaffinity(0))
    shares = _shares(sizes, cores)
    if len(shares) < 2:
        for share in shares:
            yield from (_answer(directory, name, candidates, cores > 1) for name in share)
        return
    total = sum(sizes.values())
    running: dict[int, int] = {}  # the descriptor of each process's answers, and its id
    try:
        for share in shares:
            # A tree so large that others wait for it is worth a second thread; else that only costs.
            threaded = sizes[share[0]] * cores > total
            descriptor, pid = _start(directory, share, candidates, threaded)
            running[descriptor] = pid
        yield from _answers(running)
    finally:
        for descriptor, pid in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(descriptor)


def _shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Share trees out, the largest first, each to who has least."""
    shares: list[list[str]] = [[] for _ in range(count)]
    filled = [0] * count
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        least = filled.index(min(filled))
        shares[least].append(name)
        filled[least] += sizes[name] + 1
    return [share for share in shares if share]


def _start(
    directory: Path, share: list[str], candidates: Collection[StorePath] | None, threaded: bool
) -> tuple[int, int]:
    parent = os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return reading, pid
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent hears of it, and ends this process
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            for name in share:
                data = pickle.dumps(_answer(directory, name, candidates, threaded))
                _write(writing, len(data).to_bytes(_LENGTH, "little") + data)
            status = 0
    finally:
        os._exit(status)


def _answer(directory: Path, name: str, candidates: Collection[StorePath] | None, threaded: bool) -> Answer:
    scanner = None if candidates is None else ReferenceScanner(candidates)
    try:
        nar = hash_tree(directory / name, [] if scanner is None else [scanner.feed], threaded=threaded)
    except (StoreError, OSError) as error:
        return name, str(error)
    return name, Hashed(nar, scanner.found if scanner else None)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _answers(running: dict[int, int]) -> Iterator[Answer]:
    """Give what the processes answer; those that have ended are taken from ``running``."""
    partial = dict.fromkeys(running, b"")
    with selectors.DefaultSelector() as selector:
        for descriptor in running:
            selector.register(descriptor, selectors.EVENT_READ)
        while running:
            for key, _ in selector.select():
                descriptor = key.fd
                data = os.read(descriptor, 1 << 16)
                if not data:
                    selector.unregister(descriptor)
                    os.close(descriptor)
                    pid = running.pop(descriptor)
                    if os.waitpid(pid, 0)[1] != 0:
                        raise StoreError(f"a process that was hashing (pid {pid}) was killed", hint="run it again")
                    continue
                data = partial[descriptor] + data
                while len(data) >= _LENGTH and len(data) >= (end := _LENGTH + int.from_bytes(data[:_LENGTH], "little")):
                    yield pickle.loads(data[_LENGTH:end])
                    data = data[end:]
                partial[descriptor] = data
