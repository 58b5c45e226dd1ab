"""Real Nix, the judge of everything that pgbake says about Nix's formats.

Debian's ``nix-bin`` and what it needs are downloaded by apt and unpacked once into a cache directory::

    the directory of `tests.cache`/
      nix-VERSION.lock            held while unpacking
      nix-VERSION/                a root of unpacked packages: usr/, etc/, and no maintainer script ever run

Each :class:`Oracle` has a directory of its own that its Nix sees as ``/nix``, in a mount namespace whose
root is that unpacked tree. Neither the machine's ``/nix`` nor its packages are touched. The network is the machine's:
servers on loopback are reached.

:func:`newer_nix` gives the tree of a later Debian release in the same form; see `tests.debian`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from pgbake.errors import PgbakeError
from pgbake.formats import nar
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.local import remove_tree
from tests.cache import scratch_directory, test_cache
from tests.debian import debian_tree

# nix-bin's own dependencies assume the essential packages. mount brings umount, which leaves the old root;
# bubblewrap and the static busybox are for tests that build something.
PACKAGES = ("nix-bin", "dash", "coreutils", "mount", "bubblewrap", "busybox-static")

_BUILDERS = 4
_BUILDER_GID = 30000


class OracleUnavailable(Exception):
    """Real Nix can not be had on this machine; the message says why."""


@dataclass(frozen=True)
class TextFile:
    """One file that is to be a store path."""

    path: StorePath
    contents: bytes
    references: frozenset[StorePath] = frozenset()

    @classmethod
    def of(cls, drv: Derivation) -> Self:
        """Return a derivation's ``.drv``."""
        return cls(drv.path, drv.to_aterm(), drv.references)


class Oracle:
    """Nix with a store of its own.

    :param root: an empty directory; its ``nix`` appears as ``/nix``, its ``tmp`` as ``/tmp``.
    :param tree: see :func:`unpacked_nix`.
    """

    def __init__(self, root: Path, tree: Path) -> None:
        self.root = root
        self.tree = tree
        (root / "nix").mkdir()
        (root / "new").mkdir()
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)

    def on_disk(self, store_path: str) -> Path:
        """Return where a path of this store (``/nix/store/...``) lies on this machine."""
        return self.root / store_path.lstrip("/")

    def tmp(self, name: str = "") -> Path:
        """Return where ``/tmp/NAME`` of this Nix lies on this machine."""
        return self.root / "tmp" / name

    def command(self, *argv: str, binds: Sequence[Path] = ()) -> list[str]:
        """Return the command line that runs ``argv`` beside this store.

        As root the command has every right and Nix builds as ``nixbld1``...; bubblewrap is not used then, because
        inside a bubblewrap that real root has started another one can not mount /proc.

        :param binds: further directories that the command sees, at their own places.
        """
        env = ["PATH=/usr/bin:/usr/sbin", "HOME=/tmp", "USER=tester", "LC_ALL=C.UTF-8", _nix_config()]
        inner = ["/usr/bin/env", "-i", *env, *argv]
        places = [(self.root / "nix", "/nix"), (self.root / "tmp", "/tmp")]
        places += [(path, str(path)) for path in binds]
        if os.geteuid() == 0:
            script = _ENTER
            for outside, inside in places:
                inside = shlex.quote(f".{inside}")
                script += f"mkdir -p {inside}; mount --bind {shlex.quote(str(outside))} {inside}\n"
            unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-euc"]
            return [*unshare, script + _LEAVE, "sh", str(self.tree), str(self.root / "new"), *inner]
        bwrap = ["bwrap", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
        for name in ("usr", "etc"):
            bwrap += ["--ro-bind", str(self.tree / name), f"/{name}"]
        for name in _MERGED:
            bwrap += ["--symlink", f"usr/{name}", f"/{name}"]
        for outside, inside in places:
            bwrap += ["--bind", str(outside), inside]
        return [*bwrap, "--", *inner]

    def run(
        self, *argv: str, stdin: bytes = b"", binds: Sequence[Path] = (), check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command, such as ``nix-store --add /tmp/file``, to its end.

        :raises AssertionError: it failed, and ``check`` is set.
        """
        done = subprocess.run(self.command(*argv, binds=binds), input=stdin, capture_output=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} exited with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
        return done

    def remove(self) -> None:
        """Remove the store and all else below ``root``."""
        remove_tree(self.root)  # modes of files stay: they may be links to those of another store

    def import_files(self, files: Iterable[TextFile]) -> None:
        """Add files under their paths, which Nix checks: of a ``.drv`` its outputs' paths too.

        :raises AssertionError: Nix refuses one; the message says why.
        """
        stream = bytearray()
        for file in files:
            stream += _number(1)
            stream += b"".join(nar.encode([nar.Regular(b"", False, len(file.contents)), file.contents]))
            stream += _number(0x4558494E) + nar.string(str(file.path).encode())
            stream += _number(len(file.references))
            stream += b"".join(nar.string(str(path).encode()) for path in sorted(file.references))
            stream += nar.string(b"") + _number(0)  # no deriver, no signature
        self.run("nix-store", "--import", stdin=bytes(stream + _number(0)))


def _nix_config() -> str:
    settings = {
        "build-users-group": "nixbld" if os.geteuid() == 0 else "",
        "substituters": "",
        "sandbox": "false",
        "sandbox-paths": "",
        "experimental-features": "nix-command",
    }
    return "NIX_CONFIG=" + "\n".join(f"{key} = {value}" for key, value in settings.items())


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


_MERGED = ("bin", "sbin", "lib", "lib64")

# Run by the machine's own shell in a fresh mount and PID namespace; $1 is the tree, $2 the new root's place. The
# PID namespace keeps Nix, which kills all that its build users run, away from other oracles' builds.
_ENTER = """
tree=$1 new=$2; shift 2
mount -t tmpfs -o mode=0755 tmpfs "$new"; cd "$new"
mkdir usr etc dev proc old
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
for part in usr etc; do mount --bind "$tree/$part" $part; mount -o remount,bind,ro $part; done
mount --rbind /dev dev; mount -t proc proc proc
"""
_LEAVE = """
pivot_root . old; cd /; umount -l /old; rmdir /old; exec "$@"
"""


def newer_nix(suite: str = "trixie") -> Path:
    """Return a tree with the Nix of a later release in it (trixie: 2.26, sid: 2.34), after making it if need be.

    :raises OracleUnavailable: no mirror delivers the packages.
    """
    return dressed_tree("nix", suite, PACKAGES, write_accounts)


def dressed_tree(name: str, suite: str, wanted: tuple[str, ...], dress: Callable[[Path], object]) -> Path:
    """Return a tree with the programs of Debian's packages and an ``etc`` of its own, after making it if need be.

    :param dress: writes what lies in ``etc``.
    :raises OracleUnavailable: no mirror delivers the packages.
    """
    try:
        packages = debian_tree(suite, wanted)
    except PgbakeError as error:
        raise OracleUnavailable(f"Nix of {suite}: {error}") from error
    tree = packages.with_name(f"{name}-of-{packages.name}")
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            with scratch_directory("unpacking") as directory:
                new = directory / "tree"
                (new / "etc").mkdir(parents=True)
                (new / "usr").symlink_to(packages / "usr")
                dress(new / "etc")
                new.rename(tree)
    return tree


def unpacked_nix() -> Path:
    """Return the tree with Nix in it, after making it if need be. Safe beside other processes.

    :raises OracleUnavailable: a program is missing, apt can not deliver the packages, or they do not run here.
    """
    for program in ("apt-get", "dpkg-deb", "unshare" if os.geteuid() == 0 else "bwrap"):
        if shutil.which(program) is None:
            raise OracleUnavailable(f"the program {program} is not installed")
    cache = test_cache()
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"nix-{_version()}"
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            with scratch_directory("unpacking") as directory:
                new = directory / "tree"
                _unpack(_download(directory), new)
                write_accounts(new / "etc")
                new.rename(tree)
    with tempfile.TemporaryDirectory() as root:
        probe = Oracle(Path(root), tree).run("nix-store", "--version", check=False)
    if probe.returncode != 0:
        raise OracleUnavailable(f"this machine lets no namespace be made: {probe.stderr.decode().strip()[-2000:]}")
    return tree


def _version() -> str:
    shown = _call("apt-cache", "show", "--no-all-versions", "nix-bin")
    for line in shown.splitlines():
        if line.startswith("Version: "):
            return f"{line.removeprefix('Version: ')}-{platform.machine()}"
    raise OracleUnavailable("apt knows no package nix-bin: is `apt-get update` needed?")


def _download(scratch: Path) -> list[Path]:
    """Let apt fetch PACKAGES and all that they depend on, as if nothing were installed."""
    status, archives = scratch / "status", scratch / "archives"
    status.touch()
    (archives / "partial").mkdir(parents=True)
    options = {
        "Dir::State::status": str(status),
        "Dir::Cache::archives": str(archives),
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "0",
        "Acquire::Retries": "3",
    }
    arguments = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    _call("apt-get", "install", "--download-only", "--yes", *arguments, *PACKAGES)
    return sorted(archives.glob("*.deb"))


def _unpack(debs: Sequence[Path], tree: Path) -> None:
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    for deb in debs:
        # dpkg-deb --extract would put a directory where the link to usr/ is.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as contents:
            _call("tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(tree), stdin=contents.stdout)


def _call(*argv: str, stdin: IO[bytes] | None = None) -> str:
    done = subprocess.run(argv, stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OracleUnavailable(f"{' '.join(argv[:2])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def write_accounts(etc: Path, users: Sequence[tuple[str, int, int]] = ()) -> None:
    """Write the accounts of a small machine: root's, those of builds, and users with a shell: name, uid, gid."""
    shells = {"root": "/bin/sh", **{name: "/bin/sh" for name, _, _ in users}}
    users = [("root", 0, 0), ("nobody", 65534, 65534), *users]
    users += [(f"nixbld{n}", _BUILDER_GID + n, _BUILDER_GID) for n in range(1, _BUILDERS + 1)]
    members = ",".join(name for name, _, gid in users if gid == _BUILDER_GID)
    lines = [f"{name}:x:{uid}:{gid}::/:{shells.get(name, '/usr/sbin/nologin')}" for name, uid, gid in users]
    (etc / "passwd").write_text("".join(f"{line}\n" for line in lines))
    groups = {0: "root:x:0:", 65534: "nogroup:x:65534:", _BUILDER_GID: f"nixbld:x:{_BUILDER_GID}:{members}"}
    groups |= {gid: f"{name}:x:{gid}:" for name, _, gid in users if gid not in groups}
    (etc / "group").write_text("".join(f"{line}\n" for line in groups.values()))
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
