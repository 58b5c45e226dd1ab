"""The workshop: the programs that make images, in a tree of pinned Debian packages of their own.

What they make depends on their versions, and not on those of the machine that they run on. They run in bubblewrap with
all of root's capabilities, since trees of machines have many owners, in namespaces without network.

On disk, below the directory of images::

    workshop-KEY/      the tree; KEY: digest of the packages
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgbake.errors import HostError
from pgbake.events import Sink
from pgbake.image.kept import bench_for, use
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import UNPACKING_VERSION, Pin
from pgbake.run import Completed, run

#: 2000-01-01: the time of files in images, in Unix seconds. Not Nix's 1: FAT, which firmware reads, begins with 1980.
EPOCH = 946684800
#: Where a directory that is worked on is shown.
BENCH = Path("/build")


def require_root() -> None:
    """Refuse where this is not root.

    :raises HostError: it is not.
    """
    if os.geteuid() != 0:
        raise HostError(
            "only root can make images of machines: their files have many owners",
            hint="use sudo; `pgbake image container` needs no root",
        )


class Workshop:
    """The tree with the programs; see :func:`open_workshop`."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def command(self, argv: Sequence[str], bench: Path, shown: Mapping[Path, str]) -> list[str]:
        """Return the command line that runs a program of the workshop.

        :param bench: the directory that is worked on; it is at :data:`BENCH`, and the current one.
        :param shown: directories or files to read, each with its place.
        """
        return [
            "bwrap", "--ro-bind", str(self.tree), "/", "--dev-bind", str(bench), str(BENCH), "--dev-bind", "/dev",
            "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys", "--tmpfs", "/tmp", "--tmpfs", "/run",
            *(word for source, place in shown.items() for word in ("--ro-bind", str(source), place)),
            "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--cap-add", "ALL", "--die-with-parent",
            "--chdir", str(BENCH), "--", *argv,
        ]  # fmt: skip

    def run(
        self,
        argv: Sequence[str],
        bench: Path,
        shown: Mapping[Path, str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> Completed:
        """Run a program of the workshop to its end; see :meth:`command`.

        :raises CommandError: it failed.
        """
        environment = {
            "PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp", "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(EPOCH), **(env or {}),
        }  # fmt: skip
        return run(self.command(argv, bench, shown or {}), sandbox="host", env=environment, stdin=stdin)


def open_workshop(images: Path, pins: Mapping[str, Pin], mirrors: Mirrors, downloads: Path, report: Sink) -> Workshop:
    """Return the workshop of some packages, after making it if need be.

    :param images: the directory of images.
    :raises PgbakeError: a package cannot be had, or the disk is full.
    """
    words = [f"{UNPACKING_VERSION}", *(f"{name} {pin.sha256}" for name, pin in sorted(pins.items()))]
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
    tree = images / f"workshop-{key}"
    if not tree.exists():
        with bench_for(tree, "usr") as bench:
            if bench is not None:
                make_build_root(fetch(pins, mirrors, downloads, report), bench, report)
    use(tree)
    return Workshop(tree)
