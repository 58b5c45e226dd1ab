"""Recipes: how one package is made, in a few declarative lines of TOML.

::

    name = "pgaudit"                       # of the package, and of this file
    summary = "Audit log of sessions and objects"
    licence = "PostgreSQL"                 # SPDX expression
    builder = "pgxs"                       # see `pgbake.recipes.builders`
    source = { debian = "pgaudit-1.7" }    # the Debian source package that carries the upstream tarball
    build = ["libssl-dev"]                 # Debian packages with headers; their libraries follow
    runtime = []                           # Debian packages needed at run time that no header tells of
    make = ["OPTFLAGS="]                   # words for make's command line
    preload = ["pgaudit"]                  # for shared_preload_libraries
    settings = { "wal_level" = "logical" } # settings without which it does not work

``{major}`` stands for PostgreSQL's major version in ``source`` and in scripts. The recipes shipped with
pgbake are the catalogue; a user's own stand in ``recipes/`` beside the manifest and win over it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from pgbake.errors import ManifestError
from pgbake.toml import load_toml, wrong_value

#: The catalogue that is shipped with pgbake.
SHIPPED = Path(str(resources.files("pgbake") / "catalogue"))

#: Short names of what pgbake itself makes for a bundle.
RESERVED = ("bundle", "locales", "support")


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a recipe's upstream tarball is pinned from.

    :param debian: a Debian source package, whose signed index names the upstream tarball.
    :param suite: the Debian suite to look in; None means the platform's.
    """

    debian: str
    suite: str | None = None


class Provided(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server needs set to use one extension."""

    preload: tuple[str, ...] = ()
    settings: dict[str, str] = {}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package's recipe; the module's docstring explains the fields."""

    name: str
    summary: str
    licence: str
    builder: Literal["postgresql", "pgxs"]
    source: Source
    homepage: str | None = None
    stack: str = "core"
    build: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    configure: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    settings: dict[str, str] = {}
    #: Outputs beside ``out``, each with the globs (below the installed tree) of the files that it takes.
    outputs: dict[str, tuple[str, ...]] = {}
    #: Extensions inside this package that are chosen by their own name, such as contrib's.
    provides: dict[str, Provided] = {}


class Stack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of Debian packages, such as those that make a build root."""

    packages: tuple[str, ...]


class RuntimeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Debian packages whose names match a glob enter a bundle's runtime.

    :param keep: globs of files to keep beyond what every import keeps.
    :param drop: globs of files to leave out.
    :param needs: globs of package names that must follow, since files of theirs are opened at run time.
    :param always: part of every bundle, needed or not.
    """

    match: str
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    always: bool = False


class Debian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the catalogue knows of Debian: ``catalogue/debian.toml``."""

    stacks: dict[str, Stack]
    runtime: tuple[RuntimeRule, ...]
    #: Sections of runtime dependencies that are taken into the lock; others are tools and their scripts.
    sections: tuple[str, ...]
    #: Runtime packages that no header package tells of.
    extra: Stack


class Catalogue:
    """All recipes by name, and what is known of Debian."""

    def __init__(self, recipes: Mapping[str, Recipe], debian: Debian) -> None:
        self.recipes = recipes
        self.debian = debian

    def recipe(self, name: str) -> Recipe:
        """Return a recipe by name.

        :raises ManifestError: there is none; the nearest names are offered.
        """
        try:
            return self.recipes[name]
        except KeyError:
            raise ManifestError(f'there is no recipe "{name}"', hint=self._nearest(name)) from None

    @property
    def postgresql(self) -> Recipe:
        """The recipe of PostgreSQL itself."""
        return self.recipes["postgresql"]

    def extension_names(self) -> list[str]:
        """Return every name that a manifest may list as an extension, sorted."""
        return sorted((self.recipes.keys() - {"postgresql"}) | self.postgresql.provides.keys())

    def check_extension(self, name: str, manifest: Path) -> None:
        """Check that a manifest's extension exists.

        :raises ManifestError: it does not; the nearest names are offered.
        """
        if name not in self.extension_names():
            raise wrong_value(manifest, "extensions", f'there is no extension "{name}"', self._nearest(name))

    def import_rules(self, package: str) -> tuple[list[str], list[str]]:
        """Return the globs to keep and to drop when a runtime package is imported."""
        rules = [rule for rule in self.debian.runtime if fnmatchcase(package, rule.match)]
        return [glob for rule in rules for glob in rule.keep], [glob for rule in rules for glob in rule.drop]

    def _nearest(self, name: str) -> str:
        names = self.extension_names()
        near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        near += [known for known in names if name in known and known not in near][:3]
        return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"


def load_catalogue(own: Path | None = None) -> Catalogue:
    """Load the shipped recipes and, from the directory ``own``, a user's.

    :raises ManifestError: a recipe is wrong; file, line and key are named.
    """
    files = sorted(SHIPPED.glob("recipes/*.toml"))
    if own is not None and own.is_dir():
        files += sorted(own.glob("*.toml"))
    recipes: dict[str, Recipe] = {}
    for file in files:
        recipe = load_toml(file, Recipe)
        if recipe.name != file.stem:
            raise wrong_value(file, "name", f'the recipe calls itself "{recipe.name}"', f'call it "{file.stem}"')
        if recipe.name in RESERVED:
            raise wrong_value(file, "name", f'"{recipe.name}" is what pgbake calls a part of every bundle')
        recipes[recipe.name] = recipe
    return Catalogue(recipes, load_toml(SHIPPED / "debian.toml", Debian))
