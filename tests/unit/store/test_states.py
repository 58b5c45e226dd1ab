"""Stores that can only be read, and stores that lack what is registered or hold what is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree

ONE, TWO, LATE = StorePath("1" * 32, "one"), StorePath("2" * 32, "two"), StorePath("4" * 32, "late")

_READER = """
import sys
from pathlib import Path
from pgbake.errors import PgbakeError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore

one, two, new = StorePath("1" * 32, "one"), StorePath("2" * 32, "two"), StorePath("3" * 32, "three")
late = StorePath("4" * 32, "late")
with LocalStore(Path(sys.argv[1])) as store:
    print(store.read_only)
    print(sorted(path.name for path in store.valid([one, two, late, new])), store.info(two).references == {one})
    store.temp_roots.add(one)
    store.add_text(one, b"1")  # there already
    store.link_root(Path(sys.argv[2]) / "link", one)
    for write in (
        lambda: store.add_text(new, b"3"),
        lambda: store.scratch().__enter__(),
        lambda: store.lock(new).__enter__(),
        lambda: store.database.invalidate(two),
    ):
        try:
            write()
            print("written")
        except PgbakeError as error:
            print(error)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with two paths, below a directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="pgbake-read-only-") as directory:
        Path(directory).chmod(0o755)
        with LocalStore(Path(directory) / "root") as store:
            store.add_text(ONE, b"1")
            store.add_text(TWO, str(ONE).encode(), references=[ONE])
        yield Path(directory) / "root"
        remove_tree(Path(directory) / "root")


def read(root: Path, scratch: Path, *prefix: str) -> list[str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _READER, str(root), str(scratch)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (scratch / "link").readlink() == Path(str(ONE))
    return done.stdout.splitlines()


def assert_read_only(said: list[str], why: str, in_use: bool) -> None:
    assert said[0].endswith(why)
    # What its owner has just registered stands in the write-ahead log only.
    assert said[1] == ("['late', 'one', 'two'] True" if in_use else "['one', 'two'] True")
    cannot = "cannot write to the store at "
    assert all(line.startswith(cannot) and line.endswith(why) for line in said[2:5]), said
    assert said[5].startswith("cannot write to the store's database ") and "readonly database" in said[5]


NAMESPACE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.parametrize("in_use", [False, True])
def test_on_a_file_system_that_is_mounted_read_only(root: Path, tmp_path: Path, in_use: bool) -> None:
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.fail("no namespaces here") if os.environ.get("CI") == "true" else pytest.skip("no namespaces here")
    writer = LocalStore(root) if in_use else None  # outside of the namespace it is writable
    if writer is not None:
        writer.add_text(LATE, b"4")
    said = read(root, tmp_path, *NAMESPACE, "sh", "-c", mount, str(root))
    assert_read_only(said, "its file system is mounted read-only", in_use)
    if writer is not None:
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("in_use", [False, True])
def test_of_another_user(root: Path, in_use: bool) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="pgbake-reader-"))
    os.chown(scratch, 65534, 65534)
    try:
        writer = LocalStore(root) if in_use else None
        if writer is not None:
            writer.add_text(LATE, b"4")
        said = read(root, scratch, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert_read_only(said, f"{root}/nix/store belongs to root", in_use)
        if writer is not None:
            writer.close()
    finally:
        remove_tree(scratch)


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_lies_where_a_path_is_to_come_is_replaced(tmp_path: Path, kind: str) -> None:
    """As Nix does it: what is not registered is the remains of something."""
    with LocalStore(tmp_path / "root") as store:
        physical = store.physical(ONE)
        if kind == "directory":
            (physical / "closed").mkdir(parents=True)
            (physical / "closed").chmod(0)
        elif kind == "file":
            physical.write_text("foreign")
        else:
            (tmp_path / "elsewhere").mkdir()
            physical.symlink_to(tmp_path / "elsewhere")
        store.add_text(ONE, b"1")
        assert physical.read_bytes() == b"1" and not physical.is_symlink()
        assert kind != "link" or (tmp_path / "elsewhere").is_dir()


def test_a_path_that_was_deleted_is_not_valid_and_made_again(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "root") as store:
        store.add_text(ONE, b"1")
        store.add_text(TWO, str(ONE).encode(), references=[ONE])
        remove_tree(store.physical(ONE))
        assert store.valid([ONE, TWO]) == {TWO} and store.lost([TWO]) == {ONE}
        store.add_text(ONE, b"1")
        assert store.valid([ONE, TWO]) == {ONE, TWO} and not store.lost([TWO])
        assert store.info(TWO).references == {ONE}
