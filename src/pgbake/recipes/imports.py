"""Importing Debian packages by the catalogue's rules: what is kept of them, what is linked, what scripts may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.inputs.buildroot import import_extension, import_runtime
from pgbake.inputs.maintainer import require_declared
from pgbake.recipes.recipe import Catalogue, RuntimeRule

_WITH_EXTENSIONS = re.compile(r"postgresql-(\d+)-.+")


def major_of(package: str) -> int | None:
    """Return the major version of PostgreSQL that a Debian package holds extensions for, by its name, or None."""
    found = _WITH_EXTENSIONS.fullmatch(package)
    return int(found[1]) if found else None


def check_scripts(catalogue: Catalogue, debs: Mapping[str, Path]) -> None:
    """Check that packages' maintainer scripts make nothing but what the catalogue's rules declare.

    :param debs: the name of each package to its ``.deb``.
    :raises InputError: they do; every line of every package is named.
    """
    require_declared(debs, lambda name: [glob for rule in _rules(catalogue, name) for glob in rule.scripts])


def _rules(catalogue: Catalogue, name: str) -> list[RuntimeRule]:
    return [rule for rule in catalogue.debian.runtime if fnmatchcase(name, rule.match)]


def import_package(catalogue: Catalogue, deb: Path, name: str, into: Path) -> None:
    """Unpack what a bundle needs of a runtime package, or of a package with extensions.

    :param into: a directory that does not exist, or an empty one.
    :raises InputError: the package is damaged or hostile, or its scripts make what nobody has declared.
    :raises HostError: the disk is full or ``into`` is not writable.
    """
    check_scripts(catalogue, {name: deb})
    rules = _rules(catalogue, name)
    keep = [glob for rule in rules for glob in rule.keep]
    drop = [glob for rule in rules for glob in rule.drop]
    major = major_of(name)
    links = {link.replace("{major}", str(major)): target for rule in rules for link, target in rule.links.items()}
    if major is None:
        import_runtime(deb, into, keep, drop, links)
    else:
        import_extension(deb, into, major, keep, drop, links)
