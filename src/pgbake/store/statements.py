"""Statements about paths of the local store, kept so that they travel along when the paths are pushed.

    ROOT/nix/var/pgbake/statements/DIGEST/KIND.json     see `pgbake.formats.statement`

What is kept is not believed for that: whoever relies on a statement verifies it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pgbake.errors import FormatError, ManifestError, host_error
from pgbake.files import read_hint, read_small_file, write_whole
from pgbake.formats.statement import KINDS, MAX_STATEMENT, SignedStatement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.locks import directory_lock


def keep_statement(store: LocalStore, signed: SignedStatement) -> SignedStatement:
    """Keep a statement, beside what is kept; see :meth:`SignedStatement.beside`.

    :return: what is kept.
    :raises StoreError: the store cannot be written.
    """
    store.require_writable()
    said = signed.statement
    directory = store.statements_dir / said.path.digest
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with directory_lock(directory):
            before = _read(directory / f"{said.kind}.json")
            signed = signed.beside(before)
            if signed != before:
                write_whole(directory / f"{said.kind}.json", signed.to_json())
    except OSError as error:
        raise host_error(error, f"cannot write to {directory}") from error
    return signed


def keep_file(store: LocalStore, file: Path, paths: Iterable[StorePath], *, dry_run: bool = False) -> None:
    """Keep the statement of a file, which must be signed, and about the contents of one of some valid paths.

    :param dry_run: only check it.
    :raises ManifestError: it cannot be read, or is none such.
    :raises StoreError: the store cannot be written.
    """
    try:
        signed = SignedStatement.parse(read_small_file(file, MAX_STATEMENT))
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    except FormatError as error:
        raise ManifestError(f"{file}: {error}", hint="name an in-toto statement in a DSSE envelope") from None
    said = signed.statement
    if not signed.signatures:
        raise ManifestError(f"{file}: nobody has signed this statement", hint="nobody would believe it: sign it first")
    if said.path not in paths:
        raise ManifestError(f"{file} is about {said.path}, which is not pushed", hint="push that path with it")
    if said.nar_sha256 != store.info(said.path).nar_sha256:
        raise ManifestError(
            f"{file} is about other contents of {said.path}", hint="it was stated of another build of the same path"
        )
    if not dry_run:
        keep_statement(store, signed)


def kept_statements(store: LocalStore, path: StorePath) -> dict[str, SignedStatement]:
    """Return the statements that are kept about a path, by their kinds. A damaged one is passed over."""
    directory = store.statements_dir / path.digest
    found = {kind: _read(directory / f"{kind}.json") for kind in KINDS}
    return {kind: signed for kind, signed in found.items() if signed is not None and signed.statement.path == path}


def drop_statements(store: LocalStore, gone: Iterable[StorePath]) -> None:
    """Remove the statements about paths that were removed from the store."""
    for path in gone:
        shutil.rmtree(store.statements_dir / path.digest, ignore_errors=True)


def _read(file: Path) -> SignedStatement | None:
    try:
        return SignedStatement.parse(read_small_file(file, MAX_STATEMENT))
    except (OSError, FormatError):
        return None
