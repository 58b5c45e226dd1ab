"""What a manifest's words for extensions mean, package by package."""

from __future__ import annotations

import msgspec
import pytest

from pgbake.errors import ManifestError
from pgbake.manifest import ExtensionSetting, Manifest, Platform
from pgbake.recipes.choice import Choice, choices, deb_names
from pgbake.recipes.recipe import Catalogue, Recipe, Source, Words, is_version


def recipe(name: str, *sources: Source, **fields: object) -> Recipe:
    words: dict[str, object] = {"summary": "s", "licence": "MIT"}
    return msgspec.convert(
        {"name": name, "builder": "pgxs" if sources else None, **words, **fields}
        | {"source": [msgspec.to_builtins(source) for source in sources]},
        Recipe,
    )


SERVER = recipe(
    "postgresql",
    Source(debian="postgresql-15", suite="bookworm", majors=(15,)),
    Source(debian="postgresql-18", suite="sid", majors=(18,)),
    provides={"pg_prewarm": {"preload": ["pg_prewarm"]}},
)


def from_recipes(shipped: Catalogue, *recipes: Recipe) -> Catalogue:
    return Catalogue({each.name: each for each in (SERVER, *recipes)}, shipped.debian)


def wanted(*extensions: str, major: int = 15, suite: str = "bookworm", **settings: ExtensionSetting) -> Manifest:
    return Manifest("test", major, extensions, platform=Platform(suite), extension=settings)


def chosen(manifest: Manifest, known: Catalogue) -> list[Choice]:
    server, *others = choices(manifest, known)
    assert server.name == "postgresql" and server.source is not None
    return others


def test_source_is_preferred_where_it_can_be_had(catalogue: Catalogue) -> None:
    known = from_recipes(catalogue, recipe("a", Source(debian="src-{major}", majors=(15,)), deb="postgresql-{major}-a"))
    (built,) = chosen(wanted("a"), known)
    assert built.source and built.source.debian == "src-15" and built.deb is None
    (imported,) = chosen(wanted("a", major=18), known)
    assert imported.source is None and imported.deb == "postgresql-18-a"


def test_the_manifest_may_say_which_origin(catalogue: Catalogue) -> None:
    known = from_recipes(catalogue, recipe("a", Source(debian="a"), deb="postgresql-{major}-aa"))
    (imported,) = chosen(wanted("a", a=ExtensionSetting(origin="deb", version="1.2")), known)
    assert imported.deb == "postgresql-15-aa=1.2*"
    with pytest.raises(ManifestError, match="no recipe that builds b from source"):
        chosen(wanted("b", b=ExtensionSetting(origin="source")), known)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("hll", ["postgresql-15-hll"]),
        ("pg_cron", ["postgresql-15-pg-cron", "postgresql-15-cron"]),
        ("icu_ext", ["postgresql-15-icu-ext"]),
    ],
)
def test_without_a_recipe_it_is_a_debian_package(catalogue: Catalogue, name: str, packages: list[str]) -> None:
    (imported,) = chosen(wanted(name), from_recipes(catalogue))
    assert imported.recipe is None and imported.deb and deb_names(imported.deb) == packages


def test_what_is_for_another_major_or_platform_says_so(catalogue: Catalogue) -> None:
    known = from_recipes(catalogue, recipe("a", Source(debian="a", majors=(17,), platforms=("trixie",))))
    with pytest.raises(ManifestError, match="for PostgreSQL 15 on bookworm: its recipe is for PostgreSQL 17 and the"):
        chosen(wanted("a"), known)
    with pytest.raises(ManifestError, match="no source of PostgreSQL 16") as caught:
        chosen(wanted(major=16), known)
    assert caught.value.hint and "15, 18" in caught.value.hint


def test_a_version_is_filled_in_or_looked_for(catalogue: Catalogue) -> None:
    url = Source(url="https://example.org/a-{version}.tar.gz", version="2.0", sha256="0" * 64)
    known = from_recipes(catalogue, recipe("a", url), recipe("b", Source(path="b", version="1.0")))
    (usual,) = chosen(wanted("a"), known)
    assert usual.source == url
    (other,) = chosen(wanted("a", a=ExtensionSetting(version="1.9")), known)
    assert other.source and (other.source.version, other.source.sha256) == ("1.9", None)
    with pytest.raises(ManifestError, match=r"there is no version 3 of b") as caught:
        chosen(wanted("b", b=ExtensionSetting(version="3")), known)
    assert caught.value.hint == "the recipe has 1.0"


def test_older_versions_stand_beside_the_newest(catalogue: Catalogue) -> None:
    url = Source(url="https://example.org/a-{version}.tar.gz", version="2.0")
    known = from_recipes(catalogue, recipe("a", url))
    newest, older = chosen(wanted("a", a=ExtensionSetting(older=("1.0",))), known)
    assert (newest.key, newest.older, older.key, older.older) == ("a", False, "a@1.0", True)


def test_parts_of_a_package_are_outputs_of_it(catalogue: Catalogue) -> None:
    parts = {"a_raster": {"output": "raster"}, "a_plain": {}}
    known = from_recipes(
        catalogue, recipe("a", Source(debian="a"), provides=parts, outputs={"raster": ["usr/lib/raster*"]})
    )
    (one,) = chosen(wanted("a_plain"), known)
    assert (one.name, one.outputs) == ("a", ("out",))
    (both,) = chosen(wanted("a", "a_raster"), known)
    assert (both.extensions, both.outputs) == (("a", "a_raster"), ("out", "raster"))
    with pytest.raises(ManifestError, match="come from one package, a, in two ways"):
        chosen(
            wanted("a", "a_raster", a=ExtensionSetting(origin="deb"), a_raster=ExtensionSetting(origin="source")), known
        )


def test_a_part_may_have_a_debian_package_of_its_own(catalogue: Catalogue) -> None:
    own = {"deb": {"18": "postgresql-18-a-part"}}
    known = from_recipes(
        catalogue,
        recipe("a", deb="postgresql-{major}-a", preload=["a"], provides={"a_part": own, "a_data": own, "a_more": {}}),
    )
    (whole,) = chosen(wanted("a", "a_part"), known)
    assert (whole.name, whole.deb, whole.extensions) == ("a", "postgresql-15-a", ("a", "a_part"))
    whole, part = chosen(wanted("a", "a_more", "a_part", "a_data", major=18), known)
    assert (whole.name, whole.deb, whole.extensions) == ("a", "postgresql-18-a", ("a", "a_more"))
    assert (part.name, part.deb, part.extensions) == ("a_part", "postgresql-18-a-part", ("a_part", "a_data"))
    assert part.recipe is None


def test_contribs_extensions_are_no_packages(catalogue: Catalogue) -> None:
    assert chosen(wanted("pg_prewarm"), from_recipes(catalogue)) == []


def test_what_cannot_be_together_says_why(catalogue: Catalogue) -> None:
    known = from_recipes(
        catalogue,
        recipe("a", Source(debian="a"), conflicts={"b": "both hook the planner"}),
        recipe("b", Source(debian="b")),
    )
    with pytest.raises(ManifestError, match="a and b cannot be in one bundle: both hook the planner"):
        chosen(wanted("a", "b"), known)


def test_a_major_adds_its_words() -> None:
    plain = Recipe("a", build=("libx-dev",), major={"18": Words(build=("liby-dev",), configure=("--with-y",))})
    assert plain.at(15) is plain
    assert plain.at(18).build == ("libx-dev", "liby-dev") and plain.at(18).configure == ("--with-y",)


def test_versions_end_at_separators() -> None:
    assert is_version("1.2.3", "1.2") and is_version("1.2", "1.2")
    assert not is_version("1.20", "1.2") and not is_version("2.1.2", "1.2")


def test_some_cannot_be_together_for_one_major_version(catalogue: Catalogue) -> None:
    words = {"18": {"conflicts": {"b": "they crash"}}}
    known = from_recipes(
        catalogue, recipe("a", Source(debian="a"), major=words, conflicts={"c": "why"}), recipe("b", Source(debian="b"))
    )
    assert len(chosen(wanted("a", "b"), known)) == 2
    with pytest.raises(ManifestError, match="a and b cannot be in one bundle: they crash"):
        chosen(wanted("a", "b", major=18), known)
