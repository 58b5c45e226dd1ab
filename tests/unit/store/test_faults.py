"""Faults of the machine while the store is written: one clear error, and the store goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import HostError, StoreError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_PRELUDE = """
import hashlib, os, shutil, sys
from pathlib import Path
from pgbake.formats.storepath import StorePath, text_path
from pgbake.store.local import LocalStore

root = Path(sys.argv[1])

def text(store, name, size):
    contents = b"x" * size
    return store.add_text(text_path(name, hashlib.sha256(contents).digest()), contents)
"""


def python(code: str, *args: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", _PRELUDE + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="pgbake-faults-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


_FULL_DISK = """
store = LocalStore(root)
before = text(store, "before", 10)
with (root / "ballast").open("wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(b"x" * 4096)
    except OSError:
        pass
(root / "many").mkdir()
try:
    for number in range(1000):
        (root / "many" / str(number)).touch()
except OSError:
    pass
try:
    {action}
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}} | {{getattr(error, 'hint', None)}}")
else:
    print("no error")
(root / "ballast").unlink()
shutil.rmtree(root / "many")
print(sorted(path.suffix for path in store.store_dir.iterdir() if path.suffix in (".lock", ".chroot")))
print(store.valid([before]) == {{before}}, store.valid([text(store, "after", 10)]) != set())
store.close()
LocalStore(root).close()
"""


@as_root
@pytest.mark.parametrize(
    "action",
    [
        'text(store, "large", 100_000)',
        'text(store, "small", 3000)',
        'store.temp_roots.add(*(StorePath("0" * 32, f"path-{n}") for n in range(500)))',
        "store.scratch().__enter__()",
        'store.link_root(root / "result", before)',
    ],
)
def test_a_full_disk_is_one_error_with_a_hint_and_nothing_is_lost(tmp_path: Path, action: str) -> None:
    # The reserved space of a new store is 8 MB.
    mount = f'mount -t tmpfs -o size=10m,nr_inodes=300 none {tmp_path} && exec "$@"'
    done = python(_FULL_DISK.format(action=action), tmp_path, prefix=("unshare", "--mount", "sh", "-c", mount, "sh"))
    assert done.returncode == 0, done.stderr
    error, leftovers, valid = done.stdout.splitlines()
    assert error.startswith("HostError: ") and "No space left on device | free disk space" in error
    assert leftovers == "[]" and valid == "True True"


@as_root
def test_a_full_disk_while_registering_is_one_error(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=10m none {tmp_path} && exec "$@"'
    action = """
    from pgbake.store.database import PathInfo
    store.database.register(PathInfo(StorePath("0" * 32, "x" * 200 + str(n)), bytes(32), 1) for n in range(5000))
    """.strip()
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh")
    done = python(_FULL_DISK.format(action=action), tmp_path, prefix=prefix)
    assert done.returncode == 0, done.stderr
    error, _, valid = done.stdout.splitlines()
    assert error.startswith("HostError: cannot write to the store's database") and "| free disk space" in error
    assert valid == "True True"


@as_root
@pytest.mark.parametrize(
    ("mode", "problem", "why"),
    [
        (0o700, "cannot open the store at", "Permission denied"),
        (0o755, "cannot write to the store at", "/root/nix/store belongs to root"),
    ],
)
def test_anothers_store_is_one_clear_error(open_directory: Path, mode: int, problem: str, why: str) -> None:
    root = open_directory / "root"
    LocalStore(root).close()
    root.chmod(mode)
    done = python('os.setuid(65534)\ntext(LocalStore(root), "one", 10)', root)
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("pgbake.errors.")]
    assert problem in last and last.endswith(why)


def test_many_processes_create_one_store_at_once(tmp_path: Path) -> None:
    code = 'store = LocalStore(root)\ntext(store, "one", 10)\ntext(store, sys.argv[2], 10)\nstore.close()'
    command = [sys.executable, "-c", _PRELUDE + code, str(tmp_path / "root")]
    processes = [
        subprocess.Popen([*command, f"own-{number}"], stderr=subprocess.PIPE, text=True) for number in range(6)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * len(processes)
    with LocalStore(tmp_path / "root") as store, sqlite3.connect(store.database.file) as database:
        assert database.execute("select count(*) from ValidPaths").fetchone() == (len(processes) + 1,)


def test_a_kill_while_the_schema_is_made_leaves_no_half_of_it(tmp_path: Path) -> None:
    # The third statement of the schema is not reached: the process ends inside the transaction.
    code = """
from pgbake.store import database
marker = "create index if not exists IndexReferrer"
assert marker in database._SCHEMA
database._SCHEMA = database._SCHEMA.replace(marker, "select quit(); " + marker)
connect = database.sqlite3.connect
def patched(*args, **kwargs):
    connection = connect(*args, **kwargs)
    connection.create_function("quit", 0, lambda: os._exit(9))
    return connection
database.sqlite3.connect = patched
LocalStore(root)
"""
    assert python(code, tmp_path).returncode == 9
    with LocalStore(tmp_path) as store:
        names = {str(row[0]) for row in store.database._select("select name from sqlite_master")}
    assert {"ValidPaths", "Refs", "IndexReferrer", "DeleteSelfRefs", "DerivationOutputs"} <= names


def test_a_derivation_is_never_valid_without_its_outputs(tmp_path: Path) -> None:
    code = """
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.store import database
derivation = with_outputs(
    Derivation("thing", {"out": Output("")}, {}, frozenset(), "x86_64-linux", "/bin/sh", (), {}), lambda path: bytes(32)
)
store = LocalStore(root)
# Killed at any later moment than this one the derivation would be there.
register = store.database.register
def patched(*args, **kwargs):
    register(*args, **kwargs)
    os._exit(9)
store.database.register = patched
store.add_derivation(derivation)
"""
    assert python(code, tmp_path).returncode == 9
    with LocalStore(tmp_path) as store:
        rows = store.database._select("select p.path, o.id from ValidPaths p join DerivationOutputs o on o.drv = p.id")
        assert [(str(path).rpartition("-")[2], name) for path, name in rows] == [("thing.drv", "out")]


def test_what_no_store_path_can_hold_is_refused_and_removed(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        made = store.store_dir / "made"
        made.mkdir()
        os.mkfifo(made / "pipe")
        path = StorePath("0" * 32, "thing")
        with pytest.raises(StoreError, match="is a fifo"):
            store.place(path, made)
        assert not store.physical(path).exists() and not made.exists()


def test_the_first_root_of_a_store_that_nix_made(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        (store.state_dir / "gcroots/auto").rmdir()
        store.link_root(tmp_path / "result", StorePath("0" * 32, "thing"))
        (auto,) = (store.state_dir / "gcroots/auto").iterdir()
        assert auto.readlink() == tmp_path / "result"


_CLOSED_TREES = """
from pgbake.store.local import remove_tree
if os.geteuid() == 0:
    os.setuid(65534)
tree = root / "tree"
(tree / "a/b").mkdir(parents=True)
(tree / "a/b/file").touch()
(tree / "elsewhere").symlink_to(root / "kept")
(root / "kept").mkdir(mode=0o500)
for closed in ("tree/a/b", "tree/a", "tree"):
    (root / closed).chmod(0)
remove_tree(tree)
assert not tree.exists() and (root / "kept").stat().st_mode & 0o777 == 0o500
(root / "kept").rmdir()

store = LocalStore(root / "store-root")
made = store.store_dir / "sub/made"
(made / "bin").mkdir(parents=True)
(made / "bin").chmod(0o555)
made.chmod(0o555)  # as `chmod -R a-w` in a build leaves it
path = StorePath("0" * 32, "thing")
store.place(path, made)
assert (store.physical(path) / "bin").is_dir()
store.close()
"""


def test_a_user_removes_and_moves_trees_that_are_closed(open_directory: Path) -> None:
    if os.geteuid() == 0:
        os.chown(open_directory, 65534, 65534)
    done = python(_CLOSED_TREES, open_directory)
    if os.geteuid() == 0:
        remove_tree(open_directory / "store-root")
    assert done.returncode == 0, done.stderr


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    remove_tree(tmp_path / "link")
    assert (tmp_path / "target").is_dir() and not (tmp_path / "link").is_symlink()


def test_a_full_disk_is_told_with_its_hint(tmp_path: Path) -> None:
    """Without root: the part that needs no file system of its own."""
    with LocalStore(tmp_path) as store:
        shutil.rmtree(store.state_dir / "scratch", ignore_errors=True)
        (store.state_dir / "scratch").symlink_to("/dev/full")
        with pytest.raises(HostError, match="cannot make a directory below"), store.scratch():
            pass
