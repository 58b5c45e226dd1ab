"""The one definition of what a machine with PostgreSQL has, as data: ``machine.toml``, and the templates in ``files/``.

:func:`render` turns its rows and the values of one machine (which major versions, which clusters) into parts: accounts,
directories, files and links with their final paths and contents. `pgbake.machine.apply` holds these against a machine
or an offline tree. The files for systemd-sysusers and systemd-tmpfiles are written from the same rows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pgbake.toml import load_toml

Scope = Literal["machine", "default", "major", "cluster", "image"]
Kind = Literal["directory", "link", "file"]
#: As ``systemctl is-enabled`` says it; ``static``: started by others only.
State = Literal["enabled", "disabled", "masked", "static"]
Protocol = Literal["tcp", "udp"]
#: Whose PostgreSQL a machine has: a bundle's, or that of Debian's packages.
Flavour = Literal["bundle", "deb"]

#: Where the administrator's units lie, and the links that say what starts them.
UNITS = "/etc/systemd/system"

#: Where the definition and its templates lie.
DIRECTORY = Path(str(resources.files("pgbake"))) / "machine"
_VALUE = re.compile(r"@([a-z0-9]+(?:-[a-z0-9]+)*)@")
_INCLUDE = re.compile(r"^@include ([a-z-]+)@\n", re.MULTILINE)
#: How a data directory is made, but for its place and locale.
_INITDB = "-U postgres -E UTF8 --data-checksums --auth-local=peer --auth-host=scram-sha-256"


class GroupRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of the system.

    :param id: its number in images and containers; a machine that has the group, or another by that number, keeps its.
    """

    name: str
    id: int


class UserRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account of the system, that nobody logs in to by password.

    :param id: as of a group.
    :param groups: which it is a member of, beside its own.
    """

    name: str
    id: int
    group: str
    comment: str
    home: str
    shell: str
    groups: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What directories, links and files have in common; see ``machine.toml`` for the words."""

    path: str
    scope: Scope = "image"
    owner: str = "root"
    group: str | None = None
    mode: str | None = None
    target: str | None = None
    template: str | None = None
    rendered: Literal["sysusers", "tmpfiles", "presets"] | None = None
    each: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    keep: bool = False
    data: bool = False
    runtime: bool = False
    flavour: Flavour | None = None


class UnitRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A unit of systemd, and its state at the first boot.

    :param template: its text; None of one that a package brings.
    :param wanted: the unit that starts it, of one with a template; else its own ``[Install]`` says it.
    """

    name: str
    state: State
    scope: Scope = "image"
    template: str | None = None
    wanted: str | None = None
    unless: tuple[str, ...] = ()
    flavour: Flavour | None = None


class PortRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port that a unit listens on.

    :param optional: whether it depends on the machine's surroundings that somebody listens.
    """

    number: int | str
    unit: str
    address: str
    scope: Scope = "image"
    protocol: Protocol = "tcp"
    optional: bool = False


class CheckRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program of the platform's that says whether files are right.

    :param files: globs of the paths that it reads.
    :param program: a line for sh, that ends well where they are.
    :param user: whom it runs as.
    """

    name: str
    files: tuple[str, ...]
    program: str
    user: str = "root"


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All rows."""

    group: tuple[GroupRow, ...] = ()
    user: tuple[UserRow, ...] = ()
    directory: tuple[Row, ...] = ()
    link: tuple[Row, ...] = ()
    file: tuple[Row, ...] = ()
    unit: tuple[UnitRow, ...] = ()
    port: tuple[PortRow, ...] = ()
    check: tuple[CheckRow, ...] = ()


class Cluster(msgspec.Struct, frozen=True, order=True):
    """A data directory with its server: of a major version, by a name.

    :param locale: of new databases and of messages.
    """

    major: int
    name: str
    port: int
    locale: str = "C.UTF-8"

    @property
    def label(self) -> str:
        """As people write it: ``15/main``."""
        return f"{self.major}/{self.name}"

    @property
    def unit(self) -> str:
        """The unit that runs its server."""
        return f"postgresql@{self.major}-{self.name}.service"

    @property
    def data(self) -> str:
        """Its data directory."""
        return f"/var/lib/postgresql/{self.major}/{self.name}"

    @property
    def conf(self) -> str:
        """The directory of its configuration."""
        return f"/etc/postgresql/{self.major}/{self.name}"

    @property
    def log(self) -> str:
        """Its log."""
        return f"/var/log/postgresql/postgresql-{self.major}-{self.name}.log"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a machine is to have.

    :param major: the major version that it is there for; None of what all share.
    """

    kind: Kind
    path: str
    mode: int = 0
    owner: str = "root"
    group: str = "root"
    target: str = ""
    content: bytes = b""
    unless: tuple[str, ...] = ()
    keep: bool = False
    data: bool = False
    runtime: bool = False
    major: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """A unit, and its state at the first boot."""

    name: str
    state: State


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port that somebody listens on.

    :param address: as the server's configuration names it.
    """

    protocol: Protocol
    number: int
    address: str
    unit: str
    optional: bool = False

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        return not is_loopback(self.address)


def is_loopback(address: str) -> bool:
    """Whether an address is one of the machine's own."""
    return address.startswith("127.") or address in ("localhost", "::1", "[::1]")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A definition with the values of one machine."""

    groups: tuple[GroupRow, ...] = ()
    users: tuple[UserRow, ...] = ()
    parts: tuple[Part, ...] = ()
    units: tuple[Unit, ...] = ()
    ports: tuple[Port, ...] = ()


_Flavoured = TypeVar("_Flavoured", Row, UnitRow)
#: For each scope: the major version that it is about, and the values, of each time that its rows are there.
Places = Mapping[Scope, Sequence[tuple[int | None, Mapping[str, str]]]]


@cache
def definition() -> Definition:
    """Read the definition.

    :raises ManifestError: it is wrong; file and line are named.
    """
    return load_toml(DIRECTORY / "machine.toml", Definition)


def render(
    majors: Iterable[int], clusters: Iterable[Cluster], default: int | None, flavour: Flavour = "bundle"
) -> Rendered:
    """Return what a machine has for some major versions and clusters; nothing at all where there is no version.

    :param default: the version whose programs have the plain names, such as ``/usr/bin/psql``.
    :param flavour: whose PostgreSQL it is.
    """
    majors = sorted(majors)
    if not majors:
        return Rendered()
    places: Places = {
        "machine": [(None, {})],
        "default": [] if default is None else [(default, {"major": str(default)})],
        "major": [(major, {"major": str(major)}) for major in majors],
        "cluster": [(cluster.major, cluster_values(cluster)) for cluster in sorted(clusters)],
    }
    return render_rows([(_of_flavour(definition(), flavour), places)])


def _of_flavour(rows: Definition, flavour: Flavour) -> Definition:
    def kept(found: tuple[_Flavoured, ...]) -> tuple[_Flavoured, ...]:
        return tuple(row for row in found if row.flavour in (None, flavour))

    return msgspec.structs.replace(
        rows, directory=kept(rows.directory), file=kept(rows.file), link=kept(rows.link), unit=kept(rows.unit)
    )


def render_container(major: int) -> Rendered:
    """Return what a container has: it starts a server and no machine, so neither files nor units."""
    rendered = render([major], (), major)
    parts = tuple(part for part in rendered.parts if part.kind != "file" and not part.path.startswith(UNITS))
    return Rendered(rendered.groups, rendered.users, parts)


def render_rows(layers: Sequence[tuple[Definition, Places]]) -> Rendered:
    """Return what some definitions, each with its values, come to together."""
    parts: list[Part] = []
    units: list[Unit] = []
    ports: list[Port] = []
    for rows, places in layers:
        parts += _parts(rows, places)
        for unit in rows.unit:
            for major, values in places.get(unit.scope, ()):
                name = fill(unit.name, values)
                parts += _unit_parts(unit, name, major, values)
                units.append(Unit(name, unit.state))
        for port in rows.port:
            for _, values in places.get(port.scope, ()):
                number, by = int(fill(str(port.number), values)), fill(port.unit, values)
                ports.append(Port(port.protocol, number, fill(port.address, values), by, port.optional))
    groups = tuple(group for rows, _ in layers for group in rows.group)
    users = tuple(user for rows, _ in layers for user in rows.user)
    texts = {
        b"sysusers": lambda: _sysusers(groups, users),
        b"tmpfiles": lambda: _tmpfiles(part for part in parts if part.runtime),
        b"presets": lambda: _presets([unit for rows, _ in layers for unit in rows.unit]),
    }
    written = tuple(
        dataclasses.replace(part, content=_lines(texts[part.content]())) if part.content in texts else part
        for part in parts
    )
    return Rendered(groups, users, written, tuple(units), tuple(ports))


def _parts(rows: Definition, places: Places) -> Iterator[Part]:
    kinds: tuple[tuple[Kind, tuple[Row, ...]], ...] = (
        ("directory", rows.directory), ("file", rows.file), ("link", rows.link),
    )  # fmt: skip
    for kind, found in kinds:
        for row in found:
            for major, values in places.get(row.scope, ()):
                for each in row.each or ("",):
                    yield _part(kind, row, major, {**values, "each": each})


def _unit_parts(row: UnitRow, name: str, major: int | None, values: Mapping[str, str]) -> Iterator[Part]:
    """Yield the files and links that a unit's state is made of, apart from those that its package brings."""
    unless = tuple(fill(path, values) for path in row.unless)
    if row.state == "masked":
        yield Part("link", f"{UNITS}/{name}", 0o644, target="/dev/null", unless=unless, major=major)
    if row.template is not None:
        content = filled(template(row.template), values).encode()
        yield Part("file", f"{UNITS}/{name}", 0o644, content=content, unless=unless, major=major)
        if row.wanted is not None and row.state == "enabled":
            link = f"{UNITS}/{fill(row.wanted, values)}.wants/{name}"
            yield Part("link", link, 0o644, target=f"../{name}", unless=unless, major=major)


def cluster_values(cluster: Cluster, local: str = "peer", first: Iterable[str] = ()) -> dict[str, str]:
    """Return the values of a cluster's rows.

    :param local: how who is on the machine proves who it is, as pg_hba.conf has it.
    :param first: lines of pg_hba.conf that are for certain users, and come before.
    """
    return {
        "major": str(cluster.major), "cluster": cluster.name, "port": str(cluster.port), "locale": cluster.locale,
        "local": local, "first": "".join(f"{line}\n" for line in first),
    }  # fmt: skip


def _part(kind: Kind, row: Row, major: int | None, values: Mapping[str, str]) -> Part:
    content = b""
    if row.template is not None:
        content = filled(template(row.template), values).encode()
    elif row.rendered is not None:
        content = row.rendered.encode()
    return Part(
        kind,
        fill(row.path, values),
        int(row.mode, 8) if row.mode else 0o755 if kind == "directory" else 0o644,
        row.owner,
        row.group or row.owner,
        fill(row.target or "", values),
        content,
        tuple(fill(path, values) for path in row.unless),
        row.keep,
        row.data,
        row.runtime,
        major,
    )


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its values in place; words that have none stay."""
    return _VALUE.sub(lambda found: values.get(found[1], found[0]), text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a template's text with its values: ``@include NAME@`` as a line stands for another template, and
    ``@initdb@`` for the options of initdb; words that have no value stay.
    """
    text = _INCLUDE.sub(lambda found: template(found[1]), text)
    return fill(text, {"initdb": _INITDB, **values})


def template(name: str) -> str:
    """Return the text of a template."""
    return (DIRECTORY / "files" / name).read_text(encoding="utf-8")


def initdb_options() -> list[str]:
    """Return how a data directory is made, but for its place and locale, as options of initdb."""
    return _INITDB.split()


def tmpfiles(parts: Iterable[Part]) -> Iterator[str]:
    """Write directories and empty files as tmpfiles.d(5) has them."""
    for part in parts:
        letter = "d" if part.kind == "directory" else "f"
        yield f"{letter} {part.path} {part.mode:04o} {part.owner} {part.group} -"


def sysusers() -> str:
    """Return the text of the file that declares the accounts (sysusers.d(5))."""
    return _lines(_sysusers(definition().group, definition().user)).decode()


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _sysusers(groups: Iterable[GroupRow], users: Iterable[UserRow]) -> Iterator[str]:
    """Write accounts as sysusers.d(5) has them."""
    yield "# The accounts that PostgreSQL runs as, for a machine that is made anew."
    for group in groups:
        yield f"g {group.name} {group.id}"
    for user in users:
        yield f'u {user.name} {user.id}:{user.group} "{user.comment}" {user.home} {user.shell}'
        yield from (f"m {user.name} {group}" for group in user.groups)


def _tmpfiles(parts: Iterable[Part]) -> Iterator[str]:
    """Write what begins empty at each boot as tmpfiles.d(5) has it."""
    yield "# Made at each boot, before PostgreSQL starts."
    yield from tmpfiles(parts)


def _presets(units: Iterable[UnitRow]) -> Iterator[str]:
    """Write which units start at the first boot, as systemd.preset(5) has it: the declared ones."""
    yield "# The units of this machine; what is not named here does not start by itself."
    for unit in units:
        if unit.state in ("enabled", "disabled"):
            yield f"{unit.state.removesuffix('d')} {_VALUE.sub('*', unit.name)}"
    yield "disable *"
