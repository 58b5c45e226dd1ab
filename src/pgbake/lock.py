"""The lock ``pgbake.lock``: every outside input of a manifest, pinned by sha256 and size.

JSON with one line for each pin, in a stable order, so that its diff reads as a list of what moved::

    {
      "version": 2,
      "platform": {"suite": "bookworm", "security": true, "updates": true},
      "unpacking": "..",                    stands for the rules by which packages are unpacked
      "sources": {                          upstream tarballs, by recipe
        "pgaudit": {"version": "1.7.0", "path": "pool/main/p/...", "size": .., "sha256": "..",
                    "wanted": "debian pgaudit-1.7 bookworm"},
      },
      "systems": {
        "x86_64-linux": {
          "build": {                        Debian packages of the build roots
            "bash": {"version": "5.2.15-2+b2", "path": .., "size": .., "sha256": ".."},
          },
          "roots": {                        which of them make which build root
            "core": {"tree": "..", "wants": [..], "packages": [..]},
          },
          "runtime": {                      Debian packages that a bundle may take in
            "libc6": {"version": "2.36-9+deb12u10", .., "tree": ".."},
          },
          "runtime-wants": [..],
          "debs": {                         extensions that are Debian packages
            "postgresql-15-hll": {"version": "2.17-1", .., "tree": "..", "licence": "Apache-2.0"},
          },
          "deb-wants": [..]
        }
      }
    }

``tree`` is the sha256 of the NAR that unpacking gives, in hexadecimal: with it every store path follows
from the lock alone, before anything is fetched. ``wants`` are the names that were asked for; the rest
followed by Depends. ``build`` and ``runtime`` are resolved and moved apart.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pgbake.errors import LockError, host_error
from pgbake.files import read_hint, read_small_file, write_whole
from pgbake.inputs.pins import Pin

LOCK_NAME = "pgbake.lock"
LOCK_VERSION = 2
#: Bytes; each system and each of its some hundred packages takes about 200.
_LARGEST = 50_000_000


class CratePin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A crate as Cargo.lock pins it: name, version, sha256 in hexadecimal, and its size in bytes."""

    name: str
    version: str
    sha256: str
    size: int

    @property
    def pin(self) -> Pin:
        """The crate as a file of the registry."""
        path = f"{self.name}/{self.name}-{self.version}.crate"
        return Pin(version=self.version, path=path, size=self.size, sha256=self.sha256, archive="crates")


def pgrx_version(crates: Iterable[CratePin]) -> str | None:
    """Return the version of pgrx among the crates of an extension; cargo-pgrx must be of just that version."""
    return next((crate.version for crate in crates if crate.name == "pgrx"), None)


class SourcePin(Pin, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An upstream tarball.

    :param wanted: what it was pinned for, as :class:`pgbake.requirements.SourceWant` writes it.
    :param tree: of a directory of the user's: the NAR sha256 (hexadecimal) of its tree, which is what ``sha256`` says.
    :param crates: of a Rust program: the crates that its Cargo.lock names.
    """

    wanted: str
    tree: str | None = None
    crates: tuple[CratePin, ...] = ()


class RuntimePin(Pin, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A runtime package, with the NAR sha256 (hexadecimal) of what its import keeps."""

    tree: str


class DebPin(RuntimePin, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A Debian package that holds extensions.

    :param licence: SPDX names of the licences that its copyright file tells, joined by ``AND``.
    :param depends: other such packages that it needs.
    """

    licence: str
    depends: tuple[str, ...] = ()


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A build root: NAR sha256 (hexadecimal) of its tree, what was asked for, all that it holds."""

    tree: str
    wants: tuple[str, ...]
    packages: tuple[str, ...]


class SystemLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """The pins of one system."""

    build: dict[str, Pin]
    roots: dict[str, Root]
    runtime: dict[str, RuntimePin]
    runtime_wants: tuple[str, ...]
    debs: dict[str, DebPin] = {}
    deb_wants: tuple[str, ...] = ()


class RepositoryLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository beside Debian's that pins were resolved in; ``key`` is the sha256 of its keys' file."""

    name: str
    suite: str
    components: tuple[str, ...]
    key: str


class PlatformLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The Debian release that the pins were resolved in."""

    suite: str
    security: bool
    updates: bool
    repositories: tuple[RepositoryLock, ...] = ()


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parsed lock."""

    version: int
    platform: PlatformLock
    #: Stands for the rules by which packages are unpacked; the trees below hold for these.
    unpacking: str
    sources: dict[str, SourcePin]
    systems: dict[str, SystemLock]


def load_lock(file: Path) -> Lock:
    """Read a lock.

    :raises LockError: it is missing, unreadable, or of another version.
    """
    try:
        raw = read_small_file(file, _LARGEST)
    except FileNotFoundError:
        raise LockError(f"there is no {file}", hint="make it with `pgbake lock`") from None
    except OSError as error:
        raise LockError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    try:
        lock = _DECODER.decode(raw)
        version = lock.version
    except (msgspec.MsgspecError, RecursionError) as error:
        version = _version(raw)
        if version == LOCK_VERSION:
            raise LockError(
                f"{file} is damaged: {error}", hint="take it from version control, or delete it and run `pgbake lock`"
            ) from None
    if version != LOCK_VERSION:
        raise LockError(
            f"{file} has version {version}; this pgbake writes version {LOCK_VERSION}",
            hint="use the pgbake that made it, or delete it and run `pgbake lock`",
        )
    return lock


def save_lock(lock: Lock, file: Path) -> None:
    """Write a lock, atomically and to disk.

    :raises LockError: it cannot be written.
    :raises HostError: the disk is full.
    """
    try:
        write_whole(file, render_lock(lock).encode())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise host_error(error, f"cannot write {file}") from error
        raise LockError(f"cannot write {file}: {error.strerror}") from error


def render_lock(lock: Lock) -> str:
    """Return the lock's text: sorted, one line for each pin and for each name in a list."""
    return render_pins(msgspec.to_builtins(lock))


def render_pins(value: object) -> str:
    """Return the text of a lock's builtins: sorted, one line for each pin and for each name in a list."""
    return _render(value, 0) + "\n"


class _Version(msgspec.Struct):
    version: int


def _version(raw: bytes) -> int:
    """Return the version that a lock of any form names; this one's where it names none."""
    try:
        return msgspec.json.decode(raw, type=_Version).version
    except (msgspec.MsgspecError, RecursionError):
        return LOCK_VERSION


_DECODER = msgspec.json.Decoder(Lock)


def _render(value: object, depth: int) -> str:
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and any(isinstance(item, dict | list | tuple) for item in value.values()):
        order = value if depth in (0, 2, 4) else sorted(value)  # structs keep their fields' order
        items = [f"{inner}{_line(key)}: {_render(value[key], depth + 1)}" for key in order]
        return "{\n" + ",\n".join(items) + f"\n{outer}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f"{inner}{_line(item)}" for item in value) + f"\n{outer}]"
    return _line(value)


def _line(value: object) -> str:
    # msgspec writes no white space, and format() indents every level: a pin is to be one readable line.
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_line(key)}: {_line(item)}" for key, item in value.items()) + "}"
    return msgspec.json.encode(value).decode()
