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
    # In memory, where so little is written that it would only be flushed to disk with the output.
    directory = Path("/tmp/servers" if spec.get("small") else "/build/servers")
    session = Session(Path(variables["bundle"]), spec, report, directory)

    def overdue(_signal: int, _frame: object) -> None:
        # Now, while the clients are there: they end with what this interrupts.
        raise Overdue(f"it took longer than its limit of {spec['limit']:g} s", session.activity())

    signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, spec["limit"])
    late = False
    try:
        importlib.import_module(f"{__package__}.{spec['kind']}").check(session)
    except Overdue as over:
        late = True
        report.stop(over.message, over.detail)
    except Failure as failure:
        report.stop(str(failure), failure.detail)
    except Exception as error:  # of the harness itself: a failed check as well, with all that is known
        report.stop(f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        logs = _logs(session)  # before the lines of their shutdown
        problems = session.close(at_once=late)  # a server that hangs would not stop
    for problem in problems:
        report.stop(problem.message, problem.detail)
    if report.failed:
        for name, text in (_logs(session) if problems else logs).items():
            report.log(name, text)
        return 1
    report.write(Path(variables["out"]))
    session.remove()  # what is deleted now need not be written to disk with the output
    return 0


def _logs(session: Session) -> dict[str, str]:
    """Return the ends of the logs of all servers."""
    return {server.name: server.log_end() for server in session.servers}


if __name__ == "__main__":
    sys.exit(main())
