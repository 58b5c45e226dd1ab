"""Drawing work under way: bars on a terminal, plain lines in a log, JSON lines for a program."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from pgbake.cli.app import on_terminal
from pgbake.events import (
    Event,
    Finished,
    LogLine,
    Notice,
    PhaseChanged,
    Planned,
    Progressed,
    Sink,
    Started,
    silent,
)
from pgbake.quantities import human_size

_VERBS = {
    "resolve": ("resolving", "resolved"),
    "fetch": ("fetching", "fetched"),
    "unpack": ("unpacking", "unpacked"),
    "build": ("building", "built"),
    "start": ("starting", "started"),
    "push": ("pushing", "pushed"),
    "pull": ("pulling", "pulled"),
    "delete": ("deleting", "deleted"),
    "verify": ("verifying", "verified"),
    "optimise": ("optimising", "optimised"),
    "sign": ("signing", "signed"),
    "pack": ("packing", "packed"),
    "export": ("exporting", "exported"),
    "import": ("importing", "imported"),
    "check": ("checking", "passed"),
}


#: What moves many files or paths at once, told as a whole: what one of them is called.
_TRANSFERS = {"fetch": "file", "push": "path", "pull": "path", "export": "path", "import": "path"}

#: Unpacking many small packages is told as a whole by what waits for it; a line each would be noise.
_WORTH_A_LINE = 1.0  # seconds
#: Seconds between two lines about a transfer in a log.
_TOLD_EVERY = 5.0


def _is_noise(task: Started, seconds: float) -> bool:
    return task.kind in _TRANSFERS or (task.kind == "unpack" and task.total is None and seconds < _WORTH_A_LINE)


@contextmanager
def display(progress: str, verbose: bool) -> Iterator[Sink]:
    """Give a sink that draws events on standard error while the ``with`` block runs.

    :param progress: ``auto``, ``plain``, ``json`` or ``none``.
    """
    if progress == "none":
        yield silent
    elif progress == "json":
        yield _in_turn(json_line)
    elif progress == "plain" or verbose or not on_terminal():
        yield _in_turn(_Plain(verbose).handle)
    else:
        with _live() as sink:
            yield sink


def _in_turn(handle: Sink) -> Sink:
    """Make a sink safe to call from several threads."""
    lock = threading.Lock()

    def sink(event: Event) -> None:
        with lock:
            handle(event)

    return sink


def json_line(event: Event) -> None:
    """Write an event for a program: a line of JSON on standard error."""
    import msgspec

    value = {"event": type(event).__name__, **msgspec.to_builtins(event)}
    click.echo(msgspec.json.encode(value), err=True)


@dataclass
class _Tasks:
    """The tasks under way, and how many of each kind are planned and done."""

    running: dict[str, Started] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    bytes_done: dict[str, int] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    #: When the first task of each kind began.
    first: dict[str, float] = field(default_factory=dict)

    def handle(self, event: Event) -> Started | None:
        """Take in an event; return the task that it is about."""
        if isinstance(event, Planned):
            self.planned[event.kind] = self.planned.get(event.kind, 0) + event.total
            return None
        if isinstance(event, Notice):
            return None
        if isinstance(event, Started):
            self.running[event.id] = event
            self.kinds[event.id] = event.kind
            self.begun[event.id] = time.monotonic()
            self.first.setdefault(event.kind, self.begun[event.id])
            return event
        task = self.running.get(event.id)
        if isinstance(event, PhaseChanged):
            self.phases[event.id] = event.phase
        elif isinstance(event, Progressed):
            self.bytes_done[event.id] = event.done
        elif isinstance(event, Finished) and task is not None:
            del self.running[event.id]
            if event.outcome == "done":
                self.done[task.kind] = self.done.get(task.kind, 0) + 1
                if task.total is not None:
                    self.bytes_done[event.id] = task.total
        return task

    def count(self, kind: str) -> str:
        """Say how far a kind is: ``3/14``."""
        planned = self.planned.get(kind)
        return f"{self.done.get(kind, 0)}/{planned}" if planned else str(self.done.get(kind, 0))

    def moved(self, kind: str) -> int:
        """Return the bytes that a kind of transfer has moved."""
        return sum(done for id, done in self.bytes_done.items() if self.kinds[id] == kind)

    def rate(self, kind: str) -> str:
        """Say how fast a kind of transfer has been so far: ``12.3 MB/s``."""
        seconds = time.monotonic() - self.first.get(kind, time.monotonic())
        return f"{human_size(round(self.moved(kind) / seconds))}/s" if seconds > 0.1 else ""


class _Plain:
    """One line for each task that begins, changes its phase or ends; transfers are summed up."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._tasks = _Tasks()
        self._told = time.monotonic()

    def _tell_transfer(self, kind: str) -> None:
        if (now := time.monotonic()) - self._told < _TOLD_EVERY:
            return
        self._told = now
        tasks = self._tasks
        moved = f"{human_size(tasks.moved(kind))}, {tasks.rate(kind)}"
        click.echo(f"{_VERBS[kind][1]} {tasks.count(kind)} {_TRANSFERS[kind]}s, {moved}", err=True)

    def handle(self, event: Event) -> None:
        task = self._tasks.handle(event)
        if isinstance(event, Notice):
            click.echo(f"{'warning: ' if event.level == 'warning' else ''}{event.text}", err=True)
        elif isinstance(event, Planned) and event.kind in _TRANSFERS:
            noun = _TRANSFERS[event.kind] + ("s" if event.total > 1 else "")
            click.echo(f"{_VERBS[event.kind][0]} {event.total} {noun}", err=True)
        elif task is not None and task.kind in _TRANSFERS:
            self._tell_transfer(task.kind)
        elif task is None or _is_noise(task, event.seconds if isinstance(event, Finished) else 0):
            return
        elif isinstance(event, Started):
            click.echo(f"{_VERBS[task.kind][0]} {task.title}", err=True)
        elif isinstance(event, PhaseChanged) and task.kind != "check":
            click.echo(f"{task.title}: {event.phase}", err=True)
        elif isinstance(event, LogLine) and self._verbose:
            click.echo(f"{task.title}> {event.line}", err=True)
        elif isinstance(event, Finished) and event.outcome == "done":
            count = f"[{self._tasks.count(task.kind)}] " if task.kind in ("build", "check") else ""
            click.echo(f"{count}{_VERBS[task.kind][1]} {task.title} in {event.seconds:.1f} s", err=True)
        elif isinstance(event, Finished) and event.outcome == "failed" and task.kind == "check":
            click.echo(f"FAILED {task.title} in {event.seconds:.1f} s", err=True)


@contextmanager
def _live() -> Iterator[Sink]:
    """Draw on a terminal: a line for each task under way, above them what is done."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    tasks = _Tasks()
    console = Console(stderr=True, highlight=False)
    begin = time.monotonic()
    lines: dict[str, str] = {}

    def elapsed(seconds: float) -> str:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def draw() -> Group:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=8, style="cyan")
        table.add_column(no_wrap=True, width=34, overflow="ellipsis")
        table.add_column(no_wrap=True, width=11, style="dim", overflow="ellipsis")
        table.add_column(justify="right", width=6)
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
        for kind, noun in _TRANSFERS.items():
            running = [task for task in tasks.running.values() if task.kind == kind]
            if running:
                largest = max(running, key=lambda task: task.total or 0).title
                amount = human_size(tasks.moved(kind))
                table.add_row(kind, f"{tasks.count(kind)} {noun}s · {tasks.rate(kind)}", amount, "", largest)
        now = time.monotonic()
        for task in list(tasks.running.values()):
            if task.kind in _TRANSFERS:
                continue
            line, phase = lines.get(task.id, ""), tasks.phases.get(task.id, "")
            if task.kind == "check":  # its phases are its tests, which say more than its lines
                line, phase = phase, ""
            if task.total:
                phase = f"{100 * tasks.bytes_done.get(task.id, 0) // task.total}%"
            table.add_row(task.kind, task.title, phase, elapsed(now - tasks.begun[task.id]), line)
        counts = "".join(
            f"{tasks.count(kind)} {done} · "
            for kind, done in (("build", "built"), ("check", "passed"))
            if tasks.planned.get(kind)
        )
        total = Text(f"{counts}{elapsed(now - begin)}", style="bold")
        return Group(table, total)

    with Live(console=console, refresh_per_second=8, transient=True, get_renderable=draw) as live:

        def handle(event: Event) -> None:
            task = tasks.handle(event)
            if isinstance(event, Notice):
                style = "yellow" if event.level == "warning" else "dim"
                live.console.print(Text(event.text, style=style))
            elif task is None:
                return
            elif isinstance(event, LogLine):
                if not event.line.startswith("--- "):
                    lines[event.id] = event.line.strip()
            elif isinstance(event, Finished) and event.outcome == "done" and not _is_noise(task, event.seconds):
                mark = Text("✓ ", style="green")
                mark.append(f"{_VERBS[task.kind][1]} {task.title}", style="default")
                mark.append(f"  {event.seconds:.1f} s", style="dim")
                live.console.print(mark)
            elif isinstance(event, Finished) and event.outcome == "failed" and task.kind == "check":
                live.console.print(Text(f"✗ FAILED {task.title}", style="red"))

        yield _in_turn(handle)
