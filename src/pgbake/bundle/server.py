"""Local servers from a bundle: made, started and stopped by PostgreSQL's own initdb and pg_ctl.

    DATA/                    PostgreSQL's data directory; its Unix socket lies in it as well
    DATA/pgbake.conf         settings by the receipt and the manifest, written at each start
    DATA/server.log          the server's log
    SERVERS/ID.json          which bundle a data directory runs with, and on which port
    SERVERS/ID.bundle        keeps that bundle from being collected as garbage
    SERVERS/ID.pgpass        the superuser's password for TCP, in libpq's format

ID stands for the data directory's path. Over the socket, which only the server's user and root can
reach, no password is asked; over TCP (loopback only) it is SCRAM with a password made at the first start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from pgbake.build.sandbox import namespace_command
from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.errors import CommandError, ServerError
from pgbake.events import Sink, task
from pgbake.formats.storepath import StorePath
from pgbake.run import Completed, run
from pgbake.store.local import LocalStore, remove_tree
from pgbake.users import closed_directory

SUPERUSER = "postgres"
_FIRST_PORT = 5432
#: A Unix socket's path must fit into struct sockaddr_un: 107 bytes.
_LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.65535")


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

    def _status(self, registered: Registered) -> Status:
        data = Path(registered.data)
        host = quote(str(data), safe="")
        return Status(
            data=data,
            bundle=StorePath.parse(registered.bundle),
            port=registered.port,
            pid=_postmaster(data),
            uri=f"postgresql://{SUPERUSER}@{host}:{registered.port}/postgres",
            tcp_uri=f"postgresql://{SUPERUSER}@localhost:{registered.port}/postgres",
            pgpass=self._file(data, "pgpass"),
        )

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
        """
        receipt = read_receipt(self.store.physical(bundle))
        registered = self._file(data, "json")
        if registered.exists() and (status := self.find(data)).pid is not None:
            if status.bundle != bundle:
                raise ServerError(
                    f"the server of {data} is running from another bundle, {status.bundle}",
                    hint="restart it with this one: pgbake down && pgbake up",
                )
            if port not in (None, status.port):
                raise ServerError(f"the server of {data} is running on port {status.port}", hint="pgbake down first")
            return status, False
        if len(os.fsencode(data)) > _LONGEST_SOCKET_DIR:
            raise ServerError(
                f"the path {data} is too long for a Unix socket in it", hint="name a shorter one with --data"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        last = self.find(data).port if registered.exists() else None
        port = choose_port(port, last)
        user = _server_user(data)
        with task(report, str(data), "start", f"PostgreSQL {receipt.postgresql.version} on port {port}"):
            if not _is_cluster(data, receipt.postgresql.major):
                self._initdb(data, bundle, receipt, user)
            _write_settings(data, receipt, port, settings, user)
            _await_burial(data)
            self._start(data, bundle, user)
        _write(registered, msgspec.json.encode(Registered(str(data), str(bundle), port)))
        self.store.link_root(self._file(data, "bundle"), bundle)
        return self.find(data), True

    def down(self, status: Status) -> None:
        """Stop a server: open transactions are rolled back, and everything committed is on disk.

        :raises ServerError: it does not stop.
        """
        user = _server_user(status.data)
        try:
            self._run(status.bundle, user, "pg_ctl", "stop", "-D", str(status.data), "-m", "fast", "-w", "-t", "120")
        except CommandError as error:
            raise ServerError(f"the server of {status.data} did not stop", detail=error.detail) from error

    def _initdb(self, data: Path, bundle: StorePath, receipt: Receipt, user: int | None) -> None:
        """Make a data directory beside its place and move it there, so that a killed initdb leaves none."""
        if user is not None and (closed := closed_directory(data.parent)):
            raise ServerError(
                f"PostgreSQL runs as {_name(user)}, who cannot reach {data}",
                hint=f"{closed} is closed to others: name another directory with --data",
            )
        new = data.with_name(f".{data.name}.new")
        remove_tree(new)
        try:
            new.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise ServerError(f"cannot make a data directory in {data.parent}: {error.strerror}") from error
        password = secrets.token_urlsafe(18)
        secret = new.with_name(f".{data.name}.password")
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, password.encode())
            os.close(descriptor)
            if user is not None:
                os.chown(new, user, -1)
                os.chown(secret, user, -1)
            self._run(
                bundle, user, "initdb", "-D", str(new), "-U", SUPERUSER, "-E", "UTF8",
                f"--locale={receipt.locales[0] if receipt.locales else 'C'}", "--data-checksums",
                "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}",
            )  # fmt: skip
            with (new / "postgresql.conf").open("a") as file:
                file.write("\ninclude 'pgbake.conf'\n")
            new.rename(data)
        except CommandError as error:
            raise ServerError(f"initdb could not make {data}", detail=error.detail) from error
        finally:
            secret.unlink(missing_ok=True)
            remove_tree(new)
        pgpass = self._file(data, "pgpass")
        _write(pgpass, f"localhost:*:*:{SUPERUSER}:{password}\n".encode(), mode=0o600)

    def _start(self, data: Path, bundle: StorePath, user: int | None) -> None:
        log = data / "server.log"
        begin = log.stat().st_size if log.exists() else 0
        try:
            self._run(bundle, user, "pg_ctl", "start", "-D", str(data), "-l", str(log), "-s", "-w", "-t", "120")
        except CommandError as error:
            text = ""
            with contextlib.suppress(OSError), log.open(errors="replace") as file:
                file.seek(begin)
                text = "\n".join(file.read().splitlines()[-15:])
            raise ServerError(
                f"the server of {data} did not start", hint=f"its log: {log}", detail=text or error.detail
            ) from error

    def _run(self, bundle: StorePath, user: int | None, program: str, *args: str) -> Completed:
        command = namespace_command(self.store, [f"{bundle}/bin/{program}", *args])
        # Nothing of the caller's environment: a server must not depend on the shell that started it.
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_MESSAGES": "C"}
        return run(command, sandbox="bundle", env=environment, cwd=Path("/"), user=user)


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


def _postmaster(data: Path) -> int | None:
    """Return the pid of the server that runs on a data directory, as its postmaster.pid tells, or None."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        # The file outlives a killed server, and its pid may be another program's by now.
        running = Path(f"/proc/{pid}/cwd").readlink()
    except PermissionError:
        return pid
    except (OSError, ValueError, IndexError):
        return None
    return pid if running == data else None


def _await_burial(data: Path) -> None:
    """Wait while the last server of a data directory is dead but not yet reaped by its parent.

    PostgreSQL takes its pid, which still exists, for a running server. The init of some containers takes
    seconds to reap.
    """
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            pid = (data / "postmaster.pid").read_text().split()[0]
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return
        if state != "Z":
            return
        time.sleep(0.1)


def _server_user(data: Path) -> int | None:
    """Return the uid that a server runs as when root starts it, since PostgreSQL refuses to run as root.

    :raises ServerError: root owns the data directory.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and any(data.iterdir()):
        owner = data.stat().st_uid
        if owner == 0:
            raise ServerError(
                f"{data} belongs to root, and PostgreSQL does not run as root",
                hint="give it to another user with chown -R, or name another directory with --data",
            )
        return owner
    if (sudo := os.environ.get("SUDO_UID", "0")) != "0":
        return int(sudo)
    for name in (SUPERUSER, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _is_cluster(data: Path, major: int) -> bool:
    """Whether a data directory is made already; False means that it is absent or empty.

    :raises ServerError: it is another major's, or holds something else.
    """
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except PermissionError:
        raise ServerError(f"you may not read {data}", hint="name a directory of your own with --data") from None
    except (FileNotFoundError, NotADirectoryError):
        if data.exists() and (not data.is_dir() or any(data.iterdir())):
            raise ServerError(
                f"{data} is not empty and is no data directory of PostgreSQL", hint="name another with --data"
            ) from None
        return False
    if version != str(major):
        raise ServerError(
            f"{data} was made by PostgreSQL {version}; this bundle is PostgreSQL {major}",
            hint=f"use a bundle of PostgreSQL {version}, or another directory with --data",
        )
    return True


def _write_settings(data: Path, receipt: Receipt, port: int, settings: Mapping[str, str], user: int | None) -> None:
    values = {
        "port": str(port),
        "listen_addresses": "localhost",
        "unix_socket_directories": str(data),
        "shared_preload_libraries": ",".join(receipt.preload),
        **receipt.settings,
        **settings,
    }
    lines = ["# Written by `pgbake up` at each start, from the bundle's receipt and the manifest's [settings]."]
    lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in values.items()]
    file = data / "pgbake.conf"
    _write(file, ("\n".join(lines) + "\n").encode())
    if user is not None:
        shutil.chown(file, user)


def _write(file: Path, content: bytes, mode: int = 0o644) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    temporary.replace(file)
