"""Debian machines to install packages on: real apt and dpkg, in a tree that is a layer over one shared by all tests.

    the directory of `tests.cache`/
      machine-SUITE-HASH/         a tree that mmdebstrap has made, maintainer scripts and all; never written to
      machine-SUITE-HASH.lock     held while it is made

Each run of a script has namespaces of its own: no network but loopback, no process that outlives it. There is no init,
so no unit is started. Only root can: packages set owners.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.inputs.mirrors import host_mirrors
from tests.cache import scratch_directory, test_cache
from tests.debian import debian_tree
from tests.namespaces import in_tree


def machine_tree(packages: tuple[str, ...], suite: str = "bookworm") -> Path:
    """Return a tree of an installed Debian with apt and some packages, made at the first call and kept."""
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    tree = test_cache() / f"machine-{suite}-{key}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            program = debian_tree("bookworm", ("mmdebstrap",)) / "usr/bin/mmdebstrap"
            mirror = host_mirrors("bookworm").of("debian")[0]
            with scratch_directory("unpacking") as directory:
                made = directory / "tree"
                made.mkdir(mode=0o755)
                subprocess.run(
                    ["perl", program, "--mode=root", "--variant=apt", f"--include={','.join(packages)}", suite, made,
                     mirror],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                for file in (made / "etc/apt/sources.list.d").iterdir():
                    file.unlink()
                (made / "etc/apt/sources.list").write_text("")
                (made / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
                made.rename(tree)
    return tree


@dataclass(frozen=True)
class Machine:
    """A machine whose changes are kept in a directory.

    :param tree: such as :func:`machine_tree` gives.
    :param directory: an empty one at first, on a real file system.
    :param shows: directory in the machine to the directory that is shown there, read-only.
    """

    tree: Path
    directory: Path
    shows: Mapping[str, Path] = field(default_factory=dict)

    def run(self, script: str) -> str:
        """Run a script of sh as root, to its first error, and return what it prints on standard output."""
        layers = [self.directory / name for name in ("up", "work", "root")]
        for layer in layers:
            layer.mkdir(parents=True, exist_ok=True)
            layer.chmod(0o755)
        up, work, root = layers
        environment = (
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
        )  # fmt: skip
        overlay = f"mount -t overlay overlay -o lowerdir={self.tree},upperdir={up},workdir={work} {root}"
        shows = {source: Path(place) for place, source in self.shows.items()}
        done = subprocess.run(
            in_tree(root, overlay, shows, ("/usr/bin/env", "-i", *environment, "sh", "-eu", "-c", script)),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{script[:800]}"
        )
        return done.stdout

    def apt(self, repository: str = "/mnt/repo") -> None:
        """Let apt know a repository, and only that."""
        self.run(
            f"echo 'deb [signed-by={repository}/archive-key.asc] file:{repository} bookworm main' "
            "> /etc/apt/sources.list; apt-get -qq update"
        )

    def files(self) -> set[str]:
        """Return all files with kind, permissions, owner and target of links, but for what apt and dpkg write for
        themselves."""
        left_out = ("/proc", "/dev", "/mnt", "/run", "/tmp", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log")
        pruned = " -o ".join(f"-path {path}" for path in left_out)
        listing = self.run(
            f"find / \\( {pruned} \\) -prune -o -printf '%p %y %m %u:%g %l\\n'; find /var/log -name '*sql*'"
        )
        return set(listing.splitlines())
