"""Debian's lintian, unpacked and not installed, run in a namespace of its own.

the directory of `tests.cache`/
  lintian-SUITE-HASH/    a tree of `tests.debian` with the data of lintian, which trees for builds leave out
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cache import scratch_directory, test_cache
from tests.debian import HOST, debian_tree

_SUITE = "bookworm"
_PACKAGES = (*HOST, "binutils", "diffutils", "dpkg-dev", "gzip", "hostname", "lintian", "mawk", "tar", "xz-utils")


def _tree() -> Path:
    base = debian_tree(_SUITE, _PACKAGES)
    tree = base.with_name(f"lintian-{base.name}")
    if not tree.exists():
        (deb,) = list((test_cache() / "downloads").glob("*-lintian_*.deb"))[-1:]
        with scratch_directory("unpacking") as directory:
            made = Path(directory, "tree")
            subprocess.run(["cp", "-al", base, made], check=True)
            (made / "mnt").mkdir(exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", deb, Path(directory, "data")], check=True)
            Path(directory, "data/usr/share/lintian").rename(made / "usr/share/lintian")
            made.rename(tree)
    return tree


def lintian(debs: Sequence[Path]) -> list[str]:
    """Return what lintian says of packages that lie in one directory: lines ``E: PACKAGE: TAG ...``."""
    (directory,) = {deb.parent for deb in debs}
    # fmt: off
    command = [
        "bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", str(_tree()), "/", "--proc", "/proc",
        "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--ro-bind", str(directory), "/mnt",
        "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp",
        "--setenv", "DEB_VENDOR", "Debian", "--setenv", "LC_ALL", "C.UTF-8",
        "--chdir", "/tmp", "--", "lintian", "--allow-root", "--tag-display-limit", "0",
        *(f"/mnt/{deb.name}" for deb in debs),
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Its exit status tells of errors in packages, not of its own.
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line[1:3] == ": "]
