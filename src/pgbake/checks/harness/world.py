"""PostgreSQL's ``make check-world`` in a build of its own; no bundle is looked at."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pgbake.checks.harness.pgregress import Known, Teller, run
from pgbake.checks.harness.report import Overdue, Report


def main() -> int:
    """Build and test, as the variable ``world`` says; return the exit status."""
    report = Report()
    # The engine's job server is not handed down to what is run here: make goes by the number of cores.
    variables = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    teller = Teller(report, Path("/build/source"), Known({}), parts=True)
    limit = float(variables["limit"])

    def overdue(_signal: int, _frame: object) -> None:
        raise Overdue(f"it took longer than its limit of {limit:g} s", "")

    signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        status, said = run(
            ["bash", "-eu", "-o", "pipefail", "-c", variables["world"]], Path("/build"), variables, teller.line
        )
        teller.end(f"make ended with status {status}")
        if status != 0 and not report.failed:
            report.stop(f"it ended with status {status}, and no test has failed", said)
        elif teller.count == 0:
            report.stop("it ran no test", said)
    except Overdue as late:
        report.stop(late.message, late.detail)
    if report.failed:
        return 1
    report.write(Path(variables["out"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
