"""Unpacked trees of Debian releases, by pgbake's own resolver and unpacking: hosts to run a bundle on, parts of
hosts, and programs that tests need without installing them.

    the directory of `tests.cache`/
      apt/                        indexes of the suites
      downloads/                  packages
      SUITE-HASH/                 a tree of unpacked packages; no maintainer script ever run
      SUITE-HASH.lock             held while unpacking
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from pathlib import Path

from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import host_mirrors
from tests.cache import test_cache

#: What a small machine has: a shell with its tools, accounts, and PAM.
HOST = ("base-files", "base-passwd", "bash", "coreutils", "findutils", "grep", "libc-bin", "libpam-modules",
        "libpam-runtime", "passwd", "sed", "util-linux")  # fmt: skip


def debian_tree(suite: str, packages: tuple[str, ...] = HOST) -> Path:
    """Return a tree of packages of a release and all that they depend on, made at the first call and kept.

    It is shared by all tests: show it read-only.

    :param suite: such as ``bullseye`` or ``sid``; its mirrors are those of this machine's own release.
    :raises PgbakeError: no mirror has it.
    """
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    tree = test_cache() / f"{suite}-{key}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            mirrors = host_mirrors("bookworm")
            apt = AptRoot(test_cache() / "apt", (Suite(suite),), host_system().debian, mirrors)
            apt.update()
            files = fetch(apt.resolve(packages), mirrors, test_cache() / "downloads", silent)
            with tempfile.TemporaryDirectory(dir=test_cache(), prefix="unpacking-") as scratch:
                make_build_root(files, Path(scratch, "tree"), silent)
                Path(scratch, "tree").rename(tree)
    return tree
