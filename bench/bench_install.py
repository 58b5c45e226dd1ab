"""From nothing to the first answer: the example's bundle from a cache on loopback, beside Debian's own packages of the
same from a mirror on the same disk, and beside ``nix profile install`` of the same closure.

Each side has a fresh copy of one small Debian each turn, as the root of namespaces of its own; what it installs from is
on this disk beforehand. Turns alternate, and the best of each side counts. Debian's
packages bring a server that runs; so does `pgbake install`. Nix only has the files then, so it is compared with an
install that starts nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgbake.debs.naming import extension_name
from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import host_mirrors
from pgbake.recipes.choice import choices
from pgbake.store.local import remove_tree
from tests.aptmachines import machine_tree
from tests.cache import test_cache
from tests.closures import secret_key
from tests.installs import Shelf, built_example
from tests.machines import Booted, contained
from tests.oracle import Oracle, unpacked_nix
from tests.projects import EXAMPLE

TURNS = 3
APT_BAR = 0.5
NIX_BAR = 0.8
NOTHING_BAR = 0.3


def debian_packages() -> list[str]:
    """Return Debian's packages of what the example's bundle has, as far as its release has them."""
    from pgbake.project import Project

    project = Project(EXAMPLE)
    major = project.manifest.postgresql
    languages = {"plperl": "plperl", "plpython3u": "plpython3", "pltcl": "pltcl"}
    names = [f"postgresql-{major}", *(f"postgresql-{languages[name]}-{major}" for name in project.manifest.languages)]
    chosen = choices(project.manifest, project.catalogue)
    names += [extension_name(choice.name, choice.recipe, major) for choice in chosen if choice.name != "postgresql"]
    return [name for name in names if name in apt_root().packages(name)]


def apt_root() -> AptRoot:
    """Return the indexes of the release that the example is frozen to."""
    return AptRoot(test_cache() / "apt", (Suite("bookworm"),), host_system().debian, host_mirrors("bookworm"))


def make_mirror(directory: Path) -> None:
    """Make a repository of Debian's packages and all that they need, on this disk."""
    apt = apt_root()
    apt.update()
    files = fetch(apt.resolve(debian_packages()), host_mirrors("bookworm"), test_cache() / "downloads", silent)
    directory.mkdir()
    for name, file in files.items():
        shutil.copy(file, directory / f"{name}.deb")
    listing = subprocess.run(["apt-ftparchive", "packages", "."], cwd=directory, check=True, capture_output=True)
    (directory / "Packages").write_bytes(listing.stdout)


@contextmanager
def fresh(base: Path, shelf: Shelf, shows: dict[Path, Path]) -> Iterator[Booted]:
    """Give a machine that is as new."""
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        tree = Path(directory, "tree")
        subprocess.run(["cp", "-a", base, tree], check=True)
        os.sync()
        with contained(tree, shelf.root, shows) as machine:
            yield machine


def answered(machine: Booted, install: Callable[[], object]) -> float:
    """Return the seconds of an install up to the first answer of its server."""
    begin = time.perf_counter()
    install()
    deadline = time.monotonic() + 60
    while machine.attempt("psql", "-XAtqwc", "SELECT 1", "-d", "postgres", user="postgres").stdout.strip() != "1":
        assert time.monotonic() < deadline, "no server answers"
        time.sleep(0.02)
    return time.perf_counter() - begin


@contextmanager
def ours(base: Path, shelf: Shelf) -> Iterator[tuple[Booted, str]]:
    """Give a fresh machine with a cache on its loopback, and the bundle's path."""
    with fresh(base, shelf, {shelf.cache: Path("/cache")}) as machine:
        machine.trust("tests-1", cache="http://127.0.0.1:8080")
        with subprocess.Popen(machine.command("pgbake", "cache", "serve", "/cache"), stdout=subprocess.PIPE) as web:
            assert web.stdout is not None and web.stdout.readline()
            try:
                yield machine, str(shelf.bundle)
            finally:
                web.kill()


def by_pgbake(base: Path, shelf: Shelf) -> tuple[float, float, float]:
    """Return the seconds to the first answer, and of installing the same again, by path and by name."""
    with ours(base, shelf) as (machine, bundle):
        first = answered(machine, lambda: machine.pgbake("install", bundle))
        again = []
        for name in (bundle, "example"):
            times = []
            for _ in range(TURNS):
                begin = time.perf_counter()
                machine.pgbake("install", name)
                times.append(time.perf_counter() - begin)
            again.append(min(times))
        return first, again[0], again[1]


def by_apt(base: Path, shelf: Shelf, mirror: Path) -> float:
    """Return the seconds of apt and dpkg to the first answer."""
    names = " ".join(debian_packages())
    with fresh(base, shelf, {mirror: Path("/mirror")}) as machine:
        (machine.tree / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/mirror ./\n")
        machine.run("apt-get", "-qq", "update")
        # Where no init runs, invoke-rc.d may start nothing.
        script = f"""
            DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {names}
            pg_lsclusters -h | grep -q online || pg_ctlcluster 15 main start
        """
        return answered(machine, lambda: machine.run("sh", "-euc", script))


def files_by_pgbake(base: Path, shelf: Shelf) -> float:
    """Return the seconds of an install that starts no server."""
    with ours(base, shelf) as (machine, bundle):
        begin = time.perf_counter()
        machine.pgbake("install", bundle, "--no-start")
        return time.perf_counter() - begin


def files_by_nix(shelf: Shelf) -> float:
    """Return the seconds of Nix's own install of the same closure from the same cache."""
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        nix = Oracle(Path(directory), unpacked_nix())
        nix.run("nix-store", "--init")
        command = nix.command(
            "nix", "profile", "install", str(shelf.bundle), "--profile", "/nix/var/nix/profiles/bench",
            "--option", "substituters", f"file://{shelf.cache}",
            "--option", "trusted-public-keys", str(secret_key().public),
            "--extra-experimental-features", "nix-command flakes", binds=[shelf.cache],
        )  # fmt: skip
        os.sync()
        begin = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        took = time.perf_counter() - begin
        assert done.returncode == 0, done.stderr[-2000:]
        remove_tree(nix.root)
        return took


def main() -> None:
    """Print all lines."""
    base = machine_tree(("iproute2", "procps", "python3"))
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)
        store, bundle = built_example(scratch / "example")
        shelf = Shelf.make(scratch / "store", scratch / "home", store, bundle)
        shelf.offer(bundle)
        mirror = scratch / "mirror"
        make_mirror(mirror)
        turns = [(by_pgbake(base, shelf), by_apt(base, shelf, mirror)) for _ in range(TURNS)]
        first, apt = min(turn[0][0] for turn in turns), min(turn[1] for turn in turns)
        print(f"install to the first answer: {first:.2f} s, apt {apt:.2f} s, ratio {first / apt:.2f} (bar {APT_BAR})")
        again, by_name = (min(turn[0][which] for turn in turns) for which in (1, 2))
        print(f"the same again: {again:.2f} s (bar {NOTHING_BAR}); asked for by its name {by_name:.2f} s", flush=True)
        files = [(files_by_pgbake(base, shelf), files_by_nix(shelf)) for _ in range(TURNS)]
        mine, theirs = (min(column) for column in zip(*files, strict=True))
        print(
            f"install of the closure: {mine:.2f} s, nix profile install {theirs:.2f} s, "
            f"ratio {mine / theirs:.2f} (bar {NIX_BAR})"
        )


if __name__ == "__main__":
    main()
