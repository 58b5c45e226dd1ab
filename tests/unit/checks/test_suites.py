"""The tree that suites are run by, their servers' settings, and the lowering of the user's own tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgbake.bundle.merge import lower_bundle
from pgbake.checks.check import Check, Checks, lower_checks
from pgbake.checks.harness.suite import configuration, link, settings
from pgbake.checks.known import read_exceptions
from pgbake.checks.suites import SuiteLowerer, _Exception
from pgbake.errors import ManifestError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import SHIPPED, Catalogue, Suite
from tests.synthetic import synthetic_lock


def test_a_tree_of_links_has_real_directories_where_makefiles_go_up(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "pgxs/src/makefiles").mkdir(parents=True)
    (package / "pgxs/src/makefiles/pgxs.mk").touch()
    bundle, dev = tmp_path / "bundle", tmp_path / "dev"
    (bundle / "lib/pgxs").mkdir(parents=True)
    (bundle / "lib/pgxs/src").symlink_to(package / "pgxs/src")
    (bundle / "lib/other").mkdir()
    (bundle / "share").mkdir()
    (dev / "lib").mkdir(parents=True)
    (dev / "lib/libpq.a").touch()
    (dev / "lib/libpq.so").symlink_to("libpq.so.5")
    (bundle / "lib/libpq.so.5").touch()
    tree = tmp_path / "tree"
    link([bundle, dev], tree, [Path("lib/pgxs")])
    assert (tree / "share").is_symlink()
    assert (tree / "lib/libpq.a").is_file()
    assert (tree / "lib/other").is_symlink()
    assert (tree / "lib/libpq.so").readlink() == Path("libpq.so.5")
    assert (tree / "lib/pgxs/src/makefiles/../../src").resolve() == tree / "lib/pgxs/src"
    assert (tree / "lib/pgxs/src/makefiles/pgxs.mk").is_symlink()


def test_the_configuration_of_a_suite() -> None:
    pgxs = Path("/t/pgxs")
    for option in (
        ["--temp-config", "/t/pgxs/src/makefiles/../../contrib/a/a.conf"],
        ["--temp-config=/t/pgxs/contrib/a/a.conf"],
    ):
        assert configuration(["--x", *option], pgxs, Path("/s")) == Path("/s/contrib/a/a.conf")
    assert configuration(["--x"], pgxs, Path("/s")) is None
    text = "# words\nwal_level = logical\narchive_command = 'it''s'  # why\nmax_wal_senders 4\na.b='c'\n"
    assert settings(text) == {
        "wal_level": "logical", "archive_command": "it's", "max_wal_senders": "4", "a.b": "c",
    }  # fmt: skip


@pytest.fixture
def lower(manifest: Manifest, catalogue: Catalogue, lock: Lock, tmp_path: Path):  # type: ignore[no-untyped-def]
    def lowered() -> dict[str, Check]:
        return lower_checks(
            lower_bundle(manifest, catalogue, lock, SYSTEMS["x86_64-linux"]),
            manifest,
            catalogue,
            lock,
            SYSTEMS["x86_64-linux"],
            tmp_path,
        ).by_name()

    return lowered


def _with_suite(catalogue: Catalogue, name: str, **words: Any) -> Catalogue:
    """Return the catalogue with a [suite] in place of a recipe's own."""
    suite = None if words.pop("without", False) else msgspec.convert(words.pop("suite", {}), Suite)
    recipe = msgspec.structs.replace(catalogue.recipes[name], suite=suite, **words)
    return Catalogue({**catalogue.recipes, name: recipe}, catalogue.debian)


def _spec(checks: Mapping[str, Check], name: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(checks[name].derivation.env["spec"])
    return spec


def _harness(check: Check, checks: Mapping[str, Check], lowered: Checks) -> set[str]:
    (text,) = [lowered.bundle.graph.inputs[path] for path in check.derivation.input_srcs if "harness" in path.name]
    return set(json.loads(text.content or b""))


@pytest.fixture
def suite_of(manifest: Manifest, catalogue: Catalogue, tmp_path: Path) -> Callable[..., Checks]:
    """Lower all checks, with another [suite] of one recipe."""

    def lowered(name: str = "numeral", /, major: int = 15, **words: Any) -> Checks:
        changed = _with_suite(catalogue, name, **words)
        wanted = msgspec.structs.replace(manifest, postgresql=major)
        lock, x86 = synthetic_lock(wanted, changed), SYSTEMS["x86_64-linux"]
        return lower_checks(lower_bundle(wanted, changed, lock, x86), wanted, changed, lock, x86, tmp_path)

    return lowered


def test_what_a_recipe_says_of_its_suite_is_handed_on(suite_of: Callable[..., Checks]) -> None:
    words = {
        "directory": "regress",
        "make": ["REGRESS_OPTS=--dbname=x{major}"],
        "preload": ["one"],
        "settings": {"DateStyle": "ISO"},
        "prepare": "touch a",
        "before": "CREATE DATABASE x",
    }
    checks = suite_of(suite=words, make=("OPT=a{major}", "DIR=$pg_config", "X=$(CURDIR)")).by_name()
    spec = _spec(checks, "regress/numeral")
    assert {key: spec[key] for key in ("of", "kind", "name", "directory", "preload", "own", "prepare", "before")} == {
        "of": "extension", "kind": "regress", "name": "numeral", "directory": "regress", "preload": ["one"],
        "own": {"DateStyle": "ISO"}, "prepare": "touch a", "before": "CREATE DATABASE x",
    }  # fmt: skip
    # What names variables of the build's script has no meaning here; what is make's own has.
    assert spec["make"] == ["OPT=a15", "X=$(CURDIR)", "REGRESS_OPTS=--dbname=x15"]
    assert (spec["command"], spec["steps"], spec["tap"], spec["leftOut"]) == ("", [], None, "")
    assert spec["settings"] == {}
    assert checks["regress/numeral"].about == "numeral" and "isolation/numeral" not in checks


def test_what_is_preloaded_is_the_packages_own_unless_its_suite_says_otherwise(suite_of: Callable[..., Checks]) -> None:
    assert _spec(suite_of(suite={}).by_name(), "regress/numeral")["preload"] is None
    assert _spec(suite_of(suite={"preload": []}).by_name(), "regress/numeral")["preload"] == []


def test_a_suite_of_specifications_is_a_check_of_its_own(suite_of: Callable[..., Checks]) -> None:
    checks = suite_of(suite={"isolation": True, "command": "make ${kind}"}).by_name()
    assert [_spec(checks, f"{kind}/numeral")["kind"] for kind in ("regress", "isolation")] == ["regress", "isolation"]
    assert _spec(checks, "isolation/numeral")["command"] == "make ${kind}"


def test_steps_keep_their_order(suite_of: Callable[..., Checks]) -> None:
    steps = {"z": "one", "a": "two", "m": "three"}
    assert _spec(suite_of(suite={"steps": steps}).by_name(), "regress/numeral")["steps"] == [
        ["z", "one"],
        ["a", "two"],
        ["m", "three"],
    ]
    for other in ({"command": "x"}, {"tap": {"scripts": ["t/*.sql"]}}):
        with pytest.raises(msgspec.ValidationError, match="exclude one another"):
            msgspec.convert({"steps": steps, **other}, Suite)


def test_scripts_of_pgtap_bring_their_reader(suite_of: Callable[..., Checks]) -> None:
    lowered = suite_of(suite={"tap": {"scripts": ["test/*.sql"], "before": "CREATE SCHEMA s"}})
    checks = lowered.by_name()
    assert _spec(checks, "regress/numeral")["tap"] == {"scripts": ["test/*.sql"], "before": "CREATE SCHEMA s"}
    assert "tap" in _harness(checks["regress/numeral"], checks, lowered)
    assert "tap" not in _harness(checks["regress/pgvector"], checks, lowered)


@pytest.mark.parametrize(
    ("left_out", "major", "reason"),
    [({"15": "too old"}, 15, "too old"), ({"17": "too new"}, 15, ""), ("never", 15, "never")],
)
def test_a_suite_may_be_left_out(suite_of: Callable[..., Checks], left_out: Any, major: int, reason: str) -> None:
    checks = suite_of(suite={"left_out": left_out}, major=major).by_name()
    assert _spec(checks, "regress/numeral")["leftOut"] == reason


def test_sources_without_a_common_entrance_are_configured_as_their_build_does(suite_of: Callable[..., Checks]) -> None:
    without = suite_of(builder="cmake", without=True, configure=("-DA=1",)).by_name()["regress/numeral"]
    spec = json.loads(without.derivation.env["spec"])
    assert "cmake have no common entrance" in spec["leftOut"]
    words = {"configure": ["-DTESTS=ON"], "command": "x"}
    check = suite_of(builder="cmake", suite=words, configure=("-DA=1",)).by_name()["regress/numeral"]
    spec = json.loads(check.derivation.env["spec"])
    assert spec["leftOut"] == "" and "cmake -S ." in spec["configure"]
    assert check.derivation.env["configureFlags"] == '"-DA=1" "-DTESTS=ON"'
    assert _spec(suite_of(suite={}).by_name(), "regress/numeral")["configure"] == ""  # PGXS has no such step


def test_a_suite_of_no_source_is_no_check(suite_of: Callable[..., Checks]) -> None:
    debian = suite_of(builder=None, source=()).by_name()
    assert not {"regress/numeral", "isolation/numeral"} & debian.keys()


def test_a_suite_moves_no_package(suite_of: Callable[..., Checks]) -> None:
    before, after = suite_of(suite={}), suite_of(suite={"before": "SELECT 1"})
    assert before.bundle.path == after.bundle.path
    changed = {name for name, check in after.by_name().items() if check != before.by_name()[name]}
    assert changed == {"regress/numeral"}


def test_known_failures_are_those_of_the_suite_the_major_and_the_platform(
    suite_of: Callable[..., Checks], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = (
        _Exception(suite="regress/numeral", test="always", reason="why"),
        _Exception(suite="regress/numeral", test="here", reason="why", majors=(15,)),
        _Exception(suite="regress/numeral", test="elsewhere", reason="why", majors=(17,)),
        _Exception(suite="regress/numeral", test="now", reason="why", sometimes=True),
        _Exception(suite="regress/numeral", test="bookworm", reason="why", platforms=("bookworm",)),
        _Exception(suite="regress/numeral", test="sid", reason="why", platforms=("sid",)),
    )
    other = _Exception(suite="isolation/numeral", test="other", reason="why")
    monkeypatch.setattr(SuiteLowerer, "_exceptions", (*listed, other))
    spec = _spec(suite_of(suite={}).by_name(), "regress/numeral")
    assert spec["known"] == dict.fromkeys(("always", "here", "now", "bookworm"), "why")
    assert spec["sometimes"] == ["now"]


def test_the_shipped_list_names_suites_that_there_can_be(catalogue: Catalogue) -> None:
    known = read_exceptions(SHIPPED / "suites.toml", _Exception)
    for exception in known:
        kind, _, name = exception.suite.partition("/")
        assert kind in ("regress", "isolation") and exception.reason, exception
        assert name == "contrib" or catalogue.recipes[name].sources, exception


def _write(file: Path, text: str = "x\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_each_extension_that_is_built_has_a_suite(lower) -> None:  # type: ignore[no-untyped-def]
    checks = lower()
    assert {"regress/contrib", "isolation/contrib", "regress/pgvector", "world/postgresql"} <= checks.keys()
    assert checks["world/postgresql"].optional
    assert not checks["regress/contrib"].optional
    assert "bundle" not in checks["world/postgresql"].derivation.env
    assert "regress/own" not in checks
    assert "regress/postgresql" not in checks  # its suites are contrib's and the world


def test_the_world_is_installed_where_its_programs_look(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The script is performed with a make that only tells how it was called."""
    environment = lower()["world/postgresql"].derivation.env
    programs, build = tmp_path / "bin", tmp_path / "build"
    programs.mkdir()
    (programs / "make").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    (programs / "make").chmod(0o755)
    (build / "source").mkdir(parents=True)
    (build / "source/configure").write_text("#!/bin/sh\n")
    (build / "source/configure").chmod(0o755)
    source = tmp_path / "source.tar"
    subprocess.run(["tar", "-cf", source, "-C", build, "source"], check=True)
    script = environment["world"].replace("/build/", f"{build}/")
    variables = {"PATH": f"{programs}:/usr/bin:/bin", "src": str(source), "triplet": "x", "MAKEFLAGS": ""}
    told = ("major", "configureFlags", "cflags", "ldflags")
    subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        env=variables | {name: environment[name] for name in told}, check=True,
    )  # fmt: skip
    built, tested = (line.split() for line in (tmp_path / "calls").read_text().splitlines())
    assert built[-1] == "world-bin" and tested[-1] == "check-world"
    directories = [word for word in built if "=" in word]
    assert [word.partition("=")[0] for word in directories] == ["pkglibdir", "pkgincludedir"]
    assert [word for word in tested if "=" in word] == directories


def test_outputs_of_the_major_win(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b", "c"):
        _write(tmp_path / f"sql/{name}.sql")
    _write(tmp_path / "expected/a.out")
    _write(tmp_path / "expected/a_1.out")
    _write(tmp_path / "expected/15/a.out", "15\n")
    _write(tmp_path / "expected/b.out")
    spec = json.loads(lower()["regress/own"].derivation.env["spec"])
    assert spec["tests"] == ["a", "b", "c"]
    assert spec["missing"] == ["c"]
    assert spec["accept"] == {"a": "expected/15/a.out", "b": "expected/b.out", "c": "expected/c.out"}


def test_only_what_a_check_reads_makes_it_another(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _write(tmp_path / "sql/a.sql")
    _write(tmp_path / "expected/15/a.out")
    before = lower()["regress/own"].path
    _write(tmp_path / "expected/a.out")
    _write(tmp_path / "expected/17/a.out")
    _write(tmp_path / "tap/t.sql")
    checks = lower()
    assert checks["regress/own"].path == before
    assert "tap/t" in checks
    _write(tmp_path / "expected/15/a.out", "y\n")
    assert lower()["regress/own"].path != before


def test_a_test_that_is_not_utf8_is_told(lower, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _write(tmp_path / "sql/a.sql")
    (tmp_path / "sql/a.sql").write_bytes(b"\xff")
    with pytest.raises(ManifestError, match=r"a\.sql is not UTF-8"):
        lower()
