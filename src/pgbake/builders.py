"""Remote builders: other machines on which Nix builds, named in the manifest or as Nix itself has them.

::

    [builders]
    local-jobs = 0                               # builds at once on this machine itself [default: 1]

    [[builders.machine]]
    url = "ssh://root@build1.example.org"        # or ssh-ng://; without a scheme it is ssh
    systems = ["x86_64-linux"]                   # [default: this machine's]
    key = "/etc/nix/builder_ed25519"             # secret ssh key; readable for who connects: Nix's daemon, root
    jobs = 2                                     # builds at once [default: 1]
    speed = 2                                    # against others [default: 1]
    features = ["big-parallel"]                  # what it has beyond the usual
    mandatory-features = []                      # only derivations that want these are built there
    host-key = "ssh-ed25519 AAAA..."             # its public key; else who connects must know it

Nix's own form is a line for each machine, with fields in that order and ``-`` for what is not said; the host key is in
base64 there (``Machine`` in ``src/libstore/machines.cc`` of Nix).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError
from pgbake.files import read_hint, read_small_file
from pgbake.formats.system import SYSTEMS
from pgbake.toml import wrong_value

#: What stands for the builders of Nix's own configuration.
OF_NIX = "nix"

#: Where a Nix that is told nothing else has its builders.
NIX_MACHINES = Path("/etc/nix/machines")

_LARGEST = 1_000_000

_URL = re.compile(r"(?:(?P<scheme>[a-z-]+)://)?(?P<host>[^/?:\s;,]+)(?:/?(?:\?[^\s;]*)?)")
_SCHEMES = ("ssh", "ssh-ng")
_HOST_KEY = re.compile(r"(?P<type>(?:ssh|ecdsa|sk)-[\w.@-]+) (?P<key>[A-Za-z0-9+/]{40,}={0,2})(?: .*)?")
_FEATURE = re.compile(r"[A-Za-z0-9._-]+")
_FORM = "write it as ssh://USER@HOST or ssh-ng://USER@HOST; a port stands in ssh's own configuration of HOST"
_LINE_FORM = (
    "a builder is a line of: URL SYSTEMS KEY JOBS SPEED FEATURES MANDATORY-FEATURES HOST-KEY, with - for nothing"
)


class MachineSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One machine: a table ``[[builders.machine]]``."""

    url: str
    systems: tuple[str, ...] = ()
    key: str | None = None
    jobs: int = 1
    speed: int | float = 1
    features: tuple[str, ...] = ()
    mandatory_features: tuple[str, ...] = ()
    host_key: str | None = None


class BuildersSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The table ``[builders]``."""

    machine: tuple[MachineSetting, ...] = ()
    local_jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """A machine that Nix builds on.

    :param url: ``ssh://`` or ``ssh-ng://``, user and host, Nix's own parameters behind ``?``.
    :param systems: that it builds for; empty: this machine's.
    :param key: file with the secret key; None: what ssh finds by itself.
    :param jobs: builds at once.
    :param speed: a factor; of several free machines the fastest is taken.
    :param host_key: its public key, as sshd has it: ``ssh-ed25519 BASE64``.
    """

    url: str
    systems: tuple[str, ...] = ()
    key: str | None = None
    jobs: int = 1
    speed: float = 1
    features: tuple[str, ...] = ()
    mandatory_features: tuple[str, ...] = ()
    host_key: str | None = None

    @property
    def host(self) -> str:
        """Where ssh connects to: ``USER@HOST``, or ``HOST``."""
        match = _URL.fullmatch(self.url)
        assert match is not None
        return match["host"]

    @property
    def line(self) -> str:
        """The machine as a line of Nix's."""
        host_key = base64.b64encode(self.host_key.encode()).decode() if self.host_key else "-"
        words = [",".join(names) or "-" for names in (self.systems, self.features, self.mandatory_features)]
        return f"{self.url} {words[0]} {self.key or '-'} {self.jobs} {self.speed:g} {words[1]} {words[2]} {host_key}"


@dataclass(frozen=True, slots=True)
class Builders:
    """All of them.

    :param machines: None: nothing is said of them, and Nix has those of its own configuration.
    :param source: where they are named, for messages.
    :param local_jobs: builds at once on this machine; None: not said.
    """

    machines: tuple[Builder, ...] | None = None
    source: str = "the manifest"
    local_jobs: int | None = None

    @property
    def nix_settings(self) -> dict[str, str]:
        """What of Nix's configuration makes it build there; empty where nothing is said."""
        settings = {}
        if self.machines is not None:
            settings["builders"] = "\n".join(builder.line for builder in self.machines)
        if self.local_jobs is not None:
            settings["max-jobs"] = str(self.local_jobs)
        return settings


def builders_of(setting: BuildersSetting) -> Builders:
    """Return what a manifest names, which is checked already."""
    return Builders(tuple(map(_builder, setting.machine)) or None, local_jobs=setting.local_jobs)


def _builder(machine: MachineSetting) -> Builder:
    return Builder(
        _with_scheme(machine.url), machine.systems, machine.key, machine.jobs, machine.speed,
        machine.features, machine.mandatory_features, _public_key(machine.host_key),
    )  # fmt: skip


def check_builders(file: Path, setting: BuildersSetting) -> None:
    """Check what a manifest says of builders.

    :raises ManifestError: a value means nothing; file and line are named.
    """
    if setting.local_jobs is not None and setting.local_jobs < 0:
        raise wrong_value(file, "local-jobs", f"{setting.local_jobs} is less than 0", "0 leaves all to the others")
    if setting.local_jobs == 0 and not setting.machine:
        raise wrong_value(file, "local-jobs", "nobody is left to build", "name a [[builders.machine]], or write 1")
    for machine in setting.machine:
        if problem := _problem(machine):
            key, value, what, hint = problem
            raise wrong_value(file, key, what, hint, value)
    urls = [_with_scheme(machine.url) for machine in setting.machine]
    for machine in reversed(setting.machine):
        if urls.count(_with_scheme(machine.url)) > 1:
            hint = "name it once, with the jobs of both"
            raise wrong_value(file, "url", f"{machine.url} is listed twice", hint, machine.url)


def parse_machines(text: str, source: str) -> Builders:
    """Read builders as Nix writes them: lines, or parts between ``;``; ``@FILE`` stands for what a file holds.

    ``nix`` alone means those of Nix's own configuration, and an empty text none.

    :param source: of the text, for messages.
    :raises ManifestError: a line means nothing, or a file cannot be read.
    """
    if text.strip() == OF_NIX:
        return Builders(None, source)
    return Builders(tuple(_machines(text, source, ())), source)


def _machines(text: str, source: str, above: tuple[Path, ...]) -> Iterable[Builder]:
    for line in re.split(r"[\n;]", text):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0].startswith("@"):
            file = Path(words[0][1:])
            if file in above:
                raise ManifestError(f"{source}: {file} names itself", hint=_LINE_FORM)
            try:
                content = read_small_file(file, _LARGEST).decode()
            except (OSError, UnicodeDecodeError) as error:
                hint = read_hint(error, file) if isinstance(error, OSError) else _LINE_FORM
                why = error.strerror if isinstance(error, OSError) else "it is no text"
                raise ManifestError(f"{source}: cannot read builders from {file}: {why}", hint=hint) from error
            yield from _machines(content, str(file), (*above, file))
        else:
            yield _machine(words, source)


def _machine(words: list[str], source: str) -> Builder:
    def wrong(what: str, hint: str = _LINE_FORM) -> ManifestError:
        return ManifestError(f"{source}: builder {words[0]}: {what}", hint=hint)

    if len(words) > 8:
        raise wrong(f"{len(words)} fields are too many")
    fields = [None if word == "-" else word for word in words] + [None] * (8 - len(words))
    url, systems, key, jobs, speed, features, mandatory, host_key = fields
    if not url or (jobs and not jobs.isdigit()):
        raise wrong(f'"{jobs}" is no number of jobs' if url else "it has no URL")
    try:
        factor = float(speed or 1)
        public = base64.b64decode(host_key or "", validate=True).decode().strip()
    except (ValueError, binascii.Error):
        raise wrong("its speed is no number, or its host key is not in base64") from None
    names = [tuple(word.split(",")) if word else () for word in (systems, features, mandatory)]
    machine = MachineSetting(url, names[0], key, int(jobs or 1), factor, names[1], names[2], public or None)
    if problem := _problem(machine, any_system=True):
        raise wrong(*problem[2:])
    return _builder(machine)


def _problem(machine: MachineSetting, *, any_system: bool = False) -> tuple[str, str | None, str, str] | None:
    """Return what is wrong with a machine: key, value that is wrong, what of it, hint."""
    match = _URL.fullmatch(machine.url)
    if match is None or (match["scheme"] or "ssh") not in _SCHEMES or match["host"].startswith("-"):
        return "url", machine.url, f'"{machine.url}" is no builder that ssh reaches', _FORM
    for system in machine.systems:
        if system not in SYSTEMS and not any_system:
            return "systems", system, f'"{system}" is not known', f"known: {', '.join(SYSTEMS)}"
    if machine.jobs < 1:
        return "jobs", None, f"{machine.jobs} jobs are none", "leave the machine away, or write 1"
    if not 0 < machine.speed < 1e6:
        return "speed", None, f"{machine.speed} is no factor", "write a number above 0, such as 1 or 2.5"
    if machine.key is not None and (not machine.key.startswith("/") or re.search(r"[\s;]", machine.key)):
        return "key", machine.key, f'"{machine.key}" is no whole path', "write /DIRECTORY/FILE, without blanks"
    for key, features in (("features", machine.features), ("mandatory-features", machine.mandatory_features)):
        for feature in features:
            if not _FEATURE.fullmatch(feature):
                return key, feature, f'"{feature}" is no feature', "features are words: big-parallel, kvm"
    if machine.host_key is not None and _public_key(machine.host_key) is None:
        return (
            "host-key", machine.host_key, "this is no public key of a host",
            "copy the builder's /etc/ssh/ssh_host_ed25519_key.pub: ssh-ed25519 AAAA...",
        )  # fmt: skip
    return None


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"ssh://{url}"


def _public_key(text: str | None) -> str | None:
    """Return type and key, without the comment behind; None where it is no public key."""
    match = _HOST_KEY.fullmatch(text.strip()) if text else None
    return f"{match['type']} {match['key']}" if match else None
