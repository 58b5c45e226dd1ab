"""What checks find and what is known to be so: ``catalogue/checks.toml``, and a project's ``tests/known.toml``.

::

    [[exception]]
    check = "licence"               # the kind
    name = "numeral"                # what it is about, in the kind's own words
    reason = "upstream has no file of it"
    stage = "objects"               # of an update
    versions = ["1.0"]              # that an update starts from; all where there are none
    majors = [15]                   # of PostgreSQL; all where there are none
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from pgbake.recipes.recipe import SHIPPED
from pgbake.toml import load_toml


class Exempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An entry of such a table; kinds of them have fields of their own beside these.

    :param majors: of PostgreSQL; empty: all.
    :param platforms: suites of Debian; empty: all.
    """

    reason: str
    majors: tuple[int, ...] = ()
    platforms: tuple[str, ...] = ()

    def counts(self, major: int, platform: str | None = None) -> bool:
        """Whether it counts for a major version, on a platform where one is named."""
        here = platform is None or not self.platforms or platform in self.platforms
        return here and (not self.majors or major in self.majors)


E = TypeVar("E", bound=Exempt)


class _Table(msgspec.Struct, Generic[E], frozen=True, forbid_unknown_fields=True):
    exception: tuple[E, ...] = ()


def read_exceptions(file: Path, kind: type[E]) -> tuple[E, ...]:
    """Read the entries ``[[exception]]`` of a file.

    :raises ManifestError: the file is wrong.
    """
    return load_toml(file, _Table[kind]).exception  # type: ignore[valid-type]


class _Exception(Exempt, frozen=True, forbid_unknown_fields=True, kw_only=True):
    check: Literal["update", "licence", "closure"]
    name: str
    stage: Literal["", "create", "path", "use", "update", "rows", "objects"] = ""
    versions: tuple[str, ...] = ()


class Known:
    """What is known for one major version of PostgreSQL.

    :param own: the project's file, which need not be there.
    """

    def __init__(self, major: int, own: Path) -> None:
        self._major = major
        self._own = own

    def of(self, check: str) -> list[dict[str, Any]]:
        """Return what is known of a kind of checks: ``name``, ``reason``, ``stage`` and ``versions`` of each.

        :raises ManifestError: the project's file is wrong.
        """
        return [
            {"name": known.name, "reason": known.reason, "stage": known.stage, "versions": list(known.versions)}
            for known in self._all
            if known.check == check and known.counts(self._major)
        ]

    def reasons(self, check: str) -> dict[str, str]:
        """Return the reasons by name.

        :raises ManifestError: the project's file is wrong.
        """
        return {known["name"]: known["reason"] for known in self.of(check)}

    @cached_property
    def _all(self) -> tuple[_Exception, ...]:
        files = [self._own, SHIPPED / "checks.toml"]
        return tuple(known for file in files if file.is_file() for known in read_exceptions(file, _Exception))
