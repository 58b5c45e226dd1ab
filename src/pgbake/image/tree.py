"""The tree of a machine between its making and its image: what must not be in it, and how it is packed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pgbake.image.workshop import EPOCH, Workshop
from pgbake.machine.apply import below

#: What the making of a tree leaves in it, that belongs to no machine: globs, relative to its root.
_LEFT = (
    "etc/*-", "etc/.pwd.lock", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssh/ssh_host_*",
    "root/.*_history", "root/.ssh", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb",
    "var/cache/apt/archives/lock", "var/cache/apt/archives/partial/*", "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache", "var/lib/apt/lists/*", "var/lib/dbus/machine-id", "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*", "var/lib/systemd/credential.secret", "var/lib/systemd/random-seed", "run/*", "tmp/*",
    "tmp/.[!.]*", "var/tmp/*", "home/*/.ssh", "home/*/.*_history",
)  # fmt: skip
#: Empty files that programs expect: who logged in, and when.
_ACCOUNTING = ("btmp", "faillog", "lastlog", "wtmp")
#: Not a log.
_EXPLANATION = "README"
#: The beginnings of files that hold a secret key.
_KEYS = (
    b"-----BEGIN OPENSSH PRIVATE KEY",
    b"-----BEGIN RSA PRIVATE",
    b"-----BEGIN EC PRIVATE",
    b"-----BEGIN PRIVATE KEY",
)


def tidy(root: Path) -> None:
    """Remove from a tree what its making has left: keys, identities, logs, caches of indexes.

    What is empty then is made by the machine itself at its first boot: its id, its host keys.
    """
    for pattern in _LEFT:
        for place in root.glob(pattern):
            _remove(place)
    for place in (root / "etc/ssl/certs").glob("*"):
        if place.is_symlink() and not place.exists() and "/" not in str(place.readlink()):
            place.unlink()  # named by the hash of a certificate that has gone
    for place in _logs(root):
        if place.name in _ACCOUNTING:
            os.truncate(place, 0)
        else:
            place.unlink()
    (root / "etc/machine-id").write_bytes(b"")


def leftovers(root: Path) -> Iterator[str]:
    """Yield what a tree has and an image that was never booted must not have: a path, and what is wrong with it."""
    for pattern in _LEFT:
        for place in sorted(root.glob(pattern)):
            yield f"/{place.relative_to(root)}: left by a boot, a login or the making of the image"
    for place in _logs(root):
        if place.stat().st_size:
            yield f"/{place.relative_to(root)}: a log with something in it"
    identity = below(root, "/etc/machine-id")
    if not identity.exists() or identity.stat().st_size:
        yield "/etc/machine-id: not empty; every machine would have the same identity"
    for directory in ("etc", "home", "opt", "root", "srv", "usr/local", "var/lib"):
        for top, _, names in os.walk(root / directory):
            for name in names:
                place = Path(top, name)
                if _holds_key(place):
                    yield f"/{place.relative_to(root)}: a secret key"
    yield from _passwords(root)


def _logs(root: Path) -> Iterator[Path]:
    """Yield the files below ``/var/log``, links and what explains them left out."""
    for place in sorted((root / "var/log").rglob("*")):
        if place.is_file() and not place.is_symlink() and place.name != _EXPLANATION:
            yield place


def _holds_key(place: Path) -> bool:
    status = place.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > 100_000:
        return False
    with place.open("rb") as file:
        return file.read(40).lstrip().startswith(_KEYS)


def _passwords(root: Path) -> Iterator[str]:
    shadow = root / "etc/shadow"
    for line in shadow.read_text().splitlines() if shadow.exists() else ():
        name, password = line.split(":")[:2]
        if password and password[0] not in "!*":
            yield f"/etc/shadow: {name} has a password"


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def pack(workshop: Workshop, bench: Path, name: str = "root") -> None:
    """Pack the tree ``NAME`` of a bench as ``NAME.tar``: the same tree gives the same bytes, whenever it was made.

    Names are sorted, owners numbers, no file is younger than :data:`pgbake.image.workshop.EPOCH`.

    :raises CommandError: tar failed.
    """
    workshop.run(
        [
            "tar", "--create", f"--file={name}.tar", "--sort=name", "--numeric-owner", f"--mtime=@{EPOCH}",
            "--clamp-mtime", "--format=pax", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--xattrs", "--xattrs-include=*", f"--directory={name}", ".",
        ],
        bench,
    )  # fmt: skip


def unpack(workshop: Workshop, tar: Path, bench: Path, name: str = "root") -> Path:
    """Unpack what :func:`pack` has made into the directory ``NAME`` of a bench, which is made; return it.

    :raises CommandError: tar failed.
    """
    tree = bench / name
    tree.mkdir(mode=0o755)
    workshop.run(
        ["tar", "--extract", "--file=/run/root.tar", "--numeric-owner", "--same-owner", "--preserve-permissions",
         "--xattrs", "--xattrs-include=*", f"--directory={name}"],
        bench, {tar: "/run/root.tar"},
    )  # fmt: skip
    return tree
