"""Collations whose version has changed beneath a cluster, and what in it relies on their order.

PostgreSQL records of each collation, and from 15 on of each database's default, the version that the library
(libc, ICU) gave it, and warns when it finds another. An index that was built in the old order may then miss
rows or hold duplicates. What to do is told by PostgreSQL's manual, ALTER COLLATION, "Notes": rebuild what relies
on the order, then record the new version.

Found are indexes by their keys, expressions and predicates, range-partitioned tables, and CHECK constraints that
compare by order. Left out are hash indexes and the pattern operator classes, which go by bytes alone. Not seen is
the order that a function uses inside, and what a materialized view has stored. ``C``, ``POSIX`` and ``C.UTF-8``
have no version, since their order does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from pgbake.errors import CommandError

#: Runs a query in a database and returns what it prints; raises CommandError. A query must not take long.
Ask = Callable[[str, str], str]

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
#: What of a receipt's versions PostgreSQL records, too: the collator's version is ICU's data, not its library.
_RECORDED = ("libc", "icu-collator")
#: Up to so many collations are refreshed by a statement each; more by one that makes them.
_FEW = 5


class Change(msgspec.Struct, frozen=True):
    """Collations of one database that have moved alike.

    :param collations: those that something relies on, and ``default``, which is the database's own; names as in SQL.
    :param others: how many more there are; nothing that is looked at relies on them.
    """

    provider: str
    recorded: str
    actual: str | None
    collations: tuple[str, ...]
    others: int


class Index(msgspec.Struct, frozen=True):
    """An index that relies on moved collations, and the statement that rebuilds it. Names are as in SQL."""

    index: str
    table: str
    collations: tuple[str, ...]
    repair: str


class Database(msgspec.Struct, frozen=True, rename="kebab"):
    """A database with moved collations, and what relies on them.

    :param partitioned_tables: those that are partitioned by ranges in the order of a moved collation.
    :param constraints: CHECK constraints that compare by such an order, as ``table: constraint``.
    :param repair: what to type in psql there, in this order.
    :param failure: why nothing is known of the database, where it did not answer.
    """

    database: str
    changes: tuple[Change, ...] = ()
    indexes: tuple[Index, ...] = ()
    partitioned_tables: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()
    failure: str | None = None


class _Moved(msgspec.Struct, frozen=True):
    name: str
    provider: str
    recorded: str
    actual: str | None


class _Answer(msgspec.Struct, frozen=True):
    name: str
    moved: tuple[_Moved, ...]
    indexes: tuple[Index, ...]
    partitioned: tuple[str, ...]
    constraints: tuple[str, ...]


_DATABASES = "SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database WHERE datallowconn"

#: The default collation is of pg_collation's oid 100; its version lies in pg_database, from 15 on.
_DEFAULT = """
    UNION ALL
    SELECT 100, 'default', datlocprovider::text, datcollversion, pg_database_collation_actual_version(oid), true
    FROM pg_database WHERE datname = current_database()"""

#: In PostgreSQL's text form of an expression: an operator's oid, and that of the collation that it compares by.
_OPERATORS = r"':opno (\d+) [^{}]*:inputcollid (\d+)', 'g'"
_ORDERING = "('<', '<=', '>', '>=')"

_QUERY = rf"""
WITH moved AS MATERIALIZED (
  SELECT * FROM (
    SELECT oid, oid::regcollation::text AS name, collprovider::text AS provider, collversion AS recorded,
           pg_collation_actual_version(oid) AS actual, collisdeterministic AS deterministic
    FROM pg_collation WHERE collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))%(default)s
  ) c WHERE recorded <> actual OR (recorded IS NOT NULL AND actual IS NULL)
), used AS (
  SELECT i.indexrelid, i.indrelid, i.indisexclusion, m.name
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't'
       JOIN pg_am a ON a.oid = c.relam,
       unnest(i.indcollation::oid[], i.indclass::oid[]) AS key(coll, class)
       JOIN moved m ON m.oid = key.coll JOIN pg_opclass o ON o.oid = key.class
  WHERE o.opcname !~ '_pattern_ops$' AND NOT (a.amname = 'hash' AND m.deterministic)
  UNION
  SELECT i.indexrelid, i.indrelid, i.indisexclusion, m.name
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't',
       regexp_matches(concat(i.indexprs, i.indpred), {_OPERATORS}) AS found
       JOIN moved m ON m.oid = found[2]::oid JOIN pg_operator o ON o.oid = found[1]::oid
  WHERE o.oprname IN {_ORDERING}
)
SELECT json_build_object(
  'name', quote_ident(current_database()),
  'moved', (SELECT coalesce(json_agg(m), '[]')
            FROM (SELECT name, provider, recorded, actual FROM moved ORDER BY name) m),
  'indexes', (SELECT coalesce(json_agg(i), '[]')
              FROM (SELECT indexrelid::regclass::text AS index, indrelid::regclass::text AS table,
                           json_agg(name ORDER BY name) AS collations,
                           format('REINDEX INDEX %%s%%s;', CASE WHEN NOT indisexclusion THEN 'CONCURRENTLY ' END,
                                  indexrelid::regclass) AS repair
                    FROM used GROUP BY indexrelid, indrelid, indisexclusion ORDER BY 2, 1) i),
  'partitioned', (SELECT coalesce(json_agg(DISTINCT p.partrelid::regclass::text), '[]')
                  FROM pg_partitioned_table p, unnest(p.partcollation::oid[]) AS key(coll)
                  WHERE p.partstrat = 'r' AND key.coll IN (SELECT oid FROM moved)),
  'constraints', (SELECT coalesce(json_agg(DISTINCT c.conrelid::regclass || ': ' || quote_ident(c.conname)), '[]')
                  FROM pg_constraint c, regexp_matches(c.conbin::text, {_OPERATORS}) AS found
                       JOIN pg_operator o ON o.oid = found[1]::oid
                  WHERE c.contype = 'c' AND c.conrelid <> 0 AND o.oprname IN {_ORDERING}
                        AND found[2]::oid IN (SELECT oid FROM moved)))
"""

_REFRESH_MANY = (
    "SELECT format('ALTER COLLATION %s REFRESH VERSION', oid::regcollation) FROM pg_collation "
    "WHERE collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding())) "
    r"AND collversion <> pg_collation_actual_version(oid) \gexec"
)


def moved_collations(ask: Ask, major: int) -> tuple[Database, ...]:
    """Return the databases of a running server whose collations have moved, or that did not answer.

    :param ask: puts a query to the server; it is called from several threads at once.
    :param major: PostgreSQL's; before 15 nothing is recorded of a database's default collation.
    :raises CommandError: the server does not answer at all.
    """
    names = msgspec.json.decode(ask("postgres", _DATABASES), type=tuple[str, ...])
    query = moved_query(major)

    def examine(name: str) -> Database:
        try:
            return _database(name, msgspec.json.decode(ask(name, query), type=_Answer))
        except CommandError as error:
            reason = (error.detail or error.message).strip()
            return Database(name, failure=reason.splitlines()[-1])

    with ThreadPoolExecutor(4) as pool:
        return tuple(found for found in pool.map(examine, names) if found.changes or found.failure)


def moved_query(major: int) -> str:
    """Return the query that finds, in one database, which collations have moved and what relies on their order.

    It gives one row of JSON; in a connection with an empty ``search_path`` its names are whole.
    """
    return _QUERY % {"default": _DEFAULT if major >= 15 else ""}


def _database(name: str, answer: _Answer) -> Database:
    used = {"default"}.union(*(index.collations for index in answer.indexes))
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for moved in answer.moved:
        groups.setdefault((_PROVIDERS[moved.provider], moved.recorded, moved.actual), []).append(moved.name)
    changes = []
    for (provider, recorded, actual), names in sorted(groups.items(), key=lambda group: [str(key) for key in group[0]]):
        relied_on = tuple(collation for collation in names if collation in used)
        changes.append(Change(provider, recorded, actual, relied_on, len(names) - len(relied_on)))
    return Database(
        database=name,
        changes=tuple(changes),
        indexes=answer.indexes,
        partitioned_tables=answer.partitioned,
        constraints=answer.constraints,
        repair=_repair(answer),
    )


def _repair(answer: _Answer) -> tuple[str, ...]:
    """Return the manual's steps: rebuild first, and only then say that all is well with the new version."""
    statements = [index.repair for index in answer.indexes]
    names = [moved.name for moved in answer.moved if moved.name != "default"]
    if len(names) > _FEW:
        statements.append(_REFRESH_MANY)
    else:
        statements += [f"ALTER COLLATION {name} REFRESH VERSION;" for name in names]
    if len(names) < len(answer.moved):
        statements.append(f"ALTER DATABASE {answer.name} REFRESH COLLATION VERSION;")
    return tuple(statements)


def changed_versions(last: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Say which versions differ between the receipts of two bundles: ``libc 2.36 -> 2.41``.

    :returns: None where those are equal that PostgreSQL records of collations.
    """
    if all(last.get(name) == now.get(name) for name in _RECORDED):
        return None
    return ", ".join(
        f"{name} {last[name]} -> {version}" for name, version in now.items() if name in last and last[name] != version
    )
