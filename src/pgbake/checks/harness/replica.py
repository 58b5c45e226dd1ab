"""A second server follows the first: all of it by its WAL, or tables by their changes."""

from __future__ import annotations

import time
from collections.abc import Callable

from pgbake.checks.harness.durability import amcheck
from pgbake.checks.harness.load import Load
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Server, Session

_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "hot_standby": "on",
    "synchronous_standby_names": "",
    "wal_receiver_status_interval": "1s",
}
_TRANSACTIONS = 60
#: Types of extensions: the extension, the column's type, and a value that follows from ``i``.
_TYPES = (
    ("citext", "citext", "'Word' || i"),
    ("cube", "cube", "cube(i)"),
    ("hstore", "hstore", "hstore('key', i::text)"),
    ("ip4r", "ip4r", "'10.0.0.' || i % 256"),
    ("ltree", "ltree", "'top.n' || i"),
    ("postgis", "geometry", "ST_MakePoint(i, i % 7)"),
    ("prefix", "prefix_range", "'0' || i"),
    ("roaringbitmap", "roaringbitmap", "rb_build(ARRAY[i, i + 5])"),
    ("semver", "semver", "i || '.0.1'"),
    ("seg", "seg", "i || ' .. ' || i + 1"),
    ("vector", "vector(3)", "format('[%s,%s,1]', i, i % 7)"),
)
#: Indexes of extensions, and queries that use them.
_INDEXES = (
    ("vector", "USING hnsw (vector vector_l2_ops)", "SELECT id FROM typed ORDER BY vector <-> '[90,3,1]' LIMIT 12"),
    ("ltree", "USING gist (ltree)", "SELECT count(*) FROM typed WHERE ltree <@ 'top.n17'"),
    ("cube", "USING gist (cube)", "SELECT count(*) FROM typed WHERE cube <@ cube(10, 30)"),
    ("hstore", "USING gin (hstore)", "SELECT count(*) FROM typed WHERE hstore @> 'key=>21'"),
)
_TABLES = ("account", "ledger", "typed")


def check(session: Session) -> None:
    """Perform the check that is named by the specification: ``streaming`` or ``logical``."""
    (_streaming if session.spec["name"] == "streaming" else _logical)(session)


def _streaming(session: Session) -> None:
    report = session.report
    primary = session.server("primary", _SETTINGS)
    load = Load(primary, primary.create_database("app"), clients=3)
    load.prepare()
    typed = Typed(session)
    typed.create(primary)
    typed.fill(primary, 1, 200)
    standby = session.prepare("standby", _SETTINGS)
    with report.test("a standby is made by pg_basebackup while clients write"):
        load.start()
        slot = ("-C", "-S", "standby")
        primary.program(
            "pg_basebackup", "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "--no-sync", *slot
        )
        standby.start()
        if standby.sql("SELECT pg_is_in_recovery()") != "t":
            raise Failure("the standby is none", standby.log_end())
    if report.failed:
        load.stop()
        return
    with report.test("replay reaches the primary"):
        try:
            typed.fill(primary, 201, 400)
            load.run(_TRANSACTIONS)
        finally:
            load.stop()
        await_replay(primary, standby)
    with report.test("both have the same contents"):
        load.verify(standby)
        compare(primary, standby)
        typed.compare_indexes(primary, standby)
    with report.test("the standby can only be read"):
        try:
            standby.sql("DELETE FROM typed", "app")
        except Failure as failure:
            if "read-only transaction" not in failure.message:
                raise
        else:
            raise Failure("the standby let a client write")
    with report.test("promoted, it takes writes"):
        primary.stop()
        if standby.sql("SELECT pg_promote(true, 60)") != "t":
            raise Failure("the standby was not promoted in 60 s", standby.log_end())
        typed.fill(standby, 401, 420)
        typed.change(standby)
        timeline = standby.sql("CHECKPOINT; SELECT timeline_id FROM pg_control_checkpoint()")
        if timeline != "2":
            raise Failure(f"the promoted server is on timeline {timeline}, not 2", standby.log_end())
    with report.test("pg_amcheck finds nothing on it"):
        amcheck(standby)


def _logical(session: Session) -> None:
    report = session.report
    publisher, subscriber = session.server("publisher", _SETTINGS), session.server("subscriber", _SETTINGS)
    load = Load(publisher, "app")
    typed = Typed(session)
    for server in (publisher, subscriber):
        Load(server, server.create_database("app")).prepare()
        typed.create(server)
    subscriber.sql("TRUNCATE account, ledger", "app")
    typed.fill(publisher, 1, 200)
    with report.test("a subscription copies what is there"):
        source = f"host={publisher.directory} port={publisher.environment['PGPORT']} user=postgres dbname=app"
        publisher.sql(f"CREATE PUBLICATION pub FOR TABLE {', '.join(_TABLES)}", "app")
        # What it has applied it confirms at once then.
        options = "WITH (synchronous_commit = 'on')"
        subscriber.sql(f"CREATE SUBSCRIPTION sub CONNECTION '{source}' PUBLICATION pub {options}", "app")
        ready = "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
        _await(lambda: subscriber.sql(ready, "app") == "t", "the initial copy did not end", subscriber)
        compare(publisher, subscriber)
    if report.failed:
        return
    for name, change in (
        ("inserted rows", lambda: typed.fill(publisher, 201, 300)),
        ("changed and deleted rows", lambda: typed.change(publisher)),
        ("transactions of several clients", lambda: _write(load)),
        ("an emptied table", lambda: publisher.sql("TRUNCATE ledger", "app")),
    ):
        with report.test(f"replicated: {name}"):
            change()
            _await_confirmed(publisher, subscriber)
            compare(publisher, subscriber)
    with report.test("types of extensions are among what was replicated"):
        if not typed.types:
            raise Skipped("the bundle has no extension with a type that this check knows")
    with report.test("dropped, the subscription leaves nothing behind"):
        subscriber.sql("DROP SUBSCRIPTION sub", "app")
        if left := publisher.sql("SELECT slot_name FROM pg_replication_slots"):
            raise Failure(f"the publisher still has the replication slot {left}")


def _write(load: Load) -> None:
    load.start()
    try:
        load.run(_TRANSACTIONS)
    finally:
        load.stop()


class Typed:
    """A table with a column for each type of the bundle's extensions that this module knows."""

    def __init__(self, session: Session) -> None:
        there = {extension["name"] for extension in session.receipt["extensions"]}
        self.types = [known for known in _TYPES if known[0] in there]
        self.indexes = [known for known in _INDEXES if known[0] in there]

    def create(self, server: Server) -> None:
        """Make the table and its indexes."""
        lines = ["SET client_min_messages = error;"]
        lines += [f'CREATE EXTENSION IF NOT EXISTS "{extension}" CASCADE;' for extension, _, _ in self.types]
        columns = "".join(f', "{extension}" {type_}' for extension, type_, _ in self.types)
        lines.append(f"CREATE TABLE typed (id int PRIMARY KEY, note text{columns});")
        lines += [f"CREATE INDEX ON typed {how};" for _, how, _ in self.indexes]
        server.sql("\n".join(lines), "app")

    def fill(self, server: Server, first: int, last: int) -> None:
        """Insert rows; some have a value that lies outside of its row."""
        note = (
            "CASE WHEN i % 50 = 0 THEN (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 300) j) END"
        )
        values = "".join(f", ({value})::{type_}" for _, type_, value in self.types)
        server.sql(f"INSERT INTO typed SELECT i, {note}{values} FROM generate_series({first}, {last}) i", "app")

    def change(self, server: Server) -> None:
        """Update rows, their keys as well, and delete some."""
        sets = "".join(f', "{extension}" = ({value})::{type_}' for extension, type_, value in self.types)
        server.sql(
            f"UPDATE typed SET id = typed.id{sets} FROM (SELECT id AS key, id + 1000 AS i FROM typed) n"
            " WHERE key = typed.id AND typed.id % 3 = 0;"
            " UPDATE typed SET id = id + 100000 WHERE id % 25 = 0; DELETE FROM typed WHERE id % 5 = 1",
            "app",
        )

    def compare_indexes(self, one: Server, other: Server) -> None:
        """Check that the extensions' indexes give the same answers.

        :raises Failure: they do not.
        """
        for extension, _, query in self.indexes:
            forced = f"SET enable_seqscan = off; {query}"
            answers = [server.sql(forced, "app") for server in (one, other)]
            if answers[0] != answers[1] or not answers[0]:
                raise Failure(f"an index of {extension} gives another answer on the {other.name}", "\n\n".join(answers))


def compare(one: Server, other: Server) -> None:
    """Check that the tables have the same rows on both servers.

    :raises Failure: they differ; the rows that one of them lacks are the detail.
    """
    for table in _TABLES:
        row = f"SELECT md5(t::text) AS row FROM {table} t"
        digest = f"SELECT count(*), md5(string_agg(row, '' ORDER BY row COLLATE \"C\")) FROM ({row}) rows"
        if one.sql(digest, "app") == other.sql(digest, "app"):
            continue
        rows = [
            set(server.sql(f"SELECT left(t::text, 200) FROM {table} t", "app").splitlines()) for server in (one, other)
        ]
        lines = [f"only the {one.name} has {row}" for row in sorted(rows[0] - rows[1])[:10]]
        lines += [f"only the {other.name} has {row}" for row in sorted(rows[1] - rows[0])[:10]]
        raise Failure(f"the table {table} differs between {one.name} and {other.name}", "\n".join(lines))


def await_replay(primary: Server, standby: Server) -> None:
    """Wait until a standby has replayed what its primary has written.

    :raises Failure: it does not in time.
    """
    target = primary.sql("SELECT pg_current_wal_flush_lsn()")
    reached = f"SELECT pg_last_wal_replay_lsn() >= '{target}'"
    _await(lambda: standby.sql(reached) == "t", f"the standby did not replay up to {target}", standby)


def _await_confirmed(publisher: Server, subscriber: Server) -> None:
    target = publisher.sql("SELECT pg_current_wal_flush_lsn()")
    confirmed = f"SELECT confirmed_flush_lsn >= '{target}' FROM pg_replication_slots WHERE slot_name = 'sub'"
    _await(lambda: publisher.sql(confirmed) == "t", f"the subscriber did not confirm {target}", subscriber)


def _await(condition: Callable[[], bool], otherwise: str, server: Server) -> None:
    until = time.monotonic() + server.session.patience
    while not condition():
        if time.monotonic() > until:
            raise Failure(otherwise, server.log_end())
        time.sleep(0.05)
