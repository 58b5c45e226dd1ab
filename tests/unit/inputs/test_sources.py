"""Sources are looked into without unpacking anything."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.inputs.sources import read_directory, read_tarball

FILES = {"Makefile": "PGXS\n", "foo.control": "comment = 'x'\n", "src/foo.c": "int x;\n", "doc/big.html": "<p>\n"}


def tarball(file: Path, members: dict[str, str], mode: str = "w:gz") -> Path:
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return file


def below(top: str) -> dict[str, str]:
    return {f"{top}/{name}": text for name, text in FILES.items()}


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_a_tarball(tmp_path: Path, suffix: str) -> None:
    name = f"foo-1.2.tar.{suffix}"
    tree = read_tarball(tarball(tmp_path / "x", below("foo-1.2"), f"w:{suffix}"), name)
    assert (tree.label, tree.names) == ("foo-1.2", frozenset(FILES))
    assert tree.texts == {name: text for name, text in FILES.items() if not name.startswith("doc/")}


def test_a_tarball_of_zstd(tmp_path: Path) -> None:
    import zstandard

    plain = tarball(tmp_path / "plain", below("foo"), "w")
    (tmp_path / "x").write_bytes(zstandard.compress(plain.read_bytes()))
    assert read_tarball(tmp_path / "x", "foo.tar.zst").names == set(FILES)


def test_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, text in below("foo").items():
            archive.writestr(name, text)
    assert read_tarball(tmp_path / "x", "foo-1.zip").texts["foo.control"] == FILES["foo.control"]


def test_a_directory_is_read_as_a_tarball_is(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / "foo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "foo" / name).write_text(text)
    secret = tmp_path / "secret.c"
    secret.write_text("secret")
    (tmp_path / "foo/link.c").symlink_to(secret)
    os.mkfifo(tmp_path / "foo/pipe.c")
    tree = read_directory(tmp_path / "foo")
    assert (tree.label, tree.names) == ("foo", frozenset(FILES)) and "link.c" not in tree.texts


@pytest.mark.parametrize("name", ["../evil.c", "/etc/evil.c", "foo/../../evil.c"])
def test_a_hostile_tarball_is_refused_and_writes_nothing(tmp_path: Path, name: str) -> None:
    file = tarball(tmp_path / "x", {**below("foo"), name: "evil"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="hostile"):
        read_tarball(file, "foo.tar.gz")
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_devices_of_a_tarball_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as tar:
        for name, kind in (("foo/a.c", tarfile.SYMTYPE), ("foo/b.c", tarfile.LNKTYPE), ("foo/c.c", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    tree = read_tarball(tmp_path / "x", "foo.tar")
    assert tree.names == {"a.c", "b.c", "c.c"} and not tree.texts


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>" * 50, b"\x1f\x8b\x08\x00damaged", b"\x28\xb5\x2f\xfdx"]
)
def test_what_is_no_tarball_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    for name in ("foo.tar.gz", "foo.zip"):
        with pytest.raises(InputError, match=r"foo\.(tar\.gz|zip)"):
            read_tarball(tmp_path / "x", name)


def test_several_directories_at_the_top_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold one directory"):
        read_tarball(tarball(tmp_path / "x", {"Makefile": "", "src/a.c": ""}), "foo.tar.gz")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        read_directory(tmp_path / "nowhere")
