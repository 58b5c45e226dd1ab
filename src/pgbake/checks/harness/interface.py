"""The SQL interface of all extensions is the one that somebody has reviewed: ``tests/interface/MAJOR.txt``.

Each extension is created in an empty database and described from the catalogs, an object a line, sorted::

    [hstore 1.8]
    control: relocatable, trusted
    cast (text[] AS public.hstore): function public.hstore(text[]), explicit
    function public.akeys(public.hstore) returns text[]; language c, immutable, strict, parallel safe

What depends on no release and on no machine is told and nothing else: neither costs nor the names of C functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import CREATING, Server, Session

#: The database in which extensions are created and rolled back.
EMPTY = "empty"
#: Lines of a difference that are told; more of them are read in the file that is offered.
_SHOWN = 400
_HEAD = """\
# The SQL interface of the bundle's extensions, for PostgreSQL {major}. `pgbake check interface` compares; a change that
# is meant is written by `pgbake check --accept interface`, and reviewed as the difference of this file.
"""


def check(session: Session) -> None:
    """Perform the check. The specification holds a file ``reviewed``, and of packages ``databases``, ``created``."""
    report, spec = session.report, session.spec
    server = session.server()
    server.create_database(EMPTY, "template0")  # workers that go through all databases are in no way of it
    sections = []
    for extension in sorted(session.receipt["extensions"], key=lambda extension: str(extension["name"])):
        name, package = extension["name"], extension["package"]
        with report.test(f"{name} described"):
            try:
                sections.append(section(name, fresh(server, name, spec["databases"].get(package))))
            except Failure as failure:
                if name in spec["created"].get(package, [name]):
                    raise
                raise Skipped(f"it cannot be created: {failure.message}") from failure
    text = "\n".join((_HEAD.format(major=session.major), *sections))
    report.files["interface.txt"] = text
    if report.failed:
        return
    file = f"interface/{session.major}.txt"
    reviewed = Path(spec["reviewed"]).read_text(encoding="utf-8") if spec["reviewed"] else None
    with report.test("as reviewed"):
        if reviewed is None:
            report.offer(file, text)
            raise Skipped("not reviewed yet: pgbake check --accept interface")
        if reviewed != text:
            report.offer(file, text)
            raise Failure(*difference(reviewed, text, f"tests/{file}"))


def fresh(server: Server, extension: str, database: str | None = None) -> list[str]:
    """Return the description of an extension's newest version, created with what it requires and nothing else.

    All of it is rolled back, so one database serves many: dropping databases has to wait for every background worker,
    and those of some extensions take minutes to notice.

    :param database: the only one in which it can be; None: an empty one.
    :raises Failure: it cannot be created.
    """
    create = f'{CREATING}BEGIN; CREATE EXTENSION IF NOT EXISTS "{extension}" CASCADE;'
    return describe(server, database or EMPTY, extension, create, "ROLLBACK;")


def section(extension: str, lines: Sequence[str]) -> str:
    """Return an extension's part of the file.

    :param lines: of :func:`describe`, of which the first is the version.
    """
    return "\n".join((f"[{extension} {lines[0]}]", *lines[1:], ""))


def difference(before: str, after: str, file: str) -> tuple[str, str]:
    """Return message and detail of a failure: how what came out differs from what was reviewed."""
    old, new = _by_extension(before), _by_extension(after)
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    lines = list(
        difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"{file} as reviewed", f"{file} as it is now", lineterm="", n=1
        )
    )
    more = [line for line in lines[2:] if line.startswith("+")]
    fewer = [line for line in lines[2:] if line.startswith("-")]
    who = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"... and {len(lines) - _SHOWN} lines more"]
    message = (
        f"the interface is another than was reviewed ({who or 'the head'}): {len(more)} lines more, {len(fewer)} fewer"
    )
    return f"{message}; if that is meant: pgbake check --accept interface", "\n".join(lines)


def _by_extension(text: str) -> dict[str, list[str]]:
    """Return the sections of the file by the names of their extensions."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = found.setdefault(line[1:-1].split(" ")[0], [])
        lines.append(line)
    return found


def describe(server: Server, database: str, extension: str, before: str = "", after: str = "") -> list[str]:
    """Return what an extension of a database consists of: its version, its control file's words, its objects.

    :param before: SQL to perform first.
    :param after: and last.
    """
    script = f"SET client_min_messages = error;\n{before}\nSET search_path = pg_catalog;\n{_HEAD_QUERY}{_QUERY}{after}"
    version, control, *lines = server.sql(script, database, {"extension": extension}).splitlines()
    return [version, control, *sorted(lines)]


_HEAD_QUERY = r"""
SELECT e.extversion FROM pg_extension e WHERE e.extname = :'extension';
SELECT 'control: ' || concat_ws(', ',
    CASE WHEN v.relocatable THEN 'relocatable' END,
    CASE WHEN v.trusted THEN 'trusted' END,
    CASE WHEN NOT v.superuser THEN 'for everybody' END,
    'schema ' || v.schema,
    'requires ' || array_to_string(v.requires, ' '))
  FROM pg_available_extension_versions v JOIN pg_extension e ON e.extname = v.name AND e.extversion = v.version
  WHERE v.name = :'extension';
"""

#: An object a line. Names are whole, since the search path is empty; lines within a definition become spaces.
_QUERY = r"""
WITH member AS (
  SELECT d.classid, d.objid, o.type, o.identity
    FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) o
   WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
     AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = :'extension')
), relation AS (
  SELECT c.*, m.identity FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
), columns AS (
  SELECT a.attrelid, '(' || string_agg(
      concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation END,
        CASE WHEN a.attnotnull THEN 'not null' END,
        CASE WHEN a.attidentity <> '' THEN 'identity' END,
        CASE WHEN a.attgenerated <> '' THEN 'generated as ' WHEN x.adbin IS NOT NULL THEN 'default ' END
          || pg_get_expr(x.adbin, x.adrelid)), ', ' ORDER BY a.attnum) || ')' AS list
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
   WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY a.attrelid
), line(text) AS (
  SELECT concat(
      CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' WHEN 'w' THEN 'window function '
        ELSE 'function ' END,
      quote_ident(n.nspname), '.', quote_ident(p.proname), '(', pg_get_function_arguments(p.oid), ')',
      ' returns ' || pg_get_function_result(p.oid), '; ',
      concat_ws(', ',
        CASE WHEN p.prokind <> 'a' THEN 'language ' || l.lanname END,
        CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
        CASE WHEN p.proisstrict THEN 'strict' END,
        CASE p.proparallel WHEN 's' THEN 'parallel safe' WHEN 'r' THEN 'parallel restricted' END,
        CASE WHEN p.prosecdef THEN 'security definer' END,
        CASE WHEN p.proleakproof THEN 'leakproof' END,
        'state ' || format_type(a.aggtranstype, NULL) || ' by ' || a.aggtransfn::oid::regprocedure,
        'finally ' || nullif(a.aggfinalfn, 0)::oid::regprocedure,
        'combined by ' || nullif(a.aggcombinefn, 0)::oid::regprocedure,
        'planned by ' || nullif(p.prosupport, 0)::oid::regprocedure,
        'with ' || array_to_string(p.proconfig, ' '),
        'granted ' || array_to_string(p.proacl, ' ')))
    FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
  UNION ALL
  SELECT concat(
      CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
        WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence'
        WHEN 'i' THEN 'index' ELSE c.relkind::text END, ' ', c.identity,
      CASE WHEN c.relkind <> 'S' THEN ' ' || columns.list END,
      ' as ' || format_type(s.seqtypid, NULL),
      '; ' || nullif(concat_ws(', ',
        CASE c.relpersistence WHEN 'u' THEN 'unlogged' END,
        CASE WHEN c.relrowsecurity THEN 'row security' END,
        'with ' || array_to_string(c.reloptions, ' '),
        'granted ' || array_to_string(c.relacl, ' ')), ''))
    FROM relation c LEFT JOIN columns ON columns.attrelid = c.oid LEFT JOIN pg_sequence s ON s.seqrelid = c.oid
  UNION ALL
  SELECT concat('index of ', c.identity, ': ', pg_get_indexdef(i.indexrelid))
    FROM relation c JOIN pg_index i ON i.indrelid = c.oid
   WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.conrelid = c.oid)
  UNION ALL
  SELECT concat('constraint ', quote_ident(o.conname), ' of ', c.identity, ': ', pg_get_constraintdef(o.oid))
    FROM relation c JOIN pg_constraint o ON o.conrelid = c.oid WHERE o.contype NOT IN ('n', 't')
  UNION ALL
  SELECT concat('trigger of ', c.identity, ': ', pg_get_triggerdef(t.oid))
    FROM relation c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT concat('rule of ', c.identity, ': ', pg_get_ruledef(r.oid))
    FROM relation c JOIN pg_rewrite r ON r.ev_class = c.oid WHERE r.rulename <> '_RETURN'
  UNION ALL
  SELECT concat('policy ', quote_ident(p.polname), ' of ', c.identity, ': ', p.polcmd::text, ' ',
      pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid))
    FROM relation c JOIN pg_policy p ON p.polrelid = c.oid
  UNION ALL
  SELECT concat('type ', m.identity, CASE t.typtype
      WHEN 'c' THEN ' ' || columns.list
      WHEN 'e' THEN ': one of ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                     FROM pg_enum e WHERE e.enumtypid = t.oid)
      WHEN 'd' THEN ': ' || format_type(t.typbasetype, t.typtypmod)
        || CASE WHEN t.typnotnull THEN ' not null' ELSE '' END
        || coalesce(' default ' || t.typdefault, '')
        || coalesce((SELECT string_agg(' ' || pg_get_constraintdef(o.oid), '' ORDER BY o.conname)
                       FROM pg_constraint o WHERE o.contypid = t.oid AND o.contype <> 'n'), '')
      WHEN 'r' THEN ': range of ' || (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid)
      WHEN 'b' THEN ': ' || concat_ws(', ',
        CASE WHEN t.typlen < 0 THEN 'of any length' ELSE t.typlen || ' bytes' END,
        'storage ' || t.typstorage::text, 'aligned ' || t.typalign::text, 'category ' || t.typcategory::text,
        CASE WHEN t.typispreferred THEN 'preferred' END,
        CASE WHEN t.typbyval THEN 'by value' END,
        CASE WHEN t.typmodin <> 0 THEN 'with modifiers' END,
        CASE WHEN t.typreceive <> 0 THEN 'receives' END,
        CASE WHEN t.typsend <> 0 THEN 'sends' END,
        CASE WHEN t.typcollation <> 0 THEN 'collatable' END,
        CASE WHEN t.typelem <> 0 THEN 'elements ' || format_type(t.typelem, NULL) END)
      WHEN 'p' THEN ': pseudo-type' END)
    FROM member m JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
    LEFT JOIN columns ON columns.attrelid = nullif(t.typrelid, 0)
   WHERE NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
     AND NOT EXISTS (SELECT FROM pg_class c WHERE c.reltype = t.oid AND c.relkind <> 'c')
  UNION ALL
  SELECT concat('operator ', m.identity, ' returns ', format_type(o.oprresult, NULL), '; ', concat_ws(', ',
      'function ' || o.oprcode::oid::regprocedure,
      'commutator ' || nullif(o.oprcom, 0)::regoperator,
      'negator ' || nullif(o.oprnegate, 0)::regoperator,
      'restrict ' || nullif(o.oprrest, 0)::oid::regproc,
      'join ' || nullif(o.oprjoin, 0)::oid::regproc,
      CASE WHEN o.oprcanmerge THEN 'merges' END,
      CASE WHEN o.oprcanhash THEN 'hashes' END))
    FROM member m JOIN pg_operator o ON m.classid = 'pg_operator'::regclass AND o.oid = m.objid
  UNION ALL
  SELECT concat('cast ', m.identity, ': ',
      CASE c.castmethod WHEN 'f' THEN 'function ' || c.castfunc::regprocedure WHEN 'i' THEN 'by text'
        ELSE 'as it is' END,
      CASE c.castcontext WHEN 'i' THEN ', implicit' WHEN 'a' THEN ', in assignments' ELSE ', explicit' END)
    FROM member m JOIN pg_cast c ON m.classid = 'pg_cast'::regclass AND c.oid = m.objid
  UNION ALL
  SELECT concat('operator class ', m.identity, ': for ', format_type(o.opcintype, NULL), ', family ',
      (SELECT i.identity FROM pg_identify_object('pg_opfamily'::regclass, o.opcfamily, 0) i),
      ', stored as ' || format_type(nullif(o.opckeytype, 0), NULL),
      CASE WHEN o.opcdefault THEN ', default' END)
    FROM member m JOIN pg_opclass o ON m.classid = 'pg_opclass'::regclass AND o.oid = m.objid
  UNION ALL
  SELECT concat('operator family ', m.identity)
    FROM member m WHERE m.classid = 'pg_opfamily'::regclass
  UNION ALL
  SELECT concat('operator family ', m.identity, ': operator ', a.amopstrategy, ' ', a.amopopr::regoperator,
      ' for order by ' || (SELECT i.identity
                             FROM pg_identify_object('pg_opfamily'::regclass, nullif(a.amopsortfamily, 0), 0) i))
    FROM member m JOIN pg_amop a ON m.classid = 'pg_opfamily'::regclass AND a.amopfamily = m.objid
  UNION ALL
  SELECT concat('operator family ', m.identity, ': function ', a.amprocnum,
      ' (', format_type(a.amproclefttype, NULL), ', ', format_type(a.amprocrighttype, NULL), ') ',
      a.amproc::oid::regprocedure)
    FROM member m JOIN pg_amproc a ON m.classid = 'pg_opfamily'::regclass AND a.amprocfamily = m.objid
  UNION ALL
  SELECT concat('access method ', m.identity, ': ', CASE a.amtype WHEN 'i' THEN 'indexes' ELSE 'tables' END,
      ', handler ', a.amhandler::oid::regprocedure)
    FROM member m JOIN pg_am a ON m.classid = 'pg_am'::regclass AND a.oid = m.objid
  UNION ALL
  SELECT concat('language ', m.identity, ': ', CASE WHEN l.lanpltrusted THEN 'trusted, ' END,
      'handler ', nullif(l.lanplcallfoid, 0)::regprocedure, ', inline ' || nullif(l.laninline, 0)::regprocedure,
      ', validator ' || nullif(l.lanvalidator, 0)::regprocedure)
    FROM member m JOIN pg_language l ON m.classid = 'pg_language'::regclass AND l.oid = m.objid
  UNION ALL
  SELECT concat('foreign-data wrapper ', m.identity, ': handler ', nullif(w.fdwhandler, 0)::regprocedure,
      ', validator ' || nullif(w.fdwvalidator, 0)::regprocedure)
    FROM member m JOIN pg_foreign_data_wrapper w ON m.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = m.objid
  UNION ALL
  SELECT concat('event trigger ', m.identity, ': on ', t.evtevent, ', function ', t.evtfoid::regprocedure,
      ', enabled ', t.evtenabled::text)
    FROM member m JOIN pg_event_trigger t ON m.classid = 'pg_event_trigger'::regclass AND t.oid = m.objid
  UNION ALL
  SELECT concat('dumped: the data of ', coalesce(c.oid::regclass::text, 'what is not there'),
      ' ' || nullif(d.condition, ''))
    FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS d(relation, condition)
    LEFT JOIN pg_class c ON c.oid = d.relation WHERE e.extname = :'extension'
  UNION ALL
  SELECT concat(m.type, ' ', m.identity)
    FROM member m
   WHERE m.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass,
     'pg_cast'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_am'::regclass, 'pg_language'::regclass,
     'pg_foreign_data_wrapper'::regclass, 'pg_event_trigger'::regclass)
)
SELECT regexp_replace(text, '\s*\n\s*', ' ', 'g') FROM line;
"""
