"""What a check tells: results in the order of their making, to its log as they come, and to its output at the end.

The output is a directory::

    results.tap     TAP version 14 (https://testanything.org), names and results only: equal runs, equal bytes
    ...             what a kind adds, such as the interface of extensions

The log has lines ``@pgbake JSON`` for pgbake itself, with seconds, details, and files that could be accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]


class Failure(Exception):
    """A test has failed.

    :param detail: what helps to see why; many lines.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class Skipped(Exception):
    """A test does not apply, and why."""


class Overdue(BaseException):
    """The check's time is over. No test may take it for its own failure.

    :param detail: what was going on.
    """

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


@dataclass(frozen=True)
class Result:
    """What came of one test."""

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass
class Report:
    """All that a check tells."""

    results: list[Result] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    #: The test that is being done.
    under_way: str | None = None

    @property
    def failed(self) -> bool:
        """Whether any test has failed."""
        return any(result.outcome == "failed" for result in self.results)

    @contextmanager
    def test(self, name: str) -> Iterator[None]:
        """Count what the block does as one test: failed where it raises :class:`Failure`, and the check goes on."""
        begin = time.monotonic()
        say({"begin": name})
        self.under_way = name
        try:
            yield
        except Failure as failure:
            self.add(name, "failed", failure.message, time.monotonic() - begin, failure.detail)
        except Skipped as reason:
            self.add(name, "skipped", str(reason), time.monotonic() - begin)
        else:
            self.add(name, "passed", "", time.monotonic() - begin)
        self.under_way = None  # but for what ends the whole check

    def add(self, name: str, outcome: Outcome, reason: str = "", seconds: float = 0, detail: str = "") -> None:
        """Add a result that is known."""
        self.results.append(Result(name, outcome, reason))
        line = {"test": name, "outcome": outcome, "reason": reason, "seconds": round(seconds, 3), "detail": detail}
        say({key: value for key, value in line.items() if value != ""})
        mark = {"passed": "ok", "failed": "not ok", "skipped": "ok (skipped)"}[outcome]
        print(f"{mark} - {name}" + (f": {reason}" if reason else "") + f" ({seconds:.2f} s)", flush=True)
        if detail and outcome == "failed":
            print("\n".join(f"    {line}" for line in detail.splitlines()), flush=True)

    def stop(self, message: str, detail: str) -> None:
        """Add what ended the whole check, or was found at its end."""
        self.add(self.under_way or "the check itself", "failed", message, detail=detail)
        self.under_way = None

    def log(self, server: str, text: str) -> None:
        """Tell the end of a server's log, when something has failed."""
        say({"log": server, "text": text})
        print(f"--- the end of the log of the server {server}:\n{text}", flush=True)

    def offer(self, file: str, text: str) -> None:
        """Offer what came out as what is to be expected from now on; ``pgbake check --accept`` writes it.

        :param file: relative to the project's directory ``tests``.
        """
        say({"offer": file, "text": text})

    def write(self, out: Path) -> None:
        """Write the output."""
        out.mkdir()
        lines = ["TAP version 14", f"1..{len(self.results)}"]
        for number, result in enumerate(self.results, 1):
            skip = f" # SKIP {result.reason}" if result.outcome == "skipped" else ""
            lines.append(f"ok {number} - {_escaped(result.name)}{skip}")
        (out / "results.tap").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, text in self.files.items():
            (out / name).write_text(text, encoding="utf-8")


def say(value: dict[str, object]) -> None:
    """Write a line for pgbake to the log."""
    print("@pgbake " + json.dumps(value), flush=True)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("#", "\\#").replace("\n", " ")
