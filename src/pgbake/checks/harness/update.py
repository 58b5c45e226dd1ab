"""Every older version of an extension that the bundle can install is updated to the newest one, with data.

For each version that has a script of its own, ``NAME--VERSION.sql``: it is created; the extension's use is performed,
as far as the old version can, and leaves tables; ``ALTER EXTENSION UPDATE`` follows. Then the rows of all tables must
be what they were, and the extension must consist of the objects of a fresh installation (`interface.describe`).

What cannot be so is declared, with its stage: ``create``, ``path``, ``use``, ``update``, ``rows``, ``objects``.

Each update is in a database of its own. Roles belong to no database: those that one update has left are dropped before
the next, so that all of them start from the same state.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgbake.checks.harness.interface import EMPTY, describe, fresh
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import CREATING, PATIENCE, SUPERUSER, Server, Session
from pgbake.checks.harness.smoke import create, header

#: Packages of the receipt that hold contrib's extensions.
_CONTRIB = ("postgresql", "plperl", "plpython3u", "pltcl")
#: Seconds that a use may take with an old version; what it has done by then counts.
_LIMIT = 30
#: Uses are for those who have hints, too.
_USING = "RESET pg_hint_plan.enable_hint;\n"
_QUIET = "SET client_min_messages = error;\n"
_ROWS = r"""
SELECT format($$SELECT concat_ws(' ', %L, md5(string_agg(row, E'\n' ORDER BY row COLLATE "C")), count(*))
  FROM (SELECT t::text AS row FROM %s t) AS rows$$, name, name)
  FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^(pg_|information_schema$)'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.deptype = 'e')) AS tables
 ORDER BY name \gexec
"""
#: An extension in one version, if there is such a version.
_SAME_VERSION = r"""
SELECT format('CREATE EXTENSION IF NOT EXISTS %I VERSION %L CASCADE', name, version)
  FROM pg_available_extension_versions WHERE name = '{name}' AND version = '{version}' \gexec
"""
#: Where roles other than some own or may do something; what is common to all databases is seen from each.
_DATABASES = """
SELECT DISTINCT d.datname
  FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid OR s.dbid = 0 AND d.datname = 'postgres'
 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid <> ALL ({known})
"""


def check(session: Session) -> None:
    """Perform the check of the package that the specification names, or of contrib where it names none."""
    spec = session.spec
    packages = [spec["package"]] if spec["package"] else list(_CONTRIB)
    extensions = [extension for package in packages for extension in session.package(package) if extension["version"]]
    waiting = [(extension, old) for extension in extensions for old in older(session, extension)]
    if not waiting:
        session.report.add("updates", "skipped", "only one version")
        return
    server = session.server()
    server.create_database(EMPTY, "template0")  # workers that go through all databases are in no way of it
    updates = _Updates(session, server)
    for extension, old in waiting:
        with session.report.test(f"{extension['name']} {old} to {extension['version']}"):
            updates.one(extension, old)
    session.report.files["updates.txt"] = "\n".join((*updates.told, ""))


def older(session: Session, extension: dict[str, Any]) -> list[str]:
    """Return the versions of an extension, other than the default, that a script of the bundle installs."""
    share = session.bundle / f"share/postgresql/{session.major}"
    control = (share / f"extension/{extension['name']}.control").read_text(encoding="utf-8", errors="replace")
    named = re.search(r"^\s*directory\s*=\s*'([^']*)'", control, re.MULTILINE)
    directory = share / (named[1] if named else "extension")
    prefix = f"{extension['name']}--"
    found = {file.name[len(prefix) : -len(".sql")] for file in directory.glob(f"{prefix}*.sql")}
    # From "unpackaged" nobody can be updated: it names objects of a time before there were extensions.
    versions = {version for version in found if "--" not in version} - {extension["version"], "unpackaged"}
    return sorted(
        versions, key=lambda version: [int(part) if part.isdigit() else 0 for part in re.split(r"\W", version)]
    )


class _Updates:
    """Updates on one server."""

    def __init__(self, session: Session, server: Server) -> None:
        self.session = session
        self.server = server
        #: What the newest version of an extension consists of.
        self.fresh: dict[str, list[str]] = {}
        #: How much data each update has carried.
        self.told: list[str] = []
        self._count = 0
        #: The roles that were there before any update, as an array of SQL's.
        self._roles = server.sql("SELECT array_agg(oid) FROM pg_authid")

    def one(self, extension: dict[str, Any], old: str) -> None:
        """Update one extension from one version.

        :raises Failure: it cannot be done, or has changed what it should not.
        :raises Skipped: so it is declared.
        """
        name, server = extension["name"], self.server
        use: str = self.session.spec["uses"].get(name) or self.session.spec["uses"].get(extension["package"]) or ""
        only = header(use, "database")
        self._recovered()
        self._drop_roles()
        if name not in self.fresh:
            self.fresh[name] = fresh(server, name, only)
        self._count += 1
        database = only or server.create_database(f"update{self._count}", "template0")
        # Some take objects of another extension for granted, and do not say so.
        beside = _words(use)
        for other in beside[: beside.index(name)] if name in beside else []:
            create(server, database, [other])
        with self._stage("create", name, old):
            server.sql(f"{CREATING}CREATE EXTENSION \"{name}\" VERSION '{old}' CASCADE", database)
        try:
            self._update(extension, old, database, use)
        finally:
            if only:
                server.sql(f'{_QUIET}DROP EXTENSION IF EXISTS "{name}" CASCADE', only)

    def _update(self, extension: dict[str, Any], old: str, database: str, use: str) -> None:
        name, new, server = extension["name"], extension["version"], self.server
        with self._stage("path", name, old):
            ways = dict.fromkeys(
                server.sql(
                    f"SELECT source FROM pg_extension_update_paths('{name}') WHERE path IS NOT NULL"
                    f" AND (source, target) IN (('{old}', '{new}'), ('{new}', '{old}'))",
                    database,
                ).splitlines()
            )
            if old not in ways:
                if new in ways:
                    raise Skipped(f"{old} is newer than the default version {new}")
                raise Failure(f"no script, nor a chain of them, leads from {old} to {new}")
        if known := self._known("use", name, old):  # it is not even tried: a crash would be told
            self.session.report.add(f"{name} {old} with data", "skipped", f"known: {known}")
        else:
            self._use(extension, old, database, use)
        before = self._rows(database)
        with self._stage("update", name, old):
            server.sql(f'{CREATING}ALTER EXTENSION "{name}" UPDATE', database)
            came = server.sql(f"SELECT extversion FROM pg_extension WHERE extname = '{name}'", database)
            if came != new:
                raise Failure(f"it is of version {came} after the update")
        with self._stage("rows", name, old):
            after = self._rows(database)
            if after != before:
                raise Failure("rows are others than before the update", _difference(before, after, "before", "after"))
        with self._stage("objects", name, old):
            objects = describe(server, database, name)
            if objects != self.fresh[name]:
                detail = _difference(self.fresh[name], objects, f"created as {new}", f"updated from {old}")
                count = sum(line[:1] in "+-" for line in detail.splitlines()[2:])
                raise Failure(
                    f"its objects are others than those of a fresh installation: {count} lines differ", detail
                )
        rows = sum(int(line.rpartition(" ")[2]) for line in before)
        self.told.append(f"{name} {old} to {new}: {rows} rows in {len(before)} tables")

    def _use(self, extension: dict[str, Any], old: str, database: str, use: str) -> None:
        """Perform a use as far as an old version can.

        Extensions that require this one are made in the version of the same name, or not at all: a newer one may want
        what the old version has not, or be in the way of the update.
        """
        server = self.server
        directory = server.directory / "files"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
        if header(use, "create") is not None:
            names = _words(use)
        elif self.session.spec["package"]:
            names = [other["name"] for other in self.session.package(extension["package"])]
        else:
            names = []
        dependants = self._dependants(extension["name"])
        created = "".join(
            _SAME_VERSION.format(name=other, version=old)
            if other in dependants
            else f'CREATE EXTENSION IF NOT EXISTS "{other}" CASCADE;\n'
            for other in names
        )
        variables = ("-v", f"dir={directory}", "-v", f"major={self.session.major}")
        try:
            server.program(
                "psql", "-XAtq", *variables, "-d", database, "-f", "-",
                stdin=f"{CREATING}{created}{_USING}{use}", limit=_LIMIT, env={"BIN": f"{self.session.bundle}/bin"},
            )  # fmt: skip
        except Failure as failure:
            if "server" in failure.message or "connection" in failure.message or "connection" in failure.detail:
                raise Failure(f"its use crashes the server: {failure.message}", failure.detail) from failure
            print(f"the use of {extension['name']} ended early: {failure.message}", flush=True)

    def _dependants(self, name: str) -> set[str]:
        """Return the extensions of the bundle that require an extension, be it by way of others."""
        found: set[str] = set()
        waiting = {name}
        while waiting:
            waiting = {
                extension["name"]
                for extension in self.session.receipt["extensions"]
                if waiting & set(extension["requires"])
            } - found
            found |= waiting
        return found

    def _rows(self, database: str) -> list[str]:
        """Return of each table that is no extension's how many rows it has, and the digest of their text."""
        try:
            return self.server.sql(_QUIET + _ROWS, database).splitlines()
        except Failure as failure:
            raise Failure(f"rows cannot be read: {failure.message}", failure.detail) from failure

    def _known(self, stage: str, name: str, old: str) -> str | None:
        """Return why a stage of an update is declared to fail; None where it is not."""
        for known in self.session.spec["exceptions"]:
            listed = not known["versions"] or old in known["versions"]
            if listed and known["name"] == name and known["stage"] == stage:
                return str(known["reason"])
        return None

    def _drop_roles(self) -> None:
        """Drop the roles that the updates before have made.

        :raises Failure: one cannot be dropped.
        """
        known = f"'{self._roles}'::oid[]"
        made = self.server.sql(f"SELECT string_agg(oid::regrole::text, ', ') FROM pg_authid WHERE oid <> ALL ({known})")
        if not made:
            return
        try:
            for database in self.server.sql(_DATABASES.format(known=known)).splitlines():
                self.server.sql(f"REASSIGN OWNED BY {made} TO {SUPERUSER}; DROP OWNED BY {made} CASCADE", database)
            self.server.sql(f"DROP ROLE {made}")
        except Failure as failure:
            raise Failure(
                f"{made}, of the updates before, cannot be dropped: {failure.message}", failure.detail
            ) from failure

    def _recovered(self) -> None:
        """Wait for the server, which the update before may have crashed.

        :raises Failure: it does not come back.
        """
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.server.sql("SELECT 1")
                return
            except Failure:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    @contextmanager
    def _stage(self, stage: str, name: str, old: str) -> Iterator[None]:
        """Do one stage of an update; what is declared to fail there must fail."""
        known = self._known(stage, name, old)
        try:
            yield
        except Failure as failure:
            if known:
                raise Skipped(f"known: {known}") from failure
            message = failure.message
            if stage == "create":
                lacks = "its library no longer has a function of it: " if "could not find function" in message else ""
                message = f"version {old} cannot be created: {lacks}{message}"
            elif stage == "update":
                message = f"the update fails: {message}"
            raise Failure(message, failure.detail) from failure
        if known:
            raise Failure(f"its stage {stage} succeeds, and is listed as known not to: {known}")


def _words(use: str) -> list[str]:
    """Return the extensions that a use says are to be created."""
    return [word.strip() for word in (header(use, "create") or "").split(",") if word.strip()]


def _difference(before: list[str], after: list[str], old: str, new: str) -> str:
    return "\n".join(difflib.unified_diff(before, after, old, new, lineterm="", n=0))
