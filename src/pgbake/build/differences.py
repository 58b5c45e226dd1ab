"""What differs between two builds of one output, file by file, and what is the likely cause.

The second build ran in surroundings of its own (`pgbake.build.rebuild`), whose host name, kernel, uid and time
appear in no other place. So what of them is found in a file that differs tells how it got there.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that differs.

    :param file: relative to the output; empty where the output is one file.
    :param what: ``contents``, ``kind``, ``target`` (of a link), ``executable``, ``first only``, ``second only``.
    :param cause: the likely cause, in words.
    """

    file: str
    what: str
    cause: str


@dataclass(frozen=True, slots=True)
class Marks:
    """What the surroundings of a second build leave in files.

    :param words: byte strings, each with what it stands for.
    :param begin: when the second build began, in seconds since 1970 by the machine's clock.
    :param end: when it ended.
    :param ahead: seconds by which its own clock was ahead.
    :param utc_offset: of its time zone, in seconds east.
    """

    words: Mapping[bytes, str]
    begin: float
    end: float
    ahead: int
    utc_offset: int


def compare_trees(first: Path, second: Path, marks: Marks) -> Iterator[Difference]:
    """Yield what differs between two store paths of equal name, in order of the files' names."""
    pending = [""]
    while pending:
        file = pending.pop()
        one, other = first / file, second / file
        a, b = one.lstat().st_mode, other.lstat().st_mode
        if stat.S_IFMT(a) != stat.S_IFMT(b):
            yield Difference(file, "kind", "one is a file, the other a directory or a link")
        elif stat.S_ISLNK(a):
            if one.readlink() != other.readlink():
                yield Difference(file, "target", f"{one.readlink()} and {other.readlink()}")
        elif stat.S_ISDIR(a):
            here, there = set(os.listdir(one)), set(os.listdir(other))  # noqa: PTH208 - names are what is wanted
            for name in sorted(here ^ there):
                which = "first only" if name in here else "second only"
                path = os.path.join(file, name)  # noqa: PTH118
                yield Difference(path, which, _cause_of_name(name, marks) if name in there else "see the others")
            pending += [os.path.join(file, name) for name in sorted(here & there, reverse=True)]  # noqa: PTH118
        else:
            if (a ^ b) & stat.S_IXUSR:
                yield Difference(file, "executable", "the umask of the build")
            if (contents := one.read_bytes()) != (others := other.read_bytes()):
                yield Difference(file, "contents", likely_cause(contents, others, marks))


def likely_cause(first: bytes, second: bytes, marks: Marks) -> str:
    """Say what made two contents differ, as far as they show it."""
    if first[:2] == second[:2] == b"\x1f\x8b":
        return _cause_in_gzip(first, second, marks)
    causes = [what for word, what in marks.words.items() if word in second and word not in first]
    causes += _times(first, second, marks)
    if not causes:
        for separator in (b"\n", b"\0", b" "):
            if sorted(first.split(separator)) == sorted(second.split(separator)):
                causes.append("the order of a directory's entries, or of jobs side by side: the parts are the same")
                break
    where = _place(first, second)
    return f"{' and '.join(causes)}; {where}" if causes else f"it shows none of the surroundings; {where}"


def _cause_of_name(name: str, marks: Marks) -> str:
    raw = os.fsencode(name)
    causes = [what for word, what in marks.words.items() if word in raw] + _times(b"", raw, marks)
    return f"{' and '.join(causes)}, in its name" if causes else "see the others"


def _cause_in_gzip(first: bytes, second: bytes, marks: Marks) -> str:
    try:
        one, other = gzip.decompress(first), gzip.decompress(second)
    except (OSError, EOFError, zlib.error):
        return "it is compressed, and damaged"
    if one != other:
        return f"compressed; in it: {likely_cause(one, other, marks)}"
    if first[4:8] != second[4:8]:
        return "the time in the header of gzip: `gzip -n` leaves it out"
    return "the same contents are compressed in another way"


def _times(first: bytes, second: bytes, marks: Marks) -> list[str]:
    """Return which times of the second build are in its file and not in the first one's."""
    found = []
    clocks = {
        "the time of the build": (marks.begin + marks.ahead - 1, marks.end + marks.ahead + 1),
        "the time stamp of a file": (marks.begin - 1, marks.end + 1),
    }
    seconds = set(re.findall(rb"(?<!\d)\d{10}(?!\d)", second)) - set(re.findall(rb"(?<!\d)\d{10}(?!\d)", first))
    octal = set(re.findall(rb"[0-7]{11}", second)) - set(re.findall(rb"[0-7]{11}", first))
    numbers = {int(text) for text in seconds} | {int(text, 8) for text in octal} | _binary_numbers(first, second)
    for what, (begin, end) in clocks.items():
        if any(begin <= number <= end for number in numbers):
            found.append(what)
    begin, end = clocks["the time of the build"]
    dates = {
        datetime.fromtimestamp(moment, zone).strftime(form).encode()
        for moment in (begin, end)
        for zone in (UTC, timezone(timedelta(seconds=marks.utc_offset)))
        for form in _DATES
    }
    if "the time of the build" not in found and any(date in second and date not in first for date in dates):
        found.append("the time of the build")
    return found


_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%b %e %Y", "%b %d %Y", "%e %b %Y", "%d %b %Y", "%B %e, %Y",
    "%B %d, %Y", "%e %B %Y", "%d %B %Y", "%b %e, %Y", "%a %b %e",
    # without a space or zero before a day of one digit
    "%b %-d %Y", "%-d %b %Y", "%B %-d, %Y", "%-d %B %Y", "%b %-d, %Y",
)  # fmt: skip


def _binary_numbers(first: bytes, second: bytes) -> set[int]:
    """Return the 32-bit numbers around the first byte that differs."""
    at = _first_difference(first, second)
    numbers = set()
    for begin in range(max(0, at - 3), at + 1):
        word = second[begin : begin + 4]
        numbers |= {int.from_bytes(word, "little"), int.from_bytes(word, "big")}
    return numbers


def _first_difference(first: bytes, second: bytes) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:  # the longest equal beginning, by halves: comparing slices is fast, a loop over bytes is not
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _place(first: bytes, second: bytes) -> str:
    """Say where two contents differ: the sections of ELF files, the first byte of others."""
    if first[:4] == second[:4] == b"\x7fELF":
        try:
            one, other = _sections(first), _sections(second)
        except (ELFError, ValueError):
            pass
        else:
            names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
            if names:
                return f"sections {', '.join(names[:6])}{' ...' if len(names) > 6 else ''} differ"
    return f"they differ from byte {_first_difference(first, second)} on"


def _sections(content: bytes) -> dict[str, bytes]:
    return {section.name: section.data() for section in ELFFile(io.BytesIO(content)).iter_sections() if section.name}
