"""What Debian packages of pgbake's are called, and which versions they have.

A version is made of four parts::

    15.18-1+pgbake12.3
    |     |       |  |
    |     |       |  revision: counts what pgbake made of one upstream version for one release
    |     |       release of Debian, as a number, so that upgrading the release upgrades the package
    |     an upstream version that Debian has as -1 too is replaced; Debian's next, -2, replaces ours
    upstream version
"""

from __future__ import annotations

import re

from pgbake.recipes.recipe import Recipe

#: Releases of Debian by the number that goes into versions; sid comes after all of them.
_RELEASES = {"buster": 10, "bullseye": 11, "bookworm": 12, "trixie": 13, "forky": 14, "duke": 15, "sid": 99}


def server_name(major: int) -> str:
    """Return the name of the package that holds the whole bundle."""
    return f"pgbake-postgresql-{major}"


def programs_name(major: int) -> str:
    """Return the name of the package with the links in ``/usr/bin``."""
    return f"pgbake-postgresql-{major}-programs"


def extension_name(name: str, recipe: Recipe | None, major: int) -> str:
    """Return the name of the package of an extension, for Debian's PostgreSQL.

    It is the name of Debian's own package, where the recipe tells one: then one replaces the other.

    :param name: the package's name in the manifest.
    """
    if recipe is not None and recipe.deb is not None:
        return recipe.deb.replace("{major}", str(major))
    return f"postgresql-{major}-{re.sub(r'[^a-z0-9+.-]', '-', name.lower())}"


def language_package(extension: str, major: int) -> str | None:
    """Return Debian's package with the procedural language that an extension requires, or None for any other."""
    languages = {
        "plperl": "plperl",
        "plperlu": "plperl",
        "plpython3u": "plpython3",
        "pltcl": "pltcl",
        "pltclu": "pltcl",
    }
    return f"postgresql-{languages[extension]}-{major}" if extension in languages else None


def deb_version(upstream: str, suite: str, revision: int) -> str:
    """Return a package's version.

    :param upstream: as the lock has it; what Debian's policy (5.6.12) does not allow in it becomes ``.``.
    :param suite: the platform.
    :param revision: from 1.
    """
    plain = re.sub(r"[^A-Za-z0-9.+~-]", ".", upstream)
    plain = plain if plain[:1].isdigit() else f"0.{plain}"
    return f"{plain}-1+pgbake{_RELEASES.get(suite, 0)}.{revision}"


def revision_of(version: str) -> int | None:
    """Return the revision in a version that :func:`deb_version` has made, or None for any other."""
    found = re.search(r"-1\+pgbake\d+\.(\d+)$", version)
    return int(found[1]) if found else None
