"""What the commands for images of machines do alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.cli.app import App

if TYPE_CHECKING:
    from pgbake.formats.system import System
    from pgbake.image.lock import ImageLock
    from pgbake.image.stage1 import Record, Stage1
    from pgbake.image.workshop import Workshop


def images_dir() -> Path:
    """Return where stages and the workshop are kept."""
    from pgbake.places import cache_dir

    return cache_dir() / "images"


def resolved(app: App) -> ImageLock:
    """Return what the manifest's images are made of today."""
    from pgbake.image.lock import resolve_image
    from pgbake.places import cache_dir

    project = app.project
    with app.reporting() as report:
        return resolve_image(project.manifest, lambda: project.mirrors, cache_dir(), report)


def image_lock(app: App) -> ImageLock:
    """Return the project's lock of images, made where there is none.

    :raises LockError: it does not fit the manifest.
    """
    from pgbake.image.lock import IMAGE_LOCK_NAME, load_image_lock, save_image_lock

    file = app.project.directory / IMAGE_LOCK_NAME
    if not file.exists():
        save_image_lock(resolved(app), file)
        app.note(f"note: {IMAGE_LOCK_NAME} is new; keep it beside pgbake.lock")
    return load_image_lock(file, app.project.manifest)


def workshop(app: App, lock: ImageLock) -> Workshop:
    """Return the workshop of this machine's kind, after making it if need be."""
    from pgbake.formats.system import host_system
    from pgbake.image.lock import pins_of
    from pgbake.image.workshop import open_workshop, require_root
    from pgbake.places import cache_dir

    require_root()
    pins = pins_of(lock, host_system()).workshop
    with app.reporting() as report:
        return open_workshop(images_dir(), pins, app.project.mirrors, cache_dir() / "downloads", report)


def made_stage1(app: App, lock: ImageLock, system: System) -> tuple[Stage1, Record]:
    """Return stage 1, after making it if need be."""
    from pgbake.image.stage1 import Stage1
    from pgbake.places import cache_dir

    stage = Stage1.of(images_dir(), lock, system)
    if (record := stage.record) is not None:
        return stage, record
    tools = workshop(app, lock)
    with app.reporting() as report:
        return stage, stage.make(tools, app.project.mirrors, cache_dir() / "downloads", report)
