"""Locales and collations: those of the receipt, with known answers; and a change of theirs is noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Server, Session

#: Conditions on collations of libc, by the locale's language; ``*`` is of all but C and POSIX. ``{c}`` is the name.
_ANSWERS = {
    "C": (
        "'B' COLLATE {c} < 'a'",
        "'z' COLLATE {c} < 'é'",
        "'\uffff' COLLATE {c} < '\U00010000'",  # by code points, which is what bytes of UTF-8 are ordered like
    ),
    "*": (
        "'a' COLLATE {c} < 'B'",
        "'B' COLLATE {c} < 'c'",
        "upper('é' COLLATE {c}) = 'É'",
        "lower('ÀÉ' COLLATE {c}) = 'àé'",
    ),
    "en_US": (
        "'e' COLLATE {c} < 'é' AND 'é' COLLATE {c} < 'f'",
        "'résumé' COLLATE {c} > 'resume' AND 'résumé' COLLATE {c} < 'resumes'",
        "initcap('élan vital' COLLATE {c}) = 'Élan Vital'",
    ),
    "de_DE": ("'o' COLLATE {c} < 'ö' AND 'ö' COLLATE {c} < 'p'",),
    "sv_SE": ("'z' COLLATE {c} < 'å' AND 'å' COLLATE {c} < 'ä' AND 'ä' COLLATE {c} < 'ö'",),
}
#: Conditions on ICU's collations.
_ICU = (
    "'a' COLLATE \"en-x-icu\" < 'B' AND 'B' COLLATE \"en-x-icu\" < 'c'",
    "'e' COLLATE \"en-x-icu\" < 'é' AND 'é' COLLATE \"en-x-icu\" < 'f'",
    "'o' COLLATE \"de-x-icu\" < 'ö' AND 'ö' COLLATE \"de-x-icu\" < 'p'",
    "'z' COLLATE \"sv-x-icu\" < 'ö'",
    "upper('straße' COLLATE \"de-x-icu\") = 'STRASSE'",
    "upper('i' COLLATE \"tr-x-icu\") = 'İ' AND upper('i' COLLATE \"en-x-icu\") = 'I'",
    "lower('ΟΔΟΣ' COLLATE \"el-x-icu\") = 'οδος'",
    "'item 9' COLLATE natural_order < 'item 10'",
    "'Öl' COLLATE phonebook < 'of'",  # a German phone book has ö as oe
    "'RÉSUMÉ' COLLATE either_case = 'résumé'",
)
_OF_ICU = """
CREATE COLLATION natural_order (provider = icu, locale = 'en-u-kn-true');
CREATE COLLATION phonebook (provider = icu, locale = 'de-u-co-phonebk');
CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""
#: Of receipts' keys, the provider of a collation that shows the version.
_VERSIONS = {"libc": ("c", "libc"), "icu-collator": ("i", "ICU")}
_PAST = "0.1"  # a version that nothing has


def check(session: Session) -> None:
    """Compare with the receipt, ask known questions, and let a database have been written by an older library."""
    report = session.report
    server = session.server()
    locales = [locale for locale in session.receipt["locales"] if locale not in ("C", "POSIX")]
    for key, (provider, name) in _VERSIONS.items():
        with report.test(f"the server sees the receipt's version of {name}'s collations"):
            _compare_versions(session, server, key, provider)
    with report.test("C and POSIX sort by bytes, and change no letter but ASCII's"):
        for name in ('"C"', '"POSIX"'):
            _ask(server, "postgres", [*_of("C", name), f"upper('aé' COLLATE {name}) = 'Aé'"])
    for locale in locales:
        with report.test(f"{locale} sorts and folds text"):
            _use(server, locale)
    with report.test("ICU sorts and folds text"):
        if not _has_icu(server):
            raise Skipped("the server is built without ICU")
        server.sql(_OF_ICU)
        _ask(server, "postgres", _ICU)
    with report.test("the server warns of another version of collations"):
        database, expected = _write_in_the_past(session, server, locales)
        _warned(session, server, database, expected)
    if report.failed:
        return
    with report.test("pgbake's query finds the indexes that rely on them, and no others"):
        _found(session, server, database, expected)
    with report.test("rebuilt and refreshed, all is well"):
        _repair(session, server, database)


def _compare_versions(session: Session, server: Server, key: str, provider: str) -> None:
    known = session.receipt["collations"].get(key)
    # Some of ICU's collations are tailored, and have a version that only begins like that of the root's.
    query = (
        "SELECT DISTINCT pg_collation_actual_version(oid) FROM pg_collation WHERE collprovider = :'provider'"
        " AND collnamespace = 'pg_catalog'::regnamespace AND pg_collation_actual_version(oid) IS NOT NULL"
    )
    seen = server.sql(query, variables={"provider": provider}).split()
    if not seen:
        raise Skipped("there is no collation that has a version")
    wrong = [version for version in seen if version != known and not version.startswith(f"{known}.")]
    if known is None or wrong:
        raise Failure(f"the receipt says {known}, the server {', '.join(seen)}")


def _has_icu(server: Server) -> bool:
    return server.sql("SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i' AND collname = 'en-x-icu'") == "t"


def _of(key: str, name: str) -> list[str]:
    return [answer.format(c=name) for answer in _ANSWERS.get(key, ())]


def _use(server: Server, locale: str) -> None:
    """Make a database of a locale, and ask its default collation as well as the collation by the locale's name."""
    language, _, charset = locale.partition("@")[0].partition(".")
    if re.sub("[^a-z0-9]", "", charset.lower()) != "utf8":
        raise Skipped("known answers are for UTF-8")
    server.sql(f"CREATE DATABASE \"{locale}\" TEMPLATE template0 ENCODING 'UTF8' LOCALE '{locale}'")
    folds = ["upper('é' COLLATE {c}) = 'É'"]
    answers = [*_ANSWERS["C"], *folds] if language == "C" else [*_ANSWERS["*"], *_ANSWERS.get(language, ())]
    names = _collations(server, locale, locale)
    if not names:
        raise Failure(f"there is no collation for {locale}")
    for name in ('"default"', *names):
        _ask(server, locale, [answer.format(c=name) for answer in answers])


def _collations(server: Server, database: str, locale: str) -> list[str]:
    """Return the names, as in SQL, of the collations of a locale of libc, which calls it en_US.utf8 as well."""
    plain = "replace(lower({}), '-', '')"
    query = (
        "SELECT quote_ident(collname) FROM pg_collation WHERE collprovider = 'c'"
        f" AND {plain.format('collcollate')} = {plain.format(':' + repr('locale'))} ORDER BY 1"
    )
    return server.sql(query, database, {"locale": locale}).splitlines()


def _ask(server: Server, database: str, conditions: Sequence[str]) -> None:
    query = "".join(f"SELECT {condition};\n" for condition in conditions)
    said = server.sql(query, database, env={"PGCLIENTENCODING": "UTF8"}).splitlines()
    wrong = [condition for condition, answer in zip(conditions, said, strict=True) if answer != "t"]
    if wrong:
        raise Failure(f"not so: {wrong[0]}", "\n".join(wrong))


def _write_in_the_past(session: Session, server: Server, locales: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Make a database as an older libc and ICU would have left it; return its name and index -> what it relies on.

    The recorded versions are changed in the catalogs, which is all that distinguishes such a database.
    """
    versioned = [locale for locale in locales if not locale.startswith("C.") and locale.lower().endswith("utf-8")]
    default = versioned[0] if versioned else "C"
    server.sql(f"CREATE DATABASE moved TEMPLATE template0 ENCODING 'UTF8' LOCALE '{default}'")
    lines = [
        'CREATE TABLE t (id int PRIMARY KEY, name text, code text COLLATE "C");',
        "INSERT INTO t SELECT i, md5(i::text), md5(i::text) FROM generate_series(1, 500) i;",
        "CREATE INDEX by_code ON t (code);",
        "CREATE INDEX by_pattern ON t (name text_pattern_ops);",
        "CREATE INDEX by_default ON t (name);",
    ]
    expected = {}
    if versioned and session.major >= 15:
        expected["by_default"] = "default"
        lines.append(f"UPDATE pg_database SET datcollversion = '{_PAST}' WHERE datname = 'moved';")
    if versioned:
        name = _collations(server, "moved", default)[0]
        lines.append(f"CREATE INDEX by_libc ON t (name COLLATE {name});")
        expected["by_libc"] = name
    if _has_icu(server):
        lines.append('CREATE INDEX by_icu ON t (lower(name) COLLATE "de-x-icu");')
        expected["by_icu"] = '"de-x-icu"'
    if not expected:
        raise Skipped("the bundle has no collation whose order could change")
    lines.append(f"UPDATE pg_collation SET collversion = '{_PAST}' WHERE collversion IS NOT NULL;")
    server.sql("SET allow_system_table_mods = on;" + "\n".join(lines), "moved")
    return "moved", expected


def _warned(session: Session, server: Server, database: str, expected: dict[str, str]) -> None:
    differ = "SELECT count(*) FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid)"
    if server.sql(differ, database) == "0":
        raise Failure("pg_collation_actual_version() differs from no recorded version")
    before = len(server.log.read_text(errors="replace"))
    for collation in expected.values():
        if collation != "default":
            server.sql(
                f"SET enable_seqscan = off; SELECT count(*) FROM t WHERE name COLLATE {collation} > 'a'", database
            )
    said = server.log.read_text(errors="replace")[before:]
    wanted = ['database "moved" has a collation version mismatch'] if "by_default" in expected else []
    wanted += [f"collation {name} has version mismatch" for name in _quoted(expected)]
    for warning in wanted:
        if warning not in said:
            raise Failure(f"the server did not warn: {warning}", said)


def _quoted(expected: dict[str, str]) -> list[str]:
    return ['"' + name.strip('"') + '"' for name in expected.values() if name != "default"]


def _query(session: Session, server: Server, database: str) -> Any:
    options = {"PGOPTIONS": "-c search_path="}
    return json.loads(server.sql(session.spec["moved"], database, env=options))


def _found(session: Session, server: Server, database: str, expected: dict[str, str]) -> None:
    said = _query(session, server, database)
    indexes = sorted(index["index"] for index in said["indexes"])
    wanted = sorted(f"public.{name}" for name in expected)
    if indexes != wanted:
        raise Failure(
            f"it found {', '.join(indexes) or 'none'} instead of {', '.join(wanted)}", json.dumps(said, indent=1)
        )


def _repair(session: Session, server: Server, database: str) -> None:
    said = _query(session, server, database)
    server.sql("\n".join(index["repair"] for index in said["indexes"]), database)
    refresh = (
        "SELECT format('ALTER COLLATION %s REFRESH VERSION', oid::regcollation) FROM pg_collation"
        " WHERE collversion <> pg_collation_actual_version(oid) \\gexec\n"
    )
    if session.major >= 15:
        refresh += f"ALTER DATABASE {database} REFRESH COLLATION VERSION;"
    server.sql(f"SET client_min_messages = warning; {refresh}", database)
    said = _query(session, server, database)
    if said["moved"] or said["indexes"]:
        raise Failure("the query still finds something", json.dumps(said, indent=1))
