"""The suites of contrib's modules and of the procedural languages, from PostgreSQL's own source."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgbake.checks.harness.report import Failure
from pgbake.checks.harness.server import Server, Session
from pgbake.checks.harness.suite import SOURCE, Suites, configuration, settings, words

_LANGUAGES = {"plperl": "src/pl/plperl", "plpython3u": "src/pl/plpython", "pltcl": "src/pl/tcl"}
_VARIABLES = ("REGRESS", "REGRESS_OPTS", "ISOLATION", "ISOLATION_OPTS", "NO_INSTALLCHECK", "TAP_TESTS")


@dataclass(frozen=True)
class _Module:
    """One directory with a suite.

    :param configuration: of the server of its own that it needs.
    """

    name: str
    directory: Path
    tests: tuple[str, ...]
    options: tuple[str, ...]
    configuration: Path | None


def check(session: Session, isolation: bool) -> None:
    """Run the suites.

    :param isolation: those of pg_isolation_regress.
    """
    suites = Suites(session)
    if not isolation:
        _build_regress(suites)
    modules, tap = _modules(suites, isolation)
    together = [module for module in modules if module.configuration is None]
    # Suites describe what a server without further modules does: what other modules add would be a difference.
    if together:
        server = suites.server("main", preload=())
        for module in together:
            _run(suites, server, module, isolation)
        server.stop()
    for module in modules:
        if module.configuration is not None:
            own = settings(module.configuration.read_text(encoding="utf-8"))
            server = suites.server(module.name, own, preload=())
            _run(suites, server, module, isolation)
            server.stop()
    if tap:
        session.report.add(
            "TAP tests", "skipped", f"they need Perl modules that build roots do not hold: of {', '.join(tap)}"
        )
    suites.known.tell(session.report)


def _modules(suites: Suites, isolation: bool) -> tuple[list[_Module], list[str]]:
    """Return the modules with a suite, and the names of those with TAP tests as well."""
    found, tap = [], []
    languages: Sequence[str] = suites.session.spec["languages"]
    directories: list[tuple[Path, str | None]] = [
        (path.parent, None) for path in sorted(SOURCE.glob("contrib/*/Makefile"))
    ]
    directories += [(SOURCE / _LANGUAGES[language], language) for language in languages]
    directories.append((SOURCE / "src/pl/plpgsql/src", "plpgsql"))
    missing = [language for language in _LANGUAGES if language not in languages]
    for directory, language in directories:
        name = language or directory.name
        absent = next((word for word in missing if name.endswith(f"_{word.removesuffix('3u')}")), None)
        if absent is not None:
            suites.session.report.add(name, "skipped", f"the bundle does not hold {absent}")
            continue
        flags = suites.flags if language is None else _flags(suites)
        variables = suites.variables(directory, _VARIABLES, flags)
        if variables["TAP_TESTS"]:
            tap.append(name)
        kind = "ISOLATION" if isolation else "REGRESS"
        tests = words(variables[kind])
        if not tests:
            continue
        options = words(variables[f"{kind}_OPTS"])
        own = configuration(options, suites.pgxs, SOURCE) if variables["NO_INSTALLCHECK"] else None
        options = [word for word in options if not word.startswith("--temp-config") and not word.endswith(".conf")]
        options = [word for word in options if not word.startswith("--dbname")]
        options.append(f"--dbname=regression_{name}")
        found.append(_Module(name, directory, tuple(tests), tuple(options), own))
    return found, tap


def _flags(suites: Suites) -> list[str]:
    """Return words for makefiles of the server's own tree: they find what is installed where they look for the rest."""
    return [f"top_builddir={suites.pgxs}", f"PGXS={suites.pgxs}/src/makefiles/pgxs.mk", "with_llvm=no"]


def _run(suites: Suites, server: Server, module: _Module, isolation: bool) -> None:
    try:
        suites.run(server, module.directory, module.tests, module.options, f"{module.name}/", isolation)
    except Failure as failure:
        suites.session.report.add(f"{module.name}/suite", "failed", failure.message, detail=failure.detail)


def _build_regress(suites: Suites) -> None:
    """Build the library of C functions that dblink's suite calls; it is no part of what is installed."""
    source = SOURCE / "src/test/regress/regress.c"
    include = subprocess.run(
        [f"{suites.bin}/pg_config", "--includedir-server"], capture_output=True, text=True, check=True
    ).stdout.strip()
    library = f"{suites.pgxs}/src/test/regress/regress.so"
    done = subprocess.run(
        ["gcc", "-w", "-O1", "-fPIC", "-shared", f"-I{include}", "-o", library, source],
        capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if done.returncode != 0:
        raise Failure("regress.so cannot be compiled", done.stderr)
