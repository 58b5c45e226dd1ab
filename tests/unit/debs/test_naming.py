from __future__ import annotations

import itertools

from debian.debian_support import version_compare

from pgbake.debs.naming import deb_version, extension_name, language_package, revision_of
from pgbake.recipes.recipe import Catalogue


def test_versions_sort_as_they_should() -> None:
    ascending = [
        "15.17-9",
        "15.18-0+deb12u1",
        "15.18-1",
        deb_version("15.18", "bookworm", 1),
        deb_version("15.18", "bookworm", 2),
        deb_version("15.18", "bookworm", 10),
        deb_version("15.18", "trixie", 1),
        deb_version("15.18", "sid", 1),
        "15.18-2",
        deb_version("15.19", "bookworm", 1),
    ]
    for older, newer in itertools.pairwise(ascending):
        assert version_compare(older, newer) < 0, (older, newer)


def test_an_upstream_version_may_be_anything() -> None:
    assert deb_version("0.1.4-4-gd63ea3b", "bookworm", 3) == "0.1.4-4-gd63ea3b-1+pgbake12.3"
    assert deb_version("v2_1", "bookworm", 1) == "0.v2.1-1+pgbake12.1"


def test_the_revision_is_read_back() -> None:
    assert revision_of(deb_version("1.0", "trixie", 12)) == 12
    assert revision_of("15.18-0+deb12u1") is None


def test_an_extension_is_called_as_debian_calls_it(catalogue: Catalogue) -> None:
    assert extension_name("pg_repack", catalogue.recipe("pg_repack"), 17) == "postgresql-17-repack"
    assert extension_name("first_last_agg", None, 15) == "postgresql-15-first-last-agg"


def test_languages_are_debians_packages() -> None:
    assert language_package("plpython3u", 15) == "postgresql-plpython3-15"
    assert language_package("hstore", 15) is None
