from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS
from pgbake.image.container import base, base_layer, closure_layers
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

FILES = Path(str(resources.files("pgbake"))) / "image/files"
MIB = 1 << 20


def path(name: str) -> StorePath:
    letter = name.encode().hex()[-1]
    return StorePath.parse(f"/nix/store/{letter * 32}-{name}")


def infos(sizes: dict[str, int]) -> dict[StorePath, PathInfo]:
    return {path(name): PathInfo(path(name), name.encode().ljust(32), size) for name, size in sizes.items()}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


SIZES = {"libc": 12 * MIB, "icu": 37 * MIB, "libz": 9, "libgmp": 8, "server": 25 * MIB, "vector": 300, "audit": 40,
         "bundle": 16 * MIB}  # fmt: skip
BUILT = {path("server"), path("vector"), path("audit")}


def titles(store: LocalStore, sizes: dict[str, int], most: int = 100) -> list[str]:
    return [plan.title for plan in closure_layers(store, path("bundle"), infos(sizes), BUILT, most)]


def test_large_and_built_paths_have_layers_of_their_own(store: LocalStore) -> None:
    assert titles(store, SIZES) == ["icu", "libc", "2 small packages", "server", "vector", "audit", "bundle"]


def test_there_are_never_more_layers_than_wanted(store: LocalStore) -> None:
    assert titles(store, SIZES, 5) == ["4 small packages", "server", "vector", "audit", "bundle"]
    assert titles(store, SIZES, 3) == ["6 small packages", "server", "bundle"]
    assert titles(store, SIZES, 2) == ["7 small packages", "bundle"]


def test_a_changed_extension_changes_its_layer_and_the_bundles(store: LocalStore) -> None:
    def keys(changed: dict[StorePath, PathInfo]) -> dict[str, str]:
        return {plan.title: plan.key for plan in closure_layers(store, path("bundle"), changed, BUILT)}

    before = infos(SIZES)
    after = {**before, **{p: PathInfo(p, b"\1" * 32, before[p].nar_size) for p in (path("vector"), path("bundle"))}}
    one, two = keys(before), keys(after)
    assert {title for title in one if one[title] != two[title]} == {"vector", "bundle"}


def test_the_base_is_the_same_for_each_system() -> None:
    packages = base().packages
    assert packages.keys() == SYSTEMS.keys()
    assert len({frozenset(pins) for pins in packages.values()}) == 1
    for system in SYSTEMS.values():
        assert all(pin.filename.endswith(f"_{system.debian}.deb") for pin in packages[system.name].values())


def test_the_base_is_known_before_anything_is_fetched(tmp_path: Path) -> None:
    def fetch(_pins: object) -> dict[str, Path]:
        raise AssertionError

    keys = {base_layer(system, fetch, tmp_path).key for system in SYSTEMS.values()}
    assert len(keys) == 2


def test_scripts_are_scripts() -> None:
    subprocess.run(["bash", "-n", FILES / "docker-entrypoint.sh"], check=True)
    for name in ("getent", "gosu", "healthcheck", "zstd"):
        subprocess.run(["sh", "-n", FILES / name], check=True)
