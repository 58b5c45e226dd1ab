"""File trees beside real Nix: dumped, hashed, restored and added by both, with the same results."""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path

import pytest

from pgbake.errors import FormatError
from pgbake.formats import base32, nar, storepath
from pgbake.formats.storepath import Method
from pgbake.store import tree
from tests.oracle import Oracle

pytestmark = pytest.mark.integration


def make_trees(base: Path, seed: int) -> list[Path]:
    """Make trees with everything that a NAR can hold, under names that the store takes."""
    rng = random.Random(seed)
    (base / "file").write_bytes(rng.randbytes(1_500_000))
    (base / "empty").touch()
    (base / "script").write_bytes(b"#!/bin/sh\n")
    (base / "script").chmod(0o755)
    (base / "link").symlink_to("nowhere")
    (base / "hollow").mkdir()
    directories = [base / "tree", *((base / "tree").joinpath(*["d"] * depth) for depth in range(1, 100))]
    directories[-1].mkdir(parents=True)
    for number in range(150):
        kind = rng.choice([b"a", b"A", b"a b", b"\xff", b"e\xcc\x81", b"x\ny", b".hid", b"-", b"~"])
        path = rng.choice(directories) / os.fsdecode(kind + b"%d" % number)
        match rng.randrange(5):
            case 0:
                path.mkdir()
                directories.append(path)
            case 1:
                path.symlink_to(os.fsdecode(rng.randbytes(rng.randint(1, 30)).replace(b"\0", b"/")))
            case _:
                path.write_bytes(rng.randbytes(rng.choice([*range(20), 4096, 70_000])))
                path.chmod(rng.choice([0o644, 0o755, 0o700, 0o654, 0o600]))
    return [base / name for name in ("file", "empty", "script", "link", "hollow", "tree")]


@pytest.fixture
def trees(oracle: Oracle) -> list[tuple[Path, str]]:
    """Trees, each with its path here and its path as Nix sees it."""
    return [(path, f"/tmp/{path.name}") for path in make_trees(oracle.tmp(), 1)]


def dumped(path: Path) -> bytes:
    pieces: list[bytes] = []
    tree.dump(path, lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


def test_dump_and_hash(oracle: Oracle, trees: list[tuple[Path, str]]) -> None:
    for here, there in trees:
        archive = oracle.run("nix-store", "--dump", there).stdout
        assert dumped(here) == archive
        hashed = tree.hash_tree(here)
        assert hashed.size == len(archive)
        said = oracle.run("nix-hash", "--type", "sha256", "--base32", there).stdout.decode().strip()
        assert base32.encode(hashed.sha256) == said
        assert hashed.sha256 == base32.decode(said)


def test_restore(oracle: Oracle, trees: list[tuple[Path, str]]) -> None:
    """Each restores what the other has dumped."""
    for here, there in trees:
        archive = dumped(here)
        oracle.run("nix-store", "--restore", f"{there}.theirs", stdin=archive)
        assert dumped(here.with_name(f"{here.name}.theirs")) == archive
        with oracle.tmp("archive").open("wb") as file:
            file.write(oracle.run("nix-store", "--dump", there).stdout)
        with oracle.tmp("archive").open("rb") as file:
            tree.restore(file.read, here.with_name(f"{here.name}.ours"))
        assert oracle.run("nix-store", "--dump", f"{there}.ours").stdout == archive


def test_add_and_its_metadata(oracle: Oracle, trees: list[tuple[Path, str]]) -> None:
    for here, there in trees:
        added = oracle.run("nix-store", "--add", there).stdout.decode().strip()
        assert added == str(storepath.source_path(here.name, tree.hash_tree(here).sha256))
        tree.canonicalise(here)
        assert metadata(here) == metadata(oracle.on_disk(added))


def metadata(root: Path) -> dict[str, tuple[int, int, int]]:
    paths = [root, *root.rglob("*")]
    found = {path: path.lstat() for path in paths}
    return {
        str(path.relative_to(root)): (s.st_mode, s.st_mtime_ns, 0 if path.is_dir() else s.st_size)
        for path, s in found.items()
    }


@pytest.mark.parametrize("algorithm", storepath.ALGORITHMS)
def test_add_fixed(oracle: Oracle, trees: list[tuple[Path, str]], algorithm: str) -> None:
    def check(path: Path, there: str, method: Method, contents: bytes) -> None:
        flags = ["--recursive"] if method == "recursive" else []
        added = oracle.run("nix-store", "--add-fixed", *flags, algorithm, there).stdout.decode().strip()
        digest = hashlib.new(algorithm, contents).digest()
        assert added == str(storepath.fixed_output_path(path.name, method, algorithm, digest))

    for here, there in trees:
        check(here, there, "recursive", dumped(here))
        if here.is_file():
            check(here, there, "flat", here.read_bytes())


def entry(name: bytes, node: bytes) -> bytes:
    return nar.entry(name) + node + nar.CLOSE


FILE = nar.regular(False, 1) + b"x" + nar.padding(1) + nar.CLOSE

UP = nar.symlink(b"..") + nar.CLOSE


def directory(*entries: bytes) -> bytes:
    return nar.MAGIC + nar.DIRECTORY + b"".join(entries) + nar.CLOSE


# Entries out of order are missing here: Nix 2.8 lets them pass, later versions do not.
REFUSED_BY_BOTH = {
    "nothing": b"",
    "other magic": nar.string(b"nix-archive-2") + FILE,
    "slash": directory(entry(b"a/b", FILE)),
    "dot": directory(entry(b".", FILE)),
    "dot dot": directory(entry(b"..", FILE)),
    "no name": directory(entry(b"", FILE)),
    "NUL": directory(entry(b"a\0b", FILE)),
    "doubled": directory(entry(b"a", FILE), entry(b"a", FILE)),
    "padding": directory(entry(b"a", FILE.replace(b"x\0", b"x!"))),
    "type": directory(entry(b"a", nar.string(b"(") + nar.string(b"type") + nar.string(b"fifo") + nar.CLOSE)),
    "a link, then through it": directory(entry(b"l", UP), entry(b"l", nar.DIRECTORY + nar.CLOSE)),
    "cut": directory(entry(b"a", FILE))[:-30],
}


@pytest.mark.parametrize("archive", REFUSED_BY_BOTH.values(), ids=REFUSED_BY_BOTH)
def test_what_nix_refuses_to_restore_we_refuse_too(shared_oracle: Oracle, tmp_path: Path, archive: bytes) -> None:
    refused = shared_oracle.run("nix-store", "--restore", f"/tmp/{tmp_path.name}", stdin=archive, check=False)
    assert refused.returncode != 0
    source = io.BytesIO(archive)
    with pytest.raises(FormatError, match="the archive is malformed at byte"):
        tree.restore(source.read, tmp_path / "into")
