"""Local servers from a bundle: made, started and stopped by PostgreSQL's own initdb and pg_ctl.

    DATA/                    PostgreSQL's data directory; its Unix socket lies in it as well
    DATA/pgbake.conf         settings by the receipt and the manifest, written at each start
    DATA/server.log          the server's log
    SERVERS/ID.json          which bundle a data directory runs with, and on which port
    SERVERS/ID.bundle        keeps that bundle from being collected as garbage
    SERVERS/ID.pgpass        the superuser's password for TCP, in libpq's format
    SERVERS/ID.lock          held while the server is made, started or stopped

ID stands for the data directory's path. Over the socket, which only the server's user and root can
reach, no password is asked; over TCP (loopback only) it is SCRAM with a password made at the first start.

Each is written before the server that it tells of is there, so that after a kill at any moment the next
`pgbake up` knows the server that is running, or makes and starts it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from pgbake.build.sandbox import namespace_command, require_namespace
from pgbake.bundle.cluster import (
    SUPERUSER,
    await_burial,
    await_ready,
    clear,
    is_cluster,
    overridden,
    postmaster,
    remove_empty_pid_file,
    server_user,
    write_settings,
)
from pgbake.bundle.collations import Database, changed_versions, moved_collations
from pgbake.bundle.kernel import require_kernel
from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.errors import HOST_HINTS, CommandError, HostError, PgbakeError, ServerError, StoreError, host_error
from pgbake.events import Notice, Sink, task
from pgbake.files import flush_directory, write_whole
from pgbake.formats.storepath import StorePath
from pgbake.run import Completed, run
from pgbake.store.local import LocalStore
from pgbake.store.locks import OnWait, path_lock, silent
from pgbake.users import closed_directory, user_name

_FIRST_PORT = 5432
#: Seconds that a server has to accept a connection, and to answer a question of ours.
_CONNECT_TIMEOUT, _ANSWER_TIMEOUT = 3, 5
#: A Unix socket's path must fit into struct sockaddr_un: 107 bytes.
LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.65535")


class Registered(msgspec.Struct, frozen=True):
    """What is recorded of a data directory; kept while the server is down, so that its port stays."""

    data: str
    bundle: str
    port: int


@dataclass(frozen=True, slots=True)
class Status:
    """A server as it is now. ``pid`` is None when it is down."""

    data: Path
    bundle: StorePath
    port: int
    pid: int | None
    uri: str
    tcp_uri: str
    pgpass: Path


@dataclass(frozen=True)
class Servers:
    """The local servers of this user.

    :param directory: where they are recorded.
    """

    store: LocalStore
    directory: Path

    # --- what there is -----------------------------------------------------------------------------

    def all(self) -> list[Status]:
        """Return every server that was started here and whose data is still there, by data directory."""
        found = []
        for file in self.directory.glob("*.json"):
            registered = msgspec.json.decode(file.read_bytes(), type=Registered)
            if Path(registered.data, "PG_VERSION").exists():
                found.append(self._status(registered))
        return sorted(found, key=lambda status: status.data)

    def find(self, data: Path) -> Status:
        """Return the server of a data directory.

        :raises ServerError: none was started there by pgbake.
        """
        file = self._file(data, "json")
        if not file.exists():
            raise ServerError(
                f"no server was started with the data directory {data}", hint="start one with `pgbake up`"
            )
        return self._status(msgspec.json.decode(file.read_bytes(), type=Registered))

    def _file(self, data: Path, suffix: str) -> Path:
        digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
        return self.directory / f"{digest}.{suffix}"

    def _lock(self, data: Path, on_wait: OnWait = silent) -> AbstractContextManager[int]:
        return path_lock(self._file(data, "lock").with_suffix(""), on_wait)

    def _status(self, registered: Registered) -> Status:
        data = Path(registered.data)
        host = quote(str(data), safe="")
        return Status(
            data=data,
            bundle=StorePath.parse(registered.bundle),
            port=registered.port,
            pid=postmaster(data),
            uri=f"postgresql://{SUPERUSER}@{host}:{registered.port}/postgres",
            tcp_uri=f"postgresql://{SUPERUSER}@localhost:{registered.port}/postgres",
            pgpass=self._file(data, "pgpass"),
        )

    def collations(self, status: Status) -> tuple[Database, ...]:
        """Return the databases of a running server whose collations have moved, or that did not answer.

        :raises ServerError: the server does not answer, or not in time.
        """
        receipt = read_receipt(self.store.physical(status.bundle))
        command = namespace_command(self.store, [f"{status.bundle}/bin/psql", "-XAtqw"])
        options = {"statement_timeout": f"{_ANSWER_TIMEOUT}s", "default_transaction_read_only": "on", "search_path": ""}

        def ask(database: str, query: str) -> str:
            environment = {
                "PGHOST": str(status.data),
                "PGPORT": str(status.port),
                "PGUSER": SUPERUSER,
                "PGDATABASE": database,
                "PGCLIENTENCODING": "UTF8",
                "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT),
                "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in options.items()),
                "PATH": "/usr/local/bin:/usr/bin:/bin",
            }
            limit = _CONNECT_TIMEOUT + 2 * _ANSWER_TIMEOUT
            return run(command, sandbox="bundle", env=environment, stdin=query.encode(), timeout=limit).stdout

        try:
            return moved_collations(ask, receipt.postgresql.major)
        except CommandError as error:
            raise ServerError(
                f"the server of {status.data} does not answer", detail=error.detail or error.message
            ) from error

    # --- up and down -------------------------------------------------------------------------------

    def up(
        self, data: Path, bundle: StorePath, port: int | None, settings: Mapping[str, str], report: Sink
    ) -> tuple[Status, bool]:
        """Start a server from a bundle, making its data directory at the first time.

        :param port: the port to listen on; None keeps the last one, or takes the first free one.
        :param settings: of the manifest; they win over the receipt's.
        :returns: the running server, and whether it was started by this call.
        :raises ServerError: the port is taken, the data directory is another major's or somebody else's,
            or the server does not start; the end of its log is the detail.
        :raises HostError: the disk is full, the kernel is too old, or the store's programs cannot be run.
        """

        def waiting(holder: str) -> None:
            report(Notice("info", f"the server of {data} is being started or stopped by {holder}; waiting for it"))

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._lock(data, waiting) as lock:
                return self._up(data, bundle, port, settings, report, lock)
        except OSError as error:
            raise host_error(error, f"cannot start a server in {data}") from error

    def _up(
        self, data: Path, bundle: StorePath, port: int | None, settings: Mapping[str, str], report: Sink, lock: int
    ) -> tuple[Status, bool]:
        receipt = read_receipt(self.store.physical(bundle))
        require_kernel(receipt)
        registered = self._file(data, "json")
        await_ready(data)
        if registered.exists() and (status := self.find(data)).pid is not None:
            if status.bundle != bundle:
                raise ServerError(
                    f"the server of {data} is running from another bundle, {status.bundle}",
                    hint="restart it with this one: pgbake down && pgbake up",
                )
            if port not in (None, status.port):
                raise ServerError(f"the server of {data} is running on port {status.port}", hint="pgbake down first")
            return status, False
        if len(os.fsencode(data)) > LONGEST_SOCKET_DIR:
            raise ServerError(
                f"the path {data} is too long for a Unix socket in it", hint="name a shorter one with --data"
            )
        last = self.find(data) if registered.exists() else None
        chosen = choose_port(port, last.port if last else None)
        user = server_user(data)
        require_namespace(self.store, user)
        with task(report, str(data), "start", f"PostgreSQL {receipt.postgresql.version} on port {chosen}"):
            if not is_cluster(data, receipt.postgresql.major):
                self._initdb(data, bundle, receipt, user, lock)
            for conflict in overridden(receipt, settings):
                report(Notice("warning", conflict))
            self.store.link_root(self._file(data, "bundle"), bundle)
            while True:
                write_settings(data, receipt, chosen, settings, user)
                write_whole(registered, msgspec.json.encode(Registered(str(data), str(bundle), chosen)))
                await_burial(data)
                remove_empty_pid_file(data)
                try:
                    self._start(data, bundle, user)
                    break
                except ServerError:
                    # Nothing holds a port until the server listens: another may have been faster.
                    if port is not None or postmaster(data) is not None or _is_free(chosen):
                        raise
                    taken, chosen = chosen, choose_port(None)
                    report(Notice("info", f"port {taken} was taken meanwhile: trying {chosen}"))
        if last and (changed := self._changed_collations(last.bundle, receipt)):
            report(
                Notice(
                    "warning",
                    f"the order of text may have changed with the bundle ({changed}): "
                    "`pgbake status` lists the indexes to rebuild",
                )
            )
        return self.find(data), True

    def _changed_collations(self, last: StorePath, receipt: Receipt) -> str | None:
        """Say how the versions of collations differ from those of the last bundle, where that is still there."""
        try:
            before = read_receipt(self.store.physical(last))
        except StoreError:
            return None
        return changed_versions(before.collations, receipt.collations)

    def down(self, status: Status) -> None:
        """Stop a server: open transactions are rolled back, and everything committed is on disk.

        :raises ServerError: it does not stop.
        """
        user = server_user(status.data)
        try:
            with self._lock(status.data):
                if postmaster(status.data) is None:  # another process was faster
                    return
                self._run(
                    status.bundle, user, "pg_ctl", "stop", "-D", str(status.data), "-m", "fast", "-w", "-t", "120"
                )
        except CommandError as error:
            raise ServerError(f"the server of {status.data} did not stop", detail=error.detail) from error

    def _initdb(self, data: Path, bundle: StorePath, receipt: Receipt, user: int | None, lock: int) -> None:
        """Make a data directory beside its place and move it there, so that a killed initdb leaves none.

        :param lock: kept by initdb, so that nobody begins anew beside one that outlives its pgbake.
        """
        if user is not None and (closed := closed_directory(data.parent)):
            raise ServerError(
                f"PostgreSQL runs as {user_name(user)}, who cannot reach {data}",
                hint=f"{closed} is closed to others: name another directory with --data",
            )
        new = data.with_name(f".{data.name}.new")
        clear(new)
        try:
            new.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise ServerError(f"cannot make a data directory in {data.parent}: {error.strerror}") from error
        password = secrets.token_urlsafe(18)
        secret = new.with_name(f".{data.name}.password")
        try:
            write_whole(secret, password.encode(), mode=0o600)
            if user is not None:
                os.chown(new, user, -1)
                os.chown(secret, user, -1)
            self._run(
                bundle, user, "initdb", "-D", str(new), "-U", SUPERUSER, "-E", "UTF8",
                f"--locale={receipt.locales[0] if receipt.locales else 'C'}", "--data-checksums",
                "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}", lock=lock,
            )  # fmt: skip
            secret.unlink()
            with (new / "postgresql.conf").open("a") as file:
                file.write("\ninclude 'pgbake.conf'\n")
                file.flush()
                os.fsync(file.fileno())  # initdb has done so with all the rest
            # Nothing but this file knows the password: it is there before what it opens.
            pgpass = f"localhost:*:*:{SUPERUSER}:{password}\n"
            write_whole(self._file(data, "pgpass"), pgpass.encode(), mode=0o600)
            new.rename(data)
            flush_directory(data.parent)
        except CommandError as error:
            raise _failed(f"initdb could not make {data}", error.detail) from error
        finally:
            secret.unlink(missing_ok=True)
            clear(new)

    def _start(self, data: Path, bundle: StorePath, user: int | None) -> None:
        log = data / "server.log"
        begin = log.stat().st_size if log.exists() else 0
        try:
            self._run(bundle, user, "pg_ctl", "start", "-D", str(data), "-l", str(log), "-s", "-w", "-t", "120")
        except CommandError as error:
            if postmaster(data) is not None:  # started by a pgbake that was killed before it could see it
                await_ready(data)
                return
            text = ""
            with contextlib.suppress(OSError), log.open(errors="replace") as file:
                file.seek(begin)
                text = "\n".join(file.read().splitlines()[-15:])
            raise _failed(
                f"the server of {data} did not start", text or error.detail, hint=f"its log: {log}"
            ) from error

    def _run(self, bundle: StorePath, user: int | None, program: str, *args: str, lock: int | None = None) -> Completed:
        command = namespace_command(self.store, [f"{bundle}/bin/{program}", *args], die_with_parent=True)
        # Nothing of the caller's environment: a server must not depend on the shell that started it.
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_MESSAGES": "C"}
        return run(command, sandbox="bundle", env=environment, cwd=Path("/"), user=user, lock=lock)


def choose_port(wanted: int | None, last: int | None = None) -> int:
    """Return the port to listen on: the wanted one, else the last one, else the first free one from 5432.

    :raises ServerError: the wanted port is taken.
    """
    if wanted is not None:
        if not _is_free(wanted):
            raise ServerError(
                f"port {wanted} is taken", hint="name another with --port, or leave it out to get a free one"
            )
        return wanted
    if last is not None and _is_free(last):
        return last
    for port in range(_FIRST_PORT, _FIRST_PORT + 1000):
        if _is_free(port):
            return port
    raise ServerError("no port is free from 5432 on", hint="name one with --port")


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # As PostgreSQL does: a port whose last connections still linger counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
    return True


def _failed(message: str, detail: str | None, hint: str | None = None) -> PgbakeError:
    """Return the error of a program that failed; a full disk is told as such."""
    if detail and os.strerror(errno.ENOSPC) in detail:
        return HostError(f"{message}: {os.strerror(errno.ENOSPC)}", hint=HOST_HINTS[errno.ENOSPC], detail=detail)
    return ServerError(message, hint=hint, detail=detail)
