"""The suite of one extension, from its own source: ``make installcheck`` in the builder's manner."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pgbake.checks.harness.pgregress import run_suite
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Session
from pgbake.checks.harness.suite import SOURCE, Suites

_NONE = "its source has no such suite that `make installcheck` runs"


def check(session: Session, isolation: bool) -> None:
    """Run the suite.

    :param isolation: the specifications of pg_isolation_regress, and else all but these.
    """
    spec, variables = session.spec, os.environ
    if spec["leftOut"]:
        session.report.add("suite", "skipped", f"it is not run: {spec['leftOut']}")
        return
    suites = Suites(session)
    directory = SOURCE / variables.get("directory", "") / spec["directory"]
    words = [*suites.flags, *spec["make"]]
    # Defined and empty: neither TAP tests, which need Perl modules, nor the other kind.
    words += ["TAP_TESTS=", "REGRESS=" if isolation else "ISOLATION="]
    try:
        _run(suites, directory, words)
    except Failure as failure:
        session.report.add("suite", "failed", failure.message, detail=failure.detail)
    except Skipped as reason:
        session.report.add("suite", "skipped", str(reason))
    suites.known.tell(session.report)


def _run(suites: Suites, directory: Path, words: list[str]) -> None:
    """Run it; its tests are told one by one.

    :raises Failure: it fails by itself.
    :raises Skipped: there is none.
    """
    spec = suites.session.spec
    if not any((directory / name).is_file() for name in ("Makefile", "makefile", "GNUmakefile")):
        raise Skipped(_NONE)
    server = suites.server("main", spec["own"], spec["preload"])
    _prepare(spec["prepare"], directory, f"{suites.bin}:/usr/bin:/bin")
    if spec["before"]:
        server.sql(spec["before"])
    teller = suites.teller()
    try:
        run_suite(["make", *words, "installcheck"], directory, suites.environment(server), teller)
    except Failure as failure:
        reason = suites.known.reason("suite", False)
        if reason is not None:
            raise Skipped(f"known to fail: {reason}") from failure
        if teller.count == 0 and "No rule to make target 'installcheck'" in failure.detail:
            raise Skipped(_NONE) from failure
        raise
    if suites.known.reason("suite", True) is not None:
        raise Failure("it runs, and is listed as known to fail")
    if teller.count == 0:
        raise Skipped(_NONE)


def _prepare(script: str, directory: Path, path: str) -> None:
    """Perform a recipe's shell lines in the directory of the suite."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory, capture_output=True, text=True, check=False, env={"PATH": path, "HOME": "/build"},
    )  # fmt: skip
    if done.returncode != 0:
        raise Failure("`prepare` of the recipe's [suite] fails", done.stderr or done.stdout)
