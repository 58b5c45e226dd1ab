"""What the library tells about work under way.

The library never prints. It calls a :data:`Sink` with these events, and ``pgbake.cli.progress`` draws
them: bars on a terminal, plain lines in a log, one JSON object a line on request. A *task* is one unit
that a user recognises (a package built, a file fetched); its ``id`` is unique within a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

TaskKind = Literal[
    "resolve", "fetch", "unpack", "build", "start", "push", "pull", "delete", "verify", "optimise", "sign", "export",
    "import", "check", "pack",
]  # fmt: skip
Outcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Planned:
    """How many tasks of a kind this run has in all, so that a display can say "3 of 14"."""

    kind: TaskKind
    total: int


@dataclass(frozen=True, slots=True)
class Started:
    """A task begins. ``total`` is its size in bytes where that is known."""

    id: str
    kind: TaskKind
    title: str
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Progressed:
    """``done`` bytes of the task are through (a count from its start, not a difference)."""

    id: str
    done: int


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The task enters a phase, such as ``configure`` or ``install``."""

    id: str
    phase: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, without its line end, that the task's program wrote."""

    id: str
    line: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The task ends after ``seconds`` of wall time."""

    id: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that belongs to no task."""

    level: Literal["info", "warning"]
    text: str


Event = Planned | Started | Progressed | PhaseChanged | LogLine | Finished | Notice
Sink = Callable[[Event], None]


_REPORT_EVERY = 0.1  # seconds


def silent(_event: Event) -> None:
    """A sink for callers that want no progress."""


def throttled(report: Sink, id: str) -> Callable[[int], None]:
    """Return what tells how many bytes of a task are through, to be called as often as one likes."""
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > _REPORT_EVERY:
            told = now
            report(Progressed(id, done))

    return tell


@contextmanager
def task(
    report: Sink,
    id: str,
    kind: TaskKind,
    title: str,
    total: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Report a task's begin and, however the ``with`` block ends, its end.

    :param cancelled: asked when the block fails: whether that is because another thread has stopped it.
    """
    report(Started(id, kind, title, total))
    begin = time.monotonic()
    outcome: Outcome = "failed"
    try:
        yield
        outcome = "done"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or cancelled():
            outcome = "cancelled"
        raise
    finally:
        report(Finished(id, outcome, time.monotonic() - begin))
