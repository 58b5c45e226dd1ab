"""What came of the last run of each check of a project, for ``--changed`` and ``--failed``.

DATA/checks/DIGEST.json     {"NAME": {"derivation": PATH, "passed": BOOL}, ...}; DIGEST: of its directory
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pgbake.checks.check import Check
from pgbake.checks.results import Outcome
from pgbake.errors import host_error
from pgbake.files import write_whole


class Last(msgspec.Struct, frozen=True):
    """The last run of a check: of which derivation, and whether it passed."""

    derivation: str
    passed: bool


class Record:
    """The record of one project.

    :param directory: of all records of this user.
    """

    def __init__(self, directory: Path, project: Path) -> None:
        digest = hashlib.sha256(os.fsencode(project.resolve())).hexdigest()[:16]
        self._file = directory / f"{digest}.json"
        try:
            self._last = msgspec.json.decode(self._file.read_bytes(), type=dict[str, Last])
        except (OSError, msgspec.MsgspecError):  # it helps to choose, and nothing is lost with it
            self._last = {}

    def changed(self, check: Check) -> bool:
        """Whether a check, its files or its bundle are others than when it was last run."""
        last = self._last.get(check.name)
        return last is None or last.derivation != str(check.derivation.path)

    def failed(self, check: Check) -> bool:
        """Whether the last run of a check failed."""
        last = self._last.get(check.name)
        return last is not None and not last.passed

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Keep what came of a run.

        :raises HostError: it cannot be written.
        """
        for outcome in outcomes:
            check = outcome.check
            self._last[check.name] = Last(str(check.derivation.path), outcome.state != "failed")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, msgspec.json.encode(self._last, order="sorted"))
        except OSError as error:
            raise host_error(error, f"cannot write {self._file}") from error
