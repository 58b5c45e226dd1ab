"""A server that is killed at full load comes back with all that it had said is committed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pgbake.checks.harness.load import Load
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Server, Session

#: As strict as PostgreSQL is by default, whatever the manifest says; with checkpoints while the clients write.
_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "synchronous_standby_names": "",
    "autovacuum_naptime": "1s",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
}
#: Transactions of each client in a round.
_TRANSACTIONS = 150


def check(session: Session) -> None:
    """Kill the server in several ways while clients write; look at everything afterwards."""
    report = session.report
    # By default each file of the data directory is synced before recovery: seconds on a disk that others use as well.
    quick = {"recovery_init_sync_method": "syncfs"} if session.major >= 14 else {}
    server = session.server(settings=_SETTINGS | quick)
    server.may_be_killed = True
    load = Load(server, server.create_database("load"))
    load.prepare()
    rounds: tuple[tuple[str, Callable[[Server], None]], ...] = (
        ("the postmaster", Server.kill),
        ("all processes at once", lambda server: server.kill(children=True)),
        ("a backend", _kill_a_backend),
        ("all processes at once, again", lambda server: server.kill(children=True)),
    )
    for victim, kill in rounds:
        with report.test(f"killed: {victim}; what was committed is there"):
            load.start()
            try:
                load.run(_TRANSACTIONS)
                kill(server)
            finally:
                load.stop()
            if not server.running:
                server.start()
            server.await_accepting()
            load.verify()
        if report.failed:
            return
    with report.test("pg_amcheck finds nothing"):
        amcheck(server)
    with report.test("pg_checksums finds nothing after a clean stop"):
        server.stop()
        server.program("pg_checksums", "--check", "-D", str(server.data))


def _kill_a_backend(server: Server) -> None:
    """Kill one process; the postmaster then ends all others, and starts anew."""
    pid = server.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = 'load' AND pid <> pg_backend_pid() ORDER BY pid LIMIT 1"
    )
    if not pid:
        raise Failure("there is no backend to kill", server.activity())
    os.kill(int(pid), signal.SIGKILL)
    while Path("/proc", pid).exists():  # once the postmaster has seen its end, it lets nobody in
        time.sleep(0.01)


def amcheck(server: Server) -> None:
    """Check tables and indexes of all databases.

    :raises Failure: something is damaged.
    :raises Skipped: the bundle has no such program.
    """
    session = server.session
    if not Path(session.bundle, "bin/pg_amcheck").exists():
        raise Skipped("PostgreSQL has pg_amcheck from 14 on")
    if not any(extension["name"] == "amcheck" for extension in session.receipt["extensions"]):
        raise Skipped("the bundle has no amcheck")
    server.program("pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--rootdescend", "-j", "2")
