"""The user's own tests, by the bundle's pg_regress and pg_isolation_regress; no make, no compiler."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pgbake.checks.harness.pgregress import Known, Ran, Teller, run_suite
from pgbake.checks.harness.server import Session

_PLACE = Path("/build/own")


def check(session: Session, isolation: bool) -> None:
    """Run the tests in one database, in the order of their names.

    The specification has ``accept``: for each test the file that its output is offered for; and ``missing``: those that
    have no expected output yet.
    """
    spec, variables = session.spec, os.environ
    files: dict[str, str] = json.loads(Path(variables["files"]).read_text(encoding="utf-8"))
    for name in ("sql", "specs", "expected", "results", "tools"):
        (_PLACE / name).mkdir(parents=True)
    for name, text in files.items():
        (_PLACE / name).write_text(text, encoding="utf-8")
    for name in spec["missing"]:
        (_PLACE / "expected" / f"{name}.out").touch()
    server = session.server()
    major = session.major
    where, program = ("isolation", "pg_isolation_regress") if isolation else ("regress", "pg_regress")
    command = [
        f"{session.bundle}/lib/postgresql/{major}/lib/pgxs/src/test/{where}/{program}",
        f"--inputdir={_PLACE}", f"--outputdir={_PLACE}", f"--bindir={session.bundle}/lib/postgresql/{major}/bin",
        f"--dbname={'isolation_' if isolation else ''}regression", *spec["tests"],
    ]  # fmt: skip
    environment = {name: value for name, value in server.environment.items() if name != "PGDATABASE"}
    environment["PATH"] = f"{environment['PATH']}:{_tools(_PLACE / 'tools')}"

    def failure(ran: Ran) -> str:
        actual = _PLACE / "results" / f"{ran.name}.out"
        file: str = spec["accept"][ran.name]
        if actual.is_file():
            session.report.offer(file, actual.read_text(encoding="utf-8", errors="replace"))
        if ran.name in spec["missing"]:
            return f"there is no tests/{file} yet: look at what came out, then `pgbake check --accept {where}/own`"
        return f"its output is not that of tests/{file}; if it is right: `pgbake check --accept {where}/own`"

    teller = Teller(session.report, _PLACE, Known({}), planned=spec["tests"], failure=failure)
    run_suite(command, _PLACE, environment, teller)


def _tools(directory: Path) -> Path:
    """Return a directory with `diff`, where the sandbox has none."""
    if shutil.which("diff") is None:
        program = directory / "diff"
        program.write_text(f'#!/bin/sh\nexec python3 -BI {Path(__file__).with_name("diff.py")} "$@"\n')
        program.chmod(0o755)
    return directory
