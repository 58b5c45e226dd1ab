"""Moving one runtime pin of a project, as `pgbake lock --update NAME` would when Debian has a fix."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec

from pgbake.inputs.buildroot import import_runtime
from pgbake.lock import Lock, RuntimePin, load_lock, save_lock
from pgbake.store.tree import hash_tree
from tests.cache import test_cache
from tests.projects import TestProject


def move_runtime_pin(project: TestProject, name: str, scratch: Path) -> None:
    """Give a runtime package a new version: repacked, on a mirror of its own, and pinned in the lock.

    The project's manifest then names that mirror, so nothing else could be fetched.
    """
    system = "x86_64-linux"
    lock = load_lock(project.directory / "pgbake.lock")
    pin = lock.systems[system].runtime[name]
    deb = test_cache() / f"pgbake/downloads/{pin.sha256}-{pin.filename}"
    tree = scratch / "package"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    version = f"{pin.version}+fix1"
    control.write_text(control.read_text().replace(f"Version: {pin.version}", f"Version: {version}"))
    with (tree / "usr/share/doc" / name / "copyright").open("a") as file:
        file.write("\nA fix.\n")
    moved = scratch / "mirror" / pin.path.replace(".deb", "+fix1.deb")
    moved.parent.mkdir(parents=True)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(moved)], check=True, capture_output=True
    )
    import_runtime(moved, scratch / "imported", *project.project.catalogue.import_rules(name))
    content = moved.read_bytes()
    new = RuntimePin(
        version=version,
        path=pin.path.replace(".deb", "+fix1.deb"),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        tree=hash_tree(scratch / "imported").sha256.hex(),
    )
    save_lock(_with_runtime(lock, system, name, new), project.directory / "pgbake.lock")
    project.edit("[platform]\n", f'[platform]\nmirrors = ["file://{scratch}/mirror"]\n')


def _with_runtime(lock: Lock, system: str, name: str, pin: RuntimePin) -> Lock:
    part = lock.systems[system]
    part = msgspec.structs.replace(part, runtime={**part.runtime, name: pin})
    return msgspec.structs.replace(lock, systems={**lock.systems, system: part})
