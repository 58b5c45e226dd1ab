from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbake.errors import FormatError, PgbakeError, StoreError
from pgbake.formats import nar
from pgbake.formats.nar import Directory, End, Event, Regular, Symlink
from pgbake.store import tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may do this")

# Sizes about each edge there is: of padding, and of the blocks and chunks that contents travel in.
SIZES = (0, 1, 7, 8, 9, 1 << 19, (1 << 19) + 1, (1 << 20) - 8, 3 << 20)


def contents(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


def make_tree(root: Path) -> list[Event]:
    """Make a tree of everything that a store path can hold, and return how it is described."""
    raw = os.fsencode(root)
    (root / "b" / "empty").mkdir(parents=True)
    (root / "b" / "run").write_bytes(b"#!/bin/sh\n")
    (root / "b" / "run").chmod(0o700)
    Path(os.fsdecode(raw + b"/\xff \n")).write_bytes(b"odd")
    (root / "dangling").symlink_to("../nowhere")
    (root / "link").symlink_to("b")
    for size in SIZES:
        (root / f"s{size:08}").write_bytes(contents(size))
    events: list[Event] = [Directory(b""), Directory(b"b"), Directory(b"empty"), End()]
    events += [Regular(b"run", True, 10), b"#!/bin/sh\n", End()]
    events += [Symlink(b"dangling", b"../nowhere"), Symlink(b"link", b"b")]
    for size in SIZES:
        events.append(Regular(b"s%08d" % size, False, size))
        events += [contents(size)] if size else []
    return [*events, Regular(b"\xff \n", False, 3), b"odd", End()]


def encode(*events: Event) -> bytes:
    return b"".join(nar.encode(events))


def dumped(path: Path) -> bytes:
    pieces: list[bytes] = []
    size = tree.dump(path, lambda piece: pieces.append(bytes(piece)))
    raw = b"".join(pieces)
    assert len(raw) == size
    return raw


def restored(raw: bytes, into: Path) -> None:
    tree.restore(io.BytesIO(raw).read, into)


def test_a_dump_is_the_archive_of_the_tree(tmp_path: Path) -> None:
    assert dumped(tmp_path) == encode(Directory(b""), End())
    assert dumped(tmp_path) != (expected := encode(*make_tree(tmp_path)))
    assert dumped(tmp_path) == expected


def test_hash_and_size_are_those_of_the_dump(tmp_path: Path) -> None:
    raw = encode(*make_tree(tmp_path))
    seen: list[bytes] = []
    assert tree.hash_tree(tmp_path, [lambda piece: seen.append(bytes(piece))]) == tree.NarHash(
        hashlib.sha256(raw).digest(), len(raw)
    )
    assert b"".join(seen) == raw


@pytest.mark.parametrize("root", ["file", "link"])
def test_a_tree_may_be_one_file_or_link(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    raw = dumped(tmp_path / root)
    assert raw == encode(*([Regular(b"", False, 1), b"x"] if root == "file" else [Symlink(b"", b"file")]))
    restored(raw, tmp_path / "copy")
    assert dumped(tmp_path / "copy") == raw


def test_restoring_undoes_dumping(tmp_path: Path) -> None:
    make_tree(tmp_path / "one")
    raw = dumped(tmp_path / "one")
    source = io.BytesIO(raw + b"rest")
    tree.restore(source.read, tmp_path / "two")
    assert source.read() == b"rest"
    assert dumped(tmp_path / "two") == raw
    assert (tmp_path / "two/b/run").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "two/s00000001").stat().st_mode & 0o777 == 0o444
    assert {path.lstat().st_mtime for path in (tmp_path / "two").rglob("*")} == {1}


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "deep"
    # What Python's own way of removing a tree recurses too deep for.
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "deep"], check=True)
    subprocess.run(["rm", "-r", tmp_path / "deep"], check=True)


def nested(depth: int) -> bytes:
    return encode(*(Directory(b"d" if level else b"") for level in range(depth)), *[End()] * depth)


def test_a_deep_tree_is_no_trouble(deep: Path) -> None:
    raw = nested(1500)
    restored(raw, deep)
    assert dumped(deep) == raw
    tree.canonicalise(deep)


def test_a_tree_too_deep_for_the_system_is_refused(deep: Path) -> None:
    with pytest.raises(StoreError, match="File name too long"):
        restored(nested(3000), deep)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    # By its name in the directory: a path of pytest's would be too long for a socket.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


SPECIAL: dict[str, Callable[[Path], None]] = {"a fifo": make_fifo, "a socket": make_socket}


@pytest.mark.parametrize(("kind", "make"), SPECIAL.items(), ids=SPECIAL)
@pytest.mark.parametrize("name", ["root", "root/inner"])
def test_special_files_are_refused(tmp_path: Path, kind: str, make: Callable[[Path], None], name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    for refuse in (tree.hash_tree, dumped, tree.canonicalise):
        with pytest.raises(StoreError, match=f"{name} is {kind}") as caught:
            refuse(tmp_path / "root")
        assert caught.value.hint


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"can not read .*/missing: No such file"):
        tree.hash_tree(tmp_path / "missing")


@as_user
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0)
    with pytest.raises(StoreError, match=r"can not read .*/secret: Permission denied"):
        tree.hash_tree(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(4 << 20))
    with pytest.raises(StoreError, match="/big became shorter"):
        tree.dump(tmp_path, lambda _: big.write_bytes(b""))


def test_an_error_of_who_takes_the_bytes_is_not_taken_for_ours(tmp_path: Path) -> None:
    def full(_: memoryview) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    (tmp_path / "big").write_bytes(bytes(4 << 20))
    with pytest.raises(BrokenPipeError):
        tree.dump(tmp_path, full)
    with pytest.raises(BrokenPipeError):
        tree.hash_tree(tmp_path, [full])


def test_hashing_needs_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    try:
        tree.hash_tree(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def outside(base: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in base.rglob("*") if path.is_file() and not path.is_symlink()}


def raw_directory(*entries: tuple[bytes, bytes]) -> bytes:
    inner = b"".join(nar.entry(name) + node + nar.CLOSE for name, node in entries)
    return nar.MAGIC + nar.DIRECTORY + inner + nar.CLOSE


EVIL = nar.regular(False, 4) + b"evil" + nar.padding(4) + nar.CLOSE
UP = nar.symlink(b"..") + nar.CLOSE


@pytest.mark.parametrize(
    "raw",
    [
        raw_directory((b"../victim", EVIL)),
        raw_directory((b"..", EVIL)),
        raw_directory((b"a/../../victim", EVIL)),
        # A link out of the tree, and then a file or a directory of the same name, to go through it.
        raw_directory((b"l", nar.symlink(b"../victim") + nar.CLOSE), (b"l", EVIL)),
        raw_directory(
            (b"l", nar.symlink(b"..") + nar.CLOSE), (b"l", raw_directory((b"victim", EVIL))[len(nar.MAGIC) :])
        ),
        raw_directory((b"l", nar.symlink(b"..") + nar.CLOSE), (b"l/victim", EVIL)),
    ],
)
def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "victim").write_text("good")
    with pytest.raises(FormatError):
        restored(raw, tmp_path / "into")
    assert outside(tmp_path) == {str(tmp_path / "victim"): "good"}


@pytest.mark.parametrize("raw", [encode(Regular(b"", False, 1), b"x"), encode(Directory(b""), End())])
def test_what_exists_is_not_overwritten(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "victim").write_text("good")
    (tmp_path / "into").symlink_to("victim")
    with pytest.raises(StoreError, match=r"can not write .*/into: File exists"):
        restored(raw, tmp_path / "into")
    assert (tmp_path / "victim").read_text() == "good"


def test_a_huge_claim_takes_no_disk(tmp_path: Path) -> None:
    raw = nar.MAGIC + nar.regular(False, 2**60) + b"short"
    with pytest.raises(FormatError, match="ends too early"):
        restored(raw, tmp_path / "into")
    assert (tmp_path / "into").stat().st_size == len(b"short")


def test_what_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(PgbakeError, match="can not write"):
        restored(encode(Directory(b""), End()), tmp_path / "missing" / "into")


def test_canonical_metadata(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_tree(root)
    (root / "b").chmod(0o2770)
    (root / "setuid").touch()
    (root / "setuid").chmod(0o6711)
    (root / "group-only").touch()
    (root / "group-only").chmod(0o670)
    before = tree.hash_tree(root)
    tree.canonicalise(root)
    assert tree.hash_tree(root) == before
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        assert status.st_mtime_ns == 1_000_000_000, path
        if not path.is_symlink():
            executable = path.is_dir() or path.name in ("run", "setuid")
            assert status.st_mode & 0o7777 == (0o555 if executable else 0o444), path
        assert (status.st_uid, status.st_gid) == (os.geteuid(), root.stat().st_gid)


def test_a_directory_that_its_owner_can_not_enter_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/b").touch()
    (tmp_path / "root/a").chmod(0)
    tree.canonicalise(tmp_path / "root")
    assert (tmp_path / "root/a/b").stat().st_mtime == 1


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch(mode=0o600)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to("../victim")
    before = (tmp_path / "victim").stat()
    tree.canonicalise(tmp_path / "root")
    assert (tmp_path / "victim").stat() == before


def test_extended_attributes_go(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    file = root / "inner/file"
    file.touch()
    try:
        for path in (root, root / "inner", file):
            os.setxattr(path, "user.note", b"x")
    except OSError as error:
        pytest.skip(f"no attributes on this file system: {error.strerror}")
    file.chmod(0o444)
    tree.canonicalise(root)
    assert [os.listxattr(path) for path in (root, root / "inner", file)] == [[], [], []]
    assert file.stat().st_mode & 0o7777 == 0o444


@as_root
def test_everything_gets_the_owner(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_tree(root)
    for path in [root, *root.rglob("*")]:
        os.lchown(path, 1234, 567)
    tree.canonicalise(root, owner=(0, 0))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in [root, *root.rglob("*")]} == {(0, 0)}
    assert (root / "b/run").stat().st_mode & 0o7777 == 0o555


@as_user
def test_an_owner_that_may_not_be_given_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can not change the metadata of"):
        tree.canonicalise(tmp_path, owner=(0, 0))
