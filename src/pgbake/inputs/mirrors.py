"""Mirrors: the base URLs below which an archive's files lie.

A lock names files by path and sha256 only, so any mirror will do. They come from the host's apt, which
knows the nearest, or from the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pgbake.errors import HostError, ManifestError
from pgbake.files import write_whole
from pgbake.inputs.pins import Archive
from pgbake.run import run

#: Release names that Debian itself uses; a repository of anyone else may borrow them, see `host_mirrors`.
_DEBIAN_RELEASES = frozenset(
    {"oldoldstable", "oldstable", "stable", "testing", "unstable"}
    | {"bullseye", "bookworm", "trixie", "forky", "duke", "sid"}
)
_POCKETS = ("-security", "-updates", "-proposed-updates", "-backports")
_DEBIAN_ORIGINS = frozenset({"Debian", "Debian Backports"})
_URL = re.compile(r"(https?|file)://\S+")
_FORMAT = "$(RELEASE)\t$(ORIGIN)\t$(COMPONENT)\t$(REPO_URI)"
_HINT = 'name some in the manifest: [platform] mirrors = ["http://HOST/debian"]'


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The base URLs of each archive, in the order in which they are tried, without a trailing slash."""

    debian: tuple[str, ...]
    security: tuple[str, ...] = ()
    #: Repositories beside Debian's: name, base URL.
    repositories: tuple[tuple[str, str], ...] = ()
    #: Finds the templates of the registry of crates (`pgbake.inputs.registry`), when they are first wanted.
    crates: Callable[[], tuple[str, ...]] | None = field(default=None, compare=False)

    def of(self, archive: Archive) -> tuple[str, ...]:
        """Return an archive's base URLs, at least one; of ``crates``: templates.

        :raises HostError: no mirror of it is known.
        """
        if "://" in archive:
            return (archive,)
        if archive == "crates" and self.crates is not None:
            return self.crates()
        if archive not in ("debian", "security"):
            found = tuple(url for name, url in self.repositories if name == archive)
            if not found:
                raise HostError(
                    f"the lock takes files from a repository {archive}, which the manifest does not name",
                    hint="name it in a [[platform.repository]] of the manifest, or run `pgbake lock`",
                )
            return found
        bases = self.security if archive == "security" else self.debian
        if not bases:
            hint = _HINT if archive == "debian" else _HINT.replace("mirrors", "security_mirrors")
            raise HostError(f"no mirror of the {archive} archive is known", hint=hint)
        return bases


def manifest_mirrors(debian: Sequence[str], security: Sequence[str] = ()) -> Mirrors:
    """Return the mirrors that a manifest lists (``http``, ``https`` or ``file`` URLs).

    :raises ManifestError: an entry is no such URL, or there is none for the archive itself.
    """
    for url in (*debian, *security):
        if not _URL.fullmatch(url):
            raise ManifestError(
                f"{url!r} is not the URL of a mirror",
                hint="write it as http://HOST/debian or file:///DIRECTORY",
            )
    if not debian:
        raise ManifestError("the manifest's list of mirrors is empty", hint=_HINT)
    return Mirrors(_distinct(debian), _distinct(security))


def host_mirrors(suite: str, memory: Path | None = None) -> Mirrors:
    """Return the mirrors of Debian that the host's apt is configured with, in its order.

    apt itself parses its configuration (one-line and deb822 sources, options, disabled entries).
    Repositories of others are left out: by their Origin where apt has fetched their index, else by the
    name of their release. (Whatever slips through in that second case still has to show Debian's own
    signature to :class:`pgbake.inputs.apt.AptRoot`.)

    :param suite: the platform's, such as ``bookworm``; mirrors configured for it come first.
    :param memory: a directory in which the answer is kept for as long as apt's configuration stays as it is, since
        apt takes half a second for it.
    :raises HostError: apt is not installed, or is configured with no mirror of Debian.
    """
    remembered = memory / f"mirrors-{_state_of_apt(suite)}" if memory and "APT_CONFIG" not in os.environ else None
    if remembered is not None:
        with suppress(OSError, msgspec.MsgspecError):
            known = msgspec.json.decode(remembered.read_bytes(), type=_Known)
            return Mirrors(known.debian, known.security)
    mirrors = _ask_apt(suite)
    if remembered is not None:
        with suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_whole(remembered, msgspec.json.encode({"debian": mirrors.debian, "security": mirrors.security}))
    return mirrors


def _state_of_apt(suite: str) -> str:
    """Return a digest that changes with apt's configuration, and with what it has fetched."""
    places = [Path("/etc/apt"), *(Path("/etc/apt") / name for name in _APTS_DIRECTORIES), Path("/var/lib/apt/lists")]
    seen: list[object] = [suite, os.environ.get("PATH")]
    for place in places:
        with suppress(OSError):
            for file in (place, *sorted(place.iterdir())) if place.name != "lists" else (place,):
                found = file.stat()
                seen.append((str(file), found.st_mtime_ns, found.st_size, found.st_ino))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


class _Known(msgspec.Struct):
    debian: tuple[str, ...]
    security: tuple[str, ...]


_APTS_DIRECTORIES = ("apt.conf.d", "sources.list.d", "mirrors", "mirrorlists")


def _ask_apt(suite: str) -> Mirrors:
    with ThreadPoolExecutor(2) as pool:  # apt takes half a second for each
        fetched, configured = pool.map(lambda options: _index_targets(*options), ((), ("--no-release-info",)))
    origins = {(row[0], row[3]): row[1] for row in fetched}
    targets = [
        _Target(release, origins.get((release, uri), ""), component, uri) for release, _, component, uri in configured
    ]
    targets = [target for target in targets if target.component == "main" and target.may_be_debian(suite)]
    targets.sort(key=lambda target: target.family != suite)
    mirrors = Mirrors(
        _bases(target for target in targets if not target.is_security),
        _bases(target for target in targets if target.is_security),
    )
    if not mirrors.debian:
        raise HostError("the host's apt is configured with no mirror of Debian", hint=_HINT)
    return mirrors


def _index_targets(*options: str) -> list[list[str]]:
    """Rows (release, origin, component, base URL) of the indexes of packages in the host's apt configuration.

    Without options: those that apt has fetched, with what their signed Release files say. With
    ``--no-release-info``: all that are configured, origin unknown.
    """
    listed = run(
        ["apt-get", "indextargets", *options, "--format", _FORMAT, "Identifier: Packages"],
        sandbox="host",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        hint="repair the host's apt configuration, or " + _HINT,
    ).stdout
    return [line.split("\t") for line in listed.splitlines() if line.count("\t") == 3]


@dataclass(frozen=True, slots=True)
class _Target:
    """One index of packages that the host's apt is configured with."""

    release: str
    origin: str
    component: str
    uri: str

    @property
    def family(self) -> str:
        """The release without its pocket: ``bookworm`` of ``bookworm-security``."""
        return next((self.release.removesuffix(p) for p in _POCKETS if self.release.endswith(p)), self.release)

    @property
    def is_security(self) -> bool:
        return self.release.endswith("-security")

    @property
    def is_verified(self) -> bool:
        """Whether its signed index, fetched by apt, says that it is Debian's."""
        return self.origin in _DEBIAN_ORIGINS

    def may_be_debian(self, suite: str) -> bool:
        return self.is_verified if self.origin else self.family in _DEBIAN_RELEASES | {suite}


def _bases(targets: Iterable[_Target]) -> tuple[str, ...]:
    """Base URLs of the targets: only verified ones as soon as there is one."""
    known = list(targets)
    verified = [target for target in known if target.is_verified]
    return _distinct(base for target in verified or known for base in _expand(target.uri))


def _expand(uri: str) -> list[str]:
    """The base URLs behind a configured URI: itself, or what a local list of mirrors holds.

    Such a list is described in apt-transport-mirror(1).
    """
    listed_in = uri.removeprefix("mirror+file:")
    if listed_in == uri:
        return [uri.replace("file:/", "file:///", 1) if uri.startswith("file:/") else uri]
    path = Path("/" + listed_in.strip("/"))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise HostError(
            f"apt's list of mirrors {path} cannot be read: {error.strerror}", hint="repair it, or " + _HINT
        ) from None
    entries: list[tuple[int, str]] = []
    for line in lines:
        url, *options = line.partition("#")[0].split() or [""]
        priority = next((o.partition(":")[2] for o in options if o.startswith("priority:")), "")
        if url:
            # A line without a priority comes after all that have one.
            entries.append((int(priority) if priority.isdecimal() else 2**31, url))
    return [url for _, url in sorted(entries, key=lambda entry: entry[0])]


def _distinct(urls: Iterable[str]) -> tuple[str, ...]:
    """The usable URLs among them, without trailing slashes and repetitions."""
    return tuple(dict.fromkeys(url.rstrip("/") for url in urls if _URL.fullmatch(url)))
