"""A new database in place of a damaged one: what the old one still tells, as far as the contents on disk prove it.

A path is registered anew when its NAR hash stands anywhere in the old file, or when its name follows from its contents,
and all that it refers to is registered, too. What is lost with the old file is at most who made a path and who signed
it. The damaged file stays beside the new one::

    nix/var/nix/db/damaged/TIME/db.sqlite{,-wal}         TIME: Unix seconds
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pgbake.errors import FormatError, StoreError, host_error
from pgbake.events import Progressed, Sink, silent, task
from pgbake.files import flush_directory
from pgbake.formats import base32
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import STORE_DIR, StorePath, fixed_output_path, source_path, text_path
from pgbake.store.database import Database, PathInfo
from pgbake.store.hashing import Hashed, hash_trees
from pgbake.store.locks import acquire, holder, open_lock

#: SQLite writes the columns of a row one after the other: a path, and its hash.
_CARVED = re.compile(
    re.escape(f"{STORE_DIR}/".encode()) + rb"([0-9a-z]{32}-[A-Za-z0-9+._?=-]{1,211})sha256:([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What became of a damaged database.

    :param kept: the paths that are registered in the new one.
    :param lost: names in the store that nothing proves; the next build removes them.
    :param aside: the directory to which the damaged file was moved.
    """

    kept: tuple[StorePath, ...]
    lost: tuple[str, ...]
    aside: Path


@dataclass(slots=True)
class _Told:
    """What the old database tells of a path: NAR hashes, one of which may hold, and its row where that is readable."""

    hashes: set[bytes] = field(default_factory=set)
    number: int | None = None
    deriver: StorePath | None = None
    ultimate: bool = False
    signatures: tuple[str, ...] = ()
    ca: str | None = None


def salvage(root: Path, report: Sink = silent) -> Salvaged:
    """Replace the database of the store below ``root``, which nobody has open.

    :raises StoreError: somebody has it open, or it cannot be written.
    :raises HostError: the disk is full.
    """
    store_dir, db_dir = root / "nix/store", root / "nix/var/nix/db"
    try:
        with _alone(db_dir):
            aside = db_dir / "damaged" / str(int(time.time()))
            aside.mkdir(parents=True, exist_ok=True)
            for name in ("db.sqlite", "db.sqlite-wal"):
                if (db_dir / name).exists():
                    shutil.copyfile(db_dir / name, aside / name)
            told = _read(aside)
            names = [name for name in sorted(os.listdir(store_dir)) if _path(name)]  # noqa: PTH208
            infos = _proven(store_dir, names, told, report)
            _replace(db_dir, infos, {path: _outputs(store_dir, path) for path in infos if path.name.endswith(".drv")})
    except OSError as error:
        raise host_error(error, f"cannot make a new database in {db_dir}") from error
    return Salvaged(tuple(infos), tuple(name for name in names if _path(name) not in infos), aside)


@contextmanager
def _alone(db_dir: Path) -> Iterator[None]:
    lock = open_lock(db_dir / "big-lock")
    try:
        if not acquire(lock, wait=False):
            raise StoreError(
                f"the store's database in {db_dir} is damaged, and {holder(db_dir / 'big-lock')} has it open",
                hint="end that, then run `pgbake repair` again",
            )
        yield
    finally:
        os.close(lock)


def _path(name: str) -> StorePath | None:
    if name.endswith((".lock", ".chroot")):
        return None
    try:
        return StorePath.from_basename(name)
    except FormatError:
        return None


def _read(aside: Path) -> dict[StorePath, _Told]:
    """Return what the copy of the old database tells, first by its bytes, then by the rows that SQLite can read."""
    told: dict[StorePath, _Told] = {}
    for file in sorted(aside.iterdir()):
        for match in _CARVED.finditer(file.read_bytes()):
            with suppress(FormatError):
                path = StorePath.from_basename(match[1].decode())
                told.setdefault(path, _Told()).hashes.add(bytes.fromhex(match[2].decode()))
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(sqlite3.connect(aside / "db.sqlite")) as old:
        old.text_factory = partial(str, encoding="utf-8", errors="replace")
        for row in _rows(old):
            with suppress(FormatError, ValueError):
                number, path_text, digest, deriver, ultimate, signatures, ca = row
                entry = told.setdefault(StorePath.parse(str(path_text)), _Told())
                entry.hashes.add(bytes.fromhex(str(digest).removeprefix("sha256:")))
                entry.number = int(str(number))
                entry.deriver = StorePath.parse(str(deriver)) if deriver else None
                entry.ultimate = bool(ultimate)
                entry.signatures = tuple(str(signatures or "").split())
                entry.ca = str(ca) if ca else None
    return told


def _rows(old: sqlite3.Connection) -> Iterator[tuple[object, ...]]:
    highest = 0
    for query in ("select seq from sqlite_sequence where name = 'ValidPaths'", "select max(id) from ValidPaths"):
        with suppress(sqlite3.Error, UnicodeDecodeError, ValueError):
            row = old.execute(query).fetchone()
            highest = max(highest, int(row[0] or 0) if row else 0)
    for number in range(1, min(highest, 10_000_000) + 1):
        with suppress(sqlite3.Error, UnicodeDecodeError):  # this row's page is damaged
            yield from old.execute(
                "select id, path, hash, deriver, ultimate, sigs, ca from ValidPaths where id = ?", (number,)
            )


def _proven(
    store_dir: Path, names: list[str], told: Mapping[StorePath, _Told], report: Sink
) -> dict[StorePath, PathInfo]:
    """Return what is to be registered, what others refer to first."""
    paths = [path for name in names if (path := _path(name))]
    found: dict[StorePath, PathInfo] = {}
    with task(report, "verify", "verify", f"{len(names)} paths", len(names)):
        for done, (name, seen) in enumerate(hash_trees(store_dir, dict.fromkeys(names, 1), paths), 1):
            report(Progressed("verify", done))
            path = StorePath.from_basename(name)
            if isinstance(seen, Hashed):
                info = _proof(store_dir / name, path, seen, told.get(path, _Told()))
                if info is not None:
                    found[path] = info
    while dangling := [path for path, info in found.items() if not info.references <= found.keys()]:
        for path in dangling:
            del found[path]
    last = len(told) + len(found)
    return dict(sorted(found.items(), key=lambda item: (told.get(item[0], _Told()).number or last, item[0])))


def _proof(physical: Path, path: StorePath, seen: Hashed, told: _Told) -> PathInfo | None:
    """Return what a path is to be registered with, or None where nothing proves its contents."""
    info = PathInfo(
        path,
        seen.nar.sha256,
        seen.nar.size,
        seen.found or frozenset(),
        deriver=told.deriver,
        ultimate=told.ultimate,
        signatures=told.signatures,
        ca=told.ca,
    )
    if physical.is_file() and not physical.is_symlink():
        contents = hashlib.sha256(physical.read_bytes()).digest()
        references = info.references - {path}
        if path.name.endswith(".drv"):  # it mentions its outputs, too, and refers to its inputs alone
            with suppress(FormatError):
                references = _derivation(physical, path).references
        if text_path(path.name, contents, references) == path:
            return replace(info, references=references, ca=f"text:sha256:{base32.encode(contents)}")
        if fixed_output_path(path.name, "flat", "sha256", contents) == path:
            return replace(info, references=frozenset(), ca=f"fixed:sha256:{base32.encode(contents)}")
    if source_path(path.name, seen.nar.sha256) == path:
        return replace(info, references=frozenset(), ca=f"fixed:r:sha256:{base32.encode(seen.nar.sha256)}")
    return info if seen.nar.sha256 in told.hashes else None


def _derivation(physical: Path, path: StorePath) -> Derivation:
    return Derivation.parse(physical.read_bytes(), path.name.removesuffix(".drv"))


def _outputs(store_dir: Path, path: StorePath) -> dict[str, StorePath]:
    return _derivation(store_dir / path.basename, path).output_paths


def _replace(
    db_dir: Path, infos: Mapping[StorePath, PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]]
) -> None:
    new = db_dir / "db.sqlite.new"
    for suffix in ("", "-wal", "-shm"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    database = Database(new)
    try:
        database.register(infos.values(), outputs)
    finally:
        database.close()  # with the last connection its log goes, too
    # The old file's log first, which would be taken for the new one's. A kill in between leaves the damaged file, of
    # which all is kept aside.
    for suffix in ("-wal", "-shm"):
        (db_dir / f"db.sqlite{suffix}").unlink(missing_ok=True)
    new.replace(db_dir / "db.sqlite")
    flush_directory(db_dir)
