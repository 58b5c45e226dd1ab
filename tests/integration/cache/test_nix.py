"""Caches between pgbake and stock Nix, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.errors import CacheError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.closures import GREETING, Closure, make_closure, secret_key
from tests.integration.cache.transfers import OURS, Place, check_directory, check_store
from tests.oracle import Oracle
from tests.projects import TestProject
from tests.statements import vouch
from tests.web import WebServer

pytestmark = pytest.mark.integration

TRUSTING = ("--option", "trusted-public-keys", str(OURS.public))
TRUSTING_NOBODY = ("--option", "trusted-public-keys", "")


def references(nix: Oracle, path: StorePath) -> set[str]:
    return set(nix.run("nix-store", "--query", "--references", str(path)).stdout.decode().split())


def assert_has(nix: Oracle, place: Place, closure: Closure) -> None:
    """Nix finds the whole closure in its store as pgbake has it, signatures included."""
    nix.run("nix", "store", "verify", "--recursive", *TRUSTING, str(closure.top))
    for path, info in place.source.closure([closure.top]).items():
        assert references(nix, path) == {str(reference) for reference in info.references}
    assert GREETING.encode() in nix.run(f"{closure.top}/bin/greet").stdout


def test_nix_copies_from_our_cache(any_nix: Oracle, place: Place, web: WebServer) -> None:
    closure = place.pushed(leaves=3)
    any_nix.run("nix", "copy", "--from", web.url, *TRUSTING, str(closure.top))
    assert_has(any_nix, place, closure)


def test_nix_realises_from_our_cache(any_nix: Oracle, place: Place, web: WebServer) -> None:
    closure = place.pushed()
    any_nix.run("nix-store", "--realise", "--option", "substituters", web.url, *TRUSTING, str(closure.top))
    assert_has(any_nix, place, closure)


def test_nix_installs_into_a_profile_from_our_cache(any_nix: Oracle, place: Place, web: WebServer) -> None:
    closure = place.pushed()
    any_nix.run("nix", "profile", "install", "--option", "substituters", web.url, *TRUSTING, str(closure.top))
    assert GREETING.encode() in any_nix.run("/tmp/.nix-profile/bin/greet").stdout
    assert_has(any_nix, place, closure)


@pytest.mark.parametrize("way", ["copy", "realise"])
def test_nix_refuses_our_cache_without_the_key(any_nix: Oracle, place: Place, web: WebServer, way: str) -> None:
    closure = place.pushed()
    command = {
        "copy": ("nix", "copy", "--from", web.url),
        "realise": ("nix-store", "--realise", "--option", "substituters", web.url),
    }[way]
    done = any_nix.run(*command, *TRUSTING_NOBODY, str(closure.top), check=False)
    assert done.returncode != 0
    # Of what it passes over, the newest realise says no more than that nobody has it.
    assert any(reason in done.stderr for reason in (b"signature", b"not signed", b"no substituter that can"))
    assert not any_nix.on_disk(str(closure.top)).exists()


def test_what_certifies_itself_needs_no_key(any_nix: Oracle, place: Place, web: WebServer) -> None:
    closure = make_closure(place.source)
    place.push(closure, key=None)
    certified = [str(path) for path in (closure.data, closure.notes, closure.file)]
    any_nix.run("nix", "copy", "--from", web.url, *TRUSTING_NOBODY, *certified)
    assert place.pull([closure.data, closure.notes, closure.file], keys=()).pulled
    with pytest.raises(CacheError, match="no signature"):
        place.pull(closure, keys=())


def test_nix_reads_what_we_pulled(any_nix: Oracle, place: Place) -> None:
    """A store that pgbake filled is verified by Nix."""
    closure = place.pushed(leaves=3)
    with LocalStore(any_nix.root) as store:
        place.pull(closure, store=store)
        check_store(store, closure.paths)
    done = any_nix.run("nix-store", "--verify", "--check-contents")
    assert b"error" not in done.stderr and b"modified" not in done.stderr
    assert_has(any_nix, place, closure)
    said = json.loads(any_nix.run("nix", "path-info", "--json", str(closure.library)).stdout)
    (info,) = said.values() if isinstance(said, dict) else said
    assert [signature.partition(":")[0] for signature in info["signatures"]] == [OURS.name]


@pytest.mark.parametrize("compression", ["none", "zstd", "xz", "bzip2", "gzip"])
def test_we_pull_what_nix_wrote(any_nix: Oracle, place: Place, web: WebServer, compression: str) -> None:
    """By way of http, every compression; and the program that came runs."""
    with LocalStore(any_nix.root) as store:
        closure = make_closure(store, leaves=2, size=3_000_000 if compression == "zstd" else 20_000)
    theirs = secret_key("theirs-1")
    (place.directory / "key").write_text(theirs.export())
    cache = f"{place.url}?compression={compression}&secret-key={place.directory}/key"
    any_nix.run("nix", "copy", "--to", cache, str(closure.top), binds=[place.directory])
    assert place.narinfo(closure.top).compression == compression
    with pytest.raises(CacheError, match=r"signed by theirs-1.*trusted: tests-1"):
        place.pull(closure, web.url)
    assert not check_store(place.target)
    result = place.pull(closure, web.url, keys=[theirs])
    assert {path for path, _ in result.pulled} == set(closure.paths)
    check_store(place.target, closure.paths)
    for path, info in place.target.closure([closure.top]).items():
        assert references(any_nix, path) == {str(reference) for reference in info.references}


def test_we_add_to_a_cache_that_nix_wrote(oracle: Oracle, place: Place, web: WebServer) -> None:
    """What is there stays as it is; Nix takes the whole from it, and so do we."""
    first = make_closure(place.source)
    with LocalStore(oracle.root) as store:
        make_closure(store)
    (place.directory / "key").write_text(OURS.export())
    cache = f"{place.url}?compression=xz&secret-key={place.directory}/key"
    oracle.run("nix", "copy", "--to", cache, str(first.library), binds=[place.directory])
    before = {file: file.read_bytes() for file in place.cache.rglob("*.narinfo")}
    result = place.push(first)
    assert set(result.sent) == {first.top, first.file} and len(result.present) == 3
    assert all(file.read_bytes() == contents for file, contents in before.items())
    assert {path for path, _ in place.pull(first, web.url).pulled} == set(first.paths)
    oracle.root.joinpath("fresh").mkdir()
    fresh = Oracle(oracle.root / "fresh", oracle.tree)
    fresh.run("nix", "copy", "--from", web.url, *TRUSTING, str(first.top))
    assert_has(fresh, place, first)


def test_nix_adds_to_our_cache(oracle: Oracle, place: Place, web: WebServer) -> None:
    """Our index does not know what Nix added: it is found all the same, and the next push writes it down."""
    first = place.pushed("first")
    with LocalStore(oracle.root) as store:
        second = make_closure(store, "second")
    make_closure(place.source, "second")
    (place.directory / "key").write_text(OURS.export())
    cache = f"{place.url}?compression=zstd&secret-key={place.directory}/key"
    oracle.run("nix", "copy", "--to", cache, str(second.top), binds=[place.directory])
    place.pull(second, web.url)
    check_store(place.target, second.paths)
    assert not place.push(second).sent
    check_directory(place.cache, (*first.paths, *second.paths))


def test_the_cache_is_what_nix_would_write(oracle: Oracle, place: Place, tmp_path: Path) -> None:
    """Line for line but for what compression decides."""
    closure = place.pushed()
    with LocalStore(oracle.root) as store:
        make_closure(store)
    (tmp_path / "key").write_text(OURS.export())
    (tmp_path / "theirs").mkdir()
    cache = f"file://{tmp_path}/theirs?compression=zstd&secret-key={tmp_path}/key"
    oracle.run("nix", "copy", "--to", cache, str(closure.top), binds=[tmp_path])

    def lines(file: Path) -> list[str]:
        differ = ("URL:", "FileHash:", "FileSize:")
        return sorted(line for line in file.read_text().splitlines() if not line.startswith(differ))

    for path in closure.paths:
        assert lines(place.narinfo_file(path)) == lines(tmp_path / "theirs" / f"{path.digest}.narinfo")


def test_nix_takes_the_examples_bundle_and_runs_it(
    example: TestProject, bundle: Bundle, oracle: Oracle, place: Place, web: WebServer
) -> None:
    """By the commands: pushed, taken by Nix into a profile, taken by pgbake into a store of its own."""
    (place.directory / "key").write_text(OURS.export())
    (place.directory / "key").chmod(0o600)
    example.pgbake("push", "--unchecked", "--to", place.url, "--key", str(place.directory / "key"))
    with LocalStore(example.store) as store:
        vouch(place.url, store, bundle.path, OURS)
    (place.directory / "config/pgbake").mkdir(parents=True)
    (place.directory / "config/pgbake/config.toml").write_text(f'[trust]\nkeys = ["{OURS.public}"]\n')
    oracle.run("nix", "profile", "install", "--option", "substituters", web.url, *TRUSTING, str(bundle.path))
    version = oracle.run("/tmp/.nix-profile/lib/postgresql/15/bin/postgres", "--version").stdout
    assert version.startswith(b"postgres (PostgreSQL) 15.")
    oracle.run("nix", "store", "verify", "--recursive", *TRUSTING, str(bundle.path))
    variables = {"PGBAKE_STORE": str(place.directory / "target"), "XDG_CONFIG_HOME": str(place.directory / "config")}
    example.pgbake("pull", "--from", web.url, "--no-link", environment=variables)
    ran = example.pgbake("run", "--", "postgres", "--version", environment=variables)
    assert ran.stdout.encode() == version
    check_store(place.target, [bundle.path])
