"""The lock of images, ``pgbake-image.lock``: Debian's packages of a machine's image, and those that it is made with.

It lies beside ``pgbake.lock``, in the same form: JSON with one line for each pin::

    {
      "version": 2,
      "platform": {"suite": "bookworm", "security": true, "updates": true},
      "wants": [..],                        packages that were asked for; the rest followed by Depends
      "systems": {
        "x86_64-linux": {
          "packages": {"bash": {"version": "5.2.15-2+b2", "path": .., "size": .., "sha256": ".."}},
          "workshop": {..},                 the programs that images are made with
          "emulator": {..},                 those that boot them in QEMU
          "conventional": {..}              packages of images with Debian's PostgreSQL; where somebody makes such
        }
      },
      "binaries": {"postgrest": {..}}       what the manifest brings itself, by its service's name; if anything
    }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from pgbake.available import platform_suites
from pgbake.errors import InputError, LockError
from pgbake.events import Sink, task
from pgbake.files import read_hint, read_small_file, write_whole
from pgbake.formats.system import SYSTEMS, System
from pgbake.inputs.apt import AptRoot
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.inputs.upstream import pin_url
from pgbake.lock import PlatformLock, render_pins
from pgbake.machine.image import MachineImage
from pgbake.manifest import Manifest
from pgbake.toml import load_toml

IMAGE_LOCK_NAME = "pgbake-image.lock"
_VERSION = 2
_LARGEST = 10_000_000  # bytes


class Packages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file ``packages.toml``: see there."""

    machine: tuple[str, ...]
    workshop: tuple[str, ...]
    emulator: tuple[str, ...]
    kernel: dict[str, str]


class ImageSystem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The pins of one system.

    :param conventional_wants: what of Debian's was asked for beside the packages of every image.
    """

    packages: dict[str, Pin]
    workshop: dict[str, Pin]
    emulator: dict[str, Pin]
    conventional: dict[str, Pin] = msgspec.field(default_factory=dict)
    conventional_wants: tuple[str, ...] = ()


class ImageLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A parsed lock of images."""

    version: int
    platform: PlatformLock
    wants: tuple[str, ...]
    systems: dict[str, ImageSystem]
    binaries: dict[str, Pin] = msgspec.field(default_factory=dict)


@cache
def packages() -> Packages:
    """Read which packages images have."""
    return load_toml(Path(str(resources.files("pgbake"))) / "image/packages.toml", Packages)


def wants(manifest: Manifest, image: MachineImage) -> tuple[str, ...]:
    """Return the packages that a manifest's images are to have, without the kernel, sorted."""
    return tuple(sorted({*image.packages(packages().machine), *manifest.image.packages}))


def load_image_lock(file: Path, manifest: Manifest, image: MachineImage) -> ImageLock:
    """Read the lock of images.

    :param image: what the manifest's images are to have.

    :raises LockError: it is missing, damaged, of another version, or made for another manifest.
    """
    profile = file.stem.removeprefix(Path(IMAGE_LOCK_NAME).stem).lstrip("-")
    command = f"`pgbake image lock{f' --profile {profile}' if profile else ''}`"
    hint = f"make it with {command}"
    try:
        lock = msgspec.json.decode(read_small_file(file, _LARGEST), type=ImageLock)
    except FileNotFoundError:
        raise LockError(f"there is no {file}", hint=hint) from None
    except OSError as error:
        raise LockError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise LockError(f"{file} is damaged: {error}", hint=f"take it from version control, or {hint}") from None
    if lock.version != _VERSION:
        raise LockError(f"{file} has version {lock.version}; this pgbake writes version {_VERSION}", hint=hint)
    brought = {each.name: each.binary.sha256 for each in image.services if each.binary is not None}
    pinned = {name: pin.sha256 for name, pin in lock.binaries.items()}
    if (lock.wants, lock.platform, pinned) != (wants(manifest, image), _platform(manifest), brought):
        raise LockError(f"{file} does not fit the manifest any more", hint=f"run {command}")
    return lock


def save_image_lock(lock: ImageLock, file: Path) -> None:
    """Write the lock, atomically and to disk.

    :raises LockError: it cannot be written.
    """
    try:
        write_whole(file, render_pins(msgspec.to_builtins(lock)).encode())
    except OSError as error:
        raise LockError(f"cannot write {file}: {error.strerror}") from error


def resolve_image(
    manifest: Manifest, image: MachineImage, mirrors: Callable[[], Mirrors], cache: Path, report: Sink
) -> ImageLock:
    """Pin what a manifest's images are made of today.

    :param image: what they are to have.
    :param cache: directory for apt's indexes, and for downloads.
    :raises InputError: a package is unknown, or they cannot be installed together; a binary is not to be had, or is
        another than its sha256 says.
    """
    systems: dict[str, ImageSystem] = {}
    for name in manifest.platform.systems:
        if name not in packages().kernel:
            continue
        system = SYSTEMS[name]
        with task(report, f"image:{name}", "resolve", f"packages of images for {name}"):
            apt = _apt(manifest, system, mirrors(), cache)
            names = {*wants(manifest, image), *image.packages((packages().kernel[name],))}
            pins = apt.resolve(tuple(sorted(names)), essential=True)
            systems[name] = ImageSystem(pins, apt.resolve(packages().workshop), apt.resolve(packages().emulator))
    if not systems:
        known = ", ".join(packages().kernel)
        raise InputError(f"images are made for {known}", hint=f'name one of these in [platform] systems: "{known}"')
    binaries = {
        each.name: pin_url(each.binary.url, each.binary.sha256[:12], cache / "downloads", report, each.binary.sha256)
        for each in image.services
        if each.binary is not None
    }
    return ImageLock(_VERSION, _platform(manifest), wants(manifest, image), systems, binaries)


def _apt(manifest: Manifest, system: System, mirrors: Mirrors, cache: Path) -> AptRoot:
    # Debian's alone: other repositories are for extensions, which images have from the bundle.
    suites = tuple(suite for suite in platform_suites(manifest.platform, Path()) if suite.keyring is None)
    apt = AptRoot(cache / "apt", suites, system.debian, mirrors)
    apt.update()
    return apt


def with_conventional(
    lock: ImageLock, manifest: Manifest, system: System, asked: Sequence[str], mirrors: Mirrors, cache: Path
) -> ImageLock:
    """Return a lock that has the packages of images with Debian's PostgreSQL as well, as they are today.

    :param asked: what such an image has beside what every image has.
    :raises InputError: the platform has no such PostgreSQL, or they cannot be installed together.
    """
    base = pins_of(lock, system)
    apt = _apt(manifest, system, mirrors, cache)
    pins = apt.resolve((*lock.wants, *asked, packages().kernel[system.name]), essential=True)
    more = msgspec.structs.replace(base, conventional=pins, conventional_wants=tuple(asked))
    return msgspec.structs.replace(lock, systems={**lock.systems, system.name: more})


def pins_of(lock: ImageLock, system: System) -> ImageSystem:
    """Return a system's pins.

    :raises LockError: it has none.
    """
    if system.name not in lock.systems:
        raise LockError(
            f"the lock of images has no packages for {system.name}",
            hint="name it in [platform] systems of the manifest and run `pgbake image lock`",
        )
    return lock.systems[system.name]


def binaries_of(lock: ImageLock, image: MachineImage) -> Mapping[str, Pin]:
    """Return the pins of what a manifest brings itself, by the name of its service."""
    return {each.name: lock.binaries[each.name] for each in image.services if each.binary is not None}


def moved(before: ImageLock | None, after: ImageLock) -> Mapping[str, tuple[str | None, str | None]]:
    """Return which packages of images moved: name to version before and after."""

    def versions(lock: ImageLock | None) -> dict[str, str]:
        parts = {} if lock is None else lock.systems
        return {
            f"{system} {name}": pin.version for system, part in parts.items() for name, pin in part.packages.items()
        }  # fmt: skip

    old, new = versions(before), versions(after)
    return {name: (old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)}


def _platform(manifest: Manifest) -> PlatformLock:
    platform = manifest.platform
    return PlatformLock(platform.suite, platform.security, platform.updates)
