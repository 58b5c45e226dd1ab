"""Recipes: how one package is made, in a few declarative lines of TOML.

::

    name = "pgaudit"                       # of the package, and of this file
    summary = "Audit log of sessions and objects"
    licence = "PostgreSQL"                 # SPDX expression
    builder = "pgxs"                       # see `pgbake.recipes.builders`
    source = { debian = "pgaudit-1.7" }    # where the upstream tarball is pinned from: see `Source`
    build = ["libssl-dev"]                 # Debian packages with headers; their libraries follow
    runtime = []                           # Debian packages needed at run time that no header tells of
    make = ["OPTFLAGS="]                   # words for make's command line
    preload = ["pgaudit"]                  # for shared_preload_libraries; without it the module's symbols tell
    settings = { "wal_level" = "logical" } # settings without which it does not work
    deb = "postgresql-{major}-pgaudit"     # the Debian package that has it compiled

``{major}`` stands for PostgreSQL's major version in ``source``, ``deb`` and words for builders, ``{version}`` for the
package's. Of several sources, ``[[source]]``, the first that fits major and platform is taken. A recipe without a
builder has words for a Debian package only. The recipes shipped with pgbake are the catalogue; a user's own stand in
``recipes/`` beside the manifest and win over it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from pgbake.errors import ManifestError
from pgbake.toml import load_toml, wrong_value

#: The catalogue that is shipped with pgbake.
SHIPPED = Path(str(resources.files("pgbake") / "catalogue"))

_DEBIAN = "debian.toml"

#: Short names of what pgbake itself makes for a bundle.
RESERVED = ("bundle", "locales", "support")

Builder = Literal["postgresql", "pgxs", "make", "autotools", "cmake", "meson", "cargo-pgrx", "cargo"]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a recipe's upstream tarball is pinned from: just one of the first five.

    :param debian: a Debian source package, whose signed index names the upstream tarball.
    :param pool: the tarball's path in Debian's archive, for one that no suite's index names any more; ``version``,
        ``sha256`` and ``size`` in bytes belong to it.
    :param url: the tarball's URL; the lock pins what is there when it is made.
    :param path: a directory with the sources, relative to the recipe's own.
    :param crate: a crate of the registry that cargo is configured with.
    :param suite: of ``debian``: the suite to look in; None means the platform's.
    :param version: of the others: the upstream version.
    :param sha256: of ``url``, ``pool`` and ``crate``: what the tarball must have, in hexadecimal.
    :param majors: PostgreSQL's major versions that it builds for; empty means all.
    :param platforms: suites that it builds on; empty means all.
    """

    debian: str | None = None
    pool: str | None = None
    url: str | None = None
    path: str | None = None
    crate: str | None = None
    suite: str | None = None
    version: str | None = None
    sha256: str | None = None
    size: int | None = None
    majors: tuple[int, ...] = ()
    platforms: tuple[str, ...] = ()

    def fits(self, major: int, platform: str) -> bool:
        """Whether it builds for a major version on a platform."""
        return (not self.majors or major in self.majors) and (not self.platforms or platform in self.platforms)

    def filled(self, major: int) -> Source:
        """Return it with the major version put in where ``{major}`` stands."""

        def fill(text: str | None) -> str | None:
            return text and text.replace("{major}", str(major))

        return msgspec.structs.replace(self, debian=fill(self.debian), url=fill(self.url), crate=fill(self.crate))


class Provided(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An extension inside a package that a manifest may name by itself.

    :param output: the package's output that holds it.
    :param deb: by major version of PostgreSQL: the Debian package of its own that has it there.
    """

    summary: str | None = None
    output: str = "out"
    deb: dict[str, str] = {}
    preload: tuple[str, ...] = ()
    settings: dict[str, str] = {}


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a recipe adds for one major version of PostgreSQL."""

    build: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    configure: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    prepare: str = ""
    conflicts: dict[str, str] = {}


class TapScripts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scripts of pgTAP in a package's source.

    :param scripts: globs; each script is performed in a database of its own, in which pgTAP is there.
    :param before: SQL that is performed in each of these before.
    """

    scripts: tuple[str, ...]
    before: str = ""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the upstream suite of a package wants, where a plain ``make installcheck`` against a bundle is not enough.

    :param directory: below that of the builder: where ``make installcheck`` is performed.
    :param configure: words for the configuring program, beside the builder's.
    :param make: words for make's command line, beside the builder's.
    :param command: shell lines that are performed instead of ``make installcheck``; ``$kind`` is what is to be run,
        ``regress`` or ``isolation``, ``"$@"`` the words for make.
    :param steps: the same in several parts by name, each of which is run whatever came of those before. One that ends
        with status 77 does not apply; the last line that it prints is the reason.
    :param tap: scripts of pgTAP instead.
    :param preload: in place of what the package itself wants to be preloaded.
    :param settings: of the server.
    :param prepare: shell lines that are performed there before.
    :param before: SQL that a superuser performs in the database postgres before.
    :param isolation: whether it has specifications for pg_isolation_regress.
    :param left_out: why it is not run at all: always, or by PostgreSQL's major version.
    """

    directory: str = ""
    configure: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    command: str = ""
    steps: dict[str, str] = {}
    tap: TapScripts | None = None
    preload: tuple[str, ...] | None = None
    settings: dict[str, str] = {}
    prepare: str = ""
    before: str = ""
    isolation: bool = False
    left_out: str | dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.command != "") + bool(self.steps) + (self.tap is not None) > 1:
            raise ValueError("`command`, `steps` and `tap` exclude one another")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package's recipe; the module's docstring explains the fields."""

    name: str
    summary: str | None = None
    licence: str | None = None
    homepage: str | None = None
    deb: str | None = None
    builder: Builder | None = None
    source: Source | tuple[Source, ...] = ()
    stack: str = "core"
    build: tuple[str, ...] = ()
    #: Debian packages that only the build runs.
    tools: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    configure: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    #: Additions for a major version of PostgreSQL, as in ``[major.18]``.
    major: dict[str, Words] = {}
    #: Shell lines that are performed in the unpacked source before it is configured.
    prepare: str = ""
    #: Below the unpacked source: the directory in which the builder works.
    directory: str = ""
    preload: tuple[str, ...] | None = None
    #: Libraries and extensions that must come before this one's in shared_preload_libraries.
    after: tuple[str, ...] = ()
    #: Its libraries come before all others in shared_preload_libraries, since a hook of theirs forgets the one before.
    first: bool = False
    settings: dict[str, str] = {}
    #: Names of other extensions that cannot be in a bundle with this one, each with the reason.
    conflicts: dict[str, str] = {}
    #: What its own suite wants, in ``[suite]``.
    suite: Suite | None = None
    #: Outputs beside ``out``, each with the globs (below the installed tree) of the files that it takes.
    outputs: dict[str, tuple[str, ...]] = {}
    #: Extensions inside this package that are chosen by their own name, such as contrib's.
    provides: dict[str, Provided] = {}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, in the order of preference."""
        return (self.source,) if isinstance(self.source, Source) else self.source

    def at(self, major: int) -> Recipe:
        """Return the recipe with its additions for a major version of PostgreSQL."""
        words = self.major.get(str(major))
        if words is None:
            return self
        added = {
            name: getattr(self, name) + getattr(words, name) for name in words.__struct_fields__ if name != "conflicts"
        }
        return msgspec.structs.replace(self, **added, conflicts=self.conflicts | words.conflicts)

    def source_for(self, major: int, platform: str, version: str | None = None) -> Source | None:
        """Return the source to build from, or None where there is none for that major version on that platform.

        :param version: the upstream version that is wanted, or its beginning; None means any.
        """
        for known in self.sources if self.builder else ():
            if not known.fits(major, platform):
                continue
            source = known.filled(major)
            if version is None or source.version is None or is_version(source.version, version):
                return source
            if source.url and "{version}" in source.url:
                return msgspec.structs.replace(source, version=version, sha256=None)
            if source.crate:
                return msgspec.structs.replace(source, version=version)
        return None


def is_version(version: str, wanted: str) -> bool:
    """Whether ``wanted`` means a version: it is that, or its beginning up to a separator (``1.2`` of ``1.2.3``)."""
    return version == wanted or (version.startswith(wanted) and not version[len(wanted)].isalnum())


class Stack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of Debian packages, such as those that make a build root.

    :param extends: another stack, whose packages belong to it as well.
    """

    packages: tuple[str, ...]
    extends: str | None = None


class RuntimeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Debian packages whose names match a glob enter a bundle, those with extensions included.

    :param keep: globs of files to keep beyond what every import keeps.
    :param drop: globs of files to leave out.
    :param links: links that a maintainer script would make: path to its target, relative to the link's directory and
        maybe a glob; ``{triplet}`` stands for the multiarch directory, ``{major}`` for PostgreSQL's version.
    :param needs: globs of package names that must follow, since files of theirs are opened at run time.
    :param always: part of every bundle, needed or not.
    :param scripts: globs of what its maintainer scripts do, which the bundle makes otherwise or needs not.
    :param places: globs of text files below ``usr/`` that name ``/usr/...``; the bundle has copies in which the names
        are those of the package's own files, where it has them.
    """

    match: str
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    links: dict[str, str] = {}
    needs: tuple[str, ...] = ()
    always: bool = False
    scripts: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


class Debian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the catalogue knows of Debian: ``catalogue/debian.toml``."""

    stacks: dict[str, Stack]
    runtime: tuple[RuntimeRule, ...]
    #: Sections of runtime dependencies that are taken into the lock; others are tools and their scripts.
    sections: tuple[str, ...]
    #: Runtime packages that no header package tells of.
    extra: Stack

    def stack(self, name: str) -> tuple[str, ...]:
        """Return the packages of a stack, with those of the one that it extends."""
        stack = self.stacks[name]
        return (*self.stack(stack.extends), *stack.packages) if stack.extends else stack.packages


class OwnDebian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user adds to that: ``recipes/debian.toml`` beside the manifest."""

    stacks: dict[str, Stack] = {}
    runtime: tuple[RuntimeRule, ...] = ()


class Catalogue:
    """All recipes by name, and what is known of Debian."""

    def __init__(self, recipes: Mapping[str, Recipe], debian: Debian, own: Path | None = None) -> None:
        """:param own: the directory of a user's own recipes."""
        self.recipes = recipes
        self.debian = debian
        self.own = own
        #: Which recipe's package brings an extension that is chosen by its own name.
        self.providers = {name: recipe for recipe in recipes.values() for name in recipe.provides}

    def recipe(self, name: str) -> Recipe:
        """Return a recipe by name.

        :raises ManifestError: there is none; the nearest names are offered.
        """
        try:
            return self.recipes[name]
        except KeyError:
            raise ManifestError(f'there is no recipe "{name}"', hint=self.nearest(name)) from None

    @property
    def postgresql(self) -> Recipe:
        """The recipe of PostgreSQL itself."""
        return self.recipes["postgresql"]

    def extension_names(self) -> list[str]:
        """Return every name that recipes give to an extension, sorted."""
        no_extensions = {name for name, recipe in self.recipes.items() if recipe.builder in ("postgresql", "cargo")}
        return sorted((self.recipes.keys() - no_extensions) | self.providers.keys())

    def user_source(self, name: str) -> Path:
        """Return the directory that a recipe of the user's has its sources in.

        :raises ManifestError: there is no such recipe, or its sources lie elsewhere.
        """
        for source in self.recipe(name).sources:
            if source.path and self.own:
                return self.own / source.path
        raise ManifestError(f"the recipe {name} names no directory of sources", hint="run `pgbake lock`")

    def nearest(self, name: str) -> str:
        """Return a hint with the names of extensions that are like ``name``."""
        names = [known for known in self.extension_names() if known != name]
        near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        near += [known for known in names if name in known and known not in near][:3]
        return f"did you mean {' or '.join(near)}?" if near else "`pgbake search WORD` lists what there is"


def load_catalogue(own: Path | None = None) -> Catalogue:
    """Load the shipped recipes and, from the directory ``own``, a user's.

    :raises ManifestError: a recipe is wrong; file, line and key are named.
    """
    files = sorted(SHIPPED.glob("recipes/*.toml"))
    debian = load_toml(SHIPPED / _DEBIAN, Debian)
    if own is not None and own.is_dir():
        files += sorted(file for file in own.glob("*.toml") if file.name != _DEBIAN)
        if (own / _DEBIAN).exists():
            added = load_toml(own / _DEBIAN, OwnDebian)
            debian = msgspec.structs.replace(
                debian, stacks={**debian.stacks, **added.stacks}, runtime=debian.runtime + added.runtime
            )
    recipes: dict[str, Recipe] = {}
    for file in files:
        recipe = load_toml(file, Recipe)
        if recipe.name != file.stem:
            raise wrong_value(file, "name", f'the recipe calls itself "{recipe.name}"', f'call it "{file.stem}"')
        if recipe.name in RESERVED:
            raise wrong_value(file, "name", f'"{recipe.name}" is what pgbake calls a part of every bundle')
        _check_recipe(file, recipe)
        recipes[recipe.name] = recipe
    return Catalogue(recipes, debian, own)


_PLACES = ("debian", "pool", "url", "path", "crate")


def _check_recipe(file: Path, recipe: Recipe) -> None:
    """Check what types alone do not tell."""
    if recipe.builder and not recipe.sources:
        raise wrong_value(file, "builder", "there is no source to build", 'add source = { url = "..." }')
    if recipe.builder and (recipe.licence is None or recipe.summary is None):
        missing = "licence" if recipe.licence is None else "summary"
        raise ManifestError(f'{file}: the key "{missing}" is missing', hint=f"add {missing} = ...")
    if not recipe.builder and not recipe.deb:
        raise wrong_value(file, "name", "neither a builder nor a Debian package", 'add builder = "pgxs", or deb = ...')
    for source in recipe.sources:
        kinds = [kind for kind in _PLACES if getattr(source, kind)]
        if len(kinds) != 1:
            raise wrong_value(
                file, "source", f"it names {' and '.join(kinds) or 'no place'}", f"name one of {', '.join(_PLACES)}"
            )
        if source.pool and (source.sha256 is None or source.size is None):
            raise wrong_value(file, "pool", "a file of Debian's pool needs its sha256 and size", value=source.pool)
        if source.version is None and not source.debian:
            raise wrong_value(file, "source", "it has no version", 'add version = "..."')
    for name, provided in recipe.provides.items():
        if provided.output != "out" and provided.output not in recipe.outputs:
            raise wrong_value(file, "output", f'"{name}" is in an output that is not there', value=provided.output)
