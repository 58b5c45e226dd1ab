"""Nix's store database: which paths are valid, their hashes, and what they refer to.

The schema is Nix's own, version 10 (``src/libstore/schema.sql`` of Nix 2.x), so that a stock Nix finds
every path that pgbake registered::

    ValidPaths(id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
    Refs(referrer, reference)                  ids of ValidPaths; a path may refer to itself
    DerivationOutputs(drv, id, path)           output name and path of each registered .drv

``hash`` is ``sha256:`` and 64 hex digits of the NAR; ``registrationTime`` is Unix seconds; ``ultimate``
is 1 for what was built here; ``ca`` is Nix's content address (``text:sha256:..``, ``fixed:r:sha256:..``).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pgbake.errors import FormatError, HostError, StoreError, host_error
from pgbake.formats.storepath import DIGEST_LENGTH, STORE_DIR, StorePath

SCHEMA_VERSION = "10"

_SCHEMA = """
create table if not exists ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer,
    sigs             text,
    ca               text
);
create table if not exists Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table if not exists DerivationOutputs (
    drv  integer not null,
    id   text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
"""


_COLUMNS = "id, path, hash, deriver, narSize, ultimate, sigs, ca, registrationTime"


@dataclass(frozen=True, slots=True)
class PathInfo:
    """What the store knows of one valid path.

    :param nar_sha256: raw digest of the path's NAR.
    :param nar_size: length of the NAR in bytes.
    :param references: the store paths that its contents name, itself included where it does.
    :param deriver: the derivation that made it.
    :param ultimate: built on this machine, hence trusted without a signature.
    :param ca: content address in Nix's notation, for a path that certifies itself.
    :param registered: when it became valid, in Unix seconds; 0 for what is yet to be registered.
    """

    path: StorePath
    nar_sha256: bytes
    nar_size: int
    references: frozenset[StorePath] = frozenset()
    deriver: StorePath | None = None
    ultimate: bool = False
    ca: str | None = None
    signatures: tuple[str, ...] = ()
    registered: int = field(default=0, compare=False)


def _connect(file: str) -> sqlite3.Connection:
    uri = file.startswith("file:")
    return sqlite3.connect(file, isolation_level=None, timeout=3600, check_same_thread=False, uri=uri)


def _open_read_only(file: Path) -> sqlite3.Connection:
    """Open a database in a directory that cannot be written.

    SQLite must make a file beside a database in WAL mode even to read it, unless somebody has it open and that
    file is there, or it is told that nobody writes (https://www.sqlite.org/wal.html#readonly).
    """
    # Not even the file that readers share is written: that too may be somebody else's.
    uri = f"file:{quote(str(file))}?mode=ro&readonly_shm=1"
    if Path(f"{file}-wal").exists():
        try:
            connection = _connect(uri)
            connection.execute("select count(*) from sqlite_master").fetchone()
            return connection
        except sqlite3.OperationalError:
            pass
    # Nobody has it open, or we may not make the file that readers share: nothing is to be written there.
    connection = _connect(f"{uri}&immutable=1")
    connection.execute("select count(*) from sqlite_master").fetchone()
    return connection


#: What SQLite's module raises; the latter where a text, or the message of an error, holds damaged bytes.
_FAULTS = (sqlite3.Error, UnicodeDecodeError)


class DamagedDatabase(StoreError):
    """The file is no database, or a damaged one: see `pgbake.store.salvage`."""


def is_damaged(error: Exception) -> bool:
    """Whether an error of SQLite's means that the file is damaged."""
    if isinstance(error, UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """An open store database: one connection, which its threads use in turn."""

    def __init__(self, file: Path, read_only: bool = False) -> None:
        """Open, and create where absent, the database at ``file``.

        :param read_only: it can only be read.

        :raises StoreError: it is no database, or not writable.
        """
        self.file = file
        self._turn = threading.RLock()
        try:
            # Autocommit: transactions are begun by hand, as IMMEDIATE ones, so that two writers wait
            # for each other at the start instead of failing in the middle.
            if read_only:
                self._db = _open_read_only(file)
                return
            self._db = _connect(str(file))
            self._db.execute("pragma foreign_keys = on")
            # A build took minutes: a power cut right after it is not to cost it. Beside writing its files to
            # disk, doing the same with this log is nothing.
            self._db.execute("pragma synchronous = full")
            if self._db.execute("pragma journal_mode").fetchone()[0] != "wal":
                self._db.execute("pragma journal_mode = wal")
            if self._db.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
                # All or nothing: tables without their indexes and triggers would never be completed.
                self._db.executescript(f"begin immediate; {_SCHEMA} commit;")
        except _FAULTS as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise _full(f"cannot open the store's database {file}") from error
            if is_damaged(error):
                raise _damaged(file, error) from error
            raise StoreError(f"cannot open the store's database {file}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._turn:
                self._db.execute("begin immediate")
                try:
                    yield self._db
                    self._db.execute("commit")
                except BaseException:
                    if self._db.in_transaction:  # some errors, a full disk among them, have ended it already
                        self._db.execute("rollback")
                    raise
        except _FAULTS as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise _full(f"cannot write to the store's database {self.file}") from error
            if is_damaged(error):
                raise _damaged(self.file, error) from error
            raise StoreError(f"cannot write to the store's database {self.file}: {error}") from error

    def _select(self, query: str, *values: object) -> list[tuple[object, ...]]:
        try:
            with self._turn:
                return self._db.execute(query, values).fetchall()
        except _FAULTS as error:
            if is_damaged(error):
                raise _damaged(self.file, error) from error
            raise StoreError(f"cannot read the store's database {self.file}: {error}") from error

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Let all that is read in the ``with`` block be of one moment."""
        with self._turn:
            self._select("begin")
            try:
                yield
            finally:
                self._select("commit")

    def paths(self) -> list[StorePath]:
        """Return every registered path, sorted by name and digest."""
        rows = self._select("select path from ValidPaths")
        return sorted((StorePath.parse(str(row[0])) for row in rows), key=lambda path: (path.name, path))

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Return those of ``paths`` that are registered as valid."""
        return {p for p in paths if self._select("select 1 from ValidPaths where path = ?", str(p))}

    def info(self, path: StorePath) -> PathInfo | None:
        """Return what is registered of ``path``, or None where it is not valid."""
        rows = self._select(f"select {_COLUMNS} from ValidPaths where path = ?", str(path))
        if not rows:
            return None
        references = self._select(
            "select path from Refs join ValidPaths on reference = id where referrer = ?", rows[0][0]
        )
        return _info(rows[0], (str(row[0]) for row in references))

    def registered(self, malformed: Callable[[str, str], None] | None = None) -> dict[StorePath, PathInfo]:
        """Return what is registered of every valid path, as of one moment, sorted by path.

        :param malformed: called with the path and what is wrong with it for each row that makes no sense; without it
            such a row is an error.
        :raises StoreError: the database cannot be read.
        """
        with self._moment():
            rows = self._select(f"select {_COLUMNS} from ValidPaths order by path")
            pairs = self._select("select referrer, path from Refs join ValidPaths on reference = id")
        references: dict[object, list[str]] = {}
        for referrer, path in pairs:
            references.setdefault(referrer, []).append(str(path))
        infos = {}
        for row in rows:
            try:
                info = _info(row, references.get(row[0], ()))
            except (FormatError, ValueError) as error:
                if malformed is None:
                    raise StoreError(
                        f"the store's database {self.file} has a malformed entry for {row[1]}: {error}",
                        hint="run `pgbake verify`",
                    ) from error
                malformed(str(row[1]), str(error))
            else:
                infos[info.path] = info
        return infos

    def outputs(self) -> dict[StorePath, frozenset[StorePath]]:
        """Return the output paths, valid or not, of every registered derivation."""
        rows = self._select("select p.path, o.path from DerivationOutputs o join ValidPaths p on p.id = o.drv")
        outputs: dict[StorePath, set[StorePath]] = {}
        for drv, output in rows:
            outputs.setdefault(StorePath.parse(str(drv)), set()).add(StorePath.parse(str(output)))
        return {drv: frozenset(paths) for drv, paths in outputs.items()}

    def problems(self) -> list[str]:
        """Let SQLite check the whole file; return what it finds, nothing where all is well."""
        try:
            with self._turn:
                found = [str(row[0]) for row in self._db.execute("pragma integrity_check")]
                dangling = self._db.execute("pragma foreign_key_check").fetchall()
        except _FAULTS as error:
            return [str(error)]
        problems = [] if found == ["ok"] else found
        return problems + [
            f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there" for row in dangling
        ]

    def reindex(self) -> None:
        """Make all indexes anew from their tables.

        :raises StoreError: the tables themselves are damaged.
        """
        with self._transaction() as db:
            db.execute("reindex")

    def referrers(self, path: StorePath) -> frozenset[StorePath]:
        """Return the valid paths whose contents name ``path``, itself left out."""
        rows = self._select(
            "select r.path from Refs join ValidPaths t on reference = t.id"
            " join ValidPaths r on referrer = r.id where t.path = ?1 and r.path != ?1",
            str(path),
        )
        return frozenset(StorePath.parse(str(row[0])) for row in rows)

    def latest(self, name: str) -> StorePath | None:
        """Return the path of that name which was registered last, or None where there is none."""
        rows = self._select(
            # Ids only grow, whatever happens to the clock.
            "select path from ValidPaths where path like ? escape '!' order by id desc limit 1",
            f"{STORE_DIR}/{'_' * DIGEST_LENGTH}-" + name.replace("!", "!!").replace("_", "!_").replace("%", "!%"),
        )
        return StorePath.parse(str(rows[0][0])) if rows else None

    def register(
        self, infos: Iterable[PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]] | None = None
    ) -> None:
        """Register paths as valid, in one transaction: all of them or none.

        :param outputs: for each ``.drv`` among them, its output names and paths.
        :raises StoreError: a reference is neither valid nor among ``infos``.
        :raises HostError: the disk is full.
        """
        infos = list(infos)
        with self._transaction() as db:
            _register(db, infos, outputs or {})

    def add_signatures(self, new: Mapping[StorePath, Iterable[str]]) -> None:
        """Add signatures to those that valid paths bear, in one transaction; a path that is not valid is left out."""
        with self._transaction() as db:
            for path, signatures in new.items():
                row = db.execute("select id, sigs from ValidPaths where path = ?", (str(path),)).fetchone()
                if row is not None:
                    joined = sorted({*str(row[1] or "").split(), *signatures})
                    db.execute("update ValidPaths set sigs = ? where id = ?", (" ".join(joined), row[0]))

    def invalidate(self, *paths: StorePath) -> None:
        """Forget paths, whose contents are about to go, in one transaction that is on disk when this returns.

        :raises StoreError: a valid path that is not among them still refers to one.
        """
        with self._transaction() as db:
            for path in paths:
                db.execute("delete from Refs where referrer = (select id from ValidPaths where path = ?)", (str(path),))
            for path in paths:
                db.execute("delete from ValidPaths where path = ?", (str(path),))

    def correct(self, info: PathInfo) -> None:
        """Register anew what a valid path's contents have proven: hash, size and references."""
        with self._transaction() as db:
            db.execute(
                "delete from Refs where referrer = (select id from ValidPaths where path = ?)", (str(info.path),)
            )
            _register(db, [info], {})


def rewrite(file: Path, registered: int) -> None:
    """Write a database anew, so that equal contents are equal bytes: paths in order, all registered at one time.

    Only for a store that nobody else has open, such as that in a tree that becomes an image.

    :param registered: that time, in Unix seconds.
    :raises StoreError: it is damaged.
    """
    database = Database(file)
    infos = database.registered()
    database.close()
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    database = Database(file)
    database.register(sorted(infos.values(), key=lambda info: str(info.path)))
    with database._transaction() as db:
        db.execute("update ValidPaths set registrationTime = ?", (registered,))
    database.close()


def _register(
    db: sqlite3.Connection, infos: Sequence[PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]]
) -> None:
    now = int(time.time())
    numbers: dict[StorePath, int] = {}
    for info in infos:
        row = db.execute(
            "insert into ValidPaths"
            " (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)"
            " on conflict (path) do update set hash = excluded.hash, narSize = excluded.narSize,"
            " ultimate = excluded.ultimate, sigs = excluded.sigs, ca = excluded.ca returning id",
            (
                str(info.path),
                f"sha256:{info.nar_sha256.hex()}",
                now,
                str(info.deriver) if info.deriver else None,
                info.nar_size,
                1 if info.ultimate else None,
                " ".join(info.signatures) or None,
                info.ca,
            ),
        ).fetchone()
        numbers[info.path] = row[0]
        for name, path in outputs.get(info.path, {}).items():
            db.execute("insert or replace into DerivationOutputs values (?, ?, ?)", (row[0], name, str(path)))
    for info in infos:
        for reference in sorted(info.references, key=str):
            number = numbers.get(reference)
            if number is None:
                row = db.execute("select id from ValidPaths where path = ?", (str(reference),)).fetchone()
                if row is None:
                    raise StoreError(f"{info.path} refers to {reference}, which is not in the store")
                number = row[0]
            db.execute("insert or ignore into Refs values (?, ?)", (numbers[info.path], number))


def _info(row: tuple[object, ...], references: Iterable[str]) -> PathInfo:
    _, path, digest, deriver, size, ultimate, signatures, ca, registered = row
    algorithm, _, digits = str(digest).partition(":")
    nar_sha256 = bytes.fromhex(digits)
    if algorithm != "sha256" or len(nar_sha256) != 32:
        raise ValueError(f"{digest!r} is no sha256")
    return PathInfo(
        path=StorePath.parse(str(path)),
        nar_sha256=nar_sha256,
        nar_size=int(str(size or 0)),
        references=frozenset(map(StorePath.parse, references)),
        deriver=StorePath.parse(str(deriver)) if deriver else None,
        ultimate=bool(ultimate),
        ca=str(ca) if ca else None,
        signatures=tuple(str(signatures or "").split()),
        registered=int(str(registered)),
    )


def _damaged(file: Path, error: Exception) -> DamagedDatabase:
    return DamagedDatabase(
        f"the store's database {file} is damaged: {error}",
        hint="run `pgbake repair`: what the contents of the store prove is registered anew",
    )


def _full(what: str) -> HostError:
    return host_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), what)
