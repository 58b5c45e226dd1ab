"""The servers of an installed machine: whether they run, starting and stopping them, asking them.

Where systemd runs, the units of the machine definition do it; elsewhere PostgreSQL's own pg_ctl, as in a container.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.bundle.cluster import await_burial, postmaster, remove_empty_pid_file
from pgbake.errors import CommandError, ServerError
from pgbake.machine.accounts import user_id
from pgbake.machine.apply import below
from pgbake.machine.definition import Cluster, initdb_options
from pgbake.run import run

SOCKETS = "/run/postgresql"
#: Seconds between two questions to a server that is being restarted; each takes about 10 ms.
_ASK_EVERY = 0.01
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/var/lib/postgresql", "LC_MESSAGES": "C"}


def has_systemd() -> bool:
    """Whether systemd is this machine's init (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def running(root: Path, cluster: Cluster) -> int | None:
    """Return the pid of a cluster's server, where it runs."""
    return postmaster(below(root, cluster.data))


def initialised(root: Path, cluster: Cluster) -> bool:
    """Whether the cluster's data directory is made."""
    return (below(root, cluster.data) / "PG_VERSION").exists()


def log_end(root: Path, cluster: Cluster, begin: int = 0, lines: int = 15) -> str:
    """Return the last lines of a cluster's log.

    :param begin: bytes to leave out: what was there before.
    """
    with suppress(OSError), below(root, cluster.log).open(errors="replace") as file:
        file.seek(begin)
        return "\n".join(file.read()[-20_000:].splitlines()[-lines:])
    return ""


def log_size(root: Path, cluster: Cluster) -> int:
    """Return how many bytes a cluster's log has."""
    with suppress(OSError):
        return below(root, cluster.log).stat().st_size
    return 0


def programs(cluster: Cluster) -> str:
    """Return where the programs of a cluster's version lie, by the name that does not change."""
    return f"/usr/lib/postgresql/{cluster.major}/bin"


def server_command(cluster: Cluster) -> list[str]:
    """Return the command that is a cluster's server, in the foreground."""
    return [
        f"{programs(cluster)}/postgres", "-D", cluster.data, "-c", f"config_file={cluster.conf}/postgresql.conf",
    ]  # fmt: skip


def port_of(root: Path, cluster: Cluster) -> int:
    """Return the port that a running server listens on, which its administrator may have changed, or the recorded one.

    ``postmaster.pid`` has it in its fourth line.
    """
    with suppress(OSError, ValueError, IndexError):
        return int((below(root, cluster.data) / "postmaster.pid").read_text().splitlines()[3])
    return cluster.port


def ask(cluster: Cluster, statement: str, timeout: float = 30) -> str:
    """Run a statement as the superuser over the socket, and return what psql prints (``-At``).

    :raises CommandError: the server does not answer, or refuses.
    """
    return run(
        [
            f"{programs(cluster)}/psql", "-XAtqw", "-h", SOCKETS, "-p", str(port_of(Path("/"), cluster)), "-U",
            "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", statement,
        ],
        sandbox="host", env=_ENVIRONMENT, cwd=Path("/"), user=server_uid(), timeout=timeout,
    ).stdout.strip()  # fmt: skip


def server_uid() -> int | None:
    """Return the uid of ``postgres`` on this machine, for root to run programs as."""
    return user_id(Path("/"), "postgres") if os.geteuid() == 0 else None


def answers(cluster: Cluster) -> bool:
    """Whether a server accepts connections now (pg_isready, which logs in nobody)."""
    done = run(
        [f"{programs(cluster)}/pg_isready", "-q", "-h", SOCKETS, "-p", str(cluster.port), "-t", "1", "-U", "postgres"],
        sandbox="host", env=_ENVIRONMENT, cwd=Path("/"), user=server_uid(), check=False,
    )  # fmt: skip
    return done.status == 0


@dataclass
class Watch:
    """When a server answered while it was restarted, in seconds of a steady clock."""

    cluster: Cluster
    last_before: float = field(default_factory=time.monotonic)
    first_after: float | None = None
    _silent: bool = False

    def look(self) -> None:
        """Ask once."""
        begin = time.monotonic()
        if answers(self.cluster):
            if self._silent and self.first_after is None:
                self.first_after = time.monotonic()
            elif not self._silent:
                self.last_before = begin
        else:
            self._silent = True
            self.first_after = None

    @property
    def downtime(self) -> float:
        """Seconds from the last answer to the first one after it; 0 where it never failed to answer."""
        return 0.0 if self.first_after is None else self.first_after - self.last_before


@contextmanager
def watched(cluster: Cluster) -> Iterator[Watch]:
    """Ask a server again and again, in a thread, during a ``with`` block."""
    watch = Watch(cluster)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_ASK_EVERY):
            watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        if watch._silent and watch.first_after is None:
            watch.look()
        ended.set()
        thread.join()


def reload_units() -> None:
    """Let systemd read units and tmpfiles anew, where it runs."""
    if has_systemd():
        run(["systemctl", "daemon-reload"], sandbox="host")


def start(cluster: Cluster, limit: float) -> None:
    """Start a cluster's server, making its data directory at the first time, and wait until it answers.

    :param limit: seconds that it has.
    :raises ServerError: it does not come up; the end of its log is the detail.
    """
    begin = log_size(Path("/"), cluster)
    try:
        if has_systemd():
            run(["systemctl", "start", cluster.unit], sandbox="host", timeout=limit)
        else:
            initialise(cluster)
            prepare_start(cluster)
            command = server_command(cluster)
            options = " ".join(command[3:])
            run(
                [
                    f"{programs(cluster)}/pg_ctl", "start", "-D", cluster.data, "-l", cluster.log, "-s", "-w", "-t",
                    str(int(limit)), "-o", options,
                ],
                sandbox="host", env=_ENVIRONMENT, cwd=Path("/"), user=server_uid(), timeout=limit + 10,
            )  # fmt: skip
    except CommandError as error:
        raise ServerError(
            f"the server of {cluster.label} did not come up",
            hint=f"its log: {cluster.log}" + (f"; systemd's: journalctl -u {cluster.unit}" if has_systemd() else ""),
            detail=log_end(Path("/"), cluster, begin) or error.detail or error.message,
        ) from error


def stop(cluster: Cluster) -> None:
    """Stop a cluster's server: open transactions are rolled back, and everything committed is on disk.

    :raises ServerError: it does not stop.
    """
    try:
        if has_systemd() and _is_active(cluster):
            run(["systemctl", "stop", cluster.unit], sandbox="host")
        if running(Path("/"), cluster) is not None:
            run(
                [f"{programs(cluster)}/pg_ctl", "stop", "-D", cluster.data, "-m", "fast", "-w", "-t", "120", "-s"],
                sandbox="host", env=_ENVIRONMENT, cwd=Path("/"), user=server_uid(),
            )  # fmt: skip
    except CommandError as error:
        raise ServerError(f"the server of {cluster.label} did not stop", detail=error.detail) from error


def _is_active(cluster: Cluster) -> bool:
    return run(["systemctl", "is-active", "-q", cluster.unit], sandbox="host", check=False).status == 0


def prepare_start(cluster: Cluster) -> None:
    """Wait for, and remove, what the last server of a data directory has left in the way."""
    await_burial(Path(cluster.data))
    remove_empty_pid_file(Path(cluster.data))


def initialise(cluster: Cluster) -> bool:
    """Make a cluster's data directory, beside its place first; return whether that was needed.

    The same as the unit ``postgresql-init@`` does.

    :raises ServerError: initdb fails; its words are the detail.
    """
    if initialised(Path("/"), cluster):
        return False
    data = Path(cluster.data)
    new = data.with_name(f".{data.name}.new")
    try:
        run(["rm", "-rf", str(new)], sandbox="host")
        run(
            [
                f"{programs(cluster)}/initdb", "-D", str(new), f"--locale={cluster.locale}", *initdb_options(),
            ],
            sandbox="host", env=_ENVIRONMENT, cwd=data.parent, user=server_uid(),
        )  # fmt: skip
        run(["mv", "-T", str(new), str(data)], sandbox="host")
    except CommandError as error:
        raise ServerError(f"initdb could not make {data}", detail=error.detail) from error
    return True
