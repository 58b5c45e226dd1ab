"""Debian packages with extensions, in a small signed repository: found, told of, pinned, moved, outdated."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from pgbake.cli.main import pgbake
from pgbake.errors import PgbakeError
from pgbake.inputs import apt
from pgbake.inputs.apt import AptRoot
from pgbake.lock import Lock, load_lock, save_lock
from pgbake.manifest import load_manifest
from pgbake.recipes.recipe import load_catalogue
from pgbake.requirements import requirements
from tests.integration.inputs.repository import Keys, Repository
from tests.synthetic import synthetic_lock

pytestmark = pytest.mark.integration


class Shop:
    """A project whose platform is the repository."""

    def __init__(self, directory: Path, repository: Repository) -> None:
        self.directory = directory
        self.repository = repository
        directory.mkdir()
        self.write()

    def write(self, *extensions: str, more: str = "") -> None:
        (self.directory / "pgbake.toml").write_text(
            f'name = "shop"\npostgresql = 15\nextensions = {json.dumps(extensions)}\n'
            f'[platform]\nsecurity = false\nupdates = false\nmirrors = ["{self.repository.url}"]\n{more}'
        )

    def lock(self) -> None:
        """Write a lock of made-up build roots and libraries, in which extensions may then be pinned for real."""
        manifest = load_manifest(self.directory / "pgbake.toml")
        named = msgspec.structs.replace(manifest, extensions=(), extension={})
        save_lock(synthetic_lock(named, load_catalogue()), self.directory / "pgbake.lock")

    @property
    def pins(self) -> Lock:
        return load_lock(self.directory / "pgbake.lock")

    def run(self, *args: str) -> str:
        result = CliRunner().invoke(pgbake, ["-C", str(self.directory), *args], catch_exceptions=True)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "--json"))


@pytest.fixture
def shop(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    repository = Repository(tmp_path / "archive", keys)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PGBAKE_STORE", str(tmp_path / "store"))
    trusting = functools.partial(AptRoot, keyring=keys.keyring)
    monkeypatch.setattr(apt, "AptRoot", trusting)
    monkeypatch.setattr("pgbake.resolve.AptRoot", trusting)
    shop = Shop(tmp_path / "shop", repository)
    repository.add("postgresql-15-hll", "2.17-1", Description="HyperLogLog", Section="database")
    repository.add("postgresql-15-cron", "1.4-1", Description="jobs", Homepage="https://cron", Section="database")
    repository.add("postgresql-15-cron-dbgsym", "1.4-1")
    repository.add("postgresql-15-pgvector", "0.4-1", Description="vectors by Debian")
    repository.add("postgresql-15-postgis-3", "3.3-1", Depends="postgresql-15-postgis-3-scripts")
    repository.add("postgresql-15-postgis-3-scripts", "3.3-1")
    repository.add("postgresql-17-hll", "2.18-1")
    yield shop


def update(shop: Shop) -> None:
    """Publish the repository, and let indexes that were fetched look old."""
    shop.repository.publish()
    age(shop)


def age(shop: Shop) -> None:
    """Let indexes that were fetched look old."""
    for file in (shop.directory.parent / "cache").glob("pgbake/apt/*/etc/sources.list"):
        os.utime(file, (0, 0))


def test_search_lists_all_origins_and_names_packages_as_manifests_do(shop: Shop) -> None:
    shop.repository.publish()
    found = {item["name"]: item for item in shop.json("search")}
    assert found["hll"] == {
        "name": "hll", "summary": "HyperLogLog", "origins": ["deb"],
        "version": "2.17-1", "package": "postgresql-15-hll",
    }  # fmt: skip
    assert found["pgvector"]["origins"] == ["source", "deb"]
    assert found["postgis"]["package"] == "postgresql-15-postgis-3"
    assert found["hstore"]["origins"] == ["contrib"] and found["plsh"]["origins"] == ["source"]
    assert not {"cron_dbgsym", "postgis_3_scripts"} & found.keys()
    assert {"cron_dbgsym", "postgis_3_scripts"} <= {item["name"] for item in shop.json("search", "--all")}
    assert [item["name"] for item in shop.json("search", "HYPER")] == ["hll"]
    assert "2.18-1" in shop.run("search", "hll", "--postgresql", "17")
    assert shop.run("search", "nothing-like-it").startswith("no extension matches")


def test_an_index_is_fetched_once_a_day_and_recipes_are_listed_without(shop: Shop) -> None:
    offline = CliRunner().invoke(pgbake, ["-C", str(shop.directory), "search", "pgvector"])
    assert offline.stderr.count("warning:") == 1 and "pgvector" in offline.stdout
    shop.repository.publish()
    assert "hll" in shop.run("search")
    shop.repository.add("postgresql-15-new")
    shop.repository.publish()
    assert "postgresql-15-new" not in json.dumps(shop.json("search", "new"))
    update(shop)
    assert "postgresql-15-new" in json.dumps(shop.json("search", "new"))
    (shop.repository.dist / "InRelease").unlink()
    age(shop)
    kept = CliRunner().invoke(pgbake, ["-C", str(shop.directory), "search", "hll"])
    assert "warning: the indexes are" in kept.stderr and "hll" in kept.stdout


def test_info_tells_origins_and_looks_into_the_package(shop: Shop) -> None:
    shop.repository.publish()
    told = shop.json("info", "cron")
    assert (told["origins"], told["package"], told["homepage"]) == (["deb"], "postgresql-15-cron 1.4-1", "https://cron")
    assert told["chosen"].startswith("deb: there is no recipe")
    assert told["licence"] == "LicenseRef-see-copyright" and told["versions"] == {"deb": "1.4-1"}
    both = shop.json("info", "pgvector")
    assert both["origins"] == ["source", "deb"] and both["chosen"].startswith("source:")
    shop.write("pgvector", more='[extension.pgvector]\norigin = "deb"\n')
    assert shop.json("info", "pgvector")["chosen"] == "deb: the manifest says so under [extension.pgvector]"
    assert shop.json("info", "hstore")["origins"] == ["contrib"]
    with pytest.raises(PgbakeError, match="there is no extension hlll for PostgreSQL 15 in bookworm") as caught:
        shop.run("info", "hlll")
    assert (caught.value.hint or "").startswith("did you mean hll?")


@pytest.mark.parametrize(
    ("name", "hint"), [("hlll", "did you mean hll?"), ("pg_cronn", "cron"), ("vector", "pgvector"), ("zzzz", "search")]
)
def test_an_unknown_extension_is_named_with_near_ones(shop: Shop, name: str, hint: str) -> None:
    shop.repository.publish()
    shop.lock()
    with pytest.raises(PgbakeError) as caught:
        shop.run("add", name)
    assert caught.value.message == f"there is no extension {name} for PostgreSQL 15 in bookworm"
    assert hint in (caught.value.hint or "")
    assert load_manifest(shop.directory / "pgbake.toml").extensions == ()


def test_a_version_that_is_not_there_is_named_with_those_that_are(shop: Shop) -> None:
    shop.repository.publish()
    shop.lock()
    with pytest.raises(PgbakeError, match=r"no version 2\.99 of hll \(postgresql-15-hll\) in bookworm") as caught:
        shop.run("add", "hll@2.99")
    assert "it has 2.17-1" in (caught.value.hint or "")


def seeded(shop: Shop) -> None:
    """Publish, with all that the made-up runtime of the lock asks for."""
    manifest = load_manifest(shop.directory / "pgbake.toml")
    required = requirements(manifest, load_catalogue())
    for want in sorted({*required.runtime, *load_catalogue().debian.extra.packages}):
        shop.repository.add(want.partition("|")[0].strip())
    shop.repository.add("libc6", Section="libs")
    for name in ("ca-certificates", "libperl5.36", "libpython3.11", "libssl3", "libtcl8.6"):
        if f"Package: {name}\n" not in "".join(shop.repository.packages):
            shop.repository.add(name, Section="libs")
    if "Package: tzdata\n" not in "".join(shop.repository.packages):
        shop.repository.add("tzdata")
    update(shop)


def versions(shop: Shop) -> dict[str, str]:
    return {name: pin.version for name, pin in shop.pins.systems["x86_64-linux"].debs.items()}


def test_extensions_are_added_moved_one_by_one_and_removed(shop: Shop) -> None:
    seeded(shop)
    shop.lock()
    added = shop.json("add", "hll", "cron")
    moved = {move["name"]: (move["before"], move["after"]) for move in added["moved"]}
    assert moved == {"postgresql-15-hll": (None, "2.17-1"), "postgresql-15-cron": (None, "1.4-1")}
    assert shop.json("outdated")["extensions"] == []

    shop.repository.add("postgresql-15-hll", "2.18-1")
    shop.repository.add("postgresql-15-cron", "1.5-1")
    update(shop)
    newer = {item["name"]: (item["locked"], item["newest"]) for item in shop.json("outdated")["extensions"]}
    assert newer == {"hll": ("2.17-1", "2.18-1"), "cron": ("1.4-1", "1.5-1")}
    result = CliRunner().invoke(pgbake, ["-C", str(shop.directory), "outdated", "--exit-code"], standalone_mode=False)
    assert result.return_value == 1 or result.exit_code == 1

    shop.run("lock")
    assert versions(shop) == {"postgresql-15-hll": "2.17-1", "postgresql-15-cron": "1.4-1"}
    assert "postgresql-15-hll 2.17-1 -> 2.18-1" in shop.run("lock", "--update", "hll")
    assert versions(shop) == {"postgresql-15-hll": "2.18-1", "postgresql-15-cron": "1.4-1"}

    gone = shop.json("remove", "hll")
    assert [(move["name"], move["after"]) for move in gone["moved"]] == [("postgresql-15-hll", None)]
    assert versions(shop) == {"postgresql-15-cron": "1.4-1"}
