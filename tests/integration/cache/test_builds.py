"""Builds that take from binary caches what these have: the whole bundle, a part of it, or what it takes to build it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.cache.cache import BinaryCache, narinfo_name
from pgbake.cache.index import NAME as INDEX
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.projects import TestProject
from tests.statements import vouch

pytestmark = pytest.mark.integration

KEY = SecretKey("test-1", bytes(range(32)))


@pytest.fixture(scope="module")
def filled(example: TestProject, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file cache with the example bundle."""
    cache = tmp_path_factory.mktemp("cache")
    example.pgbake("push", "--unchecked", "--to", cache.as_uri(), environment={"PGBAKE_SECRET_KEY": KEY.export()})
    with LocalStore(example.store) as store:
        vouch(cache.as_uri(), store, bundle.path, KEY)
    return cache


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to break."""
    return Path(shutil.copytree(filled, tmp_path / "cache"))


@pytest.fixture
def newcomer(example: TestProject, tmp_path: Path, cache: Path) -> Iterator[TestProject]:
    """A machine where nothing is built yet, and that can reach no mirror: all it has is the cache."""
    directory = tmp_path / "project"
    shutil.copytree(example.directory, directory, ignore=shutil.ignore_patterns("result"))
    manifest = directory / "pgbake.toml"
    text = manifest.read_text().replace("[platform]\n", '[platform]\nmirrors = ["http://127.0.0.1:9/"]\n')
    assert "127.0.0.1:9" in text
    manifest.write_text(f'{text}\n[[cache]]\nurl = "{cache.as_uri()}"\n\n[trust]\nkeys = ["{KEY.public}"]\n')
    with scratch_directory("newcomer") as store:
        yield TestProject(directory, store, tmp_path / "home", cache=tmp_path / "downloads")


def drop(cache: Path, *paths: StorePath) -> None:
    """Take paths out of a cache, as its owner would."""
    for path in paths:
        (cache / narinfo_name(path)).unlink()
    (cache / INDEX).unlink()


def damage(cache: Path, path: StorePath) -> None:
    """Flip a bit in the middle of a path's NAR."""
    info = BinaryCache(cache.as_uri()).narinfo(path)
    assert info is not None
    file = cache / info.url
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def test_a_bundle_comes_from_the_cache_and_runs(newcomer: TestProject, bundle: Bundle) -> None:
    plan = newcomer.json("plan")
    assert str(bundle.path) in {item["path"] for item in plan["pull"]}
    assert plan["build"] == plan["fetch"] == []
    built = newcomer.json("build")
    assert built["built"] == [] and str(bundle.path) in built["pulled"]
    assert newcomer.json("build")["pulled"] == []
    version = newcomer.pgbake("run", "postgres", "--version").stdout
    assert version.startswith("postgres (PostgreSQL)")
    with LocalStore(newcomer.store) as store:
        infos = store.closure([bundle.path])
        assert all(info.signatures or info.ca for info in infos.values())
        assert not any(info.ultimate for info in infos.values())


def test_what_nobody_trusted_has_signed_is_refused(newcomer: TestProject, bundle: Bundle) -> None:
    newcomer.edit(str(KEY.public), str(SecretKey("other-1", bytes(32)).public))
    done = newcomer.pgbake("pull", check=False)
    assert done.returncode == 1
    assert f"{bundle.path} from file://" in done.stderr
    assert "is refused: it is signed by test-1; trusted: other-1" in done.stderr
    assert "hint: if you trust test-1, add its public key to the manifest, below [trust]" in done.stderr
    with LocalStore(newcomer.store) as store:
        assert store.database.paths() == []


def test_a_dry_run_of_pull_takes_nothing(newcomer: TestProject, bundle: Bundle) -> None:
    assert str(bundle.path) in newcomer.json("pull", "--dry-run")["pull"]
    with LocalStore(newcomer.store) as store:
        assert store.database.paths() == []


@pytest.mark.full
def test_what_builds_a_bundle_can_be_kept_for_years(
    example: TestProject, newcomer: TestProject, cache: Path, bundle: Bundle
) -> None:
    """No mirror has anything any more, and the cache lost a package and the bundle: both are built again."""
    everything = ("--what", "build", "--unchecked", "--to", cache.as_uri())
    example.pgbake("push", *everything, environment={"PGBAKE_SECRET_KEY": KEY.export()})
    package = bundle.by_name()["numeral"]
    drop(cache, bundle.path, *package.output_paths.values())
    built = newcomer.json("build")
    assert set(built["built"]) == {package.name, bundle.derivation.name}
    with LocalStore(newcomer.store) as store, LocalStore(example.store) as first:
        for path in (bundle.path, *package.output_paths.values()):
            assert store.info(path).nar_sha256 == first.info(path).nar_sha256


@pytest.mark.full
def test_what_a_cache_gives_wrong_is_built(
    example: TestProject, newcomer: TestProject, cache: Path, bundle: Bundle
) -> None:
    everything = ("--what", "build", "--unchecked", "--to", cache.as_uri())
    example.pgbake("push", *everything, environment={"PGBAKE_SECRET_KEY": KEY.export()})
    package = bundle.by_name()["numeral"]
    broken = package.output_paths["out"]
    damage(cache, broken)
    done = newcomer.pgbake("build", "--json")
    assert f"building {package.name}" in done.stderr
    assert f"warning: no cache gives {broken} as it should be" in done.stderr
    with LocalStore(newcomer.store) as store, LocalStore(example.store) as first:
        assert store.info(broken).nar_sha256 == first.info(broken).nar_sha256
        assert store.info(broken).ultimate


def test_damage_is_mended_from_the_cache(newcomer: TestProject, bundle: Bundle) -> None:
    newcomer.pgbake("pull", "--no-link")
    path = bundle.by_name()["pgvector"].output_paths["out"]
    with LocalStore(newcomer.store) as store:
        library = next(store.physical(path).rglob("vector.so"))
    library.chmod(0o644)
    data = bytearray(library.read_bytes())
    data[1000] ^= 1
    library.write_bytes(data)
    found = newcomer.pgbake("verify", str(bundle.path), check=False)
    assert found.returncode == 1 and str(path) in found.stdout
    outcomes = newcomer.json("repair", "--dry-run", str(bundle.path))["outcomes"]
    assert [(outcome["subject"], outcome["way"]) for outcome in outcomes] == [(str(path), "fetched")]
    outcomes = newcomer.json("repair", str(bundle.path))["outcomes"]
    assert [(outcome["subject"], outcome["way"]) for outcome in outcomes] == [(str(path), "fetched")]
    newcomer.pgbake("verify")


def test_signatures_that_another_tool_added_count(
    example: TestProject, newcomer: TestProject, cache: Path, bundle: Bundle
) -> None:
    """The index has the narinfos as they were pushed; who trusts a later key only is not refused for it."""
    other = SecretKey("other-1", bytes(32))
    newcomer.edit(str(KEY.public), str(other.public))
    with LocalStore(example.store) as store:
        vouch(cache.as_uri(), store, bundle.path, other)
    for file in cache.glob("*.narinfo"):
        info = NarInfo.parse(file.read_text())
        file.write_text(dataclasses.replace(info, signatures=(other.sign(info.fingerprint),)).to_text())
    assert str(bundle.path) in {item["path"] for item in newcomer.json("pull")["pulled"]}
