"""The manifest ``pgbake.toml``: what a user wants, in one small file.

::

    name = "example"                    # of the bundle
    postgresql = 15                     # major version
    extensions = ["pgvector", "pgaudit"]
    languages = ["plperl", "plpython3u", "pltcl"]
    locales = ["C.UTF-8", "en_US.UTF-8"]

    [platform]                          # the Debian release beneath
    suite = "bookworm"
    systems = ["x86_64-linux", "aarch64-linux"]
    security = true                     # take the security suite into account
    updates = true                      # and the updates suite
    mirrors = []                        # base URLs; empty: those of the host's apt
    security-mirrors = []
    crates = []                         # base URLs of crates; empty: the registry of the host's cargo

    [[cache]]                           # and [trust]: see `pgbake.trust`
    url = "s3://bucket?region=eu-central-1"

    [[builders.machine]]                # on which Nix builds: see `pgbake.builders`
    url = "ssh://root@build1.example.org"

    [[platform.repository]]             # apt repositories beside Debian's
    name = "community"
    url = "https://apt.example.org/postgresql"
    suite = "bookworm-pgdg"
    components = ["main"]
    key = "community.asc"               # who signs it; a file beside the manifest

    [extension.hll]                     # of an extension that is listed above: what is not left to pgbake
    origin = "deb"                      # or "source"; else source where it can be had
    version = "2.18"                    # or its beginning
    older = ["2.16"]                    # versions that stay loadable beside it

    [licences]                          # of extensions; globs of SPDX names
    forbid = ["AGPL-*"]

    [settings]                          # PostgreSQL's, for servers started from the bundle, and in images
    work_mem = "16MB"

    [image]                             # of machines, see `pgbake image`
    packages = ["htop"]                 # Debian's, beyond what such an image has
    size = "8GB"                        # of its disk, which grows with the machine's
    migrations = "db/migrations"        # SQL in dbmate's form, for the first boot [default: migrations]
    tests = "tests/machine"             # of its machines, for `pgbake image test` [default: tests/image]
    profile = "aws"                     # where it is to run, see `pgbake config`

    [services.pgbouncer]                # beside PostgreSQL in images; what is not said here holds as its page tells
    port = 6543

``max_closure = "260MB"`` at the top sets a budget: `pgbake build` fails where the bundle's closure is larger.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from pgbake.builders import BuildersSetting, check_builders
from pgbake.formats.system import SYSTEMS
from pgbake.quantities import SIZE_FORM, parse_size
from pgbake.toml import load_toml, wrong_value
from pgbake.trust import CacheSetting, TrustSetting, check_settings

MANIFEST_NAME = "pgbake.toml"
LANGUAGES = ("plperl", "plpython3u", "pltcl")

_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}")
_REPOSITORY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LEAST_MAJOR, _GREATEST_MAJOR = 13, 18
_LOCALE = re.compile(r"[A-Za-z]+(_[A-Z]{2})?\.[A-Za-z0-9-]+(@[a-z]+)?")


Origin = Literal["source", "deb"]


class Repository(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed apt repository beside Debian's, for extensions and what they need.

    :param name: a word for it, which the lock uses.
    :param url: below which its ``dists`` lies: http, https or file.
    :param key: file with the public keys that may sign it, relative to the manifest: ``.asc`` (armored) or ``.gpg``.
    """

    name: str
    url: str
    suite: str
    key: str
    components: tuple[str, ...] = ("main",)


class ExtensionSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of one of its extensions.

    :param origin: None means source where it can be had, else a Debian package.
    :param version: the version that is wanted, or its beginning; None means the newest.
    :param older: further versions whose libraries and scripts stay in the bundle.
    """

    origin: Origin | None = None
    version: str | None = None
    older: tuple[str, ...] = ()


class Licences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which licences extensions must not have: globs of SPDX names, such as ``AGPL-*``."""

    forbid: tuple[str, ...] = ()


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The Debian release that a bundle is built on, and where its packages come from."""

    suite: str = "bookworm"
    systems: tuple[str, ...] = ("x86_64-linux",)
    security: bool = True
    updates: bool = True
    mirrors: tuple[str, ...] = ()
    security_mirrors: tuple[str, ...] = ()
    crates: tuple[str, ...] = ()
    repository: tuple[Repository, ...] = ()


class ImageSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of images of machines.

    :param packages: of Debian's, beyond those that every image has.
    :param size: of the disk, as people write it.
    :param migrations: directory with SQL, relative to the manifest; None: ``migrations``, where that is there.
    :param profile: an overlay of the machine definition.
    :param tests: directory with tests, likewise; None: ``tests/image``.
    """

    packages: tuple[str, ...] = ()
    profile: str | None = None
    size: str = "4GB"
    migrations: str | None = None
    tests: str | None = None

    @property
    def bytes(self) -> int:
        """The size of the disk in bytes."""
        return parse_size(self.size) or 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parsed manifest."""

    name: str
    postgresql: int
    extensions: tuple[str, ...] = ()
    languages: tuple[str, ...] = LANGUAGES
    locales: tuple[str, ...] = ("C.UTF-8", "en_US.UTF-8")
    platform: Platform = Platform()
    extension: dict[str, ExtensionSetting] = {}
    licences: Licences = Licences()
    max_closure: str | None = None
    settings: dict[str, str | int | float | bool] = {}
    image: ImageSetting = ImageSetting()
    services: dict[str, dict[str, Any]] = {}
    cache: tuple[CacheSetting, ...] = ()
    trust: TrustSetting = TrustSetting()
    builders: BuildersSetting = BuildersSetting()

    @property
    def server_settings(self) -> dict[str, str]:
        """The settings as PostgreSQL's configuration has them."""
        return {
            key: ("on" if value else "off") if isinstance(value, bool) else str(value)
            for key, value in self.settings.items()
        }

    @property
    def closure_budget(self) -> int | None:
        """Bytes that the closure of the bundle may have; None: any."""
        return parse_size(self.max_closure) if self.max_closure is not None else None


def load_manifest(file: Path) -> Manifest:
    """Read and check a manifest.

    :raises ManifestError: it is missing, unreadable or wrong; file, line and key are named.
    """
    manifest = load_toml(file, Manifest)

    def check(key: str, value: str, known: Collection[str]) -> None:
        if value not in known:
            raise wrong_value(file, key, f'"{value}" is not known', f"known: {', '.join(known)}")

    if not _BUNDLE_NAME.fullmatch(manifest.name):
        raise wrong_value(file, "name", f'"{manifest.name}" is no bundle name', "use lower-case letters, digits and -")
    for language in manifest.languages:
        check("languages", language, LANGUAGES)
    for system in manifest.platform.systems:
        check("systems", system, SYSTEMS)
    for locale in manifest.locales:
        if not _LOCALE.fullmatch(locale):
            raise wrong_value(file, "locales", f'"{locale}" is no locale name', 'write it as in "en_US.UTF-8"')
    for key in ("extensions", "languages", "locales"):
        values = getattr(manifest, key)
        for value in values:
            if values.count(value) > 1:
                raise wrong_value(file, key, f'"{value}" is listed twice', "name it once")
    if not manifest.platform.systems:
        raise wrong_value(file, "systems", "there must be one at least", f"known: {', '.join(SYSTEMS)}")
    for name in manifest.extension:
        if name not in manifest.extensions:
            raise wrong_value(
                file, name, f'[extension.{name}] speaks of an extension that is not listed',
                f'add "{name}" to extensions',
            )  # fmt: skip
    if not _LEAST_MAJOR <= manifest.postgresql <= _GREATEST_MAJOR:
        raise wrong_value(
            file, "postgresql", f"{manifest.postgresql} is no major version of PostgreSQL", "use 15, 17 or 18"
        )
    if manifest.max_closure is not None and not manifest.closure_budget:
        raise wrong_value(file, "max_closure", f'"{manifest.max_closure}" is no size', SIZE_FORM)
    if not parse_size(manifest.image.size):
        raise wrong_value(file, "size", f'"{manifest.image.size}" is no size', SIZE_FORM, manifest.image.size)
    for url in manifest.platform.crates:
        if not re.fullmatch(r"(https?|file)://\S+", url):
            raise wrong_value(file, "crates", f'"{url}" is not a URL', "write it as https://HOST/crates", url)
    _check_repositories(file, manifest.platform.repository)
    check_settings(file, manifest.cache, manifest.trust)
    check_builders(file, manifest.builders)
    return manifest


def _check_repositories(file: Path, repositories: tuple[Repository, ...]) -> None:
    names = [repository.name for repository in repositories]
    for repository in repositories:
        if not _REPOSITORY_NAME.fullmatch(repository.name) or repository.name in ("debian", "security", "crates"):
            raise wrong_value(
                file, "name", f'"{repository.name}" cannot be the name of a repository',
                "use lower-case letters, digits and -; debian, security and crates are taken", repository.name,
            )  # fmt: skip
        if names.count(repository.name) > 1:
            raise wrong_value(file, "name", f'two repositories are called "{repository.name}"', value=repository.name)
        if not re.fullmatch(r"(https?|file)://\S+", repository.url):
            raise wrong_value(
                file, "url", f'"{repository.url}" is not the URL of a repository',
                "write it as https://HOST/DIRECTORY, without dists", repository.url,
            )  # fmt: skip
        if repository.suite.endswith("/") or not repository.components:
            raise wrong_value(
                file, "suite", "a repository without suites and components is not supported",
                'name them as in suite = "bookworm-pgdg", components = ["main"]', repository.suite,
            )  # fmt: skip
