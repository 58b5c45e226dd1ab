"""Every extension of a bundle is created and put to a real use, as ``catalogue/uses/NAME.sql`` says, on a live server.

A use is a script for psql. It runs in a fresh database of its own, after ``CREATE EXTENSION ... CASCADE`` of all that
the package brings; every line that it prints must be ``t``. Comments at its top may say otherwise::

    -- create: NAME, NAME       the extensions to create instead; with no name: none
    -- database: postgres       runs in that database, alone

In psql's variables it finds ``major`` and a directory ``dir`` that the server may write to, in the environment ``BIN``
with the bundle's programs. What cannot succeed stands in ``exceptions.toml`` with the reason.

A crash takes all connections down, so uses that lost theirs are tried again. The crash itself is a failure: of the
use whose process it was, even after its last answer, or else of the server.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pgbake.build.sandbox import namespace_command
from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.bundle.server import Servers, Status
from pgbake.checks.harness.smoke import header
from pgbake.checks.uses import Uses
from pgbake.errors import ServerError
from pgbake.formats.storepath import StorePath
from pgbake.recipes.recipe import SHIPPED, Catalogue
from pgbake.store.local import LocalStore

USES = SHIPPED / "uses"
#: Extensions of one server at once.
_AT_ONCE = 2
#: Enough for all extensions of a suite in one server.
_SETTINGS = {
    "max_worker_processes": "200", "max_replication_slots": "40", "max_wal_senders": "20", "fsync": "off",
    "max_connections": "60", "logging_collector": "off", "log_connections": "on", "log_line_prefix": "%m [%p] ",
}  # fmt: skip
#: Seconds that a use may take.
_PATIENCE = 150
_CRASH = re.compile(r"LOG:  (.* \(PID (\d+)\) was terminated by signal .*)")
_CONNECTION = re.compile(r"\[(\d+)\] LOG:  .*connection authorized: .*application_name=use:(\S+)")
_LOST = re.compile(r"server closed the connection|terminating connection|the database system is|connection to server")


@dataclass(frozen=True)
class Outcome:
    """What came of one use.

    :param failure: what went wrong; None where all is well.
    :param known: the reason why it cannot succeed, from the list of exceptions.
    :param lost: what the first try died of, where there was a second.
    """

    name: str
    version: str
    origin: str
    failure: str | None
    seconds: float
    known: str | None = None
    lost: str | None = None

    @property
    def as_expected(self) -> bool:
        """Whether it works, or fails and is known to."""
        return (self.failure is None) == (self.known is None)


def debian_names(packages: Sequence[str], major: int, catalogue: Catalogue) -> list[str]:
    """Return the manifest's names of Debian's packages with extensions, of all packages of ``postgresql-MAJOR-``."""
    by_deb = {
        recipe.deb.replace("{major}", str(major)): name for name, recipe in catalogue.recipes.items() if recipe.deb
    }
    names = []
    for package in packages:
        stem = package.removeprefix(f"postgresql-{major}-")
        if stem == package or re.search(r"-(scripts|doc|dbgsym)$|^jit(-llvm)?$", stem):
            continue
        name = stem.replace("-", "_")
        prefixed = f"pg_{name}"
        if package in by_deb:
            names.append(by_deb[package])
        elif not (USES / f"{name}.sql").exists() and (
            (USES / f"{prefixed}.sql").exists() or prefixed in catalogue.recipes
        ):
            names.append(prefixed)
        else:
            names.append(name)
    return names


def together(names: Sequence[str], major: int, catalogue: Catalogue) -> list[list[str]]:
    """Return names in groups that can each be one bundle by the catalogue's conflicts; most are in the first."""

    def against(name: str) -> set[str]:
        recipe = catalogue.recipes.get(name)
        return set(recipe.at(major).conflicts) if recipe else set()

    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if not against(name) & set(group) and not any(name in against(other) for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


@contextmanager
def server(store: LocalStore, bundle: StorePath, directory: Path) -> Iterator[Status]:
    """Run a server of a bundle for the ``with`` block.

    :param directory: an empty one, which the server's user can reach.
    """
    servers = Servers(store, directory / "servers")
    with socket.create_server(("127.0.0.1", 0)) as free:  # other runs of the tests have servers of their own
        port: int = free.getsockname()[1]
    try:
        status, _ = servers.up(directory / "data", bundle, port, _SETTINGS, lambda event: None)
    except ServerError as error:
        raise AssertionError(f"{error.message}\n{error.detail}") from error
    try:
        yield status
    finally:
        servers.down(servers.find(status.data))


def use_all(store: LocalStore, bundle: StorePath, names: Sequence[str]) -> list[Outcome]:
    """Create and use extensions of a bundle, each in a database of its own.

    :param names: as the manifest has them.
    :returns: in the same order; behind them, one for each crash of a process that was none of theirs.
    """
    receipt = read_receipt(store.physical(bundle))
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="uses-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with server(store, bundle, directory) as status:
            users = _Uses(store, receipt, status)
            alone = {
                name
                for name in names
                if header(Uses(receipt.postgresql.major).script(name) or "", "database") is not None
            }
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found = {outcome.name: outcome for outcome in pool.map(users.use, [n for n in names if n not in alone])}
            # Another's crash takes all connections down: who lost one tries again alone.
            for name in names:
                outcome = found.get(name)
                if outcome is None:
                    found[name] = users.use(name)
                elif outcome.failure and _LOST.search(outcome.failure):
                    found[name] = replace(users.use(name), lost=outcome.failure)
        log = (status.data / "server.log").read_text(encoding="utf-8", errors="replace")
    others = []
    for user, crash in crashes(log):
        if user in found:
            outcome = found[user]
            found[user] = replace(outcome, failure="\n".join(filter(None, (outcome.failure, crash))))
        else:
            others.append(Outcome("(server)", receipt.postgresql.version, "", crash, 0))
    return [*(found[name] for name in names), *others]


def crashes(log: str) -> list[tuple[str | None, str]]:
    """Return what a server's log tells of processes that a signal ended: whose use it was, if any, and the message."""
    users: dict[str, str] = {}
    found: list[tuple[str | None, str]] = []
    for line in log.splitlines():
        if connection := _CONNECTION.search(line):
            users[connection[1]] = connection[2]
        elif crash := _CRASH.search(line):
            found.append((users.get(crash[2]), crash[1]))
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """Return outcomes as text, one a line, with the failed ones last."""
    rows = sorted(outcomes, key=lambda outcome: (not outcome.as_expected, outcome.failure is not None))
    return "\n".join(
        f"{outcome.name:24} {outcome.version:28} {outcome.origin:6} {outcome.seconds:5.1f}  "
        + (outcome.failure or "works").replace("\n", "\n    ")
        + (f"\n    known: {outcome.known}" if outcome.known else "")
        + (f"\n    tried again after: {' '.join(outcome.lost.split())}" if outcome.lost else "")
        for outcome in rows
    )


@dataclass(frozen=True)
class _Uses:
    store: LocalStore
    receipt: Receipt
    status: Status

    def use(self, name: str) -> Outcome:
        started = time.monotonic()
        package = next((p for p in self.receipt.packages if p.name == name), None)
        try:
            failure = self._failure(name) if package or name == "pg_stat_statements" else "it is not in the bundle"
        except subprocess.TimeoutExpired:
            failure = f"no answer in {_PATIENCE} s"
        return Outcome(
            name,
            package.version if package else self.receipt.postgresql.version,
            package.origin if package else "source",
            failure,
            time.monotonic() - started,
            Uses(self.receipt.postgresql.major).known.get(name),
        )

    def _failure(self, name: str) -> str | None:
        use = Uses(self.receipt.postgresql.major).script(name)
        if use is None:
            return f"there is no use of it: {USES / name}.sql"
        listed = header(use, "create")
        if listed is not None:
            extensions = [word.strip() for word in listed.split(",") if word.strip()]
        else:
            extensions = [e.name for e in self.receipt.extensions if e.package == name] or [name]
        database = header(use, "database")
        if database is None:
            # Another name each time: to drop one waits for all workers, of which some never answer.
            database = f"use_{name}_{time.monotonic_ns()}"
            for _ in range(60):  # another's use may have brought the server down, which is then coming back
                made = self._psql(name, "postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')
                if not _LOST.search(made.stderr):
                    break
                time.sleep(0.5)
            if made.returncode != 0:
                return made.stderr
        directory = self.status.data.parent / f"files-{name}"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
        # pg_hint_plan reads a whole script anew for each of its statements: minutes, where it has a megabyte of data.
        script = "SET client_min_messages = error;\nSET pg_hint_plan.enable_hint = off;\n"
        script += "".join(f'CREATE EXTENSION IF NOT EXISTS "{e}" CASCADE;\n' for e in extensions)
        script += "RESET pg_hint_plan.enable_hint;\n"
        script += "\\o /dev/null\nSELECT 1;\n\\o\n"
        script += use
        done = self._psql(name, database, script, f"dir={directory}", f"major={self.receipt.postgresql.major}")
        if done.returncode != 0:
            return f"{done.stdout}{done.stderr}".strip()[-800:]
        wrong = [number for number, line in enumerate(done.stdout.splitlines(), 1) if line not in ("t", "")]
        if wrong or not done.stdout.strip():
            return f"answers {', '.join(map(str, wrong))} are wrong:\n{done.stdout}{done.stderr}".strip()[-800:]
        return None

    def _psql(self, name: str, database: str, script: str, *variables: str) -> subprocess.CompletedProcess[str]:
        program = f"{self.status.bundle}/bin/psql"
        words = [word for variable in ("ON_ERROR_STOP=1", *variables) for word in ("-v", variable)]
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PGHOST": str(self.status.data),
            "PGPORT": str(self.status.port),
            "PGUSER": "postgres",
            "PGDATABASE": database,
            "PGAPPNAME": f"use:{name}",
            "PGCLIENTENCODING": "UTF8",
            "BIN": f"{self.status.bundle}/bin",
        }
        return subprocess.run(
            namespace_command(self.store, [program, "-XAtq", *words]),
            env=environment, input=script, capture_output=True, text=True, check=False, timeout=_PATIENCE,
        )  # fmt: skip
