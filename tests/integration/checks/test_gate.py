"""What one machine has checked and pushed is taken by another: the bundle, the word for it, and the results."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.statements import fetch_statement, store_statement
from pgbake.formats.keys import SecretKey
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.projects import TestProject
from tests.statements import passing

pytestmark = pytest.mark.integration

KEY = SecretKey("gate-1", bytes(range(1, 33)))
UNPASSED = "[0-9]+ of [0-9]+ checks have not passed: "
SIGNING = {"PGBAKE_SECRET_KEY": KEY.export()}


@pytest.fixture(scope="module")
def author(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestProject]:
    """A machine with the smallest bundle, not checked: fewer checks do for what is tested here."""
    base = tmp_path_factory.mktemp("author")
    project = TestProject.copy(base / "project", base / "home")
    manifest = project.directory / "pgbake.toml"
    text = manifest.read_text()
    head, rest = text.split("extensions = [", 1)
    manifest.write_text(f'{head}extensions = ["numeral", "pgvector"]{rest.split("]", 1)[1]}')
    tests = project.directory / "tests/uses"
    tests.mkdir(parents=True)
    # A check of this run's own, so that no earlier run's result is in the store that all share.
    (tests / "pgvector.sql").write_text(f"SELECT '[1,2]'::vector = '[1,2]'; -- {base}\n")
    project.pgbake("lock")
    project.pgbake("build")
    yield project


def store_of(project: TestProject) -> LocalStore:
    return LocalStore(project.store)


@pytest.fixture(scope="module")
def pushed(author: TestProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache to which it was pushed, refused at first and once a check fails."""
    cache = tmp_path_factory.mktemp("cache") / "cache"
    push = ("push", "--to", cache.as_uri())
    refused = author.pgbake(*push, check=False, environment=SIGNING)
    assert refused.returncode == 1 and " checks have not passed: " in refused.stderr
    assert "hint: run `pgbake check`" in refused.stderr
    assert "--unchecked" in refused.stderr and not cache.exists()
    told = author.pgbake(*push, "--dry-run", environment=SIGNING)
    assert "Would be refused: " in told.stdout and not cache.exists()

    use = author.directory / "tests/uses/pgvector.sql"
    good = use.read_text()
    use.write_text(good + "SELECT 1/0;\n")
    failed = author.pgbake("check", check=False)
    assert failed.returncode == 1 and "next: " not in failed.stderr
    refused = author.pgbake(*push, check=False, environment=SIGNING)
    assert re.search(f"is not pushed: {UNPASSED}smoke/pgvector", refused.stderr), refused.stderr
    use.write_text(good)

    done = author.pgbake("check", environment={"PGBAKE_SECRET_KEY": ""})
    assert "next: pgbake push --to URL --key FILE" in done.stderr
    assert "its checks have passed" in author.pgbake(*push, "--dry-run", environment=SIGNING).stdout
    assert not cache.exists()
    answer = json.loads(author.pgbake(*push, "--json", environment=SIGNING).stdout)[0]
    assert answer["statements"] == 1 and list(answer["checks"].values()) == ["passed"]
    return cache


@pytest.fixture
def cache(pushed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pushed, tmp_path / "cache"))


@pytest.fixture
def newcomer(author: TestProject, tmp_path: Path, cache: Path) -> Iterator[TestProject]:
    """Another machine, where nothing is there yet and that reaches no mirror."""
    directory = tmp_path / "project"
    shutil.copytree(author.directory, directory, ignore=shutil.ignore_patterns("result"))
    manifest = directory / "pgbake.toml"
    text = manifest.read_text().replace("[platform]\n", '[platform]\nmirrors = ["http://127.0.0.1:9/"]\n')
    manifest.write_text(f'{text}\n[[cache]]\nurl = "{cache.as_uri()}"\n\n[trust]\nkeys = ["{KEY.public}"]\n')
    with scratch_directory("newcomer") as store:
        yield TestProject(directory, store, tmp_path / "home", cache=tmp_path / "downloads")


def test_another_machine_runs_nothing_again(author: TestProject, newcomer: TestProject, tmp_path: Path) -> None:
    done = newcomer.pgbake("check", "--json")
    outcomes = json.loads(done.stdout)
    assert {outcome["state"] for outcome in outcomes} == {"kept"}
    assert "checking" not in done.stderr and "building" not in done.stderr
    # It can vouch for the bundle itself, and brings the author's word along where it has no key.
    elsewhere = tmp_path / "elsewhere"
    newcomer.pgbake("push", "--to", elsewhere.as_uri())
    path = author.project.bundle(host_system()).path
    signed = fetch_statement(BinaryCache(elsewhere.as_uri()), path, "check")
    assert signed is not None and {one.name for one in signed.signatures} == {"gate-1"}


def test_the_results_stay_when_garbage_goes(newcomer: TestProject) -> None:
    newcomer.pgbake("check")
    newcomer.pgbake("build")
    newcomer.pgbake("gc")
    assert {row["passed"] for row in newcomer.json("check", "--list")} == {True}


def test_a_bundle_without_a_statement_is_refused_and_built(newcomer: TestProject, cache: Path) -> None:
    shutil.rmtree(cache / "statements")
    refused = newcomer.pgbake("pull", check=False)
    assert refused.returncode == 1 and "no statement of that kind is in file://" in refused.stderr
    assert "hint: its owner runs `pgbake check`" in refused.stderr
    assert "warning: 1 path that caches have cannot be taken: " in newcomer.pgbake("plan").stderr
    loud = newcomer.pgbake("pull", "--unchecked", "--no-link")
    assert "warning: UNCHECKED: " in loud.stderr


def test_a_statement_by_a_stranger_or_of_another_bundle_is_refused(
    author: TestProject, newcomer: TestProject, cache: Path
) -> None:
    path = author.project.bundle(host_system()).path
    with store_of(author) as store:
        strange = passing(store, path, SecretKey("stranger-1", bytes(32)))
        store_statement(BinaryCache(cache.as_uri()), strange)
        refused = newcomer.pgbake("pull", check=False)
        assert refused.returncode == 1 and "is signed by stranger-1; trusted keys: gate-1" in refused.stderr
        other = dataclasses.replace(passing(store, path, KEY).statement, nar_sha256=bytes(32))
    store_statement(BinaryCache(cache.as_uri()), other.sign([KEY]))
    refused = newcomer.pgbake("pull", check=False)
    assert refused.returncode == 1 and "is about other contents" in refused.stderr


def test_what_was_pushed_unchecked_says_so_to_others(author: TestProject, newcomer: TestProject, cache: Path) -> None:
    shutil.rmtree(cache)
    use = author.directory / "tests/uses/pgvector.sql"
    good = use.read_text()
    use.write_text(good + "SELECT 2/0;\n")
    # What was stated of the checks before says nothing of this one.
    refused = author.pgbake("push", "--to", cache.as_uri(), check=False, environment=SIGNING)
    assert refused.returncode == 1 and re.search(f"is not pushed: {UNPASSED}", refused.stderr), refused.stderr
    with store_of(author) as store:
        kept = store.statements_dir / author.project.bundle(host_system()).path.digest
        aside = kept.with_name("aside")
        kept.rename(aside)
    try:
        done = author.pgbake("push", "--unchecked", "--to", cache.as_uri(), environment=SIGNING)
    finally:
        use.write_text(good)
        aside.rename(kept)
    assert re.search(f"warning: UNCHECKED: {UNPASSED}", done.stderr), done.stderr
    refused = newcomer.pgbake("pull", check=False)
    assert refused.returncode == 1
    assert re.search(f"it was pushed unchecked: {UNPASSED}", refused.stderr), refused.stderr
    newcomer.pgbake("pull", "--unchecked", "--no-link")


def test_an_archive_brings_the_word_along(author: TestProject, newcomer: TestProject, tmp_path: Path) -> None:
    archive = tmp_path / "bundle.tar"
    done = author.pgbake("export", str(archive), environment=SIGNING)
    assert "warning" not in done.stderr, done.stderr
    newcomer.pgbake("import", str(archive))
    with store_of(newcomer) as store:
        assert store.valid([author.project.bundle(host_system()).path])
