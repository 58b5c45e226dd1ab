"""Which extensions the platform's Debian packages hold, by the names that a manifest gives them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.errors import InputError
from pgbake.recipes.choice import deb_names, deb_want
from pgbake.recipes.recipe import Catalogue

if TYPE_CHECKING:
    from pgbake.events import Sink
    from pgbake.inputs.apt import AptRoot, Suite
    from pgbake.inputs.mirrors import Mirrors
    from pgbake.manifest import Platform

#: Seconds for which an index is taken as it is where somebody only looks.
FRESH = 86400.0

#: Packages beside those with an extension: documents, debugging symbols, bitcode, scripts of another's.
_COMPANION = re.compile(r".+-(doc|dbgsym|dbg|jit|jit-llvm|scripts|common)")

#: PostgreSQL's own extensions that every bundle holds, and that no manifest names; some majors lack one or two.
CONTRIB = {
    "amcheck": "functions for verifying relation integrity",
    "bloom": "bloom access method - signature file based index",
    "btree_gin": "support for indexing common datatypes in GIN",
    "btree_gist": "support for indexing common datatypes in GiST",
    "citext": "data type for case-insensitive character strings",
    "cube": "data type for multidimensional cubes",
    "dblink": "connect to other PostgreSQL databases from within a database",
    "dict_int": "text search dictionary template for integers",
    "dict_xsyn": "text search dictionary template for extended synonym processing",
    "earthdistance": "calculate great-circle distances on the surface of the Earth",
    "file_fdw": "foreign-data wrapper for flat file access",
    "fuzzystrmatch": "determine similarities and distance between strings",
    "hstore": "data type for storing sets of (key, value) pairs",
    "insert_username": "functions for tracking who changed a table",
    "intagg": "integer aggregator and enumerator (obsolete)",
    "intarray": "functions, operators, and index support for 1-D arrays of integers",
    "isn": "data types for international product numbering standards",
    "lo": "large object maintenance",
    "ltree": "data type for hierarchical tree-like structures",
    "moddatetime": "functions for tracking last modification time",
    "pageinspect": "inspect the contents of database pages at a low level",
    "pg_buffercache": "examine the shared buffer cache",
    "pg_freespacemap": "examine the free space map (FSM)",
    "pg_surgery": "extension to perform surgery on a damaged relation",
    "pg_trgm": "text similarity measurement and index searching based on trigrams",
    "pg_visibility": "examine the visibility map (VM) and page-level visibility info",
    "pg_walinspect": "functions to inspect contents of PostgreSQL Write-Ahead Log",
    "pgcrypto": "cryptographic functions",
    "pgrowlocks": "show row-level locking information",
    "pgstattuple": "show tuple-level statistics",
    "plpgsql": "PL/pgSQL procedural language",
    "postgres_fdw": "foreign-data wrapper for remote PostgreSQL servers",
    "refint": "functions for implementing referential integrity (obsolete)",
    "seg": "data type for representing line segments or floating-point intervals",
    "sslinfo": "information about SSL certificates",
    "tablefunc": "functions that manipulate whole tables, including crosstab",
    "tcn": "Triggered change notifications",
    "tsm_system_rows": "TABLESAMPLE method which accepts number of rows as a limit",
    "tsm_system_time": "TABLESAMPLE method which accepts time in milliseconds as a limit",
    "unaccent": "text search dictionary that removes accents",
    "uuid-ossp": "generate universally unique identifiers (UUIDs)",
    "xml2": "XPath querying and XSLT",
}


@dataclass(frozen=True, slots=True)
class Packaged:
    """A Debian package with extensions for one major version of PostgreSQL.

    :param name: what a manifest calls it.
    :param companion: whether it only goes with another: documents, debugging symbols and the like.
    """

    package: str
    name: str
    version: str
    summary: str
    homepage: str | None
    size: int
    depends: str
    companion: bool


def platform_suites(platform: Platform, directory: Path) -> tuple[Suite, ...]:
    """Return the suites that a manifest's platform takes packages from.

    :param directory: of the manifest, which files of keys are relative to.
    """
    from pgbake.inputs.apt import Suite

    suites = [Suite(platform.suite)]
    if platform.updates:
        suites.append(Suite(f"{platform.suite}-updates"))
    if platform.security:
        suites.append(Suite(f"{platform.suite}-security", "security"))
    for repository in platform.repository:
        key = (directory / repository.key).resolve()
        suites.append(Suite(repository.suite, repository.name, repository.components, key))
    return tuple(suites)


def fresh_index(
    suites: tuple[Suite, ...], architecture: str, mirrors: Mirrors, cache: Path, report: Sink, seconds: float = FRESH
) -> AptRoot:
    """Return the apt of some suites, its indexes fetched where they are missing or older than ``seconds``.

    :raises InputError: there is none, and no mirror gives one.
    """
    from pgbake.events import Notice, task
    from pgbake.inputs.apt import AptRoot

    root = AptRoot(cache / "apt", suites, architecture, mirrors)
    if root.age < seconds:
        return root
    names = " ".join(suite.name for suite in suites)
    try:
        with task(report, str(root.path), "resolve", f"index of {names} ({architecture})"):
            root.update()
    except InputError as error:
        if root.age == float("inf"):
            raise
        days = root.age / 86400
        report(Notice("warning", f"the indexes are {days:.0f} days old: {error.message}"))
    return root


def packaged(root: AptRoot, major: int, catalogue: Catalogue) -> dict[str, Packaged]:
    """Return all Debian packages with extensions for a major version, by their own names."""
    names = _names(catalogue, major)
    found = {}
    for package, control in root.packages(f"postgresql-{major}-").items():
        stem = package.removeprefix(f"postgresql-{major}-")
        found[package] = Packaged(
            package=package,
            name=names.get(package) or stem.replace("-", "_"),
            version=control.get("Version", ""),
            summary=control.get("Description", "").partition("\n")[0].strip(),
            homepage=control.get("Homepage"),
            size=int(control.get("Size", "0")),
            depends=control.get("Depends", ""),
            companion=bool(_COMPANION.fullmatch(stem)),
        )
    return found


def find_packaged(known: Mapping[str, Packaged], want: str) -> Packaged | None:
    """Return the package that apt takes for what a choice asks for."""
    return next((known[name] for name in deb_names(want) if name in known), None)


def unknown_extension(name: str, major: int, suite: str, catalogue: Catalogue, known: Iterable[str]) -> InputError:
    """Return the error for an extension that is neither a recipe nor a Debian package.

    :param known: names of the Debian packages with extensions, ``postgresql-15-hll``.
    """
    if name in CONTRIB:
        return InputError(
            f"{name} is part of PostgreSQL: every bundle holds it, and the manifest does not name it",
            hint=f'take "{name}" out of `extensions`; in the database: CREATE EXTENSION "{name}"',
        )
    recipes = _names(catalogue, major)
    stems = [recipes.get(p) or p.removeprefix(f"postgresql-{major}-").replace("-", "_") for p in known]
    names = sorted({*stems, *catalogue.extension_names()} - {""})
    names = [other for other in names if not _COMPANION.fullmatch(other.replace("_", "-"))]
    plain = {other.lower().removeprefix("pg_").replace("_", ""): other for other in names}
    wanted = name.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, names, 3, cutoff=0.6)
    near += [
        plain[key] for key in difflib.get_close_matches(wanted.removeprefix("pg_").replace("_", ""), plain, 2, 0.75)
    ]
    near += [other for other in names if len(wanted) > 2 and wanted in other]
    near = list(dict.fromkeys(near))[:4]
    hint = f"did you mean {' or '.join(near)}?" if near else "`pgbake search WORD` lists what there is"
    return InputError(
        f"there is no extension {name} for PostgreSQL {major} in {suite}",
        hint=f"{hint} A source of your own: pgbake add URL",
    )


def unknown_version(name: str, package: str, version: str, suite: str, known: Iterable[str]) -> InputError:
    """Return the error for a version that a Debian package does not have in the suites."""
    versions = ", ".join(known)
    return InputError(
        f"there is no version {version} of {name} ({package}) in {suite}",
        hint=f"it has {versions}: set `version` under [extension.{name}] to one of these, or leave it out",
    )


def _names(catalogue: Catalogue, major: int) -> dict[str, str]:
    """Return what recipes call the Debian packages that hold the same extension."""
    found: dict[str, str] = {}
    for recipe in sorted(catalogue.recipes.values(), key=lambda recipe: (recipe.deb is None, recipe.name)):
        if recipe.name != "postgresql":
            for package in deb_names(deb_want(recipe.name, recipe, major, None)):
                found.setdefault(package, recipe.name)
    return found
