"""Checks are keyed by bundle, harness and their own files, and change with these, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from pgbake.bundle.merge import lower_bundle
from pgbake.checks import check as check_module
from pgbake.checks.check import Check, Checks, lower_checks
from pgbake.cli.check import select
from pgbake.errors import ManifestError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue

X86 = SYSTEMS["x86_64-linux"]


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    return tmp_path / "tests"


def lower(manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path) -> Checks:
    return lower_checks(lower_bundle(manifest, catalogue, lock, X86), manifest, catalogue, lock, X86, tests)


def moved(before: Checks, after: Checks) -> set[str]:
    """Return the names of the checks whose derivations differ."""
    old, new = before.by_name(), after.by_name()
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def test_every_extension_has_a_smoke_check(manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path) -> None:
    found = {check.name: check for check in lower(manifest, catalogue, lock, tests).checks if check.kind == "smoke"}
    assert found.keys() == {f"smoke/{name}" for name in (*manifest.extensions, "all")}
    assert found["smoke/pgvector"].about == "pgvector" and found["smoke/all"].about is None


def test_the_same_input_gives_the_same_checks(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    assert not moved(lower(manifest, catalogue, lock, tests), lower(manifest, catalogue, lock, tests))


def test_a_use_of_ones_own_moves_the_check_of_that_extension_alone(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    (tests / "uses").mkdir(parents=True)
    (tests / "uses/pgvector.sql").write_text("SELECT true;\n")
    after = lower(manifest, catalogue, lock, tests)
    assert "smoke/pgvector" in moved(before, after)
    assert {name for name in moved(before, after) if name.startswith("smoke/")} == {"smoke/pgvector"}
    spec = json.loads(after.by_name()["smoke/pgvector"].derivation.env["spec"])
    assert spec["use"] == "SELECT true;\n"


def test_a_setting_of_the_manifest_moves_every_check_but_not_the_bundle(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    after = lower(msgspec.structs.replace(manifest, settings={"jit": False}), catalogue, lock, tests)
    assert after.bundle.path == before.bundle.path
    smokes = {check.name for check in before.checks if check.kind == "smoke"}
    assert smokes <= moved(before, after)
    assert json.loads(after.checks[0].derivation.env["spec"])["settings"] == {"jit": "off"}


def test_a_kinds_module_moves_the_checks_of_its_kind_alone(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    copy = tmp_path / "harness"
    copy.mkdir()
    for file in check_module._HARNESS.glob("*.py"):
        (copy / file.name).write_text(file.read_text() + ("# changed\n" if file.name == "smoke.py" else ""))
    monkeypatch.setattr(check_module, "_HARNESS", copy)
    changed = moved(before, lower(manifest, catalogue, lock, tests))
    assert {name for name in changed if name.startswith("smoke/")} == {
        check.name for check in before.checks if check.kind == "smoke"
    }


def test_the_harness_is_an_input_that_is_at_hand(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    checks = lower(manifest, catalogue, lock, tests)
    derivation = checks.by_name()["smoke/pgvector"].derivation
    (text,) = [checks.bundle.graph.inputs[path] for path in derivation.input_srcs if "harness" in path.name]
    assert text.kind == "text" and json.loads(text.content).keys() == {"main", "report", "server", "smoke"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["smoke/pgvector"], ["smoke/pgvector"]),
        (["smoke/pg*"], ["smoke/pg_stat_statements", "smoke/pgvector"]),
        (["smoke/all", "smoke/pgvector", "smoke/all"], ["smoke/all", "smoke/pgvector"]),
    ],
)
def test_names_choose_checks(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path, words: list[str], expected: list[str]
) -> None:
    chosen = select(lower(manifest, catalogue, lock, tests), words, world=False)
    assert set(expected) <= {check.name for check in chosen}
    if not any("*" in word for word in words):
        assert [check.name for check in chosen] == expected


def test_the_name_of_an_extension_chooses_all_about_it(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    chosen = select(lower(manifest, catalogue, lock, tests), ["pgvector"], world=False)
    assert chosen and all(check.about == "pgvector" for check in chosen)
    everything = select(lower(manifest, catalogue, lock, tests), ["smoke"], world=False)
    assert all(isinstance(check, Check) and check.kind == "smoke" for check in everything)


def test_a_name_that_means_no_check_is_refused_with_the_nearest(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    with pytest.raises(ManifestError) as refused:
        select(lower(manifest, catalogue, lock, tests), ["smoke/pgvektor"], world=False)
    assert 'no check is called "smoke/pgvektor"' in str(refused.value)
    assert "smoke/pgvector" in (refused.value.hint or "")


def test_the_reviewed_interface_moves_its_own_check_alone(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    (tests / "interface").mkdir(parents=True)
    (tests / "interface/15.txt").write_text("[a 1]\n" * 100_000)  # more than a variable can hold
    (tests / "interface/17.txt").write_text("of another major")
    after = lower(manifest, catalogue, lock, tests)
    assert moved(before, after) == {"interface/all"}
    reviewed = json.loads(after.by_name()["interface/all"].derivation.env["spec"])["reviewed"]
    assert any(str(path) == reviewed for path in after.by_name()["interface/all"].derivation.input_srcs)
    assert json.loads(before.by_name()["interface/all"].derivation.env["spec"])["reviewed"] is None


def test_every_package_has_a_check_of_its_updates_and_contrib_one(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    found = {check.name: check for check in lower(manifest, catalogue, lock, tests).checks if check.kind == "update"}
    own = {name for name in manifest.extensions if name != "pg_stat_statements"}  # that one is contrib's
    assert found.keys() == {f"update/{name}" for name in (*own, "contrib")}


def test_what_a_project_declares_moves_the_checks_of_that_kind_alone(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    tests.mkdir(exist_ok=True)
    (tests / "known.toml").write_text('[[exception]]\ncheck = "licence"\nname = "mine"\nreason = "so it is"\n')
    assert moved(before, lower(manifest, catalogue, lock, tests)) == {"licence/bundle"}


def test_the_budget_and_forbidden_licences_are_the_manifests(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, tests: Path
) -> None:
    before = lower(manifest, catalogue, lock, tests)
    licences = msgspec.structs.replace(manifest.licences, forbid=("AGPL-*",))
    after = lower(msgspec.structs.replace(manifest, licences=licences, max_closure="300MB"), catalogue, lock, tests)
    assert moved(before, after) == {"licence/bundle", "size/bundle"}
    assert json.loads(after.by_name()["size/bundle"].derivation.env["spec"])["budget"] == 300_000_000
