"""What tests install: a store with the example bundle and variants of it, made by hand in no time; and trees."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgbake.cache.localsource import LocalSource
from pgbake.cache.pull import pull
from pgbake.cache.substituters import Substituters
from pgbake.events import silent
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.closures import secret_key
from tests.debian import HOST, debian_tree
from tests.projects import REPOSITORY, TestProject
from tests.statements import vouch

#: The library that an extension of the example brings, and nothing else of it needs.
LIBRARY = "libpcre.so.3"
#: What the server that is built otherwise has after its version.
OTHERWISE = "+rebuilt"
Receipt = dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    """A store that holds a bundle with all that it needs, to install from.

    :param root: of the store; ``home``: of whoever installs.
    """

    root: Path
    home: Path
    bundle: StorePath

    @classmethod
    def make(cls, root: Path, home: Path, source: Path, bundle: StorePath) -> Shelf:
        """Copy a bundle from the store below ``source``."""
        home.mkdir(exist_ok=True)
        shelf = cls(root, home, bundle)
        shelf.take(source, bundle)
        return shelf

    def take(self, source: Path, bundle: StorePath) -> None:
        """Copy a bundle from the store below ``source``."""
        with LocalStore(self.root) as store:
            caches = Substituters([LocalSource(f"local?root={source}")], lambda _info, _where: None)
            pull(store, caches, [bundle], silent)

    def variant(
        self, name: str, change: Callable[[Receipt], None], without: Iterable[str] = (), version: str = "15.18"
    ) -> StorePath:
        """Make a bundle that differs from the example in its receipt, and lacks some files.

        :param without: globs of files below the bundle.
        """
        digest = base32.encode(hashlib.sha256(f"{self.bundle} {name}".encode()).digest()[:20])
        path = StorePath.from_basename(f"{digest}-example-postgresql-{version}")
        with LocalStore(self.root) as store:
            if path in store.valid([path]):
                return path
            made = self.root / "nix/store" / f"{path.basename}.chroot"
            shutil.copytree(store.physical(self.bundle), made, symlinks=True)
            subprocess.run(["chmod", "-R", "u+w", made], check=True)
            for pattern in without:
                for file in made.glob(pattern):
                    file.unlink()
            receipt = json.loads((made / "receipt.json").read_text())
            change(receipt)
            (made / "receipt.json").write_text(json.dumps(receipt))
            info = store.place(path, made, candidates=store.info(self.bundle).references)
            store.register([info])
        return path

    def small(self) -> StorePath:
        """The example without pgpcre, and without the library that pgpcre alone brings."""

        def change(receipt: Receipt) -> None:
            receipt["extensions"] = [e for e in receipt["extensions"] if e["name"] != "pgpcre"]
            receipt["packages"] = [p for p in receipt["packages"] if p["name"] != "pgpcre"]
            receipt["runtime"] = [p for p in receipt["runtime"] if p["name"] != "libpcre3"]

        share = "share/postgresql/15/extension/pgpcre*"
        return self.variant("small", change, [share, "lib/postgresql/15/lib/pgpcre.so", f"lib/*/{LIBRARY}*"])

    def minor(self) -> StorePath:
        """What counts as another PostgreSQL: its package is another path, and its version a later one."""

        def change(receipt: Receipt) -> None:
            receipt["postgresql"]["version"] = receipt["packages"][0]["version"] = "15.99"
            receipt["packages"][0]["path"] = receipt["packages"][1]["path"]

        return self.variant("minor", change, version="15.99")

    def broken(self) -> StorePath:
        """A bundle whose server does not come up: it is to preload what is not there."""
        return self.variant("broken", lambda receipt: receipt.update(preload=["is_not_there"]))

    def future(self) -> StorePath:
        """A bundle whose C library is made for a Linux that is not there yet."""
        return self.variant("future", lambda receipt: receipt.update(kernel="99.1.0"))

    def foreign(self) -> StorePath:
        """A bundle for another kind of machine."""
        return self.variant("foreign", lambda receipt: receipt.update(system="aarch64-linux"))

    @property
    def cache(self) -> Path:
        """The directory of a binary cache that :meth:`offer` fills."""
        return self.home / "cache"

    def offer(self, *bundles: StorePath, key: str = "tests-1", checked: bool = True) -> None:
        """Push bundles to the cache, signed, each with a signed statement that its checks have passed.

        :param key: the name of the key; see `tests.closures.secret_key`.
        :param checked: False: let the statement say that they have not.
        """
        file = self.home / f"{key}.key"
        file.write_text(secret_key(key).export())
        file.chmod(0o600)
        self.pgbake("push", "--to", f"file://{self.cache}", "--key", file, "--level", 1, "--unchecked", *bundles)
        if checked:
            with LocalStore(self.root) as store:
                for bundle in bundles:
                    vouch(f"file://{self.cache}", store, bundle, secret_key(key))

    def environment(self) -> dict[str, str]:
        """Return the environment of its commands."""
        return {
            **os.environ,
            "PGBAKE_STORE": str(self.root),
            "XDG_CACHE_HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
        }

    def pgbake(self, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``pgbake``, whose store this is."""
        done = subprocess.run(
            [sys.executable, "-m", "pgbake", *map(str, args)],
            env=self.environment(), cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"pgbake {args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args: object) -> Any:
        """Run ``pgbake ... --json`` and return its answer."""
        return json.loads(self.pgbake(*args, "--json").stdout)


def built_example(scratch: Path) -> tuple[Path, StorePath]:
    """Return the store of all tests, and the example's bundle in it."""
    project = TestProject.copy(scratch / "project", scratch / "home")
    project.pgbake("build")
    return project.store, project.project.bundle(host_system()).path


def built_otherwise(scratch: Path) -> tuple[Path, StorePath]:
    """Return the store of all tests, and in it the example with its PostgreSQL configured otherwise.

    It stands for a minor upgrade: archives keep the sources of one minor version at a time. Every program of it is
    compiled anew, all extensions against it, and the server tells another version (``--with-extra-version``).
    """
    project = TestProject.copy(scratch / "project", scratch / "home")
    recipe = (REPOSITORY / "src/pgbake/catalogue/recipes/postgresql.toml").read_text()
    assert "configure = [\n" in recipe
    (project.directory / "recipes").mkdir()
    (project.directory / "recipes/postgresql.toml").write_text(
        recipe.replace("configure = [\n", f'configure = [\n  "--with-extra-version={OTHERWISE}",\n', 1)
    )
    project.pgbake("build")
    return project.store, project.project.bundle(host_system()).path


def write_other_major(
    directory: Path, major: int, extensions: Iterable[str] = ("numeral",), suite: str = "bookworm"
) -> None:
    """Write a manifest of another major version, with no language and one extension: the least to build."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pgbake.toml").write_text(f"""\
name = "example"
postgresql = {major}
extensions = {json.dumps(list(extensions))}
languages = []
locales = ["C.UTF-8", "en_US.UTF-8"]

[platform]
suite = "{suite}"
security = false
updates = false
""")


def host_tree(place: Path, suite: str = "bookworm", packages: tuple[str, ...] = HOST) -> Path:
    """Copy the tree of a release, for a test to install into."""
    subprocess.run(["cp", "-a", debian_tree(suite, packages), place], check=True)
    if not (place / "var/run").is_symlink():
        (place / "var/run").rmdir()
        (place / "var/run").symlink_to("/run")  # as base-files' maintainer script makes it
    return place


def snapshot(tree: Path) -> Mapping[str, str]:
    """Return what a tree holds, file by file, but for ``/nix`` and the copies that account tools keep."""
    found = {}
    for directory, names, files in os.walk(tree):
        if Path(directory) == tree:
            names[:] = [name for name in names if name != "nix"]
        for name in (*names, *files):
            path = Path(directory, name)
            inner = str(path.relative_to(tree))
            if inner in ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/.pwd.lock"):
                continue
            about = path.lstat()
            what = f"{about.st_mode:o} {about.st_uid} {about.st_gid}"
            if path.is_symlink():
                what = f"link to {path.readlink()}"
            elif path.is_file():
                what += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
            found[inner] = what
    return found
