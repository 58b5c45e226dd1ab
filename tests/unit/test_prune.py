"""Pins that nothing asks for any more are dropped; all others stay as they are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pgbake.events import silent
from pgbake.formats.system import SYSTEMS
from pgbake.inputs.mirrors import Mirrors
from pgbake.lock import DebPin, Lock
from pgbake.manifest import Manifest
from pgbake.prune import drop_pins
from pgbake.recipes.recipe import load_catalogue
from pgbake.requirements import requirements
from pgbake.resolve import Resolver
from pgbake.store.local import LocalStore
from tests.synthetic import digest, synthetic_lock, with_pgrx, with_rust

CATALOGUE = load_catalogue()


def manifest(*extensions: str) -> Manifest:
    return Manifest(name="x", postgresql=15, extensions=extensions)


def with_debs(lock: Lock, **debs: tuple[str, ...]) -> Lock:
    """Add pins of Debian packages, each with what it needs."""
    pins = {
        f"postgresql-15-{name}": DebPin(
            version="1.0-1", path=f"pool/{name}.deb", size=1, sha256=digest(name), tree=digest("tree", name),
            licence="MIT", depends=tuple(f"postgresql-15-{other}" for other in depends),
        )
        for name, depends in debs.items()
    }  # fmt: skip
    wants = tuple(sorted(pins.keys() - {d for pin in pins.values() for d in pin.depends}))
    return msgspec.structs.replace(
        lock,
        systems={
            name: msgspec.structs.replace(part, debs=pins, deb_wants=wants) for name, part in lock.systems.items()
        },
    )


def test_a_source_goes() -> None:
    lock = synthetic_lock(manifest("plsh", "pgvector"), CATALOGUE)
    required = requirements(manifest("pgvector"), CATALOGUE)
    pruned = drop_pins(lock, required)
    assert pruned.sources == {name: pin for name, pin in lock.sources.items() if name != "plsh"}
    required.check(pruned, SYSTEMS["x86_64-linux"])


def test_a_debian_package_goes_with_what_only_it_needs() -> None:
    required = requirements(manifest("hll"), CATALOGUE)
    lock = with_debs(synthetic_lock(manifest("hll", "cron"), CATALOGUE), hll=(), cron=("base",), base=())
    pruned = drop_pins(lock, required).systems["x86_64-linux"]
    assert list(pruned.debs) == ["postgresql-15-hll"] and pruned.deb_wants == ("postgresql-15-hll",)


def test_what_builds_an_extension_goes_with_the_last_that_needs_it() -> None:
    rusty = with_rust(CATALOGUE, "one", "two", "three")
    lock = synthetic_lock(manifest("one", "two", "three"), rusty)
    lock = with_pgrx(lock, {"one": "0.19.2", "two": "0.19.2", "three": "0.18.0"})
    assert drop_pins(lock, requirements(manifest("one", "two", "three"), rusty)) == lock
    assert drop_pins(lock, requirements(manifest("one", "three"), rusty)).sources.keys() == lock.sources.keys() - {
        "two"
    }
    left = drop_pins(lock, requirements(manifest("one"), rusty)).sources
    assert left.keys() == lock.sources.keys() - {"two", "three", "cargo-pgrx@0.18.0"}


def test_a_lock_that_fits_is_made_anew_of_itself_and_nobody_is_asked(tmp_path: Path) -> None:
    def nobody() -> Mirrors:
        raise AssertionError("the mirrors are asked")

    rusty, wanted = with_rust(CATALOGUE, "one"), manifest("one", "pgvector")
    lock = with_pgrx(synthetic_lock(wanted, rusty), {"one": "0.19.2"})
    pruned = drop_pins(lock, requirements(wanted, rusty))
    with LocalStore(tmp_path / "store") as store:
        resolver = Resolver(wanted, tmp_path, rusty, nobody, store, tmp_path, silent, previous=pruned, update=None)
        assert resolver.resolve() == lock


def test_what_is_required_beyond_the_lock_is_left_to_the_resolver() -> None:
    lock = synthetic_lock(manifest("pgvector"), CATALOGUE)
    assert drop_pins(lock, requirements(manifest("pgvector", "plsh", "hll"), CATALOGUE)) == lock


def test_a_lock_of_another_platform_stays() -> None:
    lock = synthetic_lock(manifest("pgvector"), CATALOGUE)
    other = msgspec.structs.replace(lock, platform=msgspec.structs.replace(lock.platform, suite="trixie"))
    assert drop_pins(other, requirements(manifest(), CATALOGUE)) == other
