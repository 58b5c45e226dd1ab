"""What the catalogue and a project know of extensions' uses: their scripts, and which cannot succeed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pgbake.checks.harness.smoke import header
from pgbake.checks.known import Exempt, read_exceptions
from pgbake.recipes.recipe import SHIPPED

_USES = SHIPPED / "uses"


class _Known(Exempt, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A use that cannot succeed."""

    name: str


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
        listed = read_exceptions(_USES / "exceptions.toml", _Known)
        return {known.name: known.reason for known in listed if known.counts(self.major)}

    def apart(self, names: Iterable[str]) -> dict[str, str]:
        """Return, of some extensions, those that cannot be in one database with all others, each with the reason."""
        reasons = {}
        for name in names:
            database = header(self.script(name) or "", "database")
            if database is not None:
                reasons[name] = f"it can only be in the database {database}"
            elif name in self.known:
                reasons[name] = self.known[name]
        return reasons
