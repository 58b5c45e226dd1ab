"""Performs one check: starts what it needs, keeps to its time, tells what came of it, and leaves nothing running."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from pgbake.checks.harness.report import Failure, Overdue, Report
from pgbake.checks.harness.server import Session


def main() -> int:
    """Perform the check that the environment describes; return the exit status.

    ``spec`` is JSON: ``kind``, ``limit`` (seconds) and what the kind reads; ``bundle`` and ``out`` are store paths.
    """
    variables = os.environ
    spec: dict[str, Any] = json.loads(variables["spec"])
    report = Report()
    session = Session(Path(variables["bundle"]), spec, report, Path("/build/servers"))

    def overdue(_signal: int, _frame: object) -> None:
        raise Overdue(f"it took longer than its limit of {spec['limit']:g} s")

    signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, spec["limit"])
    try:
        importlib.import_module(f"{__package__}.{spec['kind']}").check(session)
    except Overdue as late:
        signal.setitimer(signal.ITIMER_REAL, 0)
        report.stop(str(late), session.activity())
    except Failure as failure:
        report.stop(str(failure), failure.detail)
    except Exception as error:  # of the harness itself: a failed check as well, with all that is known
        report.stop(f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        problems = session.close()
    for problem in problems:
        report.stop(problem.message, problem.detail)
    if report.failed:
        for server in session.servers:
            print(f"--- the end of the log of the server {server.name}:\n{server.log_end()}")
        return 1
    report.write(Path(variables["out"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
