"""What the catalogue and a project know of extensions' uses: their scripts, and which cannot succeed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from pgbake.checks.harness.smoke import header
from pgbake.recipes.recipe import SHIPPED
from pgbake.toml import load_toml

_USES = SHIPPED / "uses"


class _Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exception: a use that cannot succeed."""

    name: str
    reason: str
    majors: tuple[int, ...] = ()


class _Exceptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    exception: tuple[_Known, ...] = ()
    #: Packages that cannot be created in one database with the others.
    apart: tuple[_Known, ...] = ()


@dataclass(frozen=True)
class Uses:
    """The uses for one major version of PostgreSQL.

    :param own: the project's directory of them, which win over the shipped ones; it need not be there.
    """

    major: int
    own: Path | None = None

    def script(self, name: str) -> str | None:
        """Return the use of an extension, by the manifest's name for it; None where there is none."""
        for directory in (self.own, _USES):
            if directory is not None and (file := directory / f"{name}.sql").is_file():
                return file.read_text(encoding="utf-8")
        return None

    @cached_property
    def contrib(self) -> Mapping[str, str]:
        """The uses of contrib's extensions, which say so at their top, by name."""
        names = [file.stem for file in sorted(_USES.glob("*.sql"))]
        scripts = {name: self.script(name) or "" for name in names}
        return {name: script for name, script in scripts.items() if header(script, "of") == "contrib"}

    @cached_property
    def known(self) -> Mapping[str, str]:
        """The reason why a use cannot succeed, by name."""
        return self._reasons(self._exceptions.exception)

    @cached_property
    def apart(self) -> Mapping[str, str]:
        """The reason why a package's extensions cannot be in one database with all others, by name."""
        return self._reasons(self._exceptions.apart)

    @cached_property
    def _exceptions(self) -> _Exceptions:
        return load_toml(_USES / "exceptions.toml", _Exceptions)

    def _reasons(self, listed: tuple[_Known, ...]) -> dict[str, str]:
        return {known.name: known.reason for known in listed if not known.majors or self.major in known.majors}
