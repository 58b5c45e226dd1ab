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

    [[cache]]                           # and [trust]: see `pgbake.trust`
    url = "s3://bucket?region=eu-central-1"

    [settings]                          # PostgreSQL's, for servers started from the bundle
    work_mem = "16MB"
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from pgbake.formats.system import SYSTEMS
from pgbake.toml import load_toml, wrong_value
from pgbake.trust import CacheSetting, TrustSetting, check_settings

MANIFEST_NAME = "pgbake.toml"
LANGUAGES = ("plperl", "plpython3u", "pltcl")

_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}")
_LOCALE = re.compile(r"[A-Za-z]+(_[A-Z]{2})?\.[A-Za-z0-9-]+(@[a-z]+)?")


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The Debian release that a bundle is built on, and where its packages come from."""

    suite: str = "bookworm"
    systems: tuple[str, ...] = ("x86_64-linux",)
    security: bool = True
    updates: bool = True
    mirrors: tuple[str, ...] = ()
    security_mirrors: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parsed manifest."""

    name: str
    postgresql: int
    extensions: tuple[str, ...] = ()
    languages: tuple[str, ...] = LANGUAGES
    locales: tuple[str, ...] = ("C.UTF-8", "en_US.UTF-8")
    platform: Platform = Platform()
    settings: dict[str, str | int | float | bool] = {}
    cache: tuple[CacheSetting, ...] = ()
    trust: TrustSetting = TrustSetting()


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
    check_settings(file, manifest.cache, manifest.trust)
    return manifest
