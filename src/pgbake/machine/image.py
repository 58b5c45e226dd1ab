"""A machine's image as the definition has it: its base, the services and the profile that a manifest chooses.

A profile is an overlay for one kind of place, ``profiles/NAME.toml``: values of the base, rows that it adds, and what
it leaves out. No file is there twice.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import msgspec

from pgbake.machine.definition import (
    DIRECTORY,
    CheckRow,
    Cluster,
    Definition,
    Part,
    Port,
    Rendered,
    cluster_values,
    definition,
    fill,
    is_loopback,
    render,
    render_rows,
)
from pgbake.machine.services import Chosen, Setting, Value, choose, cluster_words
from pgbake.machine.supervision import supervised
from pgbake.toml import load_toml, wrong_value

#: The values of the base's templates, where no profile says other.
_BASE = {"console": "console=tty0 console=ttyS0,115200n8", "journal": "500M", "swappiness": "10"}
#: The file that says which units start: a machine that has it was made as an image.
PRESETS = "/etc/systemd/system-preset/00-pgbake.preset"
#: PostgreSQL's files that services and settings have a say in.
_HBA = "pg_hba.conf"


CloudName = Literal["nocloud", "ec2"]


class Profile(Definition, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file ``profiles/NAME.toml``.

    :param about: for which place it is.
    :param values: of the base's templates.
    :param packages: of Debian's, that it adds.
    :param without: globs of paths, units and packages of the base that are left out.
    :param services: values of services, where a manifest sets no other.
    :param settings: PostgreSQL's.
    :param first: lines of pg_hba.conf.
    :param supervised: whether services are run by s6, and not by systemd.
    :param cloud: whose data cloud-init asks for, of `pgbake.image.clouds`.
    """

    about: str
    values: dict[str, str] = msgspec.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    services: dict[str, dict[str, Value]] = msgspec.field(default_factory=dict)
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    first: tuple[str, ...] = ()
    supervised: bool = False
    cloud: CloudName = "nocloud"


def profiles() -> tuple[str, ...]:
    """Return the names of the profiles that there are."""
    return tuple(sorted(file.stem for file in (DIRECTORY / "profiles").glob("*.toml")))


@cache
def load_profile(name: str) -> Profile:
    """Read a profile.

    :raises ManifestError: it is wrong; file and line are named.
    """
    return load_toml(DIRECTORY / "profiles" / f"{name}.toml", Profile)


@dataclass(frozen=True)
class MachineImage:
    """What a manifest's images are to have beside Debian's packages and the bundle.

    :param settings: PostgreSQL's, by name, as its configuration has them.
    """

    cluster: Cluster = field(default_factory=lambda: Cluster(15, "main", 5432))
    services: tuple[Chosen, ...] = ()
    profile: Profile | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        services: Mapping[str, Setting],
        profile: str | None,
        settings: Mapping[str, str],
        cluster: Cluster,
        file: Path,
    ) -> MachineImage:
        """Return what a manifest means.

        :param file: the manifest, for errors and for what lies beside it.
        :raises ManifestError: it names a service, a value or a profile that is none.
        """
        if profile is not None and profile not in profiles():
            near = difflib.get_close_matches(profile, profiles(), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise wrong_value(
                file, "profile", f'there is no profile "{profile}"', f"{hint}there are {', '.join(profiles())}"
            )
        overlay = load_profile(profile) if profile is not None else None
        if overlay is not None:
            services = {name: {**overlay.services.get(name, {}), **setting} for name, setting in services.items()}
        return cls(cluster, choose(services, file, cluster), overlay, settings)

    @property
    def is_supervised(self) -> bool:
        """Whether services are run by s6, and not by systemd."""
        return self.profile is not None and self.profile.supervised

    @property
    def run(self) -> tuple[Chosen, ...]:
        """The services that are run in it: where there is no systemd, some are not for there."""
        return tuple(each for each in self.services if each.service.run is not None or not self.is_supervised)

    @property
    def cloud(self) -> CloudName:
        """Whose data its cloud-init asks for."""
        return self.profile.cloud if self.profile is not None else "nocloud"

    def packages(self, base: Iterable[str]) -> tuple[str, ...]:
        """Return the packages that it has, sorted.

        :param base: those of every image.
        """
        profile = self.profile
        kept = {name for name in base if profile is None or not _is_one(name, profile.without)}
        added = profile.packages if profile is not None else ()
        return tuple(sorted({*kept, *added, *(name for each in self.run for name in each.service.packages)}))

    @property
    def checks(self) -> tuple[CheckRow, ...]:
        """The programs that say whether its files are right, with their values in place."""
        base = [(definition().check, cluster_words(self.cluster))]
        own = [(each.service.check, each.values) for each in self.run]
        return tuple(
            msgspec.structs.replace(
                row, program=fill(row.program, values), files=tuple(fill(path, values) for path in row.files)
            )
            for rows, values in (*base, *own)
            for row in rows
        )

    @cached_property
    def rendered(self) -> Rendered:
        """All of it, with final paths and contents."""
        values = {**_BASE, **cluster_words(self.cluster), **(self.profile.values if self.profile is not None else {})}
        without = self.profile.without if self.profile is not None else ()
        layers = [(_less(definition(), without), values), *((each.service, each.values) for each in self.run)]
        if self.profile is not None:
            layers.append((self.profile, values))
        ports = (*render_rows([(rows, {"image": [(None, of)]}) for rows, of in layers]).ports, *self._server_ports())
        rules = "".join(f"    {line}\n" for line in _rules(ports))
        whole = render_rows([(rows, {"image": [(None, {**of, "open-ports": rules})]}) for rows, of in layers])
        parts = [*whole.parts, *(part for each in self.run for part in each.parts), *self._server_parts()]
        whole = dataclasses.replace(whole, parts=tuple(parts), ports=ports)
        return supervised(whole, self.run) if self.is_supervised else whole

    def _server_ports(self) -> Iterator[Port]:
        """Yield PostgreSQL's port where the manifest has it listen for other machines."""
        for address in self.settings.get("listen_addresses", "").split(","):
            if address.strip() and not is_loopback(address.strip()):
                yield Port("tcp", self.cluster.port, address.strip(), self.cluster.unit)

    @cached_property
    def machine(self) -> Rendered:
        """The whole machine, with one version installed."""
        return self.over(render([self.cluster.major], (self.cluster,), self.cluster.major))

    def over(self, server: Rendered) -> Rendered:
        """Return what is installed on a machine, and over it what the image has."""
        image = self.rendered
        own = {part.path for part in image.parts}
        return Rendered(
            image.groups,
            image.users,
            (*(part for part in server.parts if part.path not in own), *image.parts),
            (*server.units, *image.units),
            (*server.ports, *image.ports),
        )

    def _server_parts(self) -> Iterator[Part]:
        """Yield what PostgreSQL's configuration has by the services' doing and the manifest's, and its directories."""
        cluster = self.cluster
        local = next((each.service.local for each in self.run if each.service.local), "peer")
        first = [fill(line, each.values) for each in self.run for line in each.service.first]
        first += self.profile.first if self.profile is not None else ()
        files = {}
        for name, settings in (("20-services.conf", self._service_settings()), ("30-manifest.conf", self.settings)):
            if settings:
                files[f"{cluster.conf}/conf.d/{name}"] = settings_file(settings)
        if not files and not first and local == "peer":
            return
        rows = definition()
        values = cluster_values(cluster, local, first)
        places = [(cluster.major, values)]
        for part in render_rows([(rows, {"major": places, "cluster": places})]).parts:
            is_ours = part.kind == "directory" and part.path.startswith("/etc/postgresql/")
            if is_ours or (part.path == f"{cluster.conf}/{_HBA}" and (first or local != "peer")):
                yield part
        for path, content in files.items():
            yield Part("file", path, 0o644, "postgres", "postgres", content=content.encode())

    def _service_settings(self) -> dict[str, str]:
        of_profile = self.profile.settings if self.profile is not None else {}
        own = {name: fill(value, each.values) for each in self.run for name, value in each.service.settings.items()}
        return {**of_profile, **own}


def settings_file(settings: Mapping[str, str]) -> str:
    """Return settings as a file of PostgreSQL's configuration."""
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in sorted(settings.items())]
    return "# Written by pgbake. Files that come after it win.\n" + "".join(lines)


def _rules(ports: Iterable[Port]) -> Iterator[str]:
    """Yield the firewall's rules for the ports that other machines may reach."""
    for port in sorted(set(ports)):
        if port.is_open:
            yield f'{port.protocol} dport {port.number} accept comment "{port.unit}"'


def _less(rows: Definition, without: Iterable[str]) -> Definition:
    """Return rows without what a profile leaves out."""
    names = tuple(without)
    return msgspec.structs.replace(
        rows,
        directory=tuple(row for row in rows.directory if not _is_one(row.path, names)),
        file=tuple(row for row in rows.file if not _is_one(row.path, names)),
        link=tuple(row for row in rows.link if not _is_one(row.path, names)),
        unit=tuple(row for row in rows.unit if not _is_one(row.name, names)),
        port=tuple(row for row in rows.port if not _is_one(row.unit, names)),
    )


def _is_one(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
