"""A host without glibc: musl's loader and libc, and a busybox that is linked against them.

Debian has musl and its compiler wrapper as packages, but its busybox is glibc's. So busybox is compiled here, from
Debian's upstream tarball, in an unpacked tree that has musl and gcc; 20 seconds, once for the directory of
`tests.cache`::

      musl-1/bin/busybox        and a link to it for each program
      musl-1/lib/ld-musl-x86_64.so.1
      musl-1/etc/passwd ...
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import host_mirrors
from tests.cache import scratch_directory, test_cache
from tests.debian import debian_tree

#: What compiles it.
_WORKSHOP = ("bash", "bzip2", "coreutils", "diffutils", "findutils", "gawk", "grep", "linux-libc-dev", "make",
             "musl-tools", "sed", "tar")  # fmt: skip
_SUITE = "bookworm"
_PROGRAMS = ("cat", "cp", "date", "echo", "env", "false", "grep", "head", "id", "ls", "mkdir", "mv", "printf", "rm",
             "sed", "sleep", "sort", "test", "touch", "tr", "true", "uname", "wc")  # fmt: skip
_OPTIONS = ("ASH", "SH_IS_ASH", "ASH_ECHO", "ASH_PRINTF", "ASH_TEST", "LFS")
_MOUNT_POINTS = ("dev", "nix/store", "proc", "run", "tmp", "var")
# No network, and the one thing from outside is the tarball. Linux's headers are not musl's, and come after them.
_SCRIPT = """
cd /build
tar xf /tmp/source --strip-components=1
make() { command make -s -j "$(nproc)" HOSTCC=musl-gcc "CC=musl-gcc -idirafter /usr/include $multiarch" "$@"; }
make allnoconfig
sed -i -f wanted .config
yes '' | make oldconfig
make busybox_unstripped
"""


def musl_tree() -> Path:
    """Return the tree, made at the first call and kept. It is shared by all tests: show it read-only.

    :raises PgbakeError: no mirror has the packages or the source.
    """
    top = test_cache()
    top.mkdir(parents=True, exist_ok=True)
    tree = top / "musl-1"
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            workshop = debian_tree(_SUITE, _WORKSHOP)
            mirrors = host_mirrors(_SUITE)
            apt = AptRoot(top / "apt", (Suite(_SUITE),), host_system().debian, mirrors)
            apt.update()
            _, pin = apt.source("busybox")
            source = fetch({"busybox": pin}, mirrors, top / "downloads", silent)["busybox"]
            with scratch_directory("musl") as directory:
                build, made = directory / "build", directory / "tree"
                build.mkdir()
                _compile(workshop, source, build)
                _install(workshop, build / "busybox_unstripped", made)
                made.rename(tree)
    return tree


def _compile(workshop: Path, source: Path, build: Path) -> None:
    wanted = [*_OPTIONS, *(name.upper() for name in _PROGRAMS)]
    (build / "wanted").write_text("".join(f"s/^# CONFIG_{name} is not set/CONFIG_{name}=y/\n" for name in wanted))
    # fmt: off
    done = subprocess.run(
        ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", str(workshop), "/",
         "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(source), "/tmp/source",
         "--bind", str(build), "/build", "--setenv", "PATH", "/usr/bin:/bin",
         "--setenv", "multiarch", f"-idirafter /usr/include/{host_system().triplet}",
         "bash", "-euc", _SCRIPT],
        timeout=300, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )
    # fmt: on
    assert done.returncode == 0, f"busybox could not be compiled:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _install(workshop: Path, busybox: Path, tree: Path) -> None:
    for directory in ("bin", "etc", "lib", *_MOUNT_POINTS):
        (tree / directory).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    for program in ("sh", *_PROGRAMS):
        (tree / "bin" / program).symlink_to("busybox")
    (loader,) = (workshop / "usr/lib").glob("ld-musl-*")
    shutil.copy(loader, tree / "lib" / loader.name)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (tree / "etc/os-release").write_text('ID=busybox\nPRETTY_NAME="musl and busybox"\n')
