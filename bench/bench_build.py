"""A cold build of PostgreSQL and the example's extensions, against the same by hand.

By hand means: the commands that a person would type, in the same build root under a plain bubblewrap, with
the same flags and -j, one package after the other. Both sides start from unpacked roots and downloaded
tarballs, and write to the same file system. Turns: hand, pgbake, pgbake, hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from pgbake.build.plan import make_plan
from pgbake.build.provide import Provider
from pgbake.build.realise import realise
from pgbake.bundle.merge import Bundle
from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.project import Project
from pgbake.store.local import LocalStore
from tests.cache import test_cache
from tests.projects import EXAMPLE

_HAND = r"""
cd /build
tar -xf /tmp/sources/postgresql --one-top-level=pg --strip-components=1
cd pg
./configure --prefix=/usr --mandir=/usr/share/postgresql/15/man --docdir=/usr/share/doc/postgresql-doc-15 \
  --sysconfdir=/etc/postgresql-common --datarootdir=/usr/share --datadir=/usr/share/postgresql/15 \
  --bindir=/usr/lib/postgresql/15/bin --libdir=/usr/lib/$triplet --libexecdir=/usr/lib/postgresql \
  --includedir=/usr/include/postgresql $configureFlags CFLAGS="$cflags" LDFLAGS="$ldflags" \
  PERL=/usr/bin/perl PYTHON=/usr/bin/python3
directories="pkglibdir=/usr/lib/postgresql/15/lib pkgincludedir=/usr/include/postgresql/15"
make -j$cores $directories world-bin
make $directories DESTDIR=/build/image install-world-bin
make -C doc/src/sgml $directories DESTDIR=/build/image install-man install-html
make -C src/test/isolation $directories DESTDIR=/build/image install
export PATH=/build/image/usr/lib/postgresql/15/bin:$PATH
for name in $extensions; do
  cd /build
  tar -xf /tmp/sources/$name --one-top-level=$name --strip-components=1
  cd $name
  make -j$cores USE_PGXS=1 PG_CONFIG=/build/image/usr/lib/postgresql/15/bin/pg_config OPTFLAGS= with_llvm=no
  make USE_PGXS=1 PG_CONFIG=/build/image/usr/lib/postgresql/15/bin/pg_config with_llvm=no install
done
cd /build/image/usr
for file in $(find . -type f \( -perm /111 -o -name '*.so*' \)); do
  if file -b "$file" | grep -q ^ELF; then strip --strip-unneeded "$file"; fi
done
"""


def by_hand(store: LocalStore, bundle: Bundle, extensions: list[str], cores: int, scratch: Path) -> float:
    """Build by hand in a fresh directory and return the seconds of wall time."""
    server = bundle.by_name()["postgresql"]
    root = next(item for item in bundle.graph.inputs.values() if item.kind == "root" and item.name == "core")
    sources = {item.name: item for item in bundle.graph.inputs.values() if item.kind == "source"}
    build = scratch / "hand"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    command = ["bwrap", "--unshare-net", "--ro-bind", str(store.physical(root.path)), "/"]
    command += ["--bind", str(build), "/build", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    for name in ("postgresql", *extensions):
        command += ["--ro-bind", str(store.physical(sources[name].path)), f"/tmp/sources/{name}"]
    environment = {
        "PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C", "cores": str(cores), "extensions": " ".join(extensions),
        **{name: server.env[name] for name in ("triplet", "configureFlags", "cflags", "ldflags")},
    }  # fmt: skip
    begin = time.monotonic()
    subprocess.run([*command, "/usr/bin/bash", "-euc", _HAND], env=environment, check=True, capture_output=True)
    return time.monotonic() - begin


def by_pgbake(provided: LocalStore, bundle: Bundle, names: list[str], cores: int, scratch: Path) -> float:
    """Build with pgbake in a fresh store and return the seconds of wall time."""
    root = scratch / "pgbake"
    subprocess.run(["rm", "-rf", str(root)], check=True)
    with LocalStore(root) as store:
        goals = [bundle.by_name()[name].path for name in names]
        plan = make_plan(bundle.graph, goals, store)
        project = Project(EXAMPLE)
        provider = Provider(
            store, project.catalogue, lambda: project.mirrors, test_cache() / "pgbake/downloads", silent
        )
        for item in plan.inputs:
            provider.provide(item)

        plan = make_plan(bundle.graph, goals, store)
        begin = time.monotonic()
        assert not plan.inputs
        realise(plan, store, provider, silent, cores)
        return time.monotonic() - begin


def main() -> None:
    """Print both times, of two turns each, and their ratio."""
    cores = len(os.sched_getaffinity(0))
    project = Project(EXAMPLE)
    bundle = project.bundle(host_system())
    names = [package.recipe.name for package in bundle.packages]
    extensions = [name for name in names if name != "postgresql"]
    # Not below root's home or /tmp: builds run as users of their own, and need a real disk.
    with tempfile.TemporaryDirectory(dir=test_cache()) as directory, LocalStore(test_cache() / "store") as store:
        scratch = Path(directory)
        scratch.chmod(0o755)
        hand = [by_hand(store, bundle, extensions, cores, scratch)]
        ours = [by_pgbake(store, bundle, names, cores, scratch) for _ in range(2)]
        hand.append(by_hand(store, bundle, extensions, cores, scratch))
    ratio = sum(ours) / sum(hand)
    print(
        f"cold build of {len(names)} packages: pgbake {ours[0]:.1f} and {ours[1]:.1f} s, "
        f"by hand {hand[0]:.1f} and {hand[1]:.1f} s, ratio {ratio:.2f} (bar 1.10)"
    )
