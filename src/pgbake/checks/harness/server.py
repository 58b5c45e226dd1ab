"""Servers of the bundle for a check: private directories and sockets, no TCP port, the bundle's own settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgbake.checks.harness.report import Failure, Report

#: What scripts that create extensions begin with. pg_hint_plan reads a whole script anew for each of its statements:
#: minutes, where it has a megabyte of data.
CREATING = "SET client_min_messages = error;\nSET pg_hint_plan.enable_hint = off;\n"
PORT = 5432
SUPERUSER = "postgres"
#: Seconds to wait for a server that starts or stops, where the specification has no ``patience``.
PATIENCE = 60
_SHOWN = 40  # lines of a log
#: Scripts that extensions start may be ended by signals, too; of those the server says no number.
_CRASH = re.compile(r"\(PID \d+\) was terminated by signal|PANIC:|TRAP: ")
#: What clients say when the server has left them, or is not there.
_LOST = re.compile("server closed the connection|connection to server .* failed|because of crash|in recovery mode")
#: A check's own, below those of the bundle and of the manifest. Uses start workers of their own beside those preloaded.
_SETTINGS = {
    "fsync": "off",
    "listen_addresses": "",
    "log_line_prefix": "%m [%p] %a: ",
    "logging_collector": "off",
    "max_worker_processes": "64",
}
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/build", "TZ": "UTC"}


class Session:
    """The bundle under test, and the servers that a check has started of it."""

    def __init__(self, bundle: Path, spec: dict[str, Any], report: Report, directory: Path) -> None:
        self.bundle = bundle
        self.spec = spec
        self.report = report
        self.directory = directory
        self.patience: float = spec.get("patience", PATIENCE)
        self.receipt: dict[str, Any] = json.loads((bundle / "receipt.json").read_text(encoding="utf-8"))
        self.major: int = self.receipt["postgresql"]["major"]
        self.servers: list[Server] = []

    def server(
        self,
        name: str = "main",
        settings: Mapping[str, str] | None = None,
        preload: Sequence[str] | None = None,
        locale: str | None = None,
    ) -> Server:
        """Make a cluster and start its server.

        :param settings: win over those of the manifest, which win over the bundle's.
        :param preload: in place of the bundle's list.
        :param locale: in place of the bundle's first.
        :raises Failure: it does not start.
        """
        server = self.prepare(name, settings, preload)
        server.initialise(locale or (self.receipt["locales"] or ["C"])[0])
        server.start()
        return server

    def prepare(
        self, name: str, settings: Mapping[str, str] | None = None, preload: Sequence[str] | None = None
    ) -> Server:
        """Return a server whose data directory somebody else makes."""
        libraries = self.receipt["preload"] if preload is None else preload
        chosen = {"shared_preload_libraries": ",".join(libraries)} if libraries else {}
        chosen |= {**_SETTINGS, **self.receipt["settings"], **self.spec.get("settings", {}), **(settings or {})}
        server = Server(self, name, self.directory / name, chosen)
        self.servers.append(server)
        return server

    def package(self, name: str) -> list[dict[str, Any]]:
        """Return the receipt's words on the extensions of a package."""
        return [extension for extension in self.receipt["extensions"] if extension["package"] == name]

    def activity(self) -> str:
        """Say what the processes of all servers are doing."""
        return "\n".join(f"--- server {server.name}\n{server.activity()}" for server in self.servers if server.running)

    def close(self, at_once: bool = False) -> list[Failure]:
        """Stop all servers; return what was wrong with them.

        :param at_once: kill them.
        """
        problems = []
        for server in reversed(self.servers):
            if at_once:
                server.kill(children=True)
                continue
            try:
                server.stop()
            except Failure as failure:
                problems.append(failure)
            problems += server.crashes()
        return problems

    def remove(self) -> None:
        """Delete the files of all servers, which are stopped."""
        shutil.rmtree(self.directory, ignore_errors=True)


class Server:
    """One server.

    :param directory: for its data, socket and log.
    """

    def __init__(self, session: Session, name: str, directory: Path, settings: Mapping[str, str]) -> None:
        self.session = session
        self.name = name
        self.directory = directory
        self.data = directory / "data"
        self.log = self.data / "server.log"
        self.settings = dict(settings)
        #: Whether crashes are what the check is about.
        self.may_crash = False
        #: Whether the check kills processes: that one ended by signal 9 is no crash then.
        self.may_be_killed = False
        #: Up to where the log's crashes are known.
        self._looked_at = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """What clients need to find it."""
        return {
            **_ENVIRONMENT,
            "PATH": f"{self.session.bundle}/bin:{_ENVIRONMENT['PATH']}",
            "PGHOST": str(self.directory), "PGPORT": str(PORT), "PGUSER": SUPERUSER, "PGDATABASE": "postgres",
        }  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether its postmaster is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its postmaster."""
        assert self._process is not None
        return self._process.pid

    def initialise(self, locale: str = "C") -> None:
        """Make its data directory, with checksums.

        :raises Failure: initdb fails.
        """
        self.program(
            "initdb", "-D", str(self.data), "-U", SUPERUSER, "-A", "trust", "-N", "-k", "-E", "UTF8",
            f"--locale={locale}", "--no-instructions",
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers.

        :raises Failure: it ends, or does not answer in time; the end of its log is the detail.
        """
        options = [word for key, value in self.settings.items() for word in ("-c", f"{key}={value}")]
        command = [f"{self.session.bundle}/bin/postgres", "-D", str(self.data), "-k", str(self.directory), *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_ENVIRONMENT, start_new_session=True
            )
        patience = self.session.patience
        until = time.monotonic() + patience
        while not self._is_ready():
            if not self.running:
                raise Failure(f"the server {self.name} ended as it started", self.log_end())
            if time.monotonic() > until:
                detail = self._stuck()
                self.kill(children=True)
                raise Failure(f"the server {self.name} did not get ready in {patience:g} s", detail)
            time.sleep(0.02)
        self.sql("SELECT 1", limit=patience)

    def _is_ready(self) -> bool:
        """Whether postmaster.pid says so, in its eighth line (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() in ("ready", "standby") and lines[0] == str(self.pid)

    def _stuck(self) -> str:
        return f"{self.processes()}\n{self.log_end()}"

    def stop(self) -> None:
        """Stop it, as fast as it can.

        :raises Failure: it does not stop by itself.
        """
        if not self.running:
            return
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        patience = self.session.patience
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            detail = self._stuck()
            self.kill(children=True)
            raise Failure(f"the server {self.name} did not stop in {patience:g} s", detail) from None

    def kill(self, children: bool = False) -> None:
        """Kill the postmaster, and wait for the end of its children, who notice by themselves.

        :param children: kill them as well, as the end of the whole machine would.
        """
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        until = time.monotonic() + (0 if children else self.session.patience)
        while self._children() and time.monotonic() < until:
            time.sleep(0.02)
        while found := self._children():  # what is being forked while the list is read is in the next one
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _children(self) -> list[int]:
        """Return the server's processes, which all work in its data directory; those that have ended do not count."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "cwd").readlink() == self.data:
                        found.append(int(entry.name))
        return found

    def crashes(self) -> list[Failure]:
        """Return what its log says of processes that crashed since it was last asked, unless that is meant."""
        if self.may_crash or not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        begin, self._looked_at = self._looked_at, len(lines)
        for number, line in enumerate(lines[begin:], begin):
            if _CRASH.search(line) and not (self.may_be_killed and "by signal 9" in line):
                around = "\n".join(lines[max(0, number - 10) : number + 10])
                said = line.partition(": ")[2] or line
                return [Failure(f"a process of the server {self.name} crashed: {said.strip()}", around)]
        return []

    def _why_lost(self) -> Failure | None:
        """Say why a program lost its connection: a crash, after which this waits until the server is there again."""
        noticed = time.monotonic() + min(2, self.session.patience)  # the postmaster needs a moment to see and tell it
        while not (found := self.crashes()) and self.running and time.monotonic() < noticed:
            time.sleep(0.05)
        until = time.monotonic() + self.session.patience
        while found and self.running and not self.accepts() and time.monotonic() < until:
            time.sleep(0.05)
        if found:
            return found[0]
        return None if self.running else Failure(f"the server {self.name} is not running", self.log_end())

    def await_accepting(self) -> None:
        """Wait until it lets clients in.

        :raises Failure: it ends, or does not in time.
        """
        until = time.monotonic() + self.session.patience
        while not self.accepts():
            if not self.running:
                raise Failure(f"the server {self.name} ended", self.log_end())
            if time.monotonic() > until:
                raise Failure(f"the server {self.name} lets nobody in", self._stuck())
            time.sleep(0.05)

    def accepts(self) -> bool:
        """Whether it lets clients in."""
        command = [f"{self.session.bundle}/bin/pg_isready", "-q"]
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    # --- clients -----------------------------------------------------------------------------------

    def program(
        self, name: str, *args: str, stdin: str = "", limit: float | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a program of the bundle against it; return its standard output.

        :raises Failure: it fails, or takes longer than ``limit`` seconds.
        """
        command = [f"{self.session.bundle}/bin/{name}", *args]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, errors="replace", check=False,
                timeout=limit, env={**self.environment, **(env or {})}, cwd=self.directory,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failure(f"{name} gave no answer in {limit:g} s", self.activity()) from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            if any(_LOST.search(line) for line in said) and (lost := self._why_lost()):
                raise lost
            message = next((line for line in said if "ERROR" in line or "FATAL" in line), (said or ["nothing"])[-1])
            raise Failure(message, "\n".join(said[-_SHOWN:]))
        return done.stdout

    def sql(
        self,
        script: str,
        database: str = "postgres",
        variables: Mapping[str, str] | None = None,
        limit: float | None = None,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> str:
        """Perform a script of psql's, which stops at the first error; return what it prints, unaligned.

        :param before: commands that are performed first, and count as no lines of the script.
        :raises Failure: as :meth:`program`; the message is the server's.
        """
        words = [word for key, value in (variables or {}).items() for word in ("-v", f"{key}={value}")]
        words += [word for command in before for word in ("-c", command)]
        args = ("-XAtq", "-v", "ON_ERROR_STOP=1", *words, "-d", database, "-f", "-")
        return self.program(
            "psql", *args, stdin=script, limit=limit, env={"PGDATABASE": database, **(env or {})}
        ).strip()

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database anew; return its name."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}"; CREATE DATABASE "{name}" TEMPLATE {template}')
        return name

    # --- what is known of it when something is wrong -----------------------------------------------

    def log_end(self) -> str:
        """Return the last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_SHOWN:])

    def processes(self) -> str:
        """Return what the kernel says of its processes: state, where each waits, and its title."""
        lines = []
        for pid in self._children():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                state = next((line for line in status.splitlines() if line.startswith("State:")), "").partition("\t")[2]
                waits = Path(f"/proc/{pid}/wchan").read_text() or "-"
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            lines.append(f"{pid}  {state}  in {waits}: {title[:200]}")
        return "\n".join(lines)

    def activity(self) -> str:
        """Return what each backend is doing, as the server sees it, and the kernel."""
        query = (
            "SELECT pid, backend_type, state, wait_event_type || ':' || wait_event AS waits,"
            " now() - query_start AS since, left(regexp_replace(query, '\\s+', ' ', 'g'), 300) AS query"
            " FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() OR backend_type LIKE '%worker%'"
        )
        command = [f"{self.session.bundle}/bin/psql", "-X", "-c", query]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3, env=self.environment)
            said = done.stdout or done.stderr
        except subprocess.TimeoutExpired:
            said = "the server does not answer\n"
        return f"{said}{self.processes()}"

    def remove(self) -> None:
        """Delete a stopped server's files."""
        shutil.rmtree(self.directory)
