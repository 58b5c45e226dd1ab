"""Every extension is created, put to a use that is more than its creation, dropped, and created again.

A use is a script of psql's, performed in a database of its own after ``CREATE EXTENSION ... CASCADE`` of all that the
package brings; every line that it prints must be ``t``. Comments at its top may say otherwise::

    -- create: NAME, NAME       the extensions to create instead; with no name: none
    -- database: postgres       runs in that database
    -- of: contrib              it is one of contrib's: the tables that it leaves are data of `update/contrib`

In psql's variables it finds ``major`` and a directory ``dir`` that the server may write to, in the environment ``BIN``
with the bundle's programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import CREATING, Server, Session

#: Two extensions that make an object of the same name.
_CLASH = re.compile(r"ERROR: .* already exists")
_QUIET = "SET client_min_messages = error;\n"


def check(session: Session) -> None:
    """Perform the check of a package, as the specification says; or of everything, where it has ``all``."""
    server = session.server()
    if session.spec.get("all"):
        _all(session, server)
    else:
        _one(session, server)


def _one(session: Session, server: Server) -> None:
    spec, report = session.spec, session.report
    use: str = spec["use"] or ""
    listed = header(use, "create")
    if listed is not None:
        extensions = [word.strip() for word in listed.split(",") if word.strip()]
    elif spec["extensions"]:
        extensions = spec["extensions"]
    else:
        extensions = [extension["name"] for extension in session.package(spec["package"])]
    database = header(use, "database")
    if database is None:
        database = server.create_database("smoke")
    if spec["known"]:
        with report.test("created and used"):
            try:
                create(server, database, extensions)
                _use(session, server, database, use)
            except Failure as failure:
                raise Skipped(f"known not to work: {spec['known']}") from failure
            raise Failure("it works, and is listed as known not to", spec["known"])
        return
    with report.test("created"):
        create(server, database, extensions)
    if report.failed:
        return
    with report.test("used"):
        if not use:
            raise Skipped(f"it has no use yet: write tests/uses/{spec['name']}.sql")
        _use(session, server, database, use)
    with report.test("dropped and created again"):
        if not extensions:
            raise Skipped("it brings no extension")
        fresh = server.create_database("again") if header(use, "database") is None else database
        create(server, fresh, extensions)
        drop(server, fresh, extensions)
        create(server, fresh, extensions)


def _use(session: Session, server: Server, database: str, use: str) -> None:
    directory = server.directory / "files"
    directory.mkdir()
    directory.chmod(0o777)
    said = server.sql(
        use,
        database,
        {"dir": str(directory), "major": str(session.major)},
        env={"BIN": f"{session.bundle}/bin", "PGCLIENTENCODING": "UTF8"},
        before=(_QUIET, "\\o /dev/null", "SELECT 1", "\\o"),
    )
    lines = said.splitlines()
    wrong = [str(number) for number, line in enumerate(lines, 1) if line not in ("t", "")]
    if wrong or not said:
        raise Failure(f"its use gave other answers than t: {', '.join(wrong) or 'none at all'}", said)


def _all(session: Session, server: Server) -> None:
    """Everything in one database, dumped and restored."""
    report = session.report
    apart: dict[str, str] = session.spec["apart"]
    names = [extension["name"] for extension in session.receipt["extensions"] if extension["package"] not in apart]
    for name, reason in sorted(apart.items()):
        report.add(f"{name} beside the others", "skipped", reason)
    database = server.create_database("together")
    with report.test("all created together"):
        for name in list(names):
            try:
                create(server, database, [name])
            except Failure as failure:
                # Each is created alone by a check of its own: these two just cannot share a database.
                if not _CLASH.search(failure.message):
                    raise
                names.remove(name)
                report.add(f"{name} beside the others", "skipped", failure.message.partition("ERROR:")[2].strip())
    if report.failed:
        return
    with report.test("dumped and restored"):
        dump = server.directory / "dump"
        server.program("pg_dump", "-Fc", "-f", str(dump), "-d", database)
        server.program("pg_restore", "-e", "-d", server.create_database("restored", "template0"), str(dump))
    with report.test("all dropped and created again"):
        drop(server, database, names)
        create(server, database, names)


def create(server: Server, database: str, extensions: Iterable[str]) -> None:
    """Create extensions in a database, with what they require."""
    server.sql(
        CREATING + "".join(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE;\n' for name in extensions), database
    )


def drop(server: Server, database: str, extensions: Iterable[str]) -> None:
    """Drop extensions, with what depends on them; what was built in stays."""
    names = [name for name in extensions if name != "plpgsql"]
    server.sql(_QUIET + "".join(f'DROP EXTENSION IF EXISTS "{name}" CASCADE;\n' for name in names), database)


def header(use: str, key: str) -> str | None:
    """Return what a comment of a use says; None where there is none."""
    found = re.search(rf"^-- {key}:(.*)$", use, re.MULTILINE)
    return found[1].strip() if found else None
