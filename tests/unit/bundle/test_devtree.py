"""The tree that extensions are compiled against: a bundle and the headers, as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgbake.bundle.devtree import dev_namespace, make_dev_tree
from pgbake.errors import HostError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.unit.store.texts import tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "root") as store:
        yield store


def bundle(store: LocalStore, version: str = "1") -> Any:
    files = {
        "lib/postgresql/15/bin/pg_config": version.encode(),
        "lib/postgresql/15/bin/psql": b"",
        "lib/postgresql/15/lib/pgxs/pgxs.mk": b"",
        "lib/x86_64-linux-gnu/libpq.so.5": b"",
        "share/postgresql/15/x": b"",
    }
    dev = tree(store, "dev", {"usr/include/postgresql/pg.h": b"", "usr/lib/x86_64-linux-gnu/libpq.so": b""})
    package = SimpleNamespace(output=lambda _name: dev)
    return SimpleNamespace(path=tree(store, f"bundle-{version}", files), packages=(package,))


@pytest.fixture
def root(store: LocalStore) -> StorePath:
    return tree(store, "root", {"usr/bin/gcc": b""})


def test_it_is_a_usr_with_headers(store: LocalStore, root: StorePath, tmp_path: Path) -> None:
    one = bundle(store)
    usr = make_dev_tree(store, one, root, 15, tmp_path / "dev")
    config = usr / "lib/postgresql/15/bin/pg_config"
    assert not config.is_symlink() and config.read_text() == "1"
    assert not any((usr / path).is_symlink() for path in ("lib", "lib/postgresql/15", "lib/x86_64-linux-gnu"))
    assert str((usr / "include").readlink()).endswith("-dev/usr/include")
    assert str((usr / "lib/postgresql/15/lib").readlink()) == f"{one.path}/lib/postgresql/15/lib"
    assert {path.name for path in (usr / "lib/x86_64-linux-gnu").iterdir()} == {"libpq.so", "libpq.so.5"}
    assert (usr / "share").is_symlink()


def test_it_is_made_anew_for_another_bundle_only(store: LocalStore, root: StorePath, tmp_path: Path) -> None:
    usr = make_dev_tree(store, bundle(store), root, 15, tmp_path / "dev")
    before = usr.stat().st_ino
    assert make_dev_tree(store, bundle(store), root, 15, tmp_path / "dev").stat().st_ino == before
    assert make_dev_tree(store, bundle(store, "2"), root, 15, tmp_path / "dev") == usr
    assert (usr / "lib/postgresql/15/bin/pg_config").read_text() == "2"


def test_a_directory_that_the_build_root_hides(store: LocalStore, root: StorePath, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not to be seen from the build root"):
        dev_namespace(store, root, ["true"], Path("/usr/share"))
    command = dev_namespace(store, root, ["true"], tmp_path)
    assert command[-4:] == ["--chdir", str(tmp_path.resolve()), "--", "true"]
