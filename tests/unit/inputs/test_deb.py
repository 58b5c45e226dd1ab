from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbake.errors import InputError, PgbakeError
from pgbake.inputs.deb import unpack
from tests.unit.inputs.debs import (
    COMPRESSIONS,
    directory,
    file,
    link,
    make_deb,
    special,
    tree,
    write_ar,
)

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    target = tmp_path / "tree"
    target.mkdir()
    return target


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_gives_the_same_tree(tmp_path: Path, into: Path, compression: str) -> None:
    content = os.urandom(3_000_000)
    deb = make_deb(tmp_path / "a.deb", directory("./usr/"), file("./usr/x", content), compression=compression)
    assert unpack(deb, into) == ("usr/x",)
    assert (into / "usr/x").read_bytes() == content


def test_usr_is_merged_and_modes_are_reduced(tmp_path: Path, into: Path) -> None:
    deb = make_deb(
        tmp_path / "a.deb",
        directory("./", 0o700),
        directory("./bin/"),
        file("./bin/su", b"su", 0o4755),
        file("./lib/x86_64-linux-gnu/libx.so.1", b"x", 0o640),
        link("./lib64", "usr/lib64"),
        link("./usr/lib/libx.so", "/lib/x86_64-linux-gnu/libx.so.1"),
        link("./usr/bin/su", "/bin/su"),
        directory("./tmp/", 0o1777),
        file("./etc/shadow", b"", 0o600),
        file("./binary", b"only starts like bin"),
    )
    previous = os.umask(0o077)
    try:
        unpack(deb, into)
    finally:
        os.umask(previous)
    assert tree(into) == {
        "binary": ("file 644", "only starts like bin"),
        "etc": ("directory 755", ""),
        "etc/shadow": ("file 644", ""),
        "tmp": ("directory 755", ""),
        "usr": ("directory 755", ""),
        "usr/bin": ("directory 755", ""),
        "usr/bin/su": ("file 755", "su"),
        "usr/lib": ("directory 755", ""),
        "usr/lib/libx.so": ("link", "/lib/x86_64-linux-gnu/libx.so.1"),
        "usr/lib/x86_64-linux-gnu": ("directory 755", ""),
        "usr/lib/x86_64-linux-gnu/libx.so.1": ("file 644", "x"),
    }


def test_keep_decides_and_a_hard_link_survives_without_its_target(tmp_path: Path, into: Path) -> None:
    deb = make_deb(
        tmp_path / "a.deb",
        directory("./usr/bin/"),
        file("./usr/bin/perl", b"perl", 0o755),
        link("./usr/lib/perl1", "./usr/bin/perl", tarfile.LNKTYPE),
        link("./usr/lib/perl2", "./usr/bin/perl", tarfile.LNKTYPE),
    )
    assert set(unpack(deb, into, lambda path: path.startswith("usr/lib"))) == {"usr/lib/perl1", "usr/lib/perl2"}
    assert (into / "usr/lib/perl1").read_bytes() == (into / "usr/lib/perl2").read_bytes() == b"perl"
    assert os.access(into / "usr/lib/perl1", os.X_OK)
    assert not (into / "usr/bin").exists()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([file("/etc/passwd", b"x")], "out of its tree"),
        ([file("../outside", b"x")], "out of its tree"),
        ([file("./usr/../../outside", b"x")], "out of its tree"),
        ([directory("../outside/")], "out of its tree"),
        ([link("./usr/out", "../../outside"), file("./usr/in", b"x")], "points out of its tree"),
        ([link("./usr", "/tmp"), file("./usr/x", b"x")], "usr"),
        ([link("./a", "b"), file("./a/x", b"x")], "both as a directory and as a file or link"),
        ([link("./a", "."), directory("./a/x/")], "both as a directory and as a file or link"),
        ([link("./a", "/etc/passwd"), file("./a", b"x")], "twice"),
        ([file("./a", b"x"), file("./a", b"y")], "twice"),
        ([file("./bin/a", b"x"), file("./usr/bin/a", b"y")], "twice"),
        ([file("./bin", b"x")], "where a directory belongs"),
        ([directory("./a/"), link("./a", "b")], "twice"),
        ([link("./a", "/etc/passwd", tarfile.LNKTYPE)], "out of its tree"),
        ([link("./a", "../../etc/passwd", tarfile.LNKTYPE)], "out of its tree"),
        ([link("./a", "./missing", tarfile.LNKTYPE)], "not in it"),
        ([special("./pipe", tarfile.FIFOTYPE)], "neither a file"),
        ([special("./null", tarfile.CHRTYPE)], "neither a file"),
        ([special("./sda", tarfile.BLKTYPE)], "neither a file"),
    ],
)
def test_hostile_packages_are_refused(tmp_path: Path, into: Path, members: list[Member], said: str) -> None:
    outside = tmp_path / "outside"
    deb = make_deb(tmp_path / "evil.deb", *members)
    with pytest.raises(InputError, match=r"evil\.deb") as caught:
        unpack(deb, into)
    assert said in caught.value.message
    assert not outside.exists()


def _cut(deb: Path) -> None:
    os.truncate(deb, deb.stat().st_size - 40)


def _scramble(deb: Path) -> None:
    data = bytearray(deb.read_bytes())
    data[-60:-20] = bytes(40)
    deb.write_bytes(data)


def _no_data(deb: Path) -> None:
    write_ar(deb, [("debian-binary", b"2.0\n")])


def _unknown_compression(deb: Path) -> None:
    write_ar(deb, [("data.tar.br", b"x")])


def _not_tar(deb: Path) -> None:
    write_ar(deb, [("data.tar", b"x" * 2000)])


def _bad_size(deb: Path) -> None:
    deb.write_bytes(b"!<arch>\n" + b"data.tar".ljust(48) + b"x".ljust(10) + b"`\n")


@pytest.mark.parametrize(
    "damage",
    [_cut, _scramble, _no_data, _unknown_compression, _not_tar, _bad_size, lambda deb: deb.write_bytes(b"")],
)
def test_damage_is_a_typed_error(tmp_path: Path, into: Path, damage: Callable[[Path], object]) -> None:
    deb = make_deb(tmp_path / "bad.deb", file("./a", os.urandom(5000)), file("./b", os.urandom(5000)))
    damage(deb)
    with pytest.raises(InputError, match=r"bad\.deb"):
        unpack(deb, into)


def test_a_chain_of_long_names_is_a_typed_error(tmp_path: Path, into: Path) -> None:
    # Each such header announces the next; tarfile follows them by recursion.
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    block = header.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    deb = tmp_path / "deep.deb"
    write_ar(deb, [("data.tar", block * 5000)])
    with pytest.raises(InputError, match=r"deep\.deb"):
        unpack(deb, into)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_packages_end_in_a_tree_or_a_typed_error(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    deb = make_deb(
        tmp_path / "a.deb",
        directory("./usr/"),
        file("./usr/a", b"a" * 700),
        link("./usr/b", "a"),
        link("./usr/c", "./usr/a", tarfile.LNKTYPE),
        file("./" + "long/" * 40 + "name", b"b"),
        compression="",
    )
    data = bytearray(deb.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    deb.write_bytes(data)
    root = tmp_path / "area"
    shutil.rmtree(root, ignore_errors=True)
    into = root / "tree"
    into.mkdir(parents=True)
    with contextlib.suppress(PgbakeError):
        unpack(deb, into)
    assert list(root.iterdir()) == [into]


def test_a_package_of_dpkg_deb_is_unpacked_as_dpkg_deb_does(tmp_path: Path, into: Path) -> None:
    package = tmp_path / "package"
    (package / "usr/share/a/empty").mkdir(parents=True)
    (package / "usr/share/a/data").write_bytes(b"data")
    (package / "usr/share/a/link").symlink_to("data")
    (package / "usr/share/a/tool").write_bytes(b"#!/bin/sh\n")
    (package / "usr/share/a/tool").chmod(0o755)
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN/control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a\n"
    )
    deb = tmp_path / "a.deb"
    subprocess.run(["dpkg-deb", "--build", package, deb], check=True, capture_output=True)
    theirs = tmp_path / "theirs"
    subprocess.run(["dpkg-deb", "-x", deb, theirs], check=True)
    unpack(deb, into)
    assert tree(into) == tree(theirs)


def test_maintainer_scripts_are_not_even_written(tmp_path: Path, into: Path) -> None:
    unpack(make_deb(tmp_path / "a.deb", file("./usr/a", b"")), into)
    assert list(tree(into)) == ["usr", "usr/a"]
    assert not Path("/maintainer-script-was-run").exists()
