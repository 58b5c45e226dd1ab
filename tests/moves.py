"""Moving one runtime pin of a project, as `pgbake lock --update NAME` would when Debian has another version."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import msgspec

from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import host_mirrors
from pgbake.lock import Lock, RuntimePin, load_lock, save_lock
from pgbake.recipes.imports import import_package
from pgbake.store.tree import hash_tree
from tests.cache import test_cache
from tests.projects import TestProject


def move_runtime_pin(project: TestProject, name: str, scratch: Path) -> None:
    """Give a runtime package a new version: repacked, on a mirror of its own, and pinned in the lock.

    The project's manifest then names that mirror, so nothing else could be fetched.
    """
    pin = load_lock(project.directory / "pgbake.lock").systems["x86_64-linux"].runtime[name]
    deb = test_cache() / f"pgbake/downloads/{pin.sha256}-{pin.filename}"
    tree = scratch / "package"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    version = f"{pin.version}+fix1"
    control.write_text(control.read_text().replace(f"Version: {pin.version}", f"Version: {version}"))
    with (tree / "usr/share/doc" / name / "copyright").open("a") as file:
        file.write("\nA fix.\n")
    moved = scratch / "moved.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(moved)], check=True, capture_output=True
    )
    _pin(project, name, version, moved, pin.path.replace(".deb", "+fix1.deb"), scratch)


def take_runtime_pin(project: TestProject, name: str, suite: str, scratch: Path) -> None:
    """Pin a runtime package as another release of Debian has it, on a mirror of its own.

    :raises PgbakeError: no mirror of this machine's has that release.
    """
    mirrors = host_mirrors("bookworm")
    apt = AptRoot(test_cache() / "apt", (Suite(suite),), host_system().debian, mirrors)
    apt.update()
    pin = apt.resolve([name])[name]
    deb = fetch({name: pin}, mirrors, test_cache() / "downloads", silent)[name]
    _pin(project, name, pin.version, deb, pin.path, scratch)


def _pin(project: TestProject, name: str, version: str, deb: Path, path: str, scratch: Path) -> None:
    """Put a package on a mirror at ``path``, and into the lock."""
    place = scratch / "mirror" / path
    place.parent.mkdir(parents=True)
    shutil.copy(deb, place)
    import_package(project.project.catalogue, place, name, scratch / "imported")
    content = place.read_bytes()
    new = RuntimePin(
        version=version,
        path=path,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        tree=hash_tree(scratch / "imported").sha256.hex(),
    )
    lock = project.directory / "pgbake.lock"
    save_lock(_with_runtime(load_lock(lock), "x86_64-linux", name, new), lock)
    project.edit("[platform]\n", f'[platform]\nmirrors = ["file://{scratch}/mirror"]\n')


def _with_runtime(lock: Lock, system: str, name: str, pin: RuntimePin) -> Lock:
    part = lock.systems[system]
    part = msgspec.structs.replace(part, runtime={**part.runtime, name: pin})
    return msgspec.structs.replace(lock, systems={**lock.systems, system: part})
