"""One extension of a bundle as an image of its own, for CloudNativePG's image volumes.

PostgreSQL 18 finds extensions in directories beside its own. CloudNativePG mounts an image at ``/extensions/NAME`` and
puts two directories of it into the server's configuration, a third into its environment where the cluster says so::

    lib/                    modules: dynamic_library_path
    share/extension/        control files and scripts: extension_control_path is .../share
    system/                 libraries that the modules need and a server has not: ld_library_path: [system]
    licenses/               of the extension and of those libraries

The server is another's, of the same major version and the same release of Debian: its libc, and what PostgreSQL itself
is linked with, are there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pgbake.debs.libraries import read_uses
from pgbake.errors import ManifestError, StoreError
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import System
from pgbake.image.container import Container
from pgbake.image.oci import Entry, LayerPlan, content_key
from pgbake.inputs.pins import Pin

#: The first that knows extension_control_path.
FIRST_MAJOR = 18


@dataclass(frozen=True)
class ExtensionImage:
    """The image of one extension as it is to be.

    :param container: the bundle that it is taken from.
    :param name: of its package, as the manifest calls it.
    :param package: its store path.
    """

    container: Container
    name: str
    version: str
    package: StorePath
    suite: str

    @classmethod
    def of(cls, container: Container, name: str) -> ExtensionImage:
        """Find an extension by the manifest's name for it, or by SQL's.

        :raises ManifestError: the bundle has no such package, or is of a PostgreSQL that looks in one place only.
        """
        told = msgspec.json.decode((container.store.physical(container.bundle) / "receipt.json").read_bytes())
        if container.major < FIRST_MAJOR:
            raise ManifestError(
                f"PostgreSQL {container.major} finds extensions in its own directory only",
                hint=f"from {FIRST_MAJOR} on there are images of single extensions; make one of the whole bundle",
            )
        packages = {entry["name"]: entry for entry in told["packages"] if entry["name"] != "postgresql"}
        by_sql = {extension.name: extension.package for extension in container.receipt.extensions}
        entry = packages.get(name) or packages.get(by_sql.get(name, ""))
        if entry is None:
            known = ", ".join(sorted(packages)) or "none"
            raise ManifestError(f'the bundle has no extension "{name}" of its own', hint=f"there are: {known}")
        return cls(container, entry["name"], entry["version"], StorePath.parse(entry["path"]), told["platform"])

    @property
    def system(self) -> System:
        """What it is made for."""
        return self.container.system

    @property
    def default_name(self) -> str:
        """What the image is called, as CloudNativePG calls its own: ``pgvector:0.8.0-18-trixie``."""
        version = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.version)
        return f"{self.name.lower()}:{version}-{self.container.major}-{self.suite}"

    @property
    def created_text(self) -> str:
        """When it was made, as RFC 3339 has it."""
        return self.container.created_text

    def layers(self, _debs: Callable[[Mapping[str, Pin]], Mapping[str, Path]], _scratch: Path) -> list[LayerPlan]:
        """Return its one layer."""
        entries = list(self._entries())
        words = [(entry.path, entry.kind, entry.target, entry.content) for entry in entries]
        hashes = sorted(f"{path} {info.nar_sha256.hex()}" for path, info in self.container.infos.items())
        return [LayerPlan(content_key("extension", *words, *hashes), f"extension {self.name}", lambda: entries)]

    def _entries(self) -> Iterator[Entry]:
        top = self.container.store.physical(self.package) / "usr"
        major = self.container.major
        for source, place in (
            (top / f"lib/postgresql/{major}/lib", "lib"),
            (top / f"share/postgresql/{major}", "share"),
            (top / "share/doc", "licenses"),
        ):
            for file in _files(source):
                path = f"{place}/{file.relative_to(source)}"
                if place != "licenses" or _is_licence(file.name):
                    yield from self._member(path, file)
        bundle = self.container.store.physical(self.container.bundle)
        owners: set[Path] = set()
        for name, file in sorted(self.libraries().items()):
            yield Entry(f"system/{name}", "file", 0o644, content=file)
            owners.add(self.container.store.store_dir / file.relative_to(self.container.store.store_dir).parts[0])
        for owner in sorted(owners - {bundle}):
            for file in _files(owner / "usr/share/doc"):
                if _is_licence(file.name):
                    yield from self._member(f"licenses/{file.relative_to(owner / 'usr/share/doc')}", file)

    def _member(self, path: str, file: Path) -> Iterator[Entry]:
        """Yield a file of the package; a link is what it leads to, since the rest of the package is not there."""
        real = self._real(file)
        if real is not None:
            yield Entry(path, "file", 0o755 if real.stat().st_mode & 0o100 else 0o644, content=real)

    def _real(self, file: Path) -> Path | None:
        """Follow links inside the store, wherever that lies; None where one leads out of it, or nowhere."""
        for _ in range(40):
            if not file.is_symlink():
                return file if file.is_file() else None
            target = str(file.readlink())
            if target.startswith("/nix/store/"):
                file = self.container.store.store_dir / target.removeprefix("/nix/store/")
            elif target.startswith("/"):
                return None
            else:
                file = Path(os.path.normpath(file.parent / target))
        return None

    def libraries(self) -> dict[str, Path]:
        """Return what its modules need of the bundle's libraries and the server itself does not, by their names.

        :raises StoreError: the bundle lacks one.
        """
        bundle = self.container.store.physical(self.container.bundle)
        major = self.container.major
        places = (bundle / "lib" / self.system.triplet, bundle / f"lib/postgresql/{major}/lib")

        def closure(roots: list[Path]) -> dict[str, Path]:
            found: dict[str, Path] = {}
            pending = deque(roots)
            while pending:
                uses = read_uses(pending.popleft())
                for name in uses.needed if uses else ():
                    if name in found or "/" in name:
                        continue
                    real = next((real for place in places if (real := self._real(place / name)) is not None), None)
                    if real is None:
                        raise StoreError(f"{self.name} needs {name}, which the bundle has not")
                    found[name] = real
                    pending.append(real)
            return found

        program = bundle / f"lib/postgresql/{major}/bin/postgres"
        own = _elves(self.container.store.physical(self.package) / f"usr/lib/postgresql/{major}/lib")
        theirs = closure([program])
        return {name: file for name, file in closure(own).items() if name not in theirs}

    @property
    def annotations(self) -> dict[str, str]:
        """What the image tells of itself."""
        return {
            "org.opencontainers.image.title": self.name,
            "org.opencontainers.image.version": self.version,
            "org.opencontainers.image.description": f"{self.name} {self.version} for PostgreSQL {self.container.major}",
            "org.opencontainers.image.created": self.created_text,
            "pgbake.bundle": str(self.container.bundle),
            "pgbake.package": str(self.package),
            "pgbake.platform": self.suite,
        }

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration: nothing in it runs."""
        return {"architecture": self.system.debian, "os": "linux", "config": {"Labels": self.annotations}}

    def stanza(self, reference: str) -> str:
        """Return what a ``Cluster`` of CloudNativePG's says to have the extension.

        :param reference: of the image in its registry.
        """
        lines = ["spec:", "  postgresql:"]
        preload = [p for e in self.container.receipt.extensions if e.package == self.name for p in e.preload]
        if preload:
            lines += ["    shared_preload_libraries:", *(f"      - {library}" for library in dict.fromkeys(preload))]
        lines += ["    extensions:", f"      - name: {self.name.lower()}", "        image:"]
        lines += [f"          reference: {reference}"]
        if self.libraries():
            lines += ["        ld_library_path:", "          - system"]
        return "\n".join(lines)


def _files(top: Path) -> Iterator[Path]:
    """Yield all files and links below a directory, in a stable order."""
    for where, names, files in os.walk(top):
        names.sort()
        for name in sorted([*files, *(name for name in names if Path(where, name).is_symlink())]):
            yield Path(where, name)


def _elves(top: Path) -> list[Path]:
    return [file for file in _files(top) if file.suffix == ".so" and file.is_file()]


def _is_licence(name: str) -> bool:
    return name.lower().startswith(("copyright", "licen", "copying", "notice"))
