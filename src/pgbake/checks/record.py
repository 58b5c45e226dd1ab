"""What came of the last run of each check of a project, for ``--changed`` and ``--failed``, and what keeps results.

DATA/checks/DIGEST.json           {"NAME": {"derivation": PATH, "passed": BOOL}, ...}; DIGEST: of its directory
DATA/checks/DIGEST/roots/NAME     -> results of a check of the current bundle; a root of the garbage collector
DATA/checks/DIGEST/project        -> the directory
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from pgbake.checks.check import Check, Checks
from pgbake.checks.results import Outcome
from pgbake.errors import host_error
from pgbake.files import write_whole
from pgbake.formats.storepath import StorePath
from pgbake.manifest import MANIFEST_NAME
from pgbake.store.local import LocalStore


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
        self._project = project.resolve()
        self._place = directory / digest
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

    def release(self, paths: Iterable[StorePath]) -> None:
        """Keep the collector from these results no more."""
        targets = {str(path) for path in paths}
        for link in (self._place / "roots").rglob("*"):
            if link.is_symlink() and str(link.readlink()) in targets:
                link.unlink()

    def keep_results(self, store: LocalStore, checks: Checks) -> None:
        """Keep the collector from the results of a bundle's checks that have passed, and from no others.

        :raises HostError: the links cannot be written.
        """
        valid = store.valid([check.path for check in checks.checks])
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                (self._place / "project").symlink_to(self._project)
        except OSError as error:
            raise host_error(error, f"cannot write {self._place}") from error
        store.link_roots(
            self._place / "roots", {check.name: check.path for check in checks.checks if check.path in valid}
        )


def let_go_of_the_gone(directory: Path) -> None:
    """Drop what keeps the results of projects that are no longer there.

    :param directory: of all records of this user.
    """
    for link in directory.glob("*/project"):
        with suppress(OSError):  # a directory that nobody can look into may be there
            if not (link / MANIFEST_NAME).exists():
                shutil.rmtree(link.parent, ignore_errors=True)
