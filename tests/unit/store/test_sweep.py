"""Sweeping a store: what killed processes left goes, what is valid or being made stays."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pgbake.files import write_whole
from pgbake.formats.storepath import StorePath, text_path
from pgbake.store.local import LocalStore


def test_only_remains_are_removed(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        contents = b"whole"
        valid = store.add_text(text_path("Cargo.lock", hashlib.sha256(contents).digest()), contents)
        dead, half, busy = (StorePath(str(n) * 32, "thing") for n in (1, 2, 3))
        store.physical(dead).mkdir()
        (store.store_dir / f"{dead.basename}.lock").touch()
        (store.store_dir / f"{half.basename}.drv.chroot/store").mkdir(parents=True)
        (store.store_dir / f"{valid.basename}.lock").touch()
        (store.store_dir / "lost+found").mkdir()
        roots = store.state_dir / "temproots"
        (roots / "999999999").write_bytes(b"/nix/store/x\0")
        with store.lock(busy):
            staging = store.staging(busy)
            store.sweep()
            names = {path.name for path in store.store_dir.iterdir()}
            assert names == {".links", "lost+found", valid.basename, f"{busy.basename}.lock", staging.name}
        assert [path.name for path in roots.iterdir()] == [str(os.getpid())]
        assert store.physical(valid).read_bytes() == contents


def test_a_small_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"old", mode=0o600)
    (tmp_path / ".file.new").write_text("a killed process's")
    write_whole(file, b"new", mode=0o600)
    assert file.read_bytes() == b"new" and file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
