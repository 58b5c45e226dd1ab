"""``pgbake status``: the servers that were started here, and what has moved beneath their data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.servers import describe, servers
from pgbake.errors import ServerError
from pgbake.run import paste

if TYPE_CHECKING:
    from pgbake.bundle.collations import Change, Database
    from pgbake.bundle.server import Servers, Status


@click.command(
    "status",
    short_help="List the servers that were started here.",
    epilog="""\b
Examples:
  pgbake status
  pgbake status --json""",
)
@json_option
@pass_app
def command(app: App, as_json: bool) -> None:
    """List the servers that this user started: whether they run, where, and from which bundle.

    Of running servers it names the indexes whose order may no longer be right, because the bundle brings
    another version of libc or ICU than they were built with, and what to type.
    """
    mine = servers(app)
    found = mine.all()
    with ThreadPoolExecutor(4) as pool:
        collations = list(pool.map(lambda status: _collations(mine, status), found))
    if as_json:
        app.say_json([_described(status, moved) for status, moved in zip(found, collations, strict=True)])
        return
    if not found:
        app.say("no server was started here; `pgbake up` starts one")
    for status, moved in zip(found, collations, strict=True):
        state = f"running, pid {status.pid}" if status.pid is not None else "down"
        app.say(f"{status.data}: {state}, port {status.port}")
        app.say(f"  bundle {status.bundle}")
        if status.pid is not None:
            app.say(f"  {status.uri}")
        if isinstance(moved, ServerError):
            app.say(f"  it does not answer: {(moved.detail or moved.message).splitlines()[-1]}")
        else:
            for database in moved:
                _tell(app, status, database)


def _collations(mine: Servers, status: Status) -> tuple[Database, ...] | ServerError:
    """Return what has moved in a server's databases, or why it does not say; nothing where it is down."""
    if status.pid is None:
        return ()
    try:
        return mine.collations(status)
    except ServerError as error:
        return error


def _described(status: Status, moved: tuple[Database, ...] | ServerError) -> dict[str, Any]:
    if isinstance(moved, ServerError):
        return describe(status) | {"collations": None, "failure": moved.detail or moved.message}
    return describe(status) | {"collations": moved if status.pid is not None else None}


def _tell(app: App, status: Status, database: Database) -> None:
    if database.failure is not None:
        app.say(f"  database {database.database}: its collations could not be looked at: {database.failure}")
        return
    changes = "; ".join(_words(change) for change in database.changes)
    app.say(f"  database {database.database}: collations have changed: {changes}")
    for index in database.indexes:
        app.say(f"    index {index.index} of {index.table} relies on {', '.join(index.collations)}")
    for table in database.partitioned_tables:
        app.say(f"    table {table} is partitioned by ranges in that order: check where its rows lie")
    for constraint in database.constraints:
        app.say(f"    constraint {constraint} compares by that order: check that all rows fulfil it")
    if not database.indexes:
        app.say("    no index relies on them; record the new versions:")
    else:
        app.say("    rebuild the indexes, and only then record the new versions:")
    app.say(f"      {paste(['pgbake', 'psql', '--data', str(status.data), '-d', database.database])}")
    for statement in database.repair:
        app.say(f"      {statement}")


def _words(change: Change) -> str:
    others = f"{change.others} that no index uses" if change.others else ""
    names = ", ".join(name for name in (*change.collations, others) if name)
    return f"{change.provider} {change.recorded} -> {change.actual or 'unknown'} ({names})"
