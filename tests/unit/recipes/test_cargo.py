"""Extensions in Rust: their crates are inputs of their own, and cargo-pgrx is a derivation that no bundle holds."""

from __future__ import annotations

import msgspec
import pytest

from pgbake.bundle.merge import Bundle, lower_bundle
from pgbake.errors import LockError, ManifestError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest, Platform
from pgbake.recipes.choice import choices
from pgbake.recipes.recipe import Catalogue
from pgbake.requirements import requirements
from tests.synthetic import crate, synthetic_lock, with_pgrx, with_rust

MANIFEST = Manifest("rust", 17, ("one", "two"), languages=(), platform=Platform("trixie"))


@pytest.fixture
def rusty(catalogue: Catalogue) -> Catalogue:
    return with_rust(catalogue, "one", "two")


def pinned(catalogue: Catalogue, *versions: str) -> Lock:
    """Return a lock in which extensions have these versions of pgrx, each with its cargo-pgrx."""
    return with_pgrx(synthetic_lock(MANIFEST, catalogue), dict(zip(MANIFEST.extensions, versions, strict=True)))


def lower(catalogue: Catalogue, lock: Lock, manifest: Manifest = MANIFEST) -> Bundle:
    return lower_bundle(manifest, catalogue, lock, SYSTEMS["x86_64-linux"])


def test_crates_are_flat_inputs_that_extensions_share(rusty: Catalogue) -> None:
    bundle = lower(rusty, pinned(rusty, "0.19.2", "0.19.2"))
    made = bundle.by_name()
    crates = {path.name: path for path, item in bundle.graph.inputs.items() if item.is_crate}
    assert sorted(crates) == ["cargo-pgrx-0.19.2.crate", "clap-4.0.0.crate", "pgrx-0.19.2.crate", "serde-1.0.0.crate"]
    assert made["one"].env["crates"] == f"{crates['serde-1.0.0.crate']} {crates['pgrx-0.19.2.crate']}"
    assert {crates["serde-1.0.0.crate"], crates["pgrx-0.19.2.crate"]} <= made["two"].input_srcs
    (pin,) = bundle.graph.inputs[crates["serde-1.0.0.crate"]].pins.values()
    assert (pin.archive, pin.path, pin.filename) == ("crates", "serde/serde-1.0.0.crate", "serde-1.0.0.crate")


def test_the_tool_is_seen_by_the_build_and_no_part_of_the_bundle(rusty: Catalogue) -> None:
    bundle = lower(rusty, pinned(rusty, "0.19.2", "0.19.2"))
    made = bundle.by_name()
    tool = made["cargo-pgrx@0.19.2"]
    assert made["one"].input_drvs[tool.path] == {"out"} and made["one"].env["tools"] == str(tool.output_paths["out"])
    assert made["two"].input_drvs[tool.path] == {"out"}
    assert tool.path not in bundle.derivation.input_drvs
    assert str(tool.output_paths["out"]) not in bundle.derivation.env["spec"]
    assert "postgresqlParts" not in tool.env and "major" not in tool.env  # it serves every PostgreSQL
    assert tool.env["buildRoot"] == made["one"].env["buildRoot"] != made["postgresql"].env["buildRoot"]


def test_each_extension_has_the_tool_of_its_own_pgrx(rusty: Catalogue) -> None:
    made = lower(rusty, pinned(rusty, "0.19.2", "0.18.0")).by_name()
    assert made["one"].env["tools"] == str(made["cargo-pgrx@0.19.2"].output_paths["out"])
    assert made["two"].env["tools"] == str(made["cargo-pgrx@0.18.0"].output_paths["out"])


def test_a_changed_crate_changes_its_extension_alone(rusty: Catalogue) -> None:
    lock = pinned(rusty, "0.19.2", "0.19.2")
    one = msgspec.structs.replace(lock.sources["one"], crates=(crate("serde", "1.0.1"), crate("pgrx", "0.19.2")))
    before, after = (
        lower(rusty, lock),
        lower(rusty, msgspec.structs.replace(lock, sources={**lock.sources, "one": one})),
    )
    old, new = before.by_name(), after.by_name()
    assert {name for name in old if old[name] != new[name]} == {"one", "bundle"}


def test_a_lock_without_the_tool_or_the_crates_is_out_of_date(rusty: Catalogue) -> None:
    lock = pinned(rusty, "0.19.2", "0.19.2")
    sources = {name: pin for name, pin in lock.sources.items() if name != "cargo-pgrx@0.19.2"}
    with pytest.raises(LockError, match=r"does not pin the source of cargo-pgrx@0\.19\.2"):
        lower(rusty, msgspec.structs.replace(lock, sources=sources))
    with pytest.raises(LockError, match="does not say which version of cargo-pgrx"):
        lower(rusty, synthetic_lock(MANIFEST, rusty))
    required, system = requirements(MANIFEST, rusty), SYSTEMS["x86_64-linux"]
    required.check(lock, system)
    with pytest.raises(LockError, match="does not pin the cargo-pgrx that builds one"):
        required.check(msgspec.structs.replace(lock, sources=sources), system)
    with pytest.raises(LockError, match="does not pin the crates of one"):
        required.check(synthetic_lock(MANIFEST, rusty), system)


def test_the_root_of_rust_is_wanted_only_where_there_is_rust(rusty: Catalogue) -> None:
    assert "rustc-web" in requirements(MANIFEST, rusty).roots["rust"]
    assert "gcc" in requirements(MANIFEST, rusty).roots["rust"]
    none = msgspec.structs.replace(MANIFEST, extensions=())
    assert "rust" not in requirements(none, rusty).roots


def test_a_tool_is_no_extension(rusty: Catalogue) -> None:
    assert "cargo-pgrx" not in rusty.extension_names()
    with pytest.raises(ManifestError, match="cargo-pgrx is no extension"):
        choices(msgspec.structs.replace(MANIFEST, extensions=("cargo-pgrx",)), rusty)
