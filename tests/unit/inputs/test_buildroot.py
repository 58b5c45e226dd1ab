from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import HostError, InputError
from pgbake.events import Event, Finished, Progressed, Started, silent
from pgbake.inputs.buildroot import import_runtime, make_build_root
from pgbake.store.tree import hash_tree
from tests.unit.inputs.debs import directory, file, link, make_deb, tree

TRIPLET = "x86_64-linux-gnu"


@pytest.fixture
def debs(tmp_path: Path) -> dict[str, Path]:
    """A few packages in the manner of Debian's."""
    packages = tmp_path / "debs"
    packages.mkdir()
    return {
        "base-files": make_deb(
            packages / "base-files.deb",
            directory("./bin/"),
            directory("./dev/"),
            directory("./tmp/", 0o1777),
            directory("./usr/lib/"),
            file("./etc/nsswitch.conf", b"passwd: nis\n"),
            file("./usr/share/doc/base-files/copyright", b"text"),
            file("./usr/share/common", b"same"),
        ),
        "dash": make_deb(
            packages / "dash.deb",
            file("./bin/dash", b"dash", 0o755),
            link("./bin/sh", "dash"),
            file("./usr/share/man/man1/dash.1.gz", b"manual"),
        ),
        "gcc": make_deb(
            packages / "gcc.deb",
            file("./usr/bin/gcc", b"gcc", 0o755),
            file("./usr/bin/c99-gcc", b"gcc", 0o755),
            file(f"./usr/lib/{TRIPLET}/libicudata.a", b"large"),
            file(f"./usr/lib/{TRIPLET}/libc.a", b"needed"),
            file("./usr/share/common", b"same"),
            file("./usr/share/locale/de/LC_MESSAGES/gcc.mo", b"deutsch"),
            file("./usr/share/i18n/locales/de_DE", b"deutsch"),
        ),
        "libc6": make_deb(
            packages / "libc6.deb",
            file(f"./lib/{TRIPLET}/libc.so.6", b"libc", 0o755),
            link("./lib64/ld-linux-x86-64.so.2", f"/lib/{TRIPLET}/ld-linux-x86-64.so.2"),
            link(f"./usr/lib/{TRIPLET}/libc.so", f"/lib/{TRIPLET}/libc.so.6"),
        ),
        "mawk": make_deb(packages / "mawk.deb", file("./usr/bin/mawk", b"mawk", 0o755)),
        "libblas3": make_deb(packages / "libblas3.deb", file(f"./usr/lib/{TRIPLET}/blas/libblas.so.3", b"blas")),
    }


def test_the_tree_of_a_build_root(debs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_build_root(debs, root, silent)
    found = tree(root)
    links = {name: target for name, (kind, target) in found.items() if kind == "link"}
    assert links == {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "sbin": "usr/sbin",
        "usr/bin/awk": "mawk",
        "usr/bin/c99": "c99-gcc",
        "usr/bin/cc": "gcc",
        "usr/bin/nawk": "mawk",
        "usr/bin/sh": "dash",
        "usr/lib64/ld-linux-x86-64.so.2": f"/lib/{TRIPLET}/ld-linux-x86-64.so.2",
        f"usr/lib/{TRIPLET}/libblas.so.3": "blas/libblas.so.3",
        f"usr/lib/{TRIPLET}/libc.so": f"/lib/{TRIPLET}/libc.so.6",
    }
    assert (root / "bin/sh").read_bytes() == b"dash"
    assert (root / "lib" / TRIPLET / "libc.so.6").read_bytes() == b"libc"
    for mount_point in ("nix/store", "build", "dev", "proc", "tmp", "run", "var/tmp"):
        assert list((root / mount_point).iterdir()) == []
    for ballast in ("usr/share/doc/base-files", "usr/share/man/man1", "usr/share/locale/de"):
        assert ballast not in found
    assert f"usr/lib/{TRIPLET}/libicudata.a" not in found
    assert f"usr/lib/{TRIPLET}/libc.a" in found
    assert "usr/share/i18n/locales/de_DE" in found
    kinds = {kind for kind, _ in found.values()}
    assert kinds == {"link", "directory 755", "file 644", "file 755"}


def test_accounts_and_name_services_are_ours(debs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_build_root(debs, root, silent)
    accounts = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    assert [(name, uid, gid) for name, _, uid, gid, *_ in accounts] == [
        ("root", "0", "0"),
        ("build", "1000", "100"),
        ("nobody", "65534", "65534"),
    ]
    groups = {line.split(":")[2] for line in (root / "etc/group").read_text().splitlines()}
    assert {gid for _, _, _, gid, *_ in accounts} <= groups
    assert "nis" not in (root / "etc/nsswitch.conf").read_text()
    assert "127.0.0.1 localhost" in (root / "etc/hosts").read_text()


def test_links_that_packages_bring_are_kept(debs: dict[str, Path], tmp_path: Path) -> None:
    debs["clang"] = make_deb(
        tmp_path / "clang.deb", file("./usr/bin/clang", b"clang", 0o755), link("./usr/bin/cc", "clang")
    )
    debs["gawk"] = make_deb(tmp_path / "gawk.deb", file("./usr/bin/gawk", b"gawk", 0o755))
    root = tmp_path / "root"
    make_build_root(debs, root, silent)
    assert str((root / "usr/bin/cc").readlink()) == "clang"
    assert str((root / "usr/bin/awk").readlink()) == "gawk"


@pytest.fixture
def restored() -> Iterator[None]:
    zone, mask = os.environ.get("TZ"), os.umask(0o022)
    yield
    os.umask(mask)
    os.environ.pop("TZ", None)
    if zone is not None:
        os.environ["TZ"] = zone
    time.tzset()


@pytest.mark.usefixtures("restored")
def test_the_tree_depends_on_the_packages_only(debs: dict[str, Path], tmp_path: Path) -> None:
    os.umask(0o022)
    make_build_root(debs, tmp_path / "one", silent)
    import_runtime(debs["gcc"], tmp_path / "runtime-one")
    os.umask(0o077)
    os.environ["TZ"] = "Pacific/Chatham"
    time.tzset()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    others = {name: path.rename(moved / f"{name}-2.deb") for name, path in reversed(list(debs.items()))}
    make_build_root(others, moved / "another name", silent)
    import_runtime(others["gcc"], tmp_path / "runtime-two")
    assert hash_tree(tmp_path / "one") == hash_tree(moved / "another name")
    assert tree(tmp_path / "one") == tree(moved / "another name")
    assert hash_tree(tmp_path / "runtime-one") == hash_tree(tmp_path / "runtime-two")


def test_progress_is_told_in_bytes_of_packages(debs: dict[str, Path], tmp_path: Path) -> None:
    events: list[Event] = []
    make_build_root(debs, tmp_path / "root", events.append)
    total = sum(path.stat().st_size for path in debs.values())
    assert events[0] == Started("unpack:root", "unpack", "build root of 6 packages", total)
    counts = [event.done for event in events if isinstance(event, Progressed)]
    assert len(counts) == 6
    assert counts == sorted(counts)
    assert counts[-1] == total
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome == "done"


def test_packages_that_disagree_are_both_named(debs: dict[str, Path], tmp_path: Path) -> None:
    cases = {
        "content": [file("./usr/bin/mawk", b"MAWK", 0o755)],
        "mode": [file("./usr/bin/mawk", b"mawk", 0o644)],
        "kind": [link("./usr/bin/mawk", "gawk")],
        "directory": [file("./usr/bin/mawk/x", b"")],
    }
    for case, members in cases.items():
        other = make_deb(tmp_path / f"{case}.deb", *members)
        events: list[Event] = []
        with pytest.raises(InputError, match="mawk and other both hold usr/bin/mawk"):
            make_build_root(debs | {"other": other}, tmp_path / case, events.append)
        assert isinstance(events[-1], Finished)
        assert events[-1].outcome == "failed"


@pytest.mark.parametrize("path", ["etc", "usr/bin", f"usr/lib/{TRIPLET}/pkgconfig", "var", "nix", "usr"])
def test_nothing_is_written_through_a_package_s_link(tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    debs = {
        "evil": make_deb(tmp_path / "evil.deb", link(f"./{path}", str(outside))),
        "innocent": make_deb(
            tmp_path / "innocent.deb",
            file(f"./{path}/x", b"x"),
            file(f"./usr/lib/{TRIPLET}/libx.so", b"x"),
            file("./usr/bin/mawk", b"x"),
        ),
    }
    with pytest.raises(InputError, match="both hold"):
        make_build_root(debs, tmp_path / "both", silent)
    del debs["innocent"]
    try:
        make_build_root(debs, tmp_path / "alone", silent)
    except InputError as error:
        assert "where a directory belongs" in error.message
    assert list(outside.iterdir()) == []


def test_a_damaged_package_fails_the_root(debs: dict[str, Path], tmp_path: Path) -> None:
    os.truncate(debs["gcc"], 200)
    with pytest.raises(InputError, match="gcc"):
        make_build_root(debs, tmp_path / "root", silent)
    assert not (tmp_path / "root.unpack").exists()


def test_a_place_that_cannot_be_written_is_told(debs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="build root"):
        make_build_root(debs, tmp_path / "file" / "root", silent)
    with pytest.raises(HostError, match="cannot import"):
        import_runtime(debs["gcc"], tmp_path / "file" / "root")


def test_import_keeps_what_a_bundle_runs_on(tmp_path: Path) -> None:
    deb = make_deb(
        tmp_path / "libfoo1.deb",
        directory("./etc/"),
        file("./etc/foo.conf", b"conf"),
        file("./bin/foo", b"tool", 0o755),
        file("./usr/sbin/food", b"tool", 0o755),
        file(f"./lib/{TRIPLET}/libfoo.so.1", b"foo"),
        file("./usr/lib/cmake/foo/foo.cmake", b"cmake"),
        file("./usr/lib/debug/foo", b"debug"),
        file("./usr/lib/foo/empty/x", b"data"),
        file(f"./usr/lib/{TRIPLET}/libfoo.a", b"static"),
        file(f"./usr/lib/{TRIPLET}/libfoo.la", b"libtool"),
        file(f"./usr/lib/{TRIPLET}/pkgconfig/foo.pc", b"pc"),
        link(f"./usr/lib/{TRIPLET}/libfoo.so", f"/lib/{TRIPLET}/libfoo.so.1"),
        link("./usr/lib/foo/conf", "/etc/foo.conf"),
        link("./usr/lib/foo/localtime", "/etc/localtime"),
        file("./usr/share/doc/libfoo1/copyright", b"licence"),
        file("./usr/share/doc/libfoo1/changelog.gz", b"changes"),
        link("./usr/share/doc/libfoo-data", "libfoo1"),
        file("./usr/share/foo/data", b"data"),
        file("./usr/share/locale/de/foo.mo", b"de"),
        file("./usr/share/man/man1/foo.1", b"man"),
        file("./var/lib/foo/x", b"state"),
    )
    import_runtime(deb, tmp_path / "tree")
    files = {name: content for name, (kind, content) in tree(tmp_path / "tree").items() if "dir" not in kind}
    expected = {
        f"usr/lib/{TRIPLET}/libfoo.so": "libfoo.so.1",
        f"usr/lib/{TRIPLET}/libfoo.so.1": "foo",
        "usr/lib/foo/conf": "/etc/foo.conf",
        "usr/lib/foo/empty/x": "data",
        "usr/lib/foo/localtime": "/etc/localtime",
        "usr/share/doc/libfoo-data": "libfoo1",
        "usr/share/doc/libfoo1/copyright": "licence",
        "usr/share/foo/data": "data",
    }
    assert files == expected

    import_runtime(deb, tmp_path / "more", ["usr/bin/foo", "etc/*", "*/man1/foo.1"])
    files = {name: content for name, (kind, content) in tree(tmp_path / "more").items() if "dir" not in kind}
    assert files == expected | {
        "etc/foo.conf": "conf",
        "usr/bin/foo": "tool",
        "usr/lib/foo/conf": "../../../etc/foo.conf",
        "usr/share/man/man1/foo.1": "man",
    }


def test_import_of_a_package_whose_kept_name_is_the_second_hard_link(tmp_path: Path) -> None:
    deb = make_deb(
        tmp_path / "a.deb",
        file("./usr/bin/a", b"a", 0o755),
        link("./usr/lib/a", "./usr/bin/a", tarfile.LNKTYPE),
    )
    import_runtime(deb, tmp_path / "tree")
    assert (tmp_path / "tree/usr/lib/a").read_bytes() == b"a"
