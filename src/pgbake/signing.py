"""Secret keys: where they are kept, and signing paths of the store with them.

A key file holds one line, ``NAME:BASE64``, as Nix's does (see :mod:`pgbake.formats.keys`), mode 0600. Where files are
unhandy, as in CI, the variable ``PGBAKE_SECRET_KEY`` holds the same; several keys are separated by white space.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pgbake.errors import FormatError, HostError, ManifestError, host_error
from pgbake.events import Notice, Sink
from pgbake.files import flush_directory, read_hint, read_small_file
from pgbake.formats.keys import SecretKey, Signature
from pgbake.formats.narinfo import fingerprint
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore

VARIABLE = "PGBAKE_SECRET_KEY"

_LARGEST = 1_000_000


def write_secret_key(file: Path, key: SecretKey) -> None:
    """Write a new key file, which only its owner can read.

    :raises HostError: it is there already, or cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(key.export() + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, file)  # unlike a rename, it replaces nothing
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        flush_directory(file.parent)
    except FileExistsError:
        raise HostError(
            f"{file} is there already, and a key is never overwritten",
            hint=f"name another file with --out; `pgbake keygen --public {file}` shows the public key of this one",
        ) from None
    except OSError as error:
        raise host_error(error, f"cannot write {file}") from error


def read_secret_key(file: Path, report: Sink) -> SecretKey:
    """Read a key file. One that others may read is told of.

    :raises ManifestError: it cannot be read, or is none; nothing of it is shown.
    """
    try:
        text = read_small_file(file, _LARGEST).decode()
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise ManifestError(f"there is no {file}", hint=f"make a key with: pgbake keygen NAME --out {file}") from None
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    except UnicodeDecodeError:
        raise ManifestError(f"{file} is no secret key", hint="name what `pgbake keygen` has written") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        report(Notice("warning", f"others can read the secret key {file}: chmod 600 {file}"))
    return _parse(text, str(file))


def secret_keys(files: Iterable[Path], report: Sink, environment: Mapping[str, str] = os.environ) -> list[SecretKey]:
    """Return the keys that a command signs with: those of files, else those of ``PGBAKE_SECRET_KEY``, each once.

    :raises ManifestError: one cannot be read, is none, or two different ones bear one name.
    """
    keys = [read_secret_key(file, report) for file in files]
    if not keys:
        keys = [_parse(text, f"the variable {VARIABLE}") for text in environment.get(VARIABLE, "").split()]
    found: dict[str, SecretKey] = {}
    for key in keys:
        if found.setdefault(key.name, key) != key:
            raise ManifestError(
                f'two different secret keys bear the name "{key.name}"', hint="sign with one of them only"
            )
    return list(found.values())


def sign_paths(store: LocalStore, infos: Iterable[PathInfo], keys: Sequence[SecretKey]) -> dict[StorePath, int]:
    """Add the signatures of keys to valid paths of the store; return how many each path has gained.

    :raises StoreError: the store cannot be written.
    """
    new: dict[StorePath, list[str]] = {}
    for info in infos:
        made = map(str, signatures_of(info, keys))
        new[info.path] = [signature for signature in made if signature not in info.signatures]
    store.require_writable()
    store.database.add_signatures({path: added for path, added in new.items() if added})
    return {path: len(added) for path, added in new.items()}


def signatures_of(info: PathInfo, keys: Iterable[SecretKey]) -> list[Signature]:
    """Return the signatures that keys make of a path."""
    message = fingerprint(info.path, info.nar_sha256, info.nar_size, info.references)
    return [key.sign(message) for key in keys]


def _parse(text: str, where: str) -> SecretKey:
    try:
        return SecretKey.parse(text)
    except FormatError as error:
        hint = "give what `pgbake keygen` has written, whole"
        raise ManifestError(f"{where}: {error.message}", hint=hint) from None
