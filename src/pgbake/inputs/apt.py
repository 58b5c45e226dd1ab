"""Debian's own resolver and signed indexes, in an apt root apart from the host's.

Such a root has its own configuration, sources, lists and an empty dpkg status, so what is installed or
configured on the host has no say in an answer. All it takes from the host is how to reach the network
(``Acquire::http``, ``Acquire::https``) and what the administrator has decided on the age of indexes.

On disk, below the caller's cache directory::

    ARCH-KEY/              KEY: digest of suites, architecture, mirrors and keyring
      lock                 flock: shared by queries, exclusive by an update
      apt.conf             all of the configuration; the host's apt.conf.d is not read
      etc/sources.list     the mirrors that answered at the last update that succeeded
      lists/  cache/       apt's
      status               dpkg's, empty
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pgbake.errors import HostError, InputError, PgbakeError
from pgbake.files import write_whole
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Archive, Pin
from pgbake.run import Completed, run

#: Where Debian's package ``debian-archive-keyring`` puts the keys that sign the suites.
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
#: A line of ``--print-uris``; the second word has the package and version, the epoch's colon as ``%3a``.
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+)(?: SHA256:(?P<sha256>[0-9a-f]{64}))?")
#: Names of packages, by apt root and the time of its last update.
_NAMES: dict[tuple[Path, int], frozenset[str]] = {}
#: What of the host's configuration holds here too, lower case.
_KEPT_SETTINGS = (
    "acquire::http::",
    "acquire::https::",
    "acquire::check-date ",
    "acquire::check-valid-until ",
)
#: How ``apt-get update`` says that it could not use an index: base URL, suite, reason.
_FAILURES = (
    re.compile(r"^Err:\d+ (\S+) ([^ /]+)[ /].*\n  (.+)$", re.MULTILINE),
    re.compile(r"^[EW]: Release file for (\S+)/dists/([^/\s]+)/\S+ (is .+?\))", re.MULTILINE),
    re.compile(r"^E: The repository '(\S+) (\S+) [^']*' (.+)$", re.MULTILINE),
    re.compile(r"^[EW]: Failed to fetch (\S+)/dists/([^/\s]+)/\S+  (.+)$", re.MULTILINE),
)
_SIGNATURE_TROUBLE = re.compile(r"signature|NO_PUBKEY|BADSIG|not signed", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite of an archive, by codename or suite name: ``bookworm``, ``bookworm-security``.

    :param keyring: the only keys whose signature on it counts; None means Debian's.
    """

    name: str
    archive: Archive = "debian"
    components: tuple[str, ...] = ("main",)
    keyring: Path | None = None


@dataclass(frozen=True, slots=True)
class Assumed:
    """A package that counts as installed.

    :param provides: what it provides, as a Provides field has it.
    """

    name: str
    version: str
    provides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AptRoot:
    """An isolated apt for one set of suites and one architecture.

    :param cache: directory below which the root is kept for the next run; made when missing.
    :param arch: Debian's name of the architecture: ``amd64``, ``arm64``; need not be the host's.
    :param keyring: the only keys whose signature on a suite counts.
    """

    cache: Path
    suites: tuple[Suite, ...]
    arch: str
    mirrors: Mirrors
    keyring: Path = DEBIAN_KEYRING

    @property
    def path(self) -> Path:
        """Where this root lies; other suites, architectures, mirrors or keys have another place."""
        mirrors = (self.mirrors.debian, self.mirrors.security, self.mirrors.repositories)
        key = repr((self.suites, self.arch, mirrors, self.keyring))
        return self.cache.absolute() / f"{self.arch}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def update(self) -> None:
        """Bring the suites' indexes up to date and verify their signatures.

        Each archive's mirrors are tried in turn; an index that did not change is not fetched again.

        :raises InputError: for some suite no mirror gave an index that is signed by the keyring and is
            of that suite; each mirror is named with what was wrong.
        :raises HostError: apt or the keyring is not installed, no mirror is known, or the disk is full.
        """
        for suite in self.suites:
            if not self._keyring(suite).is_file():
                raise HostError(
                    f"the keyring {self._keyring(suite)} that verifies {suite.name} is missing",
                    hint="name its file as `key` of the repository in the manifest"
                    if suite.keyring
                    else "install it: apt-get install debian-archive-keyring",
                )
        candidates = {suite.archive: list(self.mirrors.of(suite.archive)) for suite in self.suites}
        refused: dict[tuple[str, str], str] = {}
        with self._locked(fcntl.LOCK_EX) as lock:
            self._lay_out()
            while True:
                failures = self._try_update({archive: bases[0] for archive, bases in candidates.items()}, lock)
                if not failures:
                    return
                refused |= failures
                for suite in self.suites:
                    bases = candidates[suite.archive]
                    if (bases[0], suite.name) in failures:
                        del bases[0]
                        if not bases:
                            raise self._unusable(suite, refused)

    def resolve(
        self, names: Iterable[str], assumed: Iterable[Assumed] = (), *, essential: bool = False
    ) -> dict[str, Pin]:
        """Return pins of the packages and of all that they depend on, as apt would install them.

        Recommended packages are left out, and so are essential ones that nothing names. The result is
        sorted by name.

        :param names: each as a Depends field has it but for brackets: ``NAME``, ``NAME=VERSION`` (a glob such as
            ``1.2*``), or ``NAME | OTHER``, of which the first that the suites have is taken.
        :param assumed: packages that count as installed: they and what they depend on are left out.
        :param essential: take the essential packages as well, as a machine has them.
        :raises InputError: a package is unknown (near names are offered), or the set cannot be installed
            together (apt's own words are the detail).
        """
        wanted = self._known(names)
        if not wanted:
            return {}
        options = self._assuming(tuple(assumed))
        if essential:
            wanted = ["?essential", *wanted]  # a pattern of apt's, see apt-patterns(7)
        done = self._query("apt-get", *options, "install", "--print-uris", "--yes", "-q", "--", *wanted, check=False)
        if done.status != 0:
            raise InputError(
                f"apt cannot install together: {' '.join(wanted)}",
                hint="ask for packages of these suites that do not conflict: "
                + ", ".join(suite.name for suite in self.suites),
                detail=_tail(done),
            )
        pins: dict[str, Pin] = {}
        for filename, pin in self._pins(done.stdout):
            package, version, _ = filename.split("_")
            pins[unquote(package)] = _with_version(pin, unquote(version))
        return dict(sorted(pins.items()))

    def control(self, name: str) -> Mapping[str, str]:
        """Return the control fields (``Version``, ``Section``, ``Depends``, ...) of the package's candidate.

        :raises InputError: the package is unknown.
        """
        return self.controls([name])[name]

    def controls(self, names: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """Return what :meth:`control` does for many packages, by one call of apt; sorted by name.

        :raises InputError: a package is unknown.
        """
        from debian.deb822 import Deb822

        wanted = self._known(names)
        if not wanted:
            return {}
        shown = self._query("apt-cache", "show", "--no-all-versions", "--", *wanted).stdout
        fields = {stanza["Package"]: dict(stanza) for stanza in Deb822.iter_paragraphs(shown)}
        return {name: fields[name] for name in (_bare(want) for want in wanted)}

    def names(self) -> frozenset[str]:
        """Return the names that the indexes know, those included that packages only depend on."""
        self._require_index()
        # asked for once after each update
        key = (self.path, (self.path / "etc" / "sources.list").stat().st_mtime_ns)
        if key not in _NAMES:
            _NAMES[key] = frozenset(self._query("apt-cache", "pkgnames").stdout.split())
        return _NAMES[key]

    def packages(self, prefix: str) -> dict[str, Mapping[str, str]]:
        """Return the control fields of every package whose name begins with ``prefix``, sorted by name."""
        known = self._query("apt-cache", "pkgnames", "--", prefix).stdout.split()
        # Names that others only depend on are no packages.
        shown = self._query("apt-cache", "show", "--no-all-versions", "--", *sorted(known), check=False).stdout
        from debian.deb822 import Deb822

        return dict(sorted((stanza["Package"], dict(stanza)) for stanza in Deb822.iter_paragraphs(shown)))

    def versions(self, name: str) -> dict[str, str]:
        """Return the versions of a package that the suites have, the newest first, each with the suite that has it."""
        return self.all_versions([name]).get(name, {})

    def all_versions(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return what :meth:`versions` does for many packages, by one call of apt; unknown ones are left out."""
        found: dict[str, dict[str, str]] = {}
        for line in self._query("apt-cache", "madison", "--", *names, check=False).stdout.splitlines():
            name, version, place = (part.strip() for part in line.split("|", 2))
            if place.endswith(" Packages"):
                found.setdefault(name, {}).setdefault(version, place.split()[1].partition("/")[0])
        return found

    @property
    def age(self) -> float:
        """Seconds since the last update that succeeded; infinite where there was none."""
        try:
            return time.time() - (self.path / "etc" / "sources.list").stat().st_mtime
        except OSError:
            return math.inf

    def source(self, package: str) -> tuple[str, Pin]:
        """Return the upstream version of a Debian source package, and its upstream tarball's pin.

        The tarball is ``.orig.tar.*`` (of a native package: its only tarball), pinned by the signed
        Sources index; Debian's patches are no part of it. The pin's version is Debian's, without epoch.

        :raises InputError: there is no such source package in the suites.
        """
        if not _PACKAGE_NAME.fullmatch(package):
            raise InputError(f"{package!r} is not the name of a Debian source package")
        done = self._query(
            "apt-get", "source", "--print-uris", "--download-only", "--only-source", "-qq", "--", package,
            check=False,
        )  # fmt: skip
        if done.status != 0:
            raise InputError(
                f"there is no source package {package} in {self._suite_names()}",
                hint="search it with: apt-cache showsrc NAME",
                detail=_tail(done),
            )
        version = ""
        tarballs: list[tuple[bool, str, Pin]] = []
        for filename, pin in self._pins(done.stdout):
            stem = unquote(filename).removeprefix(f"{package}_")
            if stem.endswith(".dsc"):
                version = stem.removesuffix(".dsc")
            found = re.fullmatch(r"(?P<version>.+?)(?P<orig>\.orig)?\.tar\.\w+", stem)
            # Left out: Debian's changes, signatures, and further tarballs (.orig-NAME.tar.*).
            if found and not found["version"].endswith(".debian") and ".orig-" not in stem:
                tarballs.append((found["orig"] is not None, found["version"], pin))
        if not tarballs:
            raise InputError(f"the source package {package} has no upstream tarball", detail=done.stdout)
        _, upstream, pin = max(tarballs, key=lambda tarball: tarball[0])
        return upstream, _with_version(pin, version or upstream)

    def _known(self, names: Iterable[str]) -> list[str]:
        """What the names mean for apt, sorted and once each: ``NAME`` or ``NAME=VERSION``.

        apt reads a name that it does not know as a pattern or an option (``foo-`` removes), so all are
        checked before it sees them.
        """
        known = self.names()
        wanted = set[str]()
        for want in set(names):
            choices = [choice.strip() for choice in want.split("|")]
            found = [choice for choice in choices if _bare(choice) in known]
            if not found:
                raise self._unknown(_bare(choices[0]), known)
            wanted.add(found[0])
        return sorted(wanted)

    def _assuming(self, assumed: tuple[Assumed, ...]) -> tuple[str, ...]:
        """Return apt's options for a dpkg status in which packages are installed."""
        if not assumed:
            return ()
        stanzas = "\n".join(
            f"Package: {package.name}\nStatus: install ok installed\nArchitecture: {self.arch}\n"
            f"Version: {package.version}\nMaintainer: pgbake\nDescription: assumed\n"
            + (f"Provides: {', '.join(package.provides)}\n" if package.provides else "")
            for package in assumed
        )
        place = self.path / f"assumed-{hashlib.sha256(stanzas.encode()).hexdigest()[:16]}"
        if not (place / "status").exists():
            (place / "archives/partial").mkdir(parents=True, exist_ok=True)
            write_whole(place / "status", stanzas.encode())
        # A cache of its own, since apt's depends on the status.
        return ("-o", f"Dir::State::status={place}/status", "-o", f"Dir::Cache={place}")

    def _unknown(self, name: str, known: Set[str]) -> InputError:
        if _PACKAGE_NAME.fullmatch(name):
            shown = self._query("apt-cache", "showpkg", "--", name, check=False).stdout
            rows = shown.partition("Reverse Provides:")[2].splitlines()
            providers = {row.split()[0] for row in rows if row.strip()}
            if providers:
                return InputError(
                    f"{name} is a virtual package in {self._suite_names()}",
                    hint=f"name one that provides it: {', '.join(sorted(providers)[:5])}",
                )
        from difflib import get_close_matches

        alike = sorted(other for other in known if abs(len(other) - len(name)) < 4)
        near = get_close_matches(name, alike, n=3, cutoff=0.75)
        return InputError(
            f"there is no package {name} in {self._suite_names()}",
            hint=f"did you mean {' or '.join(near)}?" if near else "search it with: apt-cache search WORD",
        )

    def _keyring(self, suite: Suite) -> Path:
        return suite.keyring or self.keyring

    def _suite_names(self) -> str:
        return ", ".join(suite.name for suite in self.suites) + f" ({self.arch})"

    def _pins(self, printed: str) -> Iterator[tuple[str, Pin]]:
        """Parse the output of ``--print-uris`` to apt's file names and pins without versions."""
        for line in printed.splitlines():
            if not line.startswith("'"):
                continue
            found = _URI_LINE.match(line)
            if not found or not found["sha256"]:
                raise InputError("apt gives no sha256 for a file of the signed indexes", detail=line)
            archive, path = self._place(_normal(found["uri"]))
            yield found["name"], Pin("?", unquote(path), int(found["size"]), found["sha256"], archive)

    def _place(self, uri: str) -> tuple[Archive, str]:
        """Split a URI into the archive and the path below its mirror."""
        for suite in self.suites:
            for base in self.mirrors.of(suite.archive):
                if uri.startswith(base + "/"):
                    return suite.archive, uri.removeprefix(base + "/")
        raise InputError(f"apt names a file that lies on none of the mirrors: {uri}")

    @contextmanager
    def _locked(self, mode: int) -> Iterator[int]:
        """Hold the root's lock, and give its descriptor, for the ``with`` block."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / "lock").open("w") as file:
                fcntl.flock(file, mode)
                yield file.fileno()
        except OSError as error:
            raise HostError(
                f"cannot write to apt's cache {self.path}: {error.strerror}",
                hint="choose another cache directory, or make room in this one",
            ) from None

    def _lay_out(self) -> None:
        """Write the root's configuration anew: the host's proxy may have changed since."""
        root = self.path
        for directory in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "cache/archives/partial"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        settings = {
            "Dir": root,
            "Dir::State": root,
            "Dir::State::status": root / "status",
            "Dir::Cache": root / "cache",
            "Dir::Etc": root / "etc",
            "APT::Architecture": self.arch,
            "APT::Architectures::": self.arch,
            "APT::Install-Recommends": "false",
            # Started by root, apt would drop to a user who cannot read a cache in root's home.
            "APT::Sandbox::User": "root",
            # A suite may become "oldstable" while this root is kept; what counts is checked after an update.
            "Acquire::AllowReleaseInfoChange": "true",
            "Acquire::ForceHash": "SHA256",
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        dumped = run(["apt-config", "dump"], sandbox="host", env=_environment()).stdout.splitlines()
        lines += [line for line in dumped if line.lower().startswith(_KEPT_SETTINGS) and line.count('"') == 2]
        # A repository adds packages, and newer ones of PostgreSQL's; it replaces nothing of Debian's.
        (root / "etc/preferences").write_text(
            "".join(
                f"Package: *\nPin: release n={suite.name}\nPin-Priority: 100\n\n"
                f"Package: postgresql-*\nPin: release n={suite.name}\nPin-Priority: 500\n\n"
                for suite in self.suites
                if suite.keyring
            ),
            encoding="utf-8",
        )
        conf = root / "apt.conf"
        conf.touch(mode=0o600)  # a proxy's setting may hold a password
        conf.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _try_update(self, bases: Mapping[Archive, str], lock: int) -> dict[tuple[str, str], str]:
        """Update from one mirror of each archive; return {(base URL, suite): reason} of what failed."""
        sources = self.path / "etc" / "sources.list"
        trial = sources.with_suffix(".trial")
        trial.write_text(
            "".join(
                f"{kind} [signed-by={self._keyring(suite)}] {_copied(bases[suite.archive])} {suite.name} "
                f"{' '.join(suite.components)}\n"
                for suite in self.suites
                # What others serve are compiled packages; their sources may lack an index.
                for kind in (("deb",) if suite.keyring else ("deb", "deb-src"))
            ),
            encoding="utf-8",
        )
        option = f"Dir::Etc::sourcelist={trial}"
        done = self._apt(lock, "apt-get", "update", "-q", "--error-on=any", "-o", option, check=False)
        if done.status != 0:
            if "No space left" in done.stdout + done.stderr:
                raise HostError(f"the disk is full: {self.path}", hint="make room and try again")
            asked = {(bases[suite.archive], suite.name) for suite in self.suites}
            failures = {key: why for key, why in _failures(done.stdout + "\n" + done.stderr).items() if key in asked}
            if not failures:
                raise InputError("apt-get update failed", hint="see apt's words below", detail=_tail(done))
            return failures
        failures = self._of_another_suite(option, lock)
        if failures:
            # The lists that were there before may be overwritten: nothing is to be asked of them.
            sources.unlink(missing_ok=True)
        else:
            trial.replace(sources)
        return failures

    def _of_another_suite(self, option: str, lock: int) -> dict[tuple[str, str], str]:
        """Indexes whose signed Release file names neither as suite nor as codename what was asked for.

        To apt itself this is a warning; yet it is how an old, vulnerable release would be passed off.
        """
        fields = "$(REPO_URI)\t$(RELEASE)\t$(CODENAME)\t$(SUITE)"
        listed = self._apt(lock, "apt-get", "indextargets", "-o", option, "--format", fields).stdout
        found: dict[tuple[str, str], str] = {}
        for line in listed.splitlines():
            uri, asked, codename, suite = line.split("\t")
            if asked not in (codename, suite):
                found[_normal(uri), asked] = f"signed, but of another release: {codename} ({suite})"
        return found

    def _unusable(self, suite: Suite, refused: Mapping[tuple[str, str], str]) -> PgbakeError:
        reasons = "\n".join(f"{base} {name}: {reason}" for (base, name), reason in refused.items())
        if _SIGNATURE_TROUBLE.search(reasons):
            hint = f"is the keyring current? {self.keyring} is of the package debian-archive-keyring"
            if suite.keyring:
                hint = f"is {suite.keyring} the key that signs this repository? its owner tells where to get it"
        elif "404" in reasons or "No such file" in reasons:
            hint = f"is there such a suite as {suite.name}?"
        else:
            hint = 'check the network, or name other mirrors in the manifest: [platform] mirrors = ["URL"]'
        return InputError(f"no mirror gave a usable index of {suite.name}", hint=hint, detail=reasons)

    def _query(self, program: str, *args: str, check: bool = True) -> Completed:
        """Ask apt, after a first update where there was none."""
        self._require_index()
        with self._locked(fcntl.LOCK_SH) as lock:
            return self._apt(lock, program, *args, check=check)

    def _require_index(self) -> None:
        if not (self.path / "etc" / "sources.list").exists():
            self.update()

    def _apt(self, lock: int, program: str, *args: str, check: bool = True) -> Completed:
        env = {**_environment(), "APT_CONFIG": str(self.path / "apt.conf")}
        return run([program, *args], sandbox="host", env=env, check=check, lock=lock)


def _bare(want: str) -> str:
    """The name in ``NAME=VERSION``."""
    return want.partition("=")[0]


def _environment() -> dict[str, str]:
    # The language of apt's messages, which are parsed here.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _copied(base: str) -> str:
    """A base URL for apt, which would only link to the indexes of a ``file:`` mirror.

    What was verified could then be changed behind our back.
    """
    return "copy:" + base.removeprefix("file:") if base.startswith("file:") else base


def _normal(uri: str) -> str:
    """A URI of apt's as the mirrors have it: no trailing slash, ``copy:/x`` as ``file:///x``."""
    return re.sub(r"^copy:/+", "file:///", uri.rstrip("/"))


def _failures(output: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for pattern in _FAILURES:
        for base, suite, reason in pattern.findall(output):
            found.setdefault((_normal(base), suite), reason.strip())
    return found


def _with_version(pin: Pin, version: str) -> Pin:
    return Pin(version, pin.path, pin.size, pin.sha256, pin.archive)


def _tail(done: Completed, lines: int = 20) -> str:
    output: Sequence[str] = (done.stdout + done.stderr).strip().splitlines()
    return "\n".join(output[-lines:])
