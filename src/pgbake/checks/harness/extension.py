"""The suite of one extension, from its own source: ``make installcheck`` in the builder's manner."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pgbake.checks.harness.pgregress import run_suite
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Session
from pgbake.checks.harness.suite import SOURCE, Suites

#: Characters of what a failed script has said.
_SHOWN = 4000
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
    spec, variables = suites.session.spec, os.environ
    environment = {**variables, "PATH": f"{suites.bin}:/usr/bin:/bin", "HOME": "/build"}
    environment["pg_config"] = f"{suites.bin}/pg_config"
    if spec["configure"]:
        _shell("configuring", spec["configure"], SOURCE / variables.get("directory", ""), environment)
    makefile = any((directory / name).is_file() for name in ("Makefile", "makefile", "GNUmakefile"))
    if not makefile and not spec["command"]:
        raise Skipped(_NONE)
    server = suites.server(
        "main", spec["own"], spec["preload"] if spec["preload"] is not None else _own(suites.session)
    )
    _shell("`prepare` of the recipe's [suite]", spec["prepare"], directory, environment)
    if spec["before"]:
        server.sql(spec["before"])
    # Where differences are looked for: beside the source too, where builders make theirs.
    teller = suites.teller(source=SOURCE.parent)
    command = ["make", *words, "installcheck"]
    if spec["command"]:
        command = ["bash", "-euo", "pipefail", "-c", spec["command"], "command", *words]
        teller.parts = True
    try:
        run_suite(command, directory, suites.environment(server) | {"kind": spec["kind"]}, teller)
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


def _own(session: Session) -> list[str]:
    """Return what the extensions of the package under test, and those that they require, have preloaded."""
    extensions = {extension["name"]: extension for extension in session.receipt["extensions"]}
    waiting = [extension["name"] for extension in session.package(session.spec["name"])]
    libraries: set[str] = set()
    while waiting:
        extension = extensions.pop(waiting.pop(), None)
        if extension is not None:
            libraries.update(extension["preload"])
            waiting += extension["requires"]
    return [library for library in session.receipt["preload"] if library in libraries]


def _shell(what: str, script: str, directory: Path, environment: Mapping[str, str]) -> None:
    """Perform a recipe's shell lines, or its builder's, in a directory."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory, capture_output=True, text=True, errors="replace", check=False, env=environment,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failure(f"{what} fails", f"{done.stdout[-_SHOWN:]}\n{done.stderr[-_SHOWN:]}")
