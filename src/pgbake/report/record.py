"""The bundles that were last reported of a project, so that a report knows the one before.

DATA/reports/DIGEST.json     {"current": SIDE, "previous": {"side": SIDE, "why": TEXT} or null}

DIGEST is that of the project's directory, SIDE a `pgbake.report.facts.Side`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError, host_error
from pgbake.files import read_hint, read_small_file, write_whole
from pgbake.report.facts import Comparison, Facts, Side

#: Bytes of the largest report that is read, and the element of a page that holds its side.
_LARGEST = 100_000_000
SIDE_ID = "pgbake-side"
_EMBEDDED = re.compile(rf'<script type="application/json" id="{SIDE_ID}">(.*?)</script>', re.DOTALL)


class _Kept(msgspec.Struct, frozen=True):
    current: Side
    previous: Comparison | None = None


class ReportRecord:
    """The record of one project.

    :param directory: of all records of this user.
    """

    def __init__(self, directory: Path, project: Path) -> None:
        digest = hashlib.sha256(os.fsencode(project.resolve())).hexdigest()[:16]
        self._file = directory / f"{digest}.json"
        self._kept: _Kept | None = None
        try:
            self._kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError):  # only a comparison is lost with it
            self._kept = None

    def before(self, path: str) -> Comparison | None:
        """Return the bundle to compare one with: the last other one that was reported; None where none was.

        What the first report of a bundle was compared with, its later ones are as well.
        """
        if self._kept is None:
            return None
        if self._kept.current.path == path:
            return self._kept.previous
        return Comparison(self._kept.current, "the bundle of this project that was reported before")

    def keep(self, side: Side, previous: Comparison | None) -> None:
        """Keep what was reported, and what it was compared with.

        :raises HostError: it cannot be written.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, msgspec.json.encode(_Kept(side, previous), order="sorted"))
        except OSError as error:
            raise host_error(error, f"cannot write {self._file}") from error


def read_side(file: Path) -> Side:
    """Read what a report tells of its bundle, from its page or its JSON.

    :raises ManifestError: it is no report.
    """
    try:
        content = read_small_file(file, _LARGEST)
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    try:
        if content.lstrip().startswith(b"<"):
            embedded = _EMBEDDED.search(content.decode("utf-8"))
            return msgspec.json.decode(embedded[1] if embedded else "", type=Side)
        return msgspec.json.decode(content, type=Facts).side
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{file} is no report of pgbake's: {error}",
            hint="name a page that `pgbake report` wrote, what `pgbake report --json` printed, or a store path",
        ) from None
