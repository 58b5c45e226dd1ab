"""What the doctor answers: findings, each with what to type where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

#: ``problem``: something that pgbake is for will not work. ``warning``: it works, or may, with less.
State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param name: of the thing, in a word or two; unique within its group.
    :param found: what was found, with names and values.
    :param hint: what to type or do; None where all is well or nothing can be done.
    """

    name: str
    state: State
    found: str
    hint: str | None = None


def ok(name: str, found: str) -> Finding:
    """Return a finding of something that is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, hint: str | None = None) -> Finding:
    """Return a finding of something that may do harm."""
    return Finding(name, "warning", found, hint)


def problem(name: str, found: str, hint: str | None = None) -> Finding:
    """Return a finding of something that stands in the way."""
    return Finding(name, "problem", found, hint)


#: Findings under their title, in the order in which they are shown.
Report = Sequence[tuple[str, Sequence[Finding]]]


def all_findings(report: Report) -> Iterator[Finding]:
    """Yield the findings of all groups."""
    for _, findings in report:
        yield from findings


def few(names: Sequence[str], most: int = 3) -> str:
    """Write names as a list that ends after ``most`` of them: ``a, b, c and 5 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
