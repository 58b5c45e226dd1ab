"""A small signed repository of packages, made at run time, in the manner of Debian's archive."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Keys:
    """Two signing keys: one in the keyring, and a stranger's."""

    home: Path
    keyring: Path

    @classmethod
    def make(cls, directory: Path) -> Keys:
        home = directory / "gnupg"
        home.mkdir(mode=0o700)
        keys = cls(home, directory / "keyring.gpg")
        for name in ("archive", "stranger"):
            keys.gpg("--quick-generate-key", name, "ed25519", "sign", "never")
        keys.keyring.write_bytes(keys.gpg("--export", "archive"))
        return keys

    def gpg(self, *args: str) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--passphrase", "", *args]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def close(self) -> None:
        """End the agent that gpg left running."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"], check=True)


class Repository:
    """One archive with one suite; ``publish`` writes and signs its indexes."""

    def __init__(self, root: Path, keys: Keys, suite: str = "bookworm", pool: str = "pool/main") -> None:
        self.root = root
        self.keys = keys
        self.suite = suite
        self.pool = pool
        self.packages: list[str] = []
        self.sources: list[str] = []

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    @property
    def dist(self) -> Path:
        return self.root / "dists" / self.suite

    def add(self, name: str, version: str = "1.0-1", files: Mapping[str, str] | None = None, **fields: str) -> Path:
        """Build a package and put it into the pool.

        :param files: what it holds: path to text.
        """
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "Nobody <nobody@example.org>",
            "Section": "misc",
            "Description": "a test",
        } | {field.replace("_", "-"): value for field, value in fields.items()}
        text = "".join(f"{field}: {value}\n" for field, value in control.items())
        build = self.root / "build"
        (build / "DEBIAN").mkdir(parents=True)
        (build / "DEBIAN/control").write_text(text)
        for file, content in (files or {}).items():
            (build / file).parent.mkdir(parents=True, exist_ok=True)
            (build / file).write_text(content)
        plain_version = version.partition(":")[2] or version
        path = f"{self.pool}/{name[0]}/{name}/{name}_{plain_version}_{control['Architecture']}.deb"
        deb = self.root / path
        deb.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "--build", build, deb], check=True, capture_output=True)
        shutil.rmtree(build)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        self.packages.append(f"{text}Filename: {path}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n")
        return deb

    def add_source(self, name: str, version: str, files: dict[str, bytes]) -> None:
        directory = f"{self.pool}/{name[0]}/{name}"
        (self.root / directory).mkdir(parents=True, exist_ok=True)
        listed = ""
        for file, content in files.items():
            (self.root / directory / file).write_bytes(content)
            listed += f" {hashlib.sha256(content).hexdigest()} {len(content)} {file}\n"
        self.sources.append(
            f"Package: {name}\nBinary: {name}\nVersion: {version}\nDirectory: {directory}\n"
            f"Format: 3.0 (quilt)\nChecksums-Sha256:\n{listed}\n"
        )

    def publish(self, *, codename: str | None = None, signer: str | None = "archive") -> None:
        indexes = {
            "main/binary-amd64/Packages": "".join(self.packages),
            "main/binary-arm64/Packages": "".join(self.packages),
            "main/source/Sources": "".join(self.sources),
        }
        listed = ""
        for name, text in indexes.items():
            file = self.dist / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            listed += f" {hashlib.sha256(text.encode()).hexdigest()} {len(text.encode())} {name}\n"
        release = self.dist / "Release"
        release.write_text(
            f"Origin: Debian\nSuite: {codename or 'oldstable'}\nCodename: {codename or self.suite}\n"
            f"Date: {formatdate(usegmt=True)}\nArchitectures: amd64 arm64\nComponents: main\nSHA256:\n{listed}"
        )
        inrelease = self.dist / "InRelease"
        inrelease.unlink(missing_ok=True)
        if signer is not None:
            self.keys.gpg("--local-user", signer, "--clear-sign", "--output", str(inrelease), str(release))
