"""The texts of a Debian package: control file, changelog, copyright file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

_COMMON = {
    "Apache-2.0": "Apache-2.0", "Artistic-1.0-Perl": "Artistic", "GPL-1.0": "GPL-1",
    "GPL-2.0": "GPL-2", "GPL-3.0": "GPL-3", "LGPL-2.0": "LGPL-2", "LGPL-2.1": "LGPL-2.1", "LGPL-3.0": "LGPL-3",
    "MPL-2.0": "MPL-2.0",
}  # fmt: skip
_HOLDER = re.compile(r"^\W*(?:Portions\s+)?Copyright\s*(?:\([cC]\)|©)?[\s:]*(\d{4}.*)$", re.MULTILINE | re.IGNORECASE)


def control_file(fields: Mapping[str, str]) -> str:
    """Return the text of a control file; of several lines in a field, the first stands beside its name."""
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def description(short: str, paragraphs: Sequence[str]) -> str:
    """Return a Description field: one line, then paragraphs, wrapped.

    :param short: what it is; Debian has it without article, capital letter and full stop.
    """
    short = short.strip().rstrip(".")
    lines = [textwrap.shorten(short, 75, placeholder=" ...")]
    for number, paragraph in enumerate(paragraphs):
        if number:
            lines.append(" .")
        lines += [f" {line}" for line in textwrap.wrap(paragraph, 76, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(lines)


def changelog(package: str, version: str, suite: str, lines: Sequence[str], maintainer: str, epoch: int) -> str:
    """Return a changelog with one entry (deb-changelog(5)).

    :param epoch: its time, in seconds since 1970.
    """
    items = "\n".join(
        textwrap.fill(line, 78, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False)
        for line in lines
    )
    date = formatdate(epoch)
    return f"{package} ({version}) {suite}; urgency=medium\n\n{items}\n\n -- {maintainer}  {date}\n"


def copyright_file(name: str, licence: str, homepage: str | None, source: str, texts: Mapping[str, str]) -> str:
    """Return a machine-readable copyright file (DEP-5).

    :param licence: SPDX expression, as the recipe has it.
    :param source: where it comes from, in words.
    :param texts: file name of each licence that the source has, to its text.
    """
    holders = [holder.strip() for text in texts.values() for holder in _HOLDER.findall(text)]
    holders = list(dict.fromkeys(holders)) or [f"the authors of {name}"]
    words = _dep5_name(licence)
    body = "".join(f"\n {file}:\n .\n{_indented(text)}" for file, text in texts.items())
    if not texts:
        body = f"\n The source of {name} has no file with its licence; its authors name it {licence}."
    for spdx, common in _COMMON.items():
        if spdx in licence:
            body += f"\n .\n On Debian systems the text of {spdx} is in /usr/share/common-licenses/{common}."
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        f"Upstream-Name: {name}\n"
        f"Source: {homepage or source}\n"
        f"Comment: Built from {source}.\n"
        "\nFiles: *\n"
        f"Copyright: {f'{chr(10)}           '.join(holders)}\n"
        f"License: {words}{body}\n"
    )


def licence_texts(directory: Path) -> dict[str, str]:
    """Return the texts of licences that a package's build has put into its directory of documents."""
    if not directory.is_dir():
        return {}
    return {
        file.name: file.read_text(encoding="utf-8", errors="replace")
        for file in sorted(directory.iterdir())
        if is_licence(file.name) and file.is_file()
    }


def is_licence(name: str) -> bool:
    """Whether a file's name says that it tells the licence."""
    return re.match(r"(LICEN[SC]E|COPYING|COPYRIGHT)", name) is not None


def _dep5_name(licence: str) -> str:
    words = re.sub(r"-or-later\b", "+", re.sub(r"-only\b", "", licence))
    return words.replace(" AND ", " and ").replace(" OR ", " or ").replace("MIT", "Expat")


def _indented(text: str) -> str:
    lines = [line.rstrip().replace("\t", "    ").replace("\f", "") for line in text.strip().splitlines()]
    return "\n".join(f" {line}" if line else " ." for line in lines)
