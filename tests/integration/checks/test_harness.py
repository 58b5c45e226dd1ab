"""The harness of checks with planted faults: each ends in time, is told clearly, and leaves nothing running."""

from __future__ import annotations

import base64
import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pgbake.checks.check
from pgbake.build.log import read_log
from pgbake.build.plan import make_plan
from pgbake.build.provide import Provider
from pgbake.build.realise import realise
from pgbake.bundle.collations import moved_query
from pgbake.bundle.merge import lower_bundle
from pgbake.checks.check import Lowerer
from pgbake.checks.results import Outcome, failed_outcome, passed_outcome
from pgbake.errors import BuildError
from pgbake.events import silent
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.integration.crash.driver import Process, wait_until
from tests.projects import TestProject

pytestmark = pytest.mark.integration

_MODULE = """\
import time
from pathlib import Path
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Session

def check(session):
    report, spec = session.report, session.spec
"""


class Planted:
    """Performs checks whose module is given as text, in the example's bundle."""

    def __init__(self, example: TestProject, store: LocalStore, harness: Path) -> None:
        self.example = example
        self.store = store
        self.harness = harness
        #: How long the last one took.
        self.seconds = 0.0

    def __call__(self, body: str, *, limit: float = 60, modules: tuple[str, ...] = (), **spec: Any) -> Outcome:
        """Perform one; ``body`` is what comes in ``check(session)``, ``modules`` are of the harness."""
        (self.harness / "fault.py").write_text(_MODULE + textwrap.indent(textwrap.dedent(body), "    "))
        project, system = self.example.project, host_system()
        bundle = lower_bundle(project.manifest, project.catalogue, project.lock, system)
        lowerer = Lowerer(project.manifest, project.catalogue, project.lock, system, bundle, Path("tests"))
        # A name of its own makes each run another one, and its servers' processes known.
        cluster = f"planted-{time.time_ns()}"
        settings = {"cluster_name": cluster}
        spec = {"settings": settings, **spec}
        check = lowerer.check("fault", "planted", spec, modules=modules, limit=limit, small=True)
        errors: list[BuildError] = []

        def takes(_derivation: Derivation, error: BuildError) -> bool:
            errors.append(error)
            return True

        provider = Provider(self.store, project.catalogue, lambda: project.mirrors, Path("downloads"), silent)
        begin = time.monotonic()
        realise(make_plan(bundle.graph, [check.derivation.path], self.store), self.store, provider, silent, takes=takes)
        self.seconds = time.monotonic() - begin
        self.log = read_log(self.store.log_file(check.derivation.path))
        assert bool(errors) == (check.path not in self.store.valid([check.path]))
        assert processes(cluster) == []
        if errors:
            return failed_outcome(self.store, check, errors[0])
        return passed_outcome(self.store, check, "passed")


@pytest.fixture
def perform(example: TestProject, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    harness = tmp_path / "harness"
    shutil.copytree(pgbake.checks.check._HARNESS, harness)
    monkeypatch.setattr(pgbake.checks.check, "_HARNESS", harness)
    return Planted(example, store, harness)


def processes(word: str) -> list[int]:
    """Return the processes that have a word in their command or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def only_failure(outcome: Outcome) -> Any:
    """Return the one test that has failed."""
    assert outcome.state == "failed" and outcome.error is None, outcome
    (failure,) = outcome.failures
    return failure


def test_a_server_that_never_gets_ready(perform: Planted, tmp_path: Path) -> None:
    source, library = tmp_path / "sleeper.c", tmp_path / "sleeper.so"
    source.write_text("#include <unistd.h>\n__attribute__((constructor)) void f(void) { for (;;) pause(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    failure = only_failure(
        perform(
            """
            import base64
            Path("/build/sleeper.so").write_bytes(base64.b64decode(spec["library"]))
            with report.test("started"):
                session.server(locale="C", preload=["/build/sleeper"])
            """,
            library=base64.b64encode(library.read_bytes()).decode(),
            patience=1,
        )
    )
    assert failure.test == "started"
    assert failure.reason == "the server main did not get ready in 1 s"
    assert re.search(r"\d+  S \(sleeping\)  in \S+: \S+/bin/postgres -D ", failure.detail), failure.detail
    assert perform.seconds < 30


def test_a_test_that_hangs(perform: Planted) -> None:
    outcome = perform(
        """
        server = session.server(locale="C")
        with report.test("quick"):
            server.sql("SELECT 1")
        with report.test("slow"):
            server.sql("CREATE TABLE t (); BEGIN; LOCK t; SELECT 'marker', pg_sleep(1000)")
        """,
        limit=8,
    )
    failure = only_failure(outcome)
    assert [test.outcome for test in outcome.tests] == ["passed", "failed"]
    assert failure.test == "slow" and failure.reason == "it took longer than its limit of 8 s"
    assert re.search(r"active.*Timeout:PgSleep.*SELECT 'marker', pg_sleep\(1000\)", failure.detail), failure.detail
    assert re.search(
        r"postgres: planted-\d+: postgres postgres \[local\] SELECT", failure.detail
    )  # as the kernel has it
    assert perform.seconds < 30


def test_a_server_that_hangs_when_time_is_over(perform: Planted) -> None:
    outcome = perform(
        """
        import os, signal
        server = session.server(locale="C")
        with report.test("stopped"):
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(1000)
        """,
        limit=6,
    )
    failure = only_failure(outcome)
    assert failure.reason == "it took longer than its limit of 6 s"
    assert "T (stopped)" in failure.detail
    assert perform.seconds < 40


def test_a_server_that_crashes_half_way(perform: Planted) -> None:
    outcome = perform(
        """
        server = session.server(locale="C")
        with report.test("first"):
            server.sql("SELECT 1")
        with report.test("crash"):
            # A number that is taken for a pointer.
            server.sql("CREATE FUNCTION f(bigint) RETURNS cstring LANGUAGE internal STRICT AS 'textout'; SELECT f(42)")
        with report.test("after"):
            server.sql("SELECT 1")
        """
    )
    failure = only_failure(outcome)
    assert [test.outcome for test in outcome.tests] == ["passed", "failed", "passed"]
    assert "a process of the server main crashed" in failure.reason and "signal 11" in failure.reason
    assert "Failed process was running: SELECT f(42)" in failure.detail
    assert "signal 11" in outcome.logs["main"]


def test_a_crash_that_no_client_sees(perform: Planted) -> None:
    outcome = perform(
        """
        import os, signal
        server = session.server(locale="C")
        with report.test("all is well"):
            pid = int(server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"))
            os.kill(pid, signal.SIGSEGV)
            time.sleep(0.5)
        """
    )
    failure = only_failure(outcome)
    assert failure.test == "the check itself"
    assert re.search(r"crashed: .* was terminated by signal 11", failure.reason), failure.reason


def test_a_server_that_is_gone(perform: Planted) -> None:
    outcome = perform(
        """
        server = session.server(locale="C")
        server.kill()
        for name in ("one", "two"):
            with report.test(name):
                server.sql("SELECT 1")
        """
    )
    assert [test.reason for test in outcome.failures] == ["the server main is not running"] * 2


def test_an_error_of_sql_stops_at_the_first(perform: Planted) -> None:
    outcome = perform(
        """
        server = session.server(locale="C")
        with report.test("script"):
            server.sql("CREATE TABLE one ();\\nSELECT 1/0;\\nCREATE TABLE two ();")
        with report.test("the rest was not done"):
            if server.sql("SELECT to_regclass('one'), to_regclass('two') IS NULL") != "one|t":
                raise Failure("it was")
        """
    )
    failure = only_failure(outcome)
    assert failure.reason == "psql:<stdin>:2: ERROR:  division by zero"
    # The log of the server is told when anything has failed, and the log of the check has it as well.
    assert "STATEMENT:  SELECT 1/0;" in outcome.logs["main"]
    assert "--- the end of the log of the server main:" in perform.log


def test_a_fault_of_the_harness_itself(perform: Planted) -> None:
    failure = only_failure(perform("raise KeyError('nothing')"))
    assert failure.test == "the check itself" and "KeyError" in failure.reason
    assert "Traceback" in failure.detail


def test_lost_and_torn_transactions_are_seen(perform: Planted) -> None:
    outcome = perform(
        """
        from pgbake.checks.harness.load import Load
        load = Load(session.server(locale="C"), "postgres", clients=2)
        load.prepare()
        load.start()
        load.run(20)
        load.stop()
        with report.test("whole"):
            load.verify()
        load.acknowledged[1] += 5
        with report.test("lost"):
            load.verify()
        for number, fault in enumerate((
            "DELETE FROM ledger WHERE client = 0 AND number = 3 AND part = 2",
            "UPDATE ledger SET pad = overlay(pad PLACING 'x' FROM 200) WHERE client = 0 AND number = 7 AND part = 3",
            "UPDATE account SET last = last - 1 WHERE client = 0",
        )):
            load.server.sql(f"CREATE TABLE kept_{number} AS SELECT * FROM ledger; {fault}")
            with report.test(f"torn {number}"):
                load.verify()
            load.server.sql(f"TRUNCATE ledger; INSERT INTO ledger SELECT * FROM kept_{number}")
        """,
        modules=("load",),
    )
    failures = {failure.test: failure.reason for failure in outcome.failures}
    assert failures.keys() == {"lost", "torn 0", "torn 1", "torn 2"}
    assert re.fullmatch(r"client 1 was told that \d+ transactions are committed, and \d+ are there", failures["lost"])
    assert {failures[f"torn {number}"] for number in range(3)} == {"transactions are there in part"}


def test_other_collations_than_the_receipt_s_are_seen(perform: Planted) -> None:
    outcome = perform(
        """
        from pgbake.checks.harness import locale
        session.receipt["collations"]["libc"] = "2.99"
        session.receipt["locales"].append("xx_YY.UTF-8")
        locale.check(session)
        """,
        modules=("locale",),
        moved=moved_query(15),
    )
    failures = {failure.test: failure.reason for failure in outcome.failures}
    assert failures.keys() == {
        "the server sees the receipt's version of libc's collations",
        "xx_YY.UTF-8 sorts and folds text",
    }


def test_two_runs_have_the_same_results(apart: TestProject) -> None:
    runs = []
    for _ in range(2):
        results = apart.json("check", "smoke/pgvector", "locale/server", "--again")
        assert [result["state"] for result in results] == ["passed", "passed"]
        with LocalStore(apart.store) as store:
            runs.append([store.info(StorePath.parse(result["path"])).nar_sha256 for result in results])
    assert runs[0] == runs[1]


@pytest.fixture
def endless(project: TestProject) -> TestProject:
    """A project whose check smoke/numeral does not end by itself."""
    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    (uses / "numeral.sql").write_text(f"SELECT pg_sleep(1000), {time.time_ns()};\n")
    return project


def servers_below(process: Process) -> list[int]:
    """Return the processes of servers below a pgbake."""
    return [pid for pid in process.children() if comm(pid) == "postgres"]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_a_killed_pgbake(endless: TestProject, number: int) -> None:
    running = Process(endless, ("check", "smoke/numeral"))
    wait_until(lambda: len(servers_below(running)) > 4, "a server is there")
    left = servers_below(running)
    os.kill(running.pid, number)
    status = running.wait()
    assert status == (-number if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert running.stderr.splitlines()[-1] == "interrupted"
        assert "FAILED" not in running.stderr + running.stdout and "error" not in running.stderr
    wait_until(lambda: not any(comm(pid) == "postgres" for pid in left), "its server's processes end")
    listed = {check["name"]: check["passed"] for check in endless.json("check", "--list")}
    assert not listed["smoke/numeral"]
    (endless.directory / "tests/uses/numeral.sql").unlink()
    assert "1 check passed" in endless.pgbake("check", "smoke/numeral").stdout


def test_ctrl_c_on_a_terminal(endless: TestProject) -> None:
    screen, status = on_terminal(endless, ("check", "smoke/numeral"), until=b"used", then=b"\x03")
    assert status == 130
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode(errors="replace")).replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines[-1] == "interrupted"
    assert "FAILED" not in text and "error" not in text and "Traceback" not in text
    assert "smoke/numeral" in text and "0/1 passed" in text  # what was shown while it ran


def on_terminal(project: TestProject, args: tuple[str, ...], until: bytes, then: bytes) -> tuple[bytes, int]:
    """Run pgbake on a terminal; type something once it has shown something; return all that it showed."""
    environment: Mapping[str, str] = {**project.environment(), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    leader, follower = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "pgbake", "-C", str(project.directory), *args],
        stdin=follower, stdout=follower, stderr=follower, env=environment, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(follower)
    screen, typed = b"", False
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:  # the terminal is closed
            break
        screen += read
        if not typed and until in screen:
            os.write(leader, then)
            typed = True
        if not read:
            break
    os.close(leader)
    return screen, process.wait()
