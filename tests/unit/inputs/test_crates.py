"""What a Cargo.lock names is pinned exactly, and what cannot be pinned is told."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import time
from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.events import silent
from pgbake.inputs.crates import cargo_lock_of, crate_sizes, fetch_crate, parse_cargo_lock
from tests.unit.inputs.servers import serving

HASH = hashlib.sha256(b"crate").hexdigest()
PACKAGE = '[[package]]\nname = "{}"\nversion = "1.2.3"\nsource = "{}"\nchecksum = "{}"\n'
OURS = "registry+https://example.invalid/index"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_crates_are_read_and_parts_of_the_program_left_out() -> None:
    text = (
        'version = 4\n[[package]]\nname = "own"\nversion = "0.1.0"\n'
        + PACKAGE.format("a", OURS, HASH)
        + PACKAGE.format("b", OURS, HASH)
    )
    assert parse_cargo_lock(text, "x") == [("a", "1.2.3", HASH), ("b", "1.2.3", HASH)]


def test_a_neutral_word_may_stand_for_the_registry() -> None:
    text = PACKAGE.format("a", "registry", HASH)
    assert parse_cargo_lock(text, "x") == [("a", "1.2.3", HASH)]
    with pytest.raises(InputError, match="a and b from different registries"):
        parse_cargo_lock(text + PACKAGE.format("b", OURS, HASH), "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[package", "x is damaged"),
        ('[[package]]\nname = "a"\n', "x is damaged: 'version'"),
        ("package = 3\n", "x is damaged"),
        (PACKAGE.format("a", "git+https://example.invalid/a#1", HASH), "x takes a 1.2.3 from git"),
        (PACKAGE.format("a", OURS, ""), "x has no hash of a 1.2.3"),
        (PACKAGE.format("../a", OURS, HASH), "x has no hash of"),
        (PACKAGE.format("a", OURS, HASH) + PACKAGE.format("b", OURS + "2", HASH), "a and b from different registries"),
    ],
)
def test_what_cannot_be_pinned_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_cargo_lock(text, "x")
    assert caught.value.hint


def tarball(file: Path, names: list[str]) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return file


@pytest.mark.parametrize(("directory", "found"), [("", ""), ("inner", "inner/"), ("other/deep", "")])
def test_the_nearest_cargo_lock_is_the_one(tmp_path: Path, directory: str, found: str) -> None:
    file = tarball(tmp_path / "x.crate", ["x-1/Cargo.lock", "x-1/inner/Cargo.lock", "x-1/far/off/Cargo.lock"])
    assert cargo_lock_of(file, directory, "x") == f"x-1/{found}Cargo.lock"
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "tree/Cargo.lock").write_text("")
    (tmp_path / "tree/inner/Cargo.lock").write_text("inner/")
    assert cargo_lock_of(tmp_path / "tree", directory, "x") == found


def test_a_source_without_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the source of x has no Cargo\.lock") as caught:
        cargo_lock_of(tarball(tmp_path / "x.tar.gz", ["x-1/README"]), "", "x")
    assert "cargo generate-lockfile" in (caught.value.hint or "")
    (tmp_path / "y").write_bytes(b"no tarball")
    with pytest.raises(InputError, match="cannot read the source of x"):
        cargo_lock_of(tmp_path / "y", "", "x")


def test_a_size_is_learned_once(tmp_path: Path) -> None:
    with serving() as server:
        server.files["x/1.0.0"] = b"crate"
        wanted = [("x", "1.0.0", HASH)]

        def bases() -> tuple[str, ...]:
            return (f"{server.url}/{{crate}}/{{version}}",)

        assert crate_sizes(wanted, {}, bases, tmp_path, silent, "x") == {HASH: 5}
        assert crate_sizes(wanted, {}, bases, tmp_path, silent, "x") == {HASH: 5}
        assert crate_sizes(wanted, {HASH: 5}, bases, tmp_path / "other", silent, "x") == {HASH: 5}
        assert len(server.asked) == 1


def test_a_registry_that_fails_once_is_asked_again(tmp_path: Path) -> None:
    with serving() as server:
        server.files["x/1.0.0"] = b"crate"
        server.faults["x/1.0.0"] = [503]
        pin = fetch_crate("x", "1.0.0", (f"{server.url}/{{crate}}/{{version}}",), tmp_path, silent)
    assert (pin.sha256, pin.size, pin.archive, pin.path) == (HASH, 5, "crates", "x/x-1.0.0.crate")
    assert (tmp_path / f"{HASH}-x-1.0.0.crate").read_bytes() == b"crate"


def test_a_missing_crate_and_a_wrong_one_are_clear_errors(tmp_path: Path) -> None:
    with serving() as server:
        bases = (f"{server.url}/{{crate}}/{{version}}",)
        with pytest.raises(InputError, match=r"the registry does not give the crate x 1\.0\.0$") as caught:
            fetch_crate("x", "1.0.0", bases, tmp_path, silent)
        assert "404" in (caught.value.detail or "") and len(server.asked) == 1
        assert "see `source` in the recipe" in (caught.value.hint or "")
        named = "the registry does not give the crate x 1.0.0, which the Cargo.lock of y names"
        with pytest.raises(InputError, match=re.escape(named)) as caught:
            crate_sizes([("x", "1.0.0", HASH)], {}, lambda: bases, tmp_path, silent, "the Cargo.lock of y")
        assert "`cargo update`" in (caught.value.hint or "") and "[platform] crates" in (caught.value.hint or "")
        server.files["x/1.0.0"] = b"other"
        with pytest.raises(InputError, match=re.escape(named)) as caught:
            fetch_crate("x", "1.0.0", bases, tmp_path, silent, HASH, "the Cargo.lock of y")
        assert f"expected sha256 {HASH}" in (caught.value.detail or "")
        assert "cargo generate-lockfile" in (caught.value.hint or "")


def test_a_registry_out_of_reach_is_told_from_one_that_lacks_a_crate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not give the crate x 1\.0\.0") as caught:
        fetch_crate("x", "1.0.0", ("http://127.0.0.1:9/{crate}",), tmp_path, silent, HASH, "the Cargo.lock of y")
    assert "is there a network?" in (caught.value.hint or "")
