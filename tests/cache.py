"""Where tests keep what they need again: downloads, the unpacked Nix, the store with PostgreSQL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgbake.store.locks import held_directory


def test_cache() -> Path:
    """Return ``$PGBAKE_TEST_CACHE``, or a directory of this user's.

    Root's is not below its home, which is closed to the users that builds and servers run as.
    """
    if named := os.environ.get("PGBAKE_TEST_CACHE"):
        return Path(named)
    return Path("/var/cache/pgbake-tests") if os.geteuid() == 0 else Path.home() / ".cache/pgbake-tests"


@contextlib.contextmanager
def scratch_directory(name: str) -> Iterator[Path]:
    """Give a directory on the file system of the tests' store, which everybody may enter, and remove it at the end.

    It is locked while it is used, so that whoever makes the next one can remove what a killed test left: copies of
    the store are large.
    """
    top = test_cache() / "tmp"
    top.mkdir(parents=True, exist_ok=True)
    with top.with_name("tmp.lock").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        for left in top.iterdir():
            if (held := held_directory(left)) is not None:
                _remove(left)
                os.close(held)
        directory = Path(tempfile.mkdtemp(dir=top, prefix=f"{name}-"))
        directory.chmod(0o755)
        held = held_directory(directory)
        assert held is not None
    try:
        yield directory
    finally:
        _remove(directory)
        os.close(held)


def _remove(directory: Path) -> None:
    if os.geteuid() != 0:
        # Directories in a store cannot be written to; files are left alone: they may be links to those of another.
        closed: list[str | Path] = ["find", directory, "-type", "d", "!", "-perm", "-700"]
        subprocess.run([*closed, "-exec", "chmod", "u+rwx", "{}", "+"], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)
