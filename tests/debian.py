"""Unpacked trees of Debian releases, by pgbake's own resolver and unpacking: hosts to run a bundle on, parts of
hosts, and programs that tests need without installing them.

    the directory of `tests.cache`/
      apt/                        indexes of the suites
      downloads/                  packages
      SUITE-HASH/                 a tree of unpacked packages; no maintainer script ever run
      SUITE-HASH.lock             held while unpacking
"""

from __future__ import annotations

import fcntl
import hashlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgbake.errors import InputError
from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import host_mirrors
from pgbake.inputs.pins import Pin
from pgbake.resolve import server_packages
from tests.cache import scratch_directory, test_cache

#: What a small machine has: a shell with its tools, accounts, and PAM.
HOST = ("base-files", "base-passwd", "bash", "coreutils", "findutils", "grep", "libc-bin", "libpam-modules",
        "libpam-runtime", "passwd", "sed", "util-linux")  # fmt: skip


def debian_tree(suite: str, packages: tuple[str, ...] = HOST) -> Path:
    """Return a tree of packages of a release and all that they depend on, made at the first call and kept.

    It is shared by all tests: show it read-only.

    :param suite: such as ``bullseye`` or ``sid``; its mirrors are those of this machine's own release.
    :raises PgbakeError: no mirror has it.
    """
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    tree = test_cache() / f"{suite}-{key}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            mirrors = host_mirrors("bookworm")
            apt = AptRoot(test_cache() / "apt", (Suite(suite),), host_system().debian, mirrors)
            apt.update()
            files = fetch(apt.resolve(packages), mirrors, test_cache() / "downloads", silent)
            with scratch_directory("unpacking") as directory:
                make_build_root(files, directory / "tree", silent)
                (directory / "tree").rename(tree)
    return tree


def not_to_be_had(apt: AptRoot, packages: Sequence[str], major: int) -> dict[str, str]:
    """Return which packages with extensions this machine's mirrors do not give today, each with the reason.

    An index may name files that a mirror does not serve (any more, or yet), and packages that cannot be installed
    while their libraries move: facts of a mirror and a day, and nothing that a catalogue could know.
    """

    def closure(names: Sequence[str]) -> dict[str, Pin]:
        return apt.resolve(names, server_packages(major))

    try:
        needed = {"": closure(packages)}
    except InputError:
        needed = {}
    missing = _not_served(apt, needed.get("", {}))
    if needed and not missing:
        return {}
    found = {}
    for package in packages:
        try:
            needed[package] = closure([package])
        except InputError as error:
            found[package] = error.message
    files = {name: pin for pins in needed.values() for name, pin in pins.items()}
    missing = _not_served(apt, files)
    for package, pins in needed.items():
        if lacks := sorted(missing & {pin.path for pin in pins.values()}):
            found[package] = f"not on this mirror: {', '.join(lacks)}"
    found.pop("", None)
    return found


def _not_served(apt: AptRoot, pins: dict[str, Pin]) -> set[str]:
    """Return the paths that no mirror has."""

    def is_served(pin: Pin) -> bool:
        for base in apt.mirrors.of(pin.archive):
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{base}/{pin.path}", method="HEAD"), timeout=30):
                    return True
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
            except urllib.error.URLError as error:
                if not isinstance(error.reason, FileNotFoundError):
                    raise
        return False

    with ThreadPoolExecutor(8) as pool:
        served = pool.map(is_served, pins.values())
        return {pin.path for pin, is_there in zip(pins.values(), served, strict=True) if not is_there}
