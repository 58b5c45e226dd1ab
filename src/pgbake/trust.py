"""Which caches are asked, and whom the user trusts: said in one place, the manifest or the machine's configuration.

::

    [[cache]]
    url = "https://cache.example.org"            # also file:///DIR, s3://BUCKET?region=REGION
    priority = 10                                # lower is asked first [default: what the cache says of itself]
    push = true                                  # where `pgbake push` brings things by itself

    [trust]
    keys = ["cache.example.org-1:BASE64"]        # as `pgbake keygen` prints it
    require-signatures = true                    # [default]
    statements = ["check"]                       # what must be stated, and signed, of a bundle [default]

These tables stand in the manifest, in ``/etc/pgbake/config.toml`` and in ``~/.config/pgbake/config.toml``. Their lists
are joined in this order, and of a cache that is named twice the first table counts; signatures are required unless one
of them says otherwise. Where none of them names statements, a bundle must have passed its checks, if signatures are
required at all; ``statements = []`` says in writing that it need not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pgbake.errors import CacheError, FormatError
from pgbake.formats.keys import PublicKey, Signature, TrustedKeys
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.statement import KINDS
from pgbake.formats.storepath import StorePath
from pgbake.toml import load_toml, wrong_value

#: The kinds of statements that a bundle must bear where nobody says otherwise.
DEMANDED = ("check",)
SCHEMES = ("file", "http", "https", "s3", "gs", "az")


class CacheSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One binary cache: a table ``[[cache]]``."""

    url: str
    priority: int | None = None
    push: bool = False


class TrustSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The table ``[trust]``."""

    keys: tuple[str, ...] = ()
    require_signatures: bool = True
    #: None: nothing is said.
    statements: tuple[str, ...] | None = None


class _Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine's configuration file."""

    cache: tuple[CacheSetting, ...] = ()
    trust: TrustSetting = TrustSetting()


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the user believes.

    :param keys: whose signatures count.
    :param require_signatures: whether a path that nobody trusted has signed is refused.
    :param statements: the kinds of statements that a bundle must bear.
    """

    keys: TrustedKeys = field(default_factory=TrustedKeys)
    require_signatures: bool = True
    statements: tuple[str, ...] = ()

    @property
    def demands_checks(self) -> bool:
        """Whether a bundle must have passed its checks."""
        return "check" in self.statements

    def unchecked(self) -> Trust:
        """Return the same, for a user who takes bundles that have passed no checks."""
        return replace(self, statements=tuple(kind for kind in self.statements if kind != "check"))

    def check(self, info: NarInfo, where: str) -> None:
        """Make sure that a path of a cache is to be believed, once its contents have the hash that is told.

        As in Nix, that is one which bears a signature of a trusted key, or whose path follows from its contents.

        :param where: the cache, for the message.
        :raises CacheError: it is not; the signatures that it bears and the keys that are trusted are named.
        """
        if not self.require_signatures or info.certifies_itself or self.keys.signers(info.fingerprint, info.signatures):
            return
        raise untrusted(info.path, where, info.signatures, self.keys)


def untrusted(path: StorePath, where: str, signatures: Iterable[Signature], keys: TrustedKeys) -> CacheError:
    """Return the error for a path that no trusted key has signed."""
    bears = sorted({signature.name for signature in signatures})
    trusted = sorted({key.name for key in keys.keys})
    forged = sorted(set(bears) & set(trusted))
    if forged:
        problem = f"its signature of {', '.join(forged)} does not fit the trusted key of that name"
        hint = (
            "compare that key with its owner's; where it is right, the cache is damaged, or lies: "
            f"`pgbake cache verify --repair {where}`"
        )
    elif bears:
        problem = f"it is signed by {', '.join(bears)}"
        hint = f'if you trust {bears[0]}, add its public key to the manifest, below [trust]: keys = ["{bears[0]}:..."]'
    else:
        problem = "it bears no signature"
        hint = f"its owner can sign it: pgbake cache sign --key FILE {where}; or take it as it is with --no-check-sigs"
    known = f"trusted: {', '.join(trusted)}" if trusted else "no key is trusted"
    return CacheError(f"{path} from {where} is refused: {problem}; {known}", hint=hint)


@dataclass(frozen=True, slots=True)
class Settings:
    """The caches to ask, in the order in which they are written, and whom to trust."""

    caches: tuple[CacheSetting, ...] = ()
    trust: Trust = field(default_factory=Trust)


def configuration_files() -> tuple[Path, ...]:
    """Return where the machine's and the user's configuration lie, whether they are there or not."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path("/etc/pgbake/config.toml"), user / "pgbake/config.toml"


def load_settings(caches: Iterable[CacheSetting] = (), trust: TrustSetting | None = None) -> Settings:
    """Join what the manifest says, which is checked already, with the machine's configuration.

    :param caches: the manifest's tables ``[[cache]]``; ``trust``: its table ``[trust]``.
    :raises ManifestError: a configuration file is wrong; file and line are named.
    """
    parts = [_Configuration(tuple(caches), trust or TrustSetting())]
    for file in filter(_is_there, configuration_files()):
        part = load_toml(file, _Configuration)
        check_settings(file, part.cache, part.trust)
        parts.append(part)
    urls: dict[str, CacheSetting] = {}
    for setting in (setting for part in parts for setting in part.cache):
        urls.setdefault(setting.url, setting)
    keys = dict.fromkeys(PublicKey.parse(text) for part in parts for text in part.trust.keys)
    signed = all(part.trust.require_signatures for part in parts)
    said = [part.trust.statements for part in parts if part.trust.statements is not None]
    if not said and signed:
        said = [DEMANDED]
    statements = dict.fromkeys(kind for kinds in said for kind in kinds)
    return Settings(tuple(urls.values()), Trust(TrustedKeys(tuple(keys)), signed, tuple(statements)))


def check_settings(file: Path, caches: Iterable[CacheSetting], trust: TrustSetting) -> None:
    """Check what one file says of caches and trust.

    :raises ManifestError: a URL or a key is none, or stands there twice; file and line are named.
    """
    urls: set[str] = set()
    for setting in caches:
        problem, hint = _url_problem(setting.url)
        if setting.url in urls:
            problem, hint = "this cache is listed twice", "name it once"
        if problem:
            raise wrong_value(file, "url", problem, hint, setting.url)
        if setting.priority is not None and setting.priority < 0:
            raise wrong_value(file, "priority", f"{setting.priority} is less than 0", "0 is asked first")
        urls.add(setting.url)
    keys: dict[str, PublicKey] = {}
    for text in trust.keys:
        try:
            key = PublicKey.parse(text)
        except FormatError as error:
            hint = error.hint or "copy the line that `pgbake keygen` printed, whole"
            raise wrong_value(file, "keys", error.message, hint, text) from None
        if keys.setdefault(key.name, key) != key:
            # Nix would heed one of them only.
            hint = f"keep one, or give the newer a name of its own, such as {_successor(key.name)}"
            raise wrong_value(file, "keys", f'two different keys bear the name "{key.name}"', hint, text)
        if trust.keys.count(text) > 1:
            raise wrong_value(file, "keys", f'the key "{key.name}" is listed twice', "name it once", text)
    for kind in trust.statements or ():
        if kind not in KINDS:
            hint = f"known: {', '.join(KINDS)}"
            raise wrong_value(file, "statements", f'"{kind}" is no kind of statement', hint, kind)


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a directory that is closed to this user
        return False


def _url_problem(url: str) -> tuple[str, str]:
    """Return what is wrong with the URL of a cache, and what to write; twice nothing where it is one."""
    hint = "write file:///DIR, http(s)://HOST/DIR, s3://BUCKET?region=REGION, or local?root=DIR"
    try:
        parts = urlsplit(url)
        _ = parts.port  # is looked at only now
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None or parts.password is not None:
        return "a URL must not hold a user or a password", "put them into ~/.netrc (http) or ~/.aws/credentials (s3)"
    if not parts.scheme and parts.path == "local":  # another local store, in Nix's notation
        return "", ""
    place = parts.path if parts.scheme == "file" else parts.netloc
    if parts.scheme not in SCHEMES or not place or not url.isprintable() or " " in url:
        return f'"{url}" is no URL of a cache', hint
    return "", ""


def _successor(name: str) -> str:
    head, _, number = name.rpartition("-")
    return f"{head}-{int(number) + 1}" if head and number.isdecimal() else f"{name}-2"
