"""A bundle as a container image: the closure, and the little that is around it.

======================  ===========================================================================================
layer                   what is in it
======================  ===========================================================================================
shell and tools         ``base.toml``: a static bash and busybox, zstd
one for each ...        runtime package from `_LARGE` on; they are Debian's, and rarely move
small runtime packages  the others, together
one for each ...        package that was built: PostgreSQL, each extension
the bundle              the merged tree, which every change moves
root                    accounts, directories, links at the conventional paths, the entrypoint
======================  ===========================================================================================

What changes seldom lies below what changes often: engines unpack anew what lies above a change. nixpkgs's
``streamLayeredImage`` gives layers to the paths that most others need, which many images share; here images share
Debian's packages whatever needs them, so a path's size decides whether it has a layer of its own: that is what it costs
when it moves or when another image lacks it.

Accounts, directories and links are those of the machine definition. A container is one generation that never moves, so
``/nix/var/pgbake/profiles/N/current`` holds what it leads to on a machine.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.errors import StoreError
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS, System
from pgbake.image.oci import Entry, LayerPlan, content_key, store_entries
from pgbake.inputs.deb import unpack
from pgbake.inputs.pins import Pin
from pgbake.install.profiles import settings_text
from pgbake.machine.definition import Rendered, render_container
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore
from pgbake.toml import load_toml

_DIRECTORY = Path(str(resources.files("pgbake"))) / "image"
#: Bytes of its NAR from which a runtime package has a layer of its own.
_LARGE = 1 << 20
#: Docker's limit is 127, with those that somebody adds on top.
MOST_LAYERS = 100
#: Libraries that zstd, the program, is linked with.
_ZSTD_NEEDS = ("libc.so.6", "liblz4.so.1", "liblzma.so.5", "libz.so.1")
_SECOND = 1_000_000_000


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file ``base.toml``: see there."""

    suite: str
    applets: tuple[str, ...]
    files: dict[str, str]
    packages: dict[str, dict[str, Pin]]


@cache
def base() -> Base:
    """Read which programs a container has beside the bundle's."""
    return load_toml(_DIRECTORY / "base.toml", Base)


def closure_layers(
    store: LocalStore,
    bundle: StorePath,
    infos: Mapping[StorePath, PathInfo],
    built: Collection[StorePath],
    most: int = MOST_LAYERS,
) -> list[LayerPlan]:
    """Return the layers for a bundle's closure, the bundle's own last.

    :param built: the packages of the closure that are no runtime packages.
    :param most: layers at most; where there are more paths, the smallest of what was built join the runtime packages'.
    """  # fmt: skip
    own = sorted((path for path in infos if path in built), key=lambda path: (-infos[path].nar_size, path.name))
    large = sorted(
        (p for p in infos if p not in built and p != bundle and infos[p].nar_size >= _LARGE),
        key=lambda path: (-infos[path].nar_size, path.name),
    )
    own = own[: max(most - 2, 0)]
    large = large[: max(most - 2 - len(own), 0)]
    alone = {*own, *large, bundle}
    rest = [path for path in infos if path not in alone]

    def plan(title: str, *paths: StorePath) -> LayerPlan:
        paths = tuple(sorted(paths, key=str))

        def entries() -> Iterator[Entry]:
            for path in paths:
                yield from store_entries(store.physical(path), path.basename)

        words = [word for path in paths for word in (path, infos[path].nar_sha256.hex())]
        return LayerPlan(content_key("store", *words), title, entries)

    return [
        *(plan(path.name, path) for path in sorted(large, key=lambda path: (path.name, str(path)))),
        *([plan(f"{len(rest)} small packages", *rest)] if rest else []),
        *(plan(path.name, path) for path in own),
        plan(bundle.name, bundle),
    ]


def base_layer(system: System, debs: Callable[[Mapping[str, Pin]], Mapping[str, Path]], scratch: Path) -> LayerPlan:
    """Return the layer with shell and tools.

    :param debs: brings packages, and returns where each lies; asked only when the layer is made.
    :param scratch: an empty directory to unpack in, which stays until the layer is made.
    """
    what = base()
    pins = what.packages[system.name]
    links = {**{path: f"usr/{path}" for path in ("bin", "sbin", "lib", "lib64")}, "var/run": "/run"}
    links |= {f"usr/bin/{applet}": "busybox" for applet in what.applets}

    def entries() -> Iterator[Entry]:
        for name, deb in sorted(debs(pins).items()):
            into = scratch / name
            into.mkdir()
            unpack(deb, into, lambda path: path in what.files)
            for path in sorted(what.files):
                if (file := into / path).exists():
                    mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
                    yield Entry(what.files[path], "file", mode, content=file)
        for path, target in links.items():
            yield Entry(path, "link", 0o777, target=target)
        for path in ("usr/lib64", "usr/sbin"):
            yield Entry(path, "directory")

    words = [pin.sha256 for _, pin in sorted(pins.items())]
    return LayerPlan(content_key("base", *words, *what.files.items(), *links.items()), "shell and tools", entries)


def entry_programs() -> Iterator[tuple[str, bytes]]:
    """Yield what starts PostgreSQL in a container, and asks how it is: paths and contents."""
    files = _DIRECTORY / "files"
    for place, name in (
        ("usr/local/bin", "docker-entrypoint.sh"),
        ("usr/local/bin", "gosu"),
        ("usr/lib/pgbake", "healthcheck"),
    ):
        yield f"{place}/{name}", (files / name).read_bytes()


@dataclass(frozen=True)
class Container:
    """A bundle's image as it is to be.

    :param created: Unix seconds.
    """

    store: LocalStore
    bundle: StorePath
    receipt: Receipt
    infos: Mapping[StorePath, PathInfo]
    created: int

    @classmethod
    def of(cls, store: LocalStore, bundle: StorePath, created: int = 1) -> Container:
        """Look at a bundle, which must be valid.

        :raises StoreError: it is none, or made for a system that containers are not made for.
        """
        receipt = read_receipt(store.physical(bundle))
        if receipt.system not in SYSTEMS:
            raise StoreError(f"{bundle} is for {receipt.system}, which containers are not made for")
        return cls(store, bundle, receipt, store.closure([bundle]), created)

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.receipt.postgresql.major

    @property
    def system(self) -> System:
        """What the bundle is made for."""
        return SYSTEMS[self.receipt.system]

    @property
    def data(self) -> str:
        """The data directory: where the official image of this version has it."""
        return "/var/lib/postgresql/data" if self.major < 18 else f"/var/lib/postgresql/{self.major}/docker"

    @property
    def default_name(self) -> str:
        """What the image is called: the bundle's name and PostgreSQL's version."""
        stem = self.receipt.name.rpartition("-postgresql-")[0] or self.receipt.name
        name = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-") or "postgresql"
        return f"{name}:{self.receipt.postgresql.version}"

    @property
    def language(self) -> str:
        """The locale of new databases, as the official image has it, if the bundle knows it."""
        return "en_US.utf8" if {"en_US.UTF-8", "en_US.utf8"} & set(self.receipt.locales) else "C.UTF-8"

    def layers(self, debs: Callable[[Mapping[str, Pin]], Mapping[str, Path]], scratch: Path) -> list[LayerPlan]:
        """Return all layers, the lowest first; see :func:`base_layer`."""
        return [
            base_layer(self.system, debs, scratch),
            *self.closure_layers(MOST_LAYERS - 2),
            self.root_layer(),
        ]

    def closure_layers(self, most: int) -> list[LayerPlan]:
        """Return the layers of the closure; see :func:`closure_layers`."""
        return closure_layers(self.store, self.bundle, self.infos, self._built(), most)

    def _built(self) -> set[StorePath]:
        """Return what of the closure was built: all that the receipt does not name as a runtime package."""
        told = msgspec.json.decode((self.store.physical(self.bundle) / "receipt.json").read_bytes())
        runtime = {StorePath.parse(entry["path"]) for entry in told.get("runtime", ()) if "path" in entry}
        return {path for path in self.infos if path not in runtime and path != self.bundle}

    def root_layer(self) -> LayerPlan:
        """Return the layer with all that is no package."""
        entries = list(self._root())
        words = [
            (
                e.path,
                e.kind,
                e.mode,
                e.owner,
                e.group,
                e.target,
                e.content.hex() if isinstance(e.content, bytes) else "",
            )
            for e in entries
        ]
        return LayerPlan(content_key("root", *words), "accounts, directories, entrypoint", lambda: entries)

    def _root(self) -> Iterator[Entry]:
        rendered = render_container(self.major)
        users = {"root": 0, **{user.name: user.id for user in rendered.users}}
        groups = {"root": 0, **{group.name: group.id for group in rendered.groups}}
        current = f"nix/var/pgbake/profiles/{self.major}/current"
        for path, mode in (
            ("dev", 0o755), ("docker-entrypoint-initdb.d", 0o755), ("home", 0o755), ("proc", 0o555), ("root", 0o700),
            ("sys", 0o555), ("tmp", 0o1777), ("var/tmp", 0o1777),
        ):  # fmt: skip
            yield Entry(path, "directory", mode)
        for path, text in self._texts(rendered).items():
            yield Entry(path, "file", 0o600 if path == "etc/shadow" else 0o644, content=text.encode())
        for path, content in self._programs():
            yield Entry(path, "file", 0o755, content=content)
        yield Entry(f"{current}/bundle", "link", 0o777, target=str(self.bundle))
        yield Entry(f"{current}/server", "link", 0o777, target=str(self.bundle))
        yield Entry(f"{current}/settings.conf", "file", 0o644, content=settings_text(self.receipt).encode())
        sample = "usr/share/postgresql/postgresql.conf.sample"
        yield Entry(sample, "link", 0o777, target=f"{self.major}/postgresql.conf.sample")
        own = {self.data.lstrip("/"): 0o1777, "run/postgresql": 0o3777}
        for part in rendered.parts:
            path = part.path.lstrip("/")
            if part.kind == "link":
                yield Entry(path, "link", 0o777, target=part.target)
            else:
                owner, group = users.get(part.owner, 0), groups.get(part.group, 0)
                yield Entry(path, "directory", own.pop(path, part.mode), owner, group)
        # Open to whatever user the container runs as; the entrypoint closes the data directory.
        for path, mode in own.items():
            yield Entry(path, "directory", mode, users["postgres"], groups["postgres"])

    def _texts(self, rendered: Rendered) -> dict[str, str]:
        groups = [("root", 0), ("tty", 5), ("adm", 4), ("nogroup", 65534)]
        groups += [(group.name, group.id) for group in rendered.groups]
        users = ["root:x:0:0:root:/root:/bin/bash", "nobody:x:65534:65534:nobody:/nonexistent:/bin/false"]
        numbers = dict(groups)
        users += [
            f"{user.name}:x:{user.id}:{numbers[user.group]}:{user.comment}:{user.home}:{user.shell}"
            for user in rendered.users
        ]
        return {
            "etc/passwd": "".join(f"{line}\n" for line in sorted(users, key=lambda line: int(line.split(":")[2]))),
            "etc/group": "".join(
                f"{name}:x:{number}:\n" for name, number in sorted(groups, key=lambda group: group[1])
            ),
            "etc/shadow": "".join(f"{line.split(':')[0]}:*:::::::\n" for line in users),
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            "etc/shells": "/bin/sh\n/bin/bash\n",
        }

    def _programs(self) -> Iterator[tuple[str, bytes]]:
        yield from entry_programs()
        files = _DIRECTORY / "files"
        yield "usr/bin/getent", (files / "getent").read_bytes()
        libraries = self.store.physical(self.bundle) / "lib" / self.system.triplet
        if all((libraries / name).is_symlink() or (libraries / name).exists() for name in _ZSTD_NEEDS):
            text = (files / "zstd").read_text(encoding="utf-8")
            text = text.replace("@libraries@", f"{self.bundle}/lib/{self.system.triplet}")
            yield "usr/bin/zstd", text.replace("@loader@", self.system.loader).encode()

    @property
    def annotations(self) -> dict[str, str]:
        """What the image tells of itself: OCI's names, and facts of the receipt by names of ours."""
        receipt = self.receipt
        of_packages = {extension.name: extension.version for extension in receipt.extensions}
        return {
            "org.opencontainers.image.title": receipt.name,
            "org.opencontainers.image.version": receipt.postgresql.version,
            "org.opencontainers.image.description": f"PostgreSQL with {len(of_packages)} extensions, made by pgbake",
            "org.opencontainers.image.created": self.created_text,
            "pgbake.bundle": str(self.bundle),
            "pgbake.nar-hash": f"sha256:{self.infos[self.bundle].nar_sha256.hex()}",
            "pgbake.packages": ", ".join(f"{package.name} {package.version}" for package in receipt.packages),
            "pgbake.extensions": ", ".join(f"{name} {version}" for name, version in sorted(of_packages.items())),
            "pgbake.kernel": receipt.kernel,
        }

    @property
    def created_text(self) -> str:
        """When the image was made, as RFC 3339 has it."""
        return datetime.datetime.fromtimestamp(self.created, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration, without what follows from the layers."""
        programs = f"/usr/lib/postgresql/{self.major}/bin"
        environment = {
            "PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{programs}",
            "LANG": self.language,
            "PG_MAJOR": str(self.major),
            "PG_VERSION": self.receipt.postgresql.version,
            "PGDATA": self.data,
        }
        return {
            "architecture": self.system.debian,
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in environment.items()],
                "Entrypoint": ["docker-entrypoint.sh"],
                "Cmd": ["postgres"],
                "ExposedPorts": {"5432/tcp": {}},
                "Volumes": {"/var/lib/postgresql/data" if self.major < 18 else "/var/lib/postgresql": {}},
                # A fast shutdown: who is connected is not waited for.
                "StopSignal": "SIGINT",
                "Labels": self.annotations,
                # Not of OCI's; Docker reads it, and Podman of images in Docker's form.
                "Healthcheck": {
                    "Test": ["CMD", "/usr/lib/pgbake/healthcheck"],
                    "Interval": 10 * _SECOND,
                    "Timeout": 5 * _SECOND,
                    "StartPeriod": 60 * _SECOND,
                    "Retries": 3,
                },
            },
        }
