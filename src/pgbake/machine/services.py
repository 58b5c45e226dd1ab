"""Services beside PostgreSQL: each a declaration in data, ``services/NAME.toml``, that a manifest chooses.

A declaration has the rows of the machine definition and some words more (:class:`Service`); its templates lie in
``files/NAME/``. In its texts ``@VALUE@`` stands for one of its values, and for those of the cluster that it serves::

    postgresql-major    15             postgresql-unit    postgresql@15-main.service
    postgresql-cluster  main           postgresql-data    /var/lib/postgresql/15/main
    postgresql-port     5432           postgresql-log     /var/log/postgresql/postgresql-15-main.log

What Debian lacks a manifest declares itself (:class:`Binary`): a program by URL and sha256, for which a user and a unit
that may do little are made.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError
from pgbake.machine.definition import (
    DIRECTORY,
    UNITS,
    CheckRow,
    Cluster,
    Definition,
    GroupRow,
    Part,
    PortRow,
    Protocol,
    UnitRow,
    UserRow,
    fill,
    filled,
    template,
)
from pgbake.toml import load_toml, wrong_value

Value = int | str | tuple[int, ...]
#: What a manifest says of a service: its values, or the words of a binary.
Setting = Mapping[str, object]

#: Where programs lie that no package brings.
PROGRAMS = "/usr/local/lib/pgbake"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What a value may hold: texts go into files of many forms, in none of which these mean anything.
_TEXT = re.compile(r"[A-Za-z0-9 .,:;/_+*=%@\[\]-]*")
#: Numbers of the accounts of binaries.
_FIRST_ID = 900


class Service(Definition, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file ``services/NAME.toml``.

    :param about: what it is, in half a sentence.
    :param packages: of Debian's.
    :param values: what a manifest may set, with what holds else.
    :param needs: what a manifest must set, with what it is.
    :param health: a line for sh, that ends well where the service works.
    :param run: what runs it where there is no systemd, for sh, in the foreground; None: it is not for there.
    :param settings: what it needs PostgreSQL to be set to.
    :param first: lines of pg_hba.conf for its own users.
    :param local: how others who are on the machine prove who they are, as pg_hba.conf has it.
    """

    about: str
    health: str
    run: str | None = None
    packages: tuple[str, ...] = ()
    values: dict[str, Value] = msgspec.field(default_factory=dict)
    needs: dict[str, str] = msgspec.field(default_factory=dict)
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    first: tuple[str, ...] = ()
    local: str | None = None


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of a binary."""

    number: int
    address: str = "127.0.0.1"
    protocol: Protocol = "tcp"


class Binary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program that Debian lacks, as a manifest declares it.

    :param url: of the program, or of a tarball with it.
    :param sha256: of what lies there, in hexadecimal.
    :param exec: its arguments; ``@VALUE@`` is one of the cluster.
    :param member: its path within the tarball.
    :param user: the account that it runs as; None: one of its own, by the name of the service.
    :param groups: which that account joins.
    :param ports: that it listens on.
    :param files: path on the machine to a template beside the manifest.
    :param check: a line for sh that says whether the files are right.
    :param health: a line for sh that says whether it works.
    """

    url: str
    sha256: str
    exec: str = ""
    member: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    ports: tuple[Listen, ...] = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)
    check: str | None = None
    health: str | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A service as a manifest chooses it.

    :param values: all of them, as texts have them.
    :param binary: of one that the manifest declares itself.
    :param parts: files of such a one.
    """

    name: str
    service: Service
    values: Mapping[str, str] = field(default_factory=dict)
    binary: Binary | None = None
    parts: tuple[Part, ...] = ()


def known() -> tuple[str, ...]:
    """Return the names of the services that there are."""
    return tuple(sorted(file.stem for file in (DIRECTORY / "services").glob("*.toml")))


@cache
def load(name: str) -> Service:
    """Read the declaration of a service.

    :raises ManifestError: it is wrong; file and line are named.
    """
    return load_toml(DIRECTORY / "services" / f"{name}.toml", Service)


def choose(settings: Mapping[str, Setting], file: Path, cluster: Cluster) -> tuple[Chosen, ...]:
    """Return the services that a manifest chooses, by name.

    :param settings: the manifest's ``[services]``.
    :param file: the manifest, for errors and for what lies beside it.
    :param cluster: that they serve.
    :raises ManifestError: a name, a value, or its type is wrong.
    """
    chosen = []
    ids = itertools.count(_FIRST_ID)
    for name, setting in sorted(settings.items()):
        if name in known():
            service = load(name)
            values = {**cluster_words(cluster), "service": name, **_values(name, service, setting, file)}
            chosen.append(Chosen(name, service, values))
        elif "url" in setting or "sha256" in setting:
            chosen.append(_declared(name, setting, file, cluster, ids))
        else:
            near = difflib.get_close_matches(name, known(), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise wrong_value(
                file, name, f'there is no service "{name}"',
                f"{hint}there are {', '.join(known())}; one that you bring yourself has url and sha256",
            )  # fmt: skip
    return tuple(chosen)


def cluster_words(cluster: Cluster) -> dict[str, str]:
    """Return the values of the cluster that services serve."""
    return {
        "postgresql-major": str(cluster.major), "postgresql-cluster": cluster.name,
        "postgresql-port": str(cluster.port), "postgresql-unit": cluster.unit, "postgresql-data": cluster.data,
        "postgresql-conf": cluster.conf, "postgresql-log": cluster.log,
    }  # fmt: skip


def _values(name: str, service: Service, setting: Setting, file: Path) -> dict[str, str]:
    for key in setting:
        if key not in service.values and key not in service.needs:
            there = ", ".join((*service.needs, *service.values)) or "none"
            raise wrong_value(file, key, f'"{key}" is no value of the service {name}', f"its values: {there}")
    for key, what in service.needs.items():
        if key not in setting:
            raise wrong_value(file, name, f"[services.{name}] lacks {key}, {what}", f'add {key} = "..."')
    texts = {}
    for key, default in {**dict.fromkeys(service.needs, ""), **service.values}.items():
        value = setting.get(key, default)
        if isinstance(value, list):
            value = tuple(value)
        kinds: Mapping[type, str] = {int: "a number", str: "a text in quotes", tuple: "a list of numbers"}
        kind = type(default)
        if type(value) is not kind or (isinstance(value, tuple) and not all(type(each) is int for each in value)):
            raise wrong_value(file, key, f"{key} of the service {name} is {value!r}", f"write {kinds[kind]}")
        if key.endswith("port") and not (isinstance(value, int) and 0 < value < 65536):
            raise wrong_value(file, key, f"{value} is no port", "ports are 1 to 65535")
        if isinstance(value, str) and not _TEXT.fullmatch(value):
            raise wrong_value(
                file, key, f"{value!r} has a character that {key} of {name} cannot have",
                "letters, digits, spaces and . , : ; / _ + * = % @ [ ] -",
            )  # fmt: skip
        texts[key] = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return texts


def _declared(name: str, setting: Setting, file: Path, cluster: Cluster, ids: Iterator[int]) -> Chosen:
    """Return a service that the manifest declares itself."""
    binary = _binary(name, setting, file)
    user = binary.user or name
    values = {**cluster_words(cluster), "service": name, "program": f"{PROGRAMS}/{name}", "user": user}
    values |= {"about": binary.about or name, "arguments": fill(binary.exec, values)}
    parts = [
        Part("file", f"{UNITS}/{name}.service", 0o644, content=filled(template("binary.service"), values).encode())
    ]
    for path, source in sorted(binary.files.items()):
        try:
            text = (file.parent / source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise wrong_value(file, "files", f"cannot read {file.parent / source}: {error}", value=source) from None
        parts.append(Part("file", path, 0o640, "root", user, content=fill(text, values).encode()))
    number = next(ids)
    service = Service(
        about=values["about"],
        health=binary.health or f"systemctl is-active --quiet {name}.service",
        run=f"exec s6-setuidgid {user} {values['program']} {values['arguments']}",
        group=() if binary.user else (GroupRow(user, number),),
        user=()
        if binary.user
        else (UserRow(user, number, user, values["about"], "/nonexistent", "/usr/sbin/nologin", binary.groups),),
        unit=(UnitRow(f"{name}.service", "enabled"),),
        port=tuple(
            PortRow(each.number, f"{name}.service", each.address, "image", each.protocol) for each in binary.ports
        ),
        check=(CheckRow(name, tuple(binary.files), binary.check),) if binary.check else (),
    )
    return Chosen(name, service, values, binary, tuple(parts))


def _binary(name: str, setting: Setting, file: Path) -> Binary:
    def wrong(key: str, problem: str, hint: str) -> ManifestError:
        return wrong_value(file, key, f"{problem}, in [services.{name}]", hint)

    try:
        binary = msgspec.convert(setting, Binary)
    except msgspec.ValidationError as error:
        words = ", ".join(each.name for each in msgspec.structs.fields(Binary))
        raise wrong_value(file, name, f"[services.{name}]: {error}", f"its words: {words}") from None
    if not _NAME.fullmatch(name):
        raise wrong(name, f'"{name}" is no name of a service', "use lower-case letters, digits and -")
    if not _SHA256.fullmatch(binary.sha256):
        raise wrong("sha256", f'"{binary.sha256}" is no sha256', "write 64 hexadecimal digits, as sha256sum does")
    if not re.fullmatch(r"(https?|file)://\S+/[^/\s]+", binary.url):
        raise wrong("url", f'"{binary.url}" is not the URL of a file', "write it as https://HOST/.../NAME")
    for listen in binary.ports:
        if not 0 < listen.number < 65536:
            raise wrong("ports", f"{listen.number} is no port", "ports are 1 to 65535")
    return binary
