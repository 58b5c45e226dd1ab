"""What has changed between two bundles. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgbake.recipes.lowering import store_name
from pgbake.report.facts import Side


@dataclass(frozen=True, slots=True)
class Change:
    """A thing that came (``before`` is None), went (``after`` is None), or changed."""

    name: str
    before: str | None
    after: str | None

    @property
    def word(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class InterfaceChange:
    """SQL objects of one extension that went and came; both empty where only its version changed.

    :param before: its version, None where it is new.
    """

    extension: str
    before: str | None
    after: str | None
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """All that differs.

    :param grown: paths by name without version, with the difference in bytes, the greatest first.
    :param interface: None where either side's interface is not known.
    """

    server: tuple[Change, ...]
    extensions: tuple[Change, ...]
    packages: tuple[Change, ...]
    runtime: tuple[Change, ...]
    before_size: int
    after_size: int
    grown: tuple[tuple[str, int], ...]
    interface: tuple[InterfaceChange, ...] | None

    @property
    def versions(self) -> tuple[tuple[str, Change], ...]:
        """All versions that changed, each with what it is one of.

        Most packages bring an extension of their name and version, which then stands for both.
        """
        packages = [change for change in self.packages if change not in self.extensions]
        groups = (
            ("server", self.server), ("extension", self.extensions), ("package", packages), ("runtime", self.runtime),
        )  # fmt: skip
        return tuple((kind, change) for kind, group in groups for change in group)

    @property
    def none(self) -> bool:
        """Whether versions and interface are the same."""
        return not (self.server or self.extensions or self.packages or self.runtime or self.interface)


def compare(before: Side, after: Side) -> Changes:
    """Say what has changed from one bundle to another."""
    return Changes(
        server=_versions(
            {"PostgreSQL": before.postgresql, "platform": before.platform},
            {"PostgreSQL": after.postgresql, "platform": after.platform},
        ),
        extensions=_versions(before.extensions, after.extensions),
        packages=_versions(before.packages, after.packages),
        runtime=_versions(before.runtime, after.runtime),
        before_size=before.size,
        after_size=after.size,
        grown=_grown(before, after),
        interface=_interface(before, after),
    )


def parse_interface(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``interface.txt``: lines by extension. What stands before the first section is passed over."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = found.setdefault(line[1:-1].partition(" ")[0], [])
        elif lines is not None and line.strip():
            lines.append(line.rstrip())
    return {name: tuple(lines) for name, lines in found.items()}


def _versions(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted({*before, *after})
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def _grown(before: Side, after: Side) -> tuple[tuple[str, int], ...]:
    """Return the differences in size, by the names that stay when versions change."""
    names_before, names_after = _by_stem(before), _by_stem(after)
    grown = {name: names_after.get(name, 0) - names_before.get(name, 0) for name in {*names_before, *names_after}}
    return tuple(sorted(((n, size) for n, size in grown.items() if size), key=lambda item: (-abs(item[1]), item[0])))


def _by_stem(side: Side) -> dict[str, int]:
    """Return sizes by names without versions: ``postgresql-15.18-plperl`` is ``postgresql-plperl``."""
    versions = sorted({*side.packages.values(), *side.runtime.values()} - {""}, key=lambda text: (-len(text), text))
    ends = [f"-{store_name(version)}" for version in versions]
    sizes: dict[str, int] = {}
    for name, size in side.closure.items():
        stem = name.removesuffix(next((end for end in ends if name.endswith(end)), ""))
        stem = stem.replace(f"-{side.postgresql}", "")
        sizes[stem] = sizes.get(stem, 0) + size
    return sizes


def _interface(before: Side, after: Side) -> tuple[InterfaceChange, ...] | None:
    if before.interface is None or after.interface is None:
        return None
    changes = []
    for name in sorted({*before.interface, *after.interface}):
        old, new = before.interface.get(name, ()), after.interface.get(name, ())
        removed, added = _without(old, new), _without(new, old)
        if removed or added or (name in before.interface) != (name in after.interface):
            changes.append(
                InterfaceChange(name, before.extensions.get(name), after.extensions.get(name), removed, added)
            )
    return tuple(changes)


def _without(lines: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the lines, in their order, that others lack; a line that stands twice counts twice."""
    left = Counter(others)
    kept = []
    for line in lines:
        if left[line]:
            left[line] -= 1
        else:
            kept.append(line)
    return tuple(kept)
