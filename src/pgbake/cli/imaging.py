"""What the commands for images of machines do alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App

if TYPE_CHECKING:
    from pgbake.formats.storepath import StorePath
    from pgbake.image.conventional import Conventional
    from pgbake.image.lock import ImageLock
    from pgbake.image.migrations import Migration
    from pgbake.image.stage1 import Record, Stage1
    from pgbake.image.stage2 import Stage2
    from pgbake.image.workshop import Workshop
    from pgbake.machine.definition import Flavour
    from pgbake.machine.image import MachineImage

cluster_option = click.option(
    "--cluster", default="main", show_default=True, metavar="NAME", help="Cluster of the machine."
)
port_option = click.option("--port", type=click.IntRange(1, 65535), default=5432, show_default=True, help="Its port.")
flavour_option = click.option(
    "--flavour", type=click.Choice(["bundle", "deb"]), default="bundle", show_default=True,
    help="Whose PostgreSQL it has: the bundle's, or Debian's with the extensions that `pgbake deb` packs.",
)  # fmt: skip
profile_option = click.option("--profile", metavar="NAME", help="Profile of the image, instead of the manifest's.")
unchecked_option = click.option("--unchecked", is_flag=True, help="Take a bundle whose checks have not passed, too.")


def images_dir() -> Path:
    """Return where stages and the workshop are kept."""
    from pgbake.places import cache_dir

    return cache_dir() / "images"


def machine_image(app: App, cluster: str = "main", port: int = 5432, profile: str | None = None) -> MachineImage:
    """Return what the manifest's images are to have.

    :param profile: instead of the manifest's.
    :raises ManifestError: it names a service, a value or a profile that is none.
    """
    from pgbake.machine.definition import Cluster
    from pgbake.machine.image import MachineImage
    from pgbake.manifest import MANIFEST_NAME

    manifest, file = app.project.manifest, app.project.directory / MANIFEST_NAME
    served = Cluster(manifest.postgresql, cluster, port)
    chosen = profile or manifest.image.profile
    return MachineImage.of(manifest.services, chosen, manifest.server_settings, served, file)


def lock_file(app: App, profile: str | None = None) -> Path:
    """Return where the lock of images lies; a profile that the manifest does not name has one of its own."""
    from pgbake.image.lock import IMAGE_LOCK_NAME

    name = Path(IMAGE_LOCK_NAME)
    is_manifests = profile in (None, app.project.manifest.image.profile)
    return app.project.directory / (name if is_manifests else f"{name.stem}-{profile}{name.suffix}")


def resolved(app: App, before: ImageLock | None = None, profile: str | None = None) -> ImageLock:
    """Return what the manifest's images are made of today.

    :param before: the lock until now; where it has packages of the conventional flavour, they move along.
    :param profile: instead of the manifest's.
    """
    from pgbake.formats.system import SYSTEMS
    from pgbake.image.lock import resolve_image, with_conventional
    from pgbake.places import cache_dir

    project = app.project
    with app.reporting() as report:
        image = machine_image(app, profile=profile)
        lock = resolve_image(project.manifest, image, lambda: project.mirrors, cache_dir(), report)
    for name, known in before.systems.items() if before is not None else ():
        if name in lock.systems and (asked := known.conventional_wants):
            lock = with_conventional(lock, project.manifest, SYSTEMS[name], asked, project.mirrors, cache_dir())
    return lock


def image_lock(app: App, profile: str | None = None) -> ImageLock:
    """Return the project's lock of images, made where there is none.

    :raises LockError: it does not fit the manifest.
    """
    from pgbake.image.lock import load_image_lock, save_image_lock

    file = lock_file(app, profile)
    if not file.exists():
        save_image_lock(resolved(app, profile=profile), file)
        app.note(f"note: {file.name} is new; keep it beside pgbake.lock")
    return load_image_lock(file, app.project.manifest, machine_image(app, profile=profile))


def workshop(app: App, lock: ImageLock, *, emulator: bool = False) -> Workshop:
    """Return the workshop of this machine's kind, after making it if need be.

    :param emulator: the one that boots disks, in place of the one that makes them.
    """
    from pgbake.formats.system import host_system
    from pgbake.image.lock import pins_of
    from pgbake.image.workshop import open_workshop, require_root
    from pgbake.places import cache_dir

    require_root()
    found = pins_of(lock, host_system())
    pins = found.emulator if emulator else found.workshop
    with app.reporting() as report:
        return open_workshop(images_dir(), pins, app.project.mirrors, cache_dir() / "downloads", report)


def migrations_dir(app: App) -> Path:
    """Return where the project's migrations lie, if it has any.

    :raises ManifestError: the manifest names a directory that is not there.
    """
    return _named_dir(app, "migrations", app.project.manifest.image.migrations, "migrations")


def tests_dir(app: App) -> Path:
    """Return where the project's tests of its images lie, if it has any.

    :raises ManifestError: the manifest names a directory that is not there.
    """
    return _named_dir(app, "tests", app.project.manifest.image.tests, "tests/image")


def _named_dir(app: App, key: str, named: str | None, default: str) -> Path:
    from pgbake.errors import ManifestError

    directory = app.project.directory / (named or default)
    if named is not None and not directory.is_dir():
        raise ManifestError(f"there is no directory {directory}", hint=f"[image] {key} in the manifest names it")
    return directory


def migrations(app: App) -> tuple[Migration, ...]:
    """Return the project's migrations, none of which is another than when it was first applied.

    :raises PgbakeError: one is wrong, changed or gone.
    """
    from pgbake.image.migrations import read_migrations, require_append_only

    found = read_migrations(migrations_dir(app))
    require_append_only(migrations_dir(app), found)
    return found


@dataclass(frozen=True)
class Making:
    """One image of a project, and what makes it.

    :param bundle: what it is made of; in the conventional flavour, whose extensions it has. Stage 1 needs none.
    :param urls: caches that the bundle comes from; none: the known ones.
    :param profile: instead of the manifest's.
    """

    app: App
    bundle: StorePath | None
    urls: tuple[str, ...] = ()
    cluster: str = "main"
    port: int = 5432
    flavour: Flavour = "bundle"
    unchecked: bool = False
    profile: str | None = None

    @cached_property
    def image(self) -> MachineImage:
        """What the machine definition says of it."""
        return machine_image(self.app, self.cluster, self.port, self.profile)

    def require_bootable(self) -> None:
        """Refuse where it is no machine that boots.

        :raises UsageError: its profile is one of containers.
        """
        if self.image.is_supervised:
            name = self.profile or self.app.project.manifest.image.profile
            raise click.UsageError(f'The profile "{name}" is for containers, which do not boot: see --target aio.')

    @cached_property
    def lock(self) -> ImageLock:
        """The lock of images; it holds the packages of the conventional flavour where that is made."""
        from pgbake.formats.system import host_system
        from pgbake.image.lock import pins_of, save_image_lock, with_conventional
        from pgbake.places import cache_dir

        lock, project = image_lock(self.app, self.profile), self.app.project
        file = lock_file(self.app, self.profile)
        if self.conventional is None or pins_of(lock, host_system()).conventional_wants == self.conventional.asked:
            return lock
        asked = self.conventional.asked
        lock = with_conventional(lock, project.manifest, host_system(), asked, project.mirrors, cache_dir())
        save_image_lock(lock, file)
        self.app.note(f"note: {file.name} has the packages of Debian's PostgreSQL now")
        return lock

    @cached_property
    def conventional(self) -> Conventional | None:
        """What stands in the bundle's place, after packing what is not kept; None of an image with a bundle."""
        if self.flavour == "bundle":
            return None
        from pgbake.cli.deb import packer_of
        from pgbake.cli.gate import require_checked
        from pgbake.cli.goals import require_built
        from pgbake.image.conventional import Conventional

        bundle = require_built(self.app)
        require_checked(self.app, bundle.path, "packaged", unchecked=self.unchecked)
        with self.app.reporting() as report:
            return Conventional.of(packer_of(self.app, None), self.image.cluster, images_dir() / "debs", report)

    @property
    def stage1(self) -> Stage1:
        """Stage 1 as it is, or is to be."""
        from pgbake.formats.system import host_system
        from pgbake.image.stage1 import Stage1

        debs = None if self.conventional is None else self.conventional.debs
        return Stage1.of(images_dir(), self.lock, host_system(), self.image, debs)

    def make_stage1(self) -> tuple[Stage1, Record]:
        """Return stage 1, after making it if need be."""
        from pgbake.image.kept import use
        from pgbake.places import cache_dir

        stage = self.stage1
        if (record := stage.record) is not None:
            use(stage.directory)
            return stage, record
        tools = workshop(self.app, self.lock)
        with self.app.reporting() as report:
            return stage, stage.make(tools, self.app.project.mirrors, cache_dir() / "downloads", report)

    def stage2(self, told: Record) -> Stage2:
        """Return stage 2 as it is, or is to be.

        :param told: the record of stage 1.
        """
        from pgbake.image.stage2 import Stage2
        from pgbake.machine.definition import render

        assert self.bundle is not None
        cluster = self.image.cluster
        # Whatever the machine definition says of it, for a locale that is as good as any here.
        how = repr((self.flavour, render([cluster.major], [cluster], cluster.major)))
        return Stage2.of(images_dir(), self.stage1, told, self.bundle, how, migrations(self.app), self.conventional)

    def make_stage2(self) -> tuple[Stage2, Workshop]:
        """Return stage 2, after making it and what it is made of if need be."""
        from pgbake.image.migrations import note_applied

        _, told = self.make_stage1()
        stage = self.stage2(told)
        tools = workshop(self.app, self.lock)
        with self.app.reporting() as report:
            stage.make(tools, told, self._install, report)
        note_applied(migrations_dir(self.app), stage.migrations)
        return stage, tools

    def _install(self, root: Path) -> None:
        """Install PostgreSQL into a tree; see `pgbake install --root`."""
        from pgbake.cli.installing import installation, on_machine, provide_bundle
        from pgbake.events import silent
        from pgbake.install.installation import Wish
        from pgbake.install.profiles import Origin

        if self.conventional is not None:
            self.conventional.install(root, root.parent)
            return
        assert self.bundle is not None
        quiet = dataclasses.replace(self.app, progress="none")
        machine = on_machine(quiet, root)
        checks = provide_bundle(quiet, machine, self.bundle, self.urls, unchecked=self.unchecked, dry_run=False)
        origin = Origin(None, self.urls, checks)
        # What stage 1 has of the configuration stays.
        wish = Wish(self.bundle, origin, self.cluster, self.port, way="adopt", start=False)
        installation(machine, silent).install(wish)
        machine.close_store()
