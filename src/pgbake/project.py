"""A project: a directory with a manifest and its lock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.errors import LockError, ManifestError
from pgbake.files import read_hint
from pgbake.formats.system import SYSTEMS, System, host_system
from pgbake.lock import LOCK_NAME, Lock, load_lock
from pgbake.manifest import MANIFEST_NAME, Manifest, load_manifest
from pgbake.recipes.choice import choices
from pgbake.recipes.recipe import Catalogue, load_catalogue
from pgbake.toml import wrong_value
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
        """The parsed manifest.

        :raises ManifestError: it is missing or wrong.
        """
        return load_manifest(self.manifest_file)

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
        from pgbake.inputs.registry import Registry
        from pgbake.places import cache_dir

        platform = self.manifest.platform
        if platform.mirrors:
            mirrors = manifest_mirrors(platform.mirrors, platform.security_mirrors)
        else:
            mirrors = host_mirrors(platform.suite, cache_dir())
        others = tuple((repository.name, repository.url.rstrip("/")) for repository in platform.repository)
        return dataclasses.replace(mirrors, repositories=others, crates=Registry(platform.crates).templates)

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
        from pgbake.requirements import platform_change, requirements

        required = requirements(self.manifest, self.catalogue, self.directory)
        touched = platform_change(self.lock, self.manifest, self.catalogue, system)
        if touched:
            raise LockError(
                f"the lock is of {self.lock.platform.suite}, and the manifest's platform is "
                f"{self.manifest.platform.suite}: that is a step of its own, which touches all of the above",
                hint="take it: `pgbake lock --update`; or write the old suite into [platform] again",
                detail="\n".join(touched),
            )
        self._check_names()
        required.check(self.lock, system)
        return lower_bundle(self.manifest, self.catalogue, self.lock, system)

    def _check_names(self) -> None:
        """Check that every extension is known: by a recipe, or to the lock as a Debian package.

        :raises ManifestError: one is not; the nearest names are offered.
        """
        pinned = {name for part in self.lock.systems.values() for name in part.deb_wants}
        for choice in choices(self.manifest, self.catalogue):
            if choice.deb and choice.recipe is None and choice.deb not in pinned:
                near = self.catalogue.nearest(choice.name)
                raise wrong_value(
                    self.manifest_file, "extensions", f'"{choice.name}" is no recipe, and the lock does not pin it',
                    f"if it is a Debian package: pgbake lock; else {near}", choice.name,
                )  # fmt: skip

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
