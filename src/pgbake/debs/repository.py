"""A repository of packages for apt, as plain files that any web server, or apt itself by ``file:``, can serve.

On disk::

    pool/main/NAME/NAME_VERSION_ARCH.deb
    dists/SUITE/main/binary-ARCH/Packages{,.gz,.xz}
    dists/SUITE/main/binary-ARCH/by-hash/SHA256/HASH      the same, and those that the Release before named
    dists/SUITE/Release  InRelease  Release.gpg           signed; written last
    archive-key.asc                                       the public key, for Signed-By
    .lock                                                 held by whoever writes

What is there stays: packages of other versions, other architectures, other projects. Whoever reads meanwhile gets the
old indexes or the new ones whole, since apt asks for them by their hash.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import cmp_to_key
from pathlib import Path

from pgbake.errors import ManifestError, host_error
from pgbake.files import write_whole
from pgbake.run import run
from pgbake.store.local import remove_tree


@dataclass(frozen=True, slots=True)
class Entry:
    """A package in the index: its paragraph, as text without the empty line behind it."""

    paragraph: str

    def field(self, name: str) -> str:
        """Return a field of one line; "" where there is none."""
        begin = f"{name}: "
        return next((li.removeprefix(begin) for li in self.paragraph.splitlines() if li.startswith(begin)), "")

    @property
    def name(self) -> str:
        """The package's name."""
        return self.field("Package")

    @property
    def version(self) -> str:
        """The package's version."""
        return self.field("Version")


class Repository:
    """One suite of a repository in a directory, which is made where it is not there."""

    def __init__(self, root: Path, suite: str, architecture: str) -> None:
        self.root = root
        self.suite = suite
        self.architecture = architecture

    @property
    def dist(self) -> Path:
        """Where the suite's indexes lie."""
        return self.root / "dists" / self.suite

    def entries(self) -> list[Entry]:
        """Return the packages of the suite and architecture, as the index has them.

        :raises ManifestError: the index cannot be read.
        """
        file = self._index(self.architecture)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ManifestError(f"cannot read {file}: {error.strerror}") from error
        return [Entry(paragraph.strip("\n")) for paragraph in text.split("\n\n") if paragraph.strip()]

    def _index(self, architecture: str) -> Path:
        return self.dist / f"main/binary-{architecture}/Packages"

    def pool(self, name: str) -> Path:
        """Return the directory for the files of a package."""
        return self.root / "pool/main" / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing for the ``with`` block; wait for who does.

        :raises HostError: the directory cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise host_error(error, f"cannot write {self.root}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in self.root.glob("pool/main/*/.packing-*"):  # by a run that was killed
                remove_tree(left)
            yield
        finally:
            os.close(descriptor)

    def publish(self, added: Sequence[Path], key: str | None, *, prune: bool, epoch: int | None) -> list[Entry]:
        """Take in packages that lie in the pool, write and sign the indexes, and return what has gone.

        Only for who holds :meth:`locked`.

        :param key: what gpg knows the key by that signs; None leaves the repository unsigned.
        :param prune: only the newest version of each package stays.
        :param epoch: the date of the Release file, in seconds since 1970; None for now.
        :raises CommandError: gpg does not sign.
        :raises HostError: something cannot be written.
        """
        entries = {(entry.name, entry.version): entry for entry in self.entries()}
        for file in added:
            entry = self._read(file)
            entries[entry.name, entry.version] = entry
        kept = newest(entries.values()) if prune else list(entries.values())
        gone = [entry for entry in entries.values() if entry not in kept]
        before = self._hashes()
        try:
            self._write(kept, key, epoch)
            for entry in gone:
                (self.root / entry.field("Filename")).unlink(missing_ok=True)
            # Whoever has just read the Release before may still ask for what it names.
            current = self._hashes()
            for file in self.dist.glob("main/binary-*/by-hash/SHA256/*"):
                if file.name not in before | current:
                    file.unlink()
        except OSError as error:
            raise host_error(error, f"cannot write {self.root}") from error
        return gone

    def _read(self, file: Path) -> Entry:
        """Return the entry of a package's file: its control file, and what apt is to know of the file."""
        control = run(["dpkg-deb", "--field", str(file)], sandbox="host").stdout.strip("\n")
        content = file.read_bytes()
        told = (
            f"Filename: {file.relative_to(self.root)}\n"
            f"Size: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}"
        )
        head, sign, description = control.partition("\nDescription: ")
        return Entry(f"{head}\n{told}{sign}{description}")

    def _hashes(self) -> set[str]:
        """Return the hashes of the files that the Release names."""
        try:
            lines = (self.dist / "Release").read_text().partition("SHA256:\n")[2].splitlines()
        except FileNotFoundError:
            return set()
        return {line.split()[0] for line in lines if line.startswith(" ")}

    def _write(self, entries: Iterable[Entry], key: str | None, epoch: int | None) -> None:
        order = sorted(entries, key=lambda entry: (entry.name, version_key(entry.version)))
        text = "".join(f"{entry.paragraph}\n\n" for entry in order).encode()
        architectures = sorted(
            {self.architecture, *(d.name.removeprefix("binary-") for d in self.dist.glob("main/binary-*"))}
        )
        index = self._index(self.architecture)
        changed = not index.exists() or index.read_bytes() != text
        signed = (self.dist / "InRelease").exists()
        if not changed and (self.dist / "Release").exists() and signed == (key is not None):
            return
        (index.parent / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
        forms = {"": text, ".gz": gzip.compress(text, 9, mtime=0), ".xz": lzma.compress(text, preset=6)}
        for content in forms.values():
            write_whole(index.parent / "by-hash/SHA256" / hashlib.sha256(content).hexdigest(), content)
        for suffix, content in forms.items():
            write_whole(index.with_name(f"Packages{suffix}"), content)
        listed = [
            file.relative_to(self.dist)
            for architecture in architectures
            for file in sorted(self._index(architecture).parent.glob("Packages*"))
        ]
        lines = [
            "Origin: pgbake",
            "Label: pgbake",
            f"Suite: {self.suite}",
            f"Codename: {self.suite}",
            f"Date: {formatdate(epoch, usegmt=True)}",
            f"Architectures: {' '.join(architectures)}",
            "Components: main",
            "Acquire-By-Hash: yes",
            "Description: PostgreSQL and extensions, built by pgbake",
            "SHA256:",
        ]
        for path in listed:
            content = (self.dist / path).read_bytes()
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {path}")
        release = ("\n".join(lines) + "\n").encode()
        self._sign(release, key)

    def _sign(self, release: bytes, key: str | None) -> None:
        """Write Release with its signatures; InRelease, which apt asks for first, comes last."""
        made: dict[str, bytes] = {}
        if key is not None:
            for name, option in (("Release.gpg", "--detach-sign"), ("InRelease", "--clearsign")):
                made[name] = gpg("--local-user", key, "--armor", option, stdin=release)
            write_whole(self.root / "archive-key.asc", gpg("--armor", "--export", key))
        else:
            for name in ("InRelease", "Release.gpg"):
                (self.dist / name).unlink(missing_ok=True)
        write_whole(self.dist / "Release", release)
        for name, content in made.items():
            write_whole(self.dist / name, content)


def gpg(*args: str, stdin: bytes = b"") -> bytes:
    """Run gpg with the user's own keys.

    :raises CommandError: it fails: there is no such secret key, mostly.
    """
    hint = "`gpg --list-secret-keys` lists the keys; `gpg --quick-generate-key NAME` makes one"
    done = run(["gpg", "--batch", "--yes", "--digest-algo", "SHA256", *args], sandbox="host", stdin=stdin, hint=hint)
    return done.stdout.encode()


def require_key(key: str) -> None:
    """Make sure that gpg has a secret key, before anything is made for it to sign.

    :raises CommandError: it has not.
    """
    hint = "`gpg --list-secret-keys` lists the keys; `gpg --quick-generate-key NAME` makes one"
    run(["gpg", "--batch", "--list-secret-keys", key], sandbox="host", hint=hint)


def newest(entries: Iterable[Entry]) -> list[Entry]:
    """Return of each package the entry of its newest version."""
    found: dict[str, Entry] = {}
    for entry in entries:
        other = found.get(entry.name)
        if other is None or version_key(entry.version) > version_key(other.version):
            found[entry.name] = entry
    return list(found.values())


@cmp_to_key
def version_key(a: str, b: str) -> int:
    """Order versions as dpkg does."""
    from debian.debian_support import version_compare

    return int(version_compare(a, b))
