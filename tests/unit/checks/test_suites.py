"""The tree that suites are run by, their servers' settings, and the lowering of the user's own tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.bundle.merge import lower_bundle
from pgbake.checks.check import Check, lower_checks
from pgbake.checks.harness.suite import configuration, link, settings
from pgbake.errors import ManifestError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue


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
