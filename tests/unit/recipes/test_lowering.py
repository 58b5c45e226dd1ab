"""Derivations follow from manifest, recipes and lock alone, and change when these do, no more and no less."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from pgbake.build.wrapper import unwrap
from pgbake.bundle.merge import Bundle, lower_bundle
from pgbake.errors import LockError
from pgbake.formats.derivation import Derivation, hash_modulo, with_outputs
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest, Platform
from pgbake.recipes.recipe import Catalogue
from tests.synthetic import digest, synthetic_lock

GOLDEN = Path(__file__).with_name("golden")


def lower(manifest: Manifest, catalogue: Catalogue, lock: Lock, system: str = "x86_64-linux") -> Bundle:
    return lower_bundle(manifest, catalogue, lock, SYSTEMS[system])


def changed(before: Bundle, after: Bundle) -> set[str]:
    """Return the short names of the derivations that differ."""
    old, new = before.by_name(), after.by_name()
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_paths_are_those_that_were_reviewed(manifest: Manifest, catalogue: Catalogue, lock: Lock, system: str) -> None:
    """An unintended rebuild of the world shows here: each line that moved is a package built anew.

    After a change that is meant: PGBAKE_ACCEPT=1 .venv/bin/python -m pytest tests/unit/recipes
    """
    lines = []
    for name, derivation in sorted(lower(manifest, catalogue, lock, system).by_name().items()):
        lines.append(f"{name} {derivation.path}")
        lines += [f"{name}!{output} {made.path}" for output, made in sorted(derivation.outputs.items())]
    text = "\n".join(lines) + "\n"
    file = GOLDEN / f"{system}.txt"
    if os.environ.get("PGBAKE_ACCEPT"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text, "meant? PGBAKE_ACCEPT=1 .venv/bin/python -m pytest tests/unit/recipes"


def whole_catalogue(catalogue: Catalogue, suite: str, major: int) -> Manifest:
    """Return a manifest with every recipe that builds for a major version on a platform."""
    names = [
        name
        for name, recipe in sorted(catalogue.recipes.items())
        if name != "postgresql" and recipe.builder != "cargo" and recipe.source_for(major, suite)
    ]
    parts = [name for name, recipe in sorted(catalogue.providers.items()) if recipe.name in names]
    return Manifest("whole", major, (*names, *parts), platform=Platform(suite, tuple(SYSTEMS)))


@pytest.mark.parametrize("major", [15, 17, 18])
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_paths_of_the_whole_catalogue_are_those_that_were_reviewed(
    catalogue: Catalogue, suite: str, major: int
) -> None:
    """See the test above; here every recipe is covered, for each major version and platform that it builds on."""
    manifest = whole_catalogue(catalogue, suite, major)
    lock = synthetic_lock(manifest, catalogue)
    text = "".join(
        f"{system} {name} {derivation.path}\n"
        for system in SYSTEMS
        for name, derivation in sorted(lower(manifest, catalogue, lock, system).by_name().items())
    )
    file = GOLDEN / f"{suite}-{major}.txt"
    if os.environ.get("PGBAKE_ACCEPT"):
        file.write_text(text)
    assert file.read_text() == text, "meant? PGBAKE_ACCEPT=1 .venv/bin/python -m pytest tests/unit/recipes"


@pytest.mark.parametrize(("suite", "major"), [("bookworm", 15), ("trixie", 17), ("trixie", 18)])
def test_a_changed_recipe_moves_its_own_paths_and_the_bundle(catalogue: Catalogue, suite: str, major: int) -> None:
    manifest = whole_catalogue(catalogue, suite, major)
    lock = synthetic_lock(manifest, catalogue)
    before = lower(manifest, catalogue, lock)
    names = [package.choice.name for package in before.packages if package.choice.name != "postgresql"]
    assert names
    for name in names:
        recipe = msgspec.structs.replace(catalogue.recipes[name], make=("COPT=-g",), configure=("--with-change",))
        other = Catalogue({**catalogue.recipes, name: recipe}, catalogue.debian)
        assert changed(before, lower(manifest, other, lock)) == {name, "bundle"}


def test_every_derivation_is_whole(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    bundle = lower(manifest, catalogue, lock)
    derivations = bundle.graph.derivations
    hashes: dict[StorePath, bytes] = {}

    def hash_of(path: StorePath) -> bytes:
        if path not in hashes:
            hashes[path] = hash_modulo(derivations[path], hash_of)
        return hashes[path]

    for path, derivation in derivations.items():
        assert derivation.path == path
        assert with_outputs(derivation, hash_of) == derivation
        assert Derivation.parse(derivation.to_aterm(), derivation.name) == derivation
        wrapped = unwrap(derivation)
        assert wrapped is not None and wrapped.build_root in derivation.input_srcs
        assert derivation.input_srcs <= bundle.graph.inputs.keys()
        assert derivation.input_drvs.keys() <= derivations.keys()


def test_a_changed_recipe_changes_its_package_and_the_bundle(
    manifest: Manifest, catalogue: Catalogue, lock: Lock
) -> None:
    recipe = msgspec.structs.replace(catalogue.recipes["pgaudit"], make=("COPT=-g",))
    other = Catalogue({**catalogue.recipes, "pgaudit": recipe}, catalogue.debian)
    assert changed(lower(manifest, catalogue, lock), lower(manifest, other, lock)) == {"pgaudit", "bundle"}


def test_a_summary_changes_nothing(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    recipe = msgspec.structs.replace(catalogue.recipes["pgaudit"], summary="Another word for it")
    other = Catalogue({**catalogue.recipes, "pgaudit": recipe}, catalogue.debian)
    assert changed(lower(manifest, catalogue, lock), lower(manifest, other, lock)) == set()


@pytest.mark.parametrize("name", ["libssl3", "libc6"])
def test_a_moved_runtime_pin_changes_the_bundle_alone(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, name: str
) -> None:
    part = lock.systems["x86_64-linux"]
    pin = msgspec.structs.replace(part.runtime[name], version="1.0-2", sha256=digest("new"), tree=digest("new tree"))
    part = msgspec.structs.replace(part, runtime={**part.runtime, name: pin})
    moved = msgspec.structs.replace(lock, systems={**lock.systems, "x86_64-linux": part})
    assert changed(lower(manifest, catalogue, lock), lower(manifest, catalogue, moved)) == {"bundle"}


def test_a_moved_build_root_changes_all(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    part = lock.systems["x86_64-linux"]
    root = msgspec.structs.replace(part.roots["core"], tree=digest("another root"))
    part = msgspec.structs.replace(part, roots={**part.roots, "core": root})
    moved = msgspec.structs.replace(lock, systems={**lock.systems, "x86_64-linux": part})
    before = lower(manifest, catalogue, lock)
    assert changed(before, lower(manifest, catalogue, moved)) == set(before.by_name())


def test_a_further_extension_changes_the_bundle_alone(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    fewer = msgspec.structs.replace(manifest, extensions=manifest.extensions[1:])
    gone = {manifest.extensions[0], "bundle"}
    assert changed(lower(manifest, catalogue, lock), lower(fewer, catalogue, lock)) == gone


def test_systems_share_no_path_but_sources(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    one = lower(manifest, catalogue, lock, "x86_64-linux")
    other = lower(manifest, catalogue, lock, "aarch64-linux")
    assert not one.graph.derivations.keys() & other.graph.derivations.keys()
    shared = one.graph.inputs.keys() & other.graph.inputs.keys()
    assert {one.graph.inputs[path].kind for path in shared} == {"source"}
    for derivation in other.graph.derivations.values():
        # Sources of our own programs speak of systems in their comments.
        env = {key: value for key, value in derivation.env.items() if key != "program" and not key.startswith("file")}
        assert not [text for text in (derivation.builder, *derivation.args, *env.values()) if "x86" in text]


def test_a_lock_without_the_system_is_refused(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    only = msgspec.structs.replace(lock, systems={"x86_64-linux": lock.systems["x86_64-linux"]})
    with pytest.raises(LockError, match="no pins for aarch64-linux"):
        lower(manifest, catalogue, only, "aarch64-linux")
