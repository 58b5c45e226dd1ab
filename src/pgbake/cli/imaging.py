"""What the commands for images of machines do alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App

if TYPE_CHECKING:
    from pgbake.formats.storepath import StorePath
    from pgbake.formats.system import System
    from pgbake.image.lock import ImageLock
    from pgbake.image.migrations import Migration
    from pgbake.image.stage1 import Record, Stage1
    from pgbake.image.stage2 import Stage2
    from pgbake.image.workshop import Workshop
    from pgbake.machine.image import MachineImage

cluster_option = click.option(
    "--cluster", default="main", show_default=True, metavar="NAME", help="Cluster of the machine."
)
port_option = click.option("--port", type=click.IntRange(1, 65535), default=5432, show_default=True, help="Its port.")
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


def resolved(app: App) -> ImageLock:
    """Return what the manifest's images are made of today."""
    from pgbake.image.lock import resolve_image
    from pgbake.places import cache_dir

    project = app.project
    with app.reporting() as report:
        return resolve_image(project.manifest, machine_image(app), lambda: project.mirrors, cache_dir(), report)


def image_lock(app: App) -> ImageLock:
    """Return the project's lock of images, made where there is none.

    :raises LockError: it does not fit the manifest.
    """
    from pgbake.image.lock import IMAGE_LOCK_NAME, load_image_lock, save_image_lock

    file = app.project.directory / IMAGE_LOCK_NAME
    if not file.exists():
        save_image_lock(resolved(app), file)
        app.note(f"note: {IMAGE_LOCK_NAME} is new; keep it beside pgbake.lock")
    return load_image_lock(file, app.project.manifest, machine_image(app))


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


def stage1_of(app: App, lock: ImageLock, system: System, cluster: str = "main", port: int = 5432) -> Stage1:
    """Return stage 1 as it is, or is to be."""
    from pgbake.image.stage1 import Stage1

    return Stage1.of(images_dir(), lock, system, machine_image(app, cluster, port))


def made_stage1(
    app: App, lock: ImageLock, system: System, cluster: str = "main", port: int = 5432
) -> tuple[Stage1, Record]:
    """Return stage 1, after making it if need be."""
    from pgbake.places import cache_dir

    stage = stage1_of(app, lock, system, cluster, port)
    if (record := stage.record) is not None:
        return stage, record
    tools = workshop(app, lock)
    with app.reporting() as report:
        return stage, stage.make(tools, app.project.mirrors, cache_dir() / "downloads", report)


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


def meant_stage2(app: App, first: Stage1, told: Record, bundle: StorePath, cluster: str, port: int) -> Stage2:
    """Return the stage 2 of a bundle and the project's migrations, as it is to be or is."""
    from pgbake.image.stage2 import Stage2

    return Stage2.of(images_dir(), first, told, bundle, f"{cluster}:{port}", migrations(app))


def made_stage2(
    app: App, bundle: StorePath, urls: Sequence[str], cluster: str, port: int, *, unchecked: bool
) -> tuple[Stage2, Workshop]:
    """Return stage 2 with a bundle, after making it and what it is made of if need be."""
    from pgbake.formats.system import host_system
    from pgbake.image.migrations import note_applied

    lock = image_lock(app)
    first, told = made_stage1(app, lock, host_system(), cluster, port)
    stage = meant_stage2(app, first, told, bundle, cluster, port)
    tools = workshop(app, lock)
    with app.reporting() as report:
        stage.make(tools, told, lambda root: _install(app, bundle, urls, root, cluster, port, unchecked), report)
    note_applied(migrations_dir(app), stage.migrations)
    return stage, tools


def _install(
    app: App, bundle: StorePath, urls: Sequence[str], root: Path, cluster: str, port: int, unchecked: bool
) -> None:
    """Install the bundle into a tree; see `pgbake install --root`."""
    from pgbake.cli.installing import installation, on_machine, provide_bundle
    from pgbake.events import silent
    from pgbake.install.installation import Wish
    from pgbake.install.profiles import Origin

    quiet = dataclasses.replace(app, progress="none")
    machine = on_machine(quiet, root)
    checks = provide_bundle(quiet, machine, bundle, urls, unchecked=unchecked, dry_run=False)
    # What stage 1 has of the configuration stays.
    wish = Wish(bundle, Origin(None, tuple(urls), checks), cluster, port, way="adopt", start=False)
    installation(machine, silent).install(wish)
    machine.close_store()
