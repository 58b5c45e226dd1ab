"""A project: a directory with a manifest and its lock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.errors import ManifestError
from pgbake.files import read_hint
from pgbake.formats.system import SYSTEMS, System, host_system
from pgbake.lock import LOCK_NAME, Lock, load_lock
from pgbake.manifest import MANIFEST_NAME, Manifest, load_manifest
from pgbake.recipes.recipe import Catalogue, load_catalogue
from pgbake.trust import Settings, load_settings

if TYPE_CHECKING:
    from pgbake.bundle.merge import Bundle
    from pgbake.inputs.mirrors import Mirrors


@dataclass(frozen=True)
class Project:
    """A directory that holds ``pgbake.toml``; what is in it is read when first asked for."""

    directory: Path

    @property
    def manifest_file(self) -> Path:
        """The manifest's path."""
        return self.directory / MANIFEST_NAME

    @property
    def lock_file(self) -> Path:
        """The lock's path."""
        return self.directory / LOCK_NAME

    @cached_property
    def manifest(self) -> Manifest:
        """The parsed manifest, its extensions known.

        :raises ManifestError: it is missing or wrong.
        """
        manifest = load_manifest(self.manifest_file)
        for name in manifest.extensions:
            self.catalogue.check_extension(name, self.manifest_file)
        return manifest

    @cached_property
    def catalogue(self) -> Catalogue:
        """The shipped recipes, and the project's own from its directory ``recipes``."""
        return load_catalogue(self.directory / "recipes")

    @cached_property
    def lock(self) -> Lock:
        """The parsed lock.

        :raises LockError: it is missing or damaged.
        """
        return load_lock(self.lock_file)

    @cached_property
    def mirrors(self) -> Mirrors:
        """The mirrors that the manifest names, else those of the host's apt.

        :raises HostError: there are none.
        """
        from pgbake.inputs.mirrors import host_mirrors, manifest_mirrors

        platform = self.manifest.platform
        if platform.mirrors:
            return manifest_mirrors(platform.mirrors, platform.security_mirrors)
        return host_mirrors(platform.suite)

    @cached_property
    def settings(self) -> Settings:
        """The caches to ask and whom to trust, as the manifest and the machine's configuration say.

        :raises ManifestError: one of them is wrong.
        """
        return load_settings(self.manifest.cache, self.manifest.trust)

    def bundle(self, system: System) -> Bundle:
        """Lower the manifest for one system.

        :raises LockError: the lock is missing or does not fit the manifest.
        """
        # Slow, and not every command wants one.
        from pgbake.bundle.merge import lower_bundle
        from pgbake.requirements import requirements

        requirements(self.manifest, self.catalogue).check(self.lock, system)
        return lower_bundle(self.manifest, self.catalogue, self.lock, system)

    def system(self, name: str | None) -> System:
        """Return the system of that name, or this machine's.

        :raises ManifestError: it is not known.
        """
        if name is None:
            return host_system()
        try:
            return SYSTEMS[name]
        except KeyError:
            raise ManifestError(f'"{name}" is no known system', hint=f"known: {', '.join(SYSTEMS)}") from None


def find_project(start: Path) -> Project:
    """Find the project that a directory belongs to: the nearest one upwards that holds a manifest.

    :raises ManifestError: there is none.
    """
    for directory in (start, *start.parents):
        try:
            if (directory / MANIFEST_NAME).exists():
                return Project(directory)
        except OSError as error:  # a directory that is closed to this user, or a circle of links
            file = directory / MANIFEST_NAME
            raise ManifestError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    raise ManifestError(
        f"there is no {MANIFEST_NAME} in {start} or above it",
        hint="make one with `pgbake init`, or name its directory with -C",
    )
