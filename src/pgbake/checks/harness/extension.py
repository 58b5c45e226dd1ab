"""The suite of one extension, from its own source: ``make installcheck`` as its build does, or as its recipe has it.

A suite that runs nothing fails, unless its source holds no tests: whoever reads that all has passed must not be wrong.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgbake.checks.harness.pgregress import NothingRun, run_suite
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Server, Session
from pgbake.checks.harness.suite import SOURCE, Suites, still_there, words

if TYPE_CHECKING:
    from pgbake.checks.harness.tap import Tap

#: Characters of what a failed script has said.
_SHOWN = 4000
#: Directories of sources in which tests lie.
_TESTS = ("test", "tests", "t", "regress", "expected", "spec", "specs")


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
    flags = [*suites.flags, *spec["make"]]
    # Defined and empty: neither TAP tests, which need Perl modules, nor the other kind.
    flags += ["TAP_TESTS=", "REGRESS=" if isolation else "ISOLATION="]
    try:
        server = _prepared(suites, directory)
        if spec["tap"]:
            _tap(suites, server, directory)
        elif spec["steps"]:
            for name, script in spec["steps"]:
                _step(suites, server, directory, script, flags, f"{name}/")
        elif spec["command"]:
            _step(suites, server, directory, spec["command"], flags)
        else:
            _installcheck(suites, server, directory, flags, isolation)
    except Failure as failure:
        suites.tell("suite", failure)
    suites.known.tell(session.report)


def _prepared(suites: Suites, directory: Path) -> Server:
    """Configure the source, start the server, and prepare both as the recipe says.

    :raises Failure: one of these fails.
    """
    spec, variables = suites.session.spec, os.environ
    environment = {**variables, "PATH": f"{suites.bin}:/usr/bin:/bin", "HOME": "/build"}
    environment["pg_config"] = f"{suites.bin}/pg_config"
    if spec["configure"]:
        _shell("configuring", spec["configure"], SOURCE / variables.get("directory", ""), environment)
    preload = spec["preload"] if spec["preload"] is not None else _own(suites.session)
    server = suites.server("main", spec["own"], preload)
    _shell("`prepare` of the recipe's [suite]", spec["prepare"], directory, environment)
    if spec["before"]:
        server.sql(spec["before"])
    return server


def _step(suites: Suites, server: Server, directory: Path, script: str, flags: Sequence[str], prefix: str = "") -> None:
    """Run shell lines of the recipe's, which tell their tests as pg_regress does."""
    command = ["bash", "-euo", "pipefail", "-c", script, "command", *flags]
    _run(suites, server, directory, command, prefix, parts=not prefix)


def _installcheck(suites: Suites, server: Server, directory: Path, flags: Sequence[str], isolation: bool) -> None:
    """Run ``make installcheck``, where the source has it."""
    tests = [name for name in _TESTS if (directory / name).is_dir()]
    nothing: Failure | Skipped = Skipped("its source has no tests")
    if isolation or tests:
        nothing = Failure(
            f"`make installcheck` runs nothing, and its source has {', '.join(tests) or 'no specifications'}: "
            "let its recipe's [suite] say how they are run, or by left_out why they are not"
        )
    if not any((directory / name).is_file() for name in ("Makefile", "makefile", "GNUmakefile")):
        suites.tell("suite", nothing)
        return
    kind = "ISOLATION" if isolation else "REGRESS"
    planned = words(suites.variables(directory, (kind,), flags)[kind])
    _run(suites, server, directory, ["make", *flags, "installcheck"], planned=planned, nothing=nothing)


def _run(
    suites: Suites, server: Server, directory: Path, command: Sequence[str], prefix: str = "", *, parts: bool = False,
    planned: Sequence[str] = (), nothing: Failure | Skipped | None = None,
) -> None:  # fmt: skip
    """Run tests of a suite, which are told one by one.

    :param nothing: what is to be told where it runs none; None: that it fails.
    """
    # Differences are looked for beside the source too, where builders make theirs.
    teller = suites.teller(prefix, SOURCE.parent, planned, parts)
    came: Failure | Skipped | None = None
    try:
        run_suite(command, directory, suites.environment(server) | {"kind": suites.session.spec["kind"]}, teller)
        still_there(server)
    except Skipped as reason:
        came = reason
    except NothingRun as none:
        came = nothing or none
    except Failure as failure:
        came = failure
        if nothing is not None and teller.count == 0 and "No rule to make target 'installcheck'" in failure.detail:
            came = nothing
    suites.tell(f"{prefix}suite", came, quiet=True)


def _tap(suites: Suites, server: Server, directory: Path) -> None:
    """Run scripts of pgTAP, each in a database of its own."""
    from pgbake.checks.harness.tap import perform

    spec, report = suites.session.spec, suites.session.report
    if all(extension["name"] != "pgtap" for extension in suites.session.receipt["extensions"]):
        suites.tell("suite", Skipped("it needs pgTAP, which the bundle does not hold: `pgbake add pgtap`"))
        return
    scripts = sorted({script for glob in spec["tap"]["scripts"] for script in directory.glob(glob)})
    if not scripts:
        suites.tell("suite", Failure(f"its source has no {' or '.join(spec['tap']['scripts'])}"))
    for script in scripts:
        name = str(script.relative_to(directory).with_suffix(""))
        came, begin = None, time.monotonic()
        try:
            database = server.create_database("tap", "template0")
            server.sql(f"CREATE EXTENSION pgtap;\n{spec['tap']['before']}", database)
            tap = perform(server, database, script.read_text(encoding="utf-8"))
            for test in tap.tests:
                if test.directive == "SKIP" or (test.directive == "TODO" and not test.passed):
                    report.add(f"{name}: {test.number} {test.name}", "skipped", test.reason or test.directive)
                elif not test.passed and came is None:
                    came = Failure(f"not ok: {test.number} {test.name}", "\n".join(_wrong(tap)))
            still_there(server)
        except Failure as failure:
            came = failure
        suites.tell(name, came, time.monotonic() - begin)


def _wrong(tap: Tap) -> Iterator[str]:
    """Yield what a script has said of the tests that failed."""
    for test in tap.tests:
        if not (test.passed or test.directive):
            yield f"not ok {test.number} {test.name}"
            yield from test.comments


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
