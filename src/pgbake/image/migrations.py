"""Migrations of an image: SQL in dbmate's files and table, proven when stage 2 is made, applied at the first boot.

A data directory bears an identity, times and a log of its own, so an image has none: it has the migrations, and its
first boot applies them to the directory that it has just made, before anybody can connect. Stage 2 does the very same
on a throwaway directory first, and once more to see that the second time changes nothing.

A file is named ``VERSION_NAME.sql``, where VERSION is digits, mostly a time as YYYYMMDDHHMMSS, and looks like this::

    -- migrate:up [transaction:false]
    CREATE TABLE orders (id bigint PRIMARY KEY);

    -- migrate:down
    DROP TABLE orders;

They are applied in the order of their names, each in a transaction and a session of its own, by psql; the table
``public.schema_migrations(version)`` says which were. Both are dbmate's, which can go on from there. What has once been
proven is never changed: ``applied.sha256`` beside the files, in the form of sha256sum, holds their digests.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from importlib import resources
from pathlib import Path

from pgbake.errors import ManifestError, MigrationError, PgbakeError, ServerError
from pgbake.files import write_whole
from pgbake.machine.accounts import group_id, user_id
from pgbake.machine.definition import Cluster, Part, initdb_options
from pgbake.run import Completed, run
from pgbake.store.local import remove_tree

#: Where an image has them, with what applies them.
PLACE = "/usr/share/pgbake/migrations"
APPLIED_NAME = "applied.sha256"
_FILE_NAME = re.compile(r"(?P<version>\d+)(?:_.*)?\.sql")
_UP = re.compile(r"^--\s*migrate:up(?P<options>[ \t].*)?$", re.MULTILINE)
_DOWN = re.compile(r"^--\s*migrate:down(?:\s.*)?$", re.MULTILINE)
_APPLIED = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
#: psql's word on an error: file, line in which the statement ends, message, further lines; and its word on the SQL.
_FAILED = re.compile(
    rf"^psql:{PLACE}/(?P<name>[^:\n]+):(?P<line>\d+): (?:ERROR|FATAL|error): +(?P<error>.*)\n"
    r"(?P<more>(?:(?!psql:).*\n)*)",
    re.MULTILINE,
)
_STATEMENT = re.compile(r"^psql:[^\n]*: STATEMENT: +(?P<sql>.*)\Z", re.MULTILINE | re.DOTALL)
#: What `apply.sql` says of each.
_APPLYING = re.compile(r"^applying (.+)$", re.MULTILINE)
#: Lines of a dump that differ each time.
_RANDOM = ("\\restrict ", "\\unrestrict ")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file.

    :param up: its text up to where the way down begins, so that lines keep their numbers.
    :param transaction: whether it is one transaction.
    :param sha256: of the whole file.
    """

    version: str
    name: str
    up: str
    transaction: bool
    sha256: str


def read_migrations(directory: Path) -> tuple[Migration, ...]:
    """Read all migrations of a directory, in their order.

    :raises ManifestError: a file is none of dbmate's, or two have the same version.
    """
    found: list[Migration] = []
    for file in sorted(directory.glob("*.sql")):
        migration = _read(file)
        if (same := next((each for each in found if each.version == migration.version), None)) is not None:
            raise ManifestError(
                f"{directory}: {same.name} and {file.name} have the same version", hint="give one of them a later time"
            )
        found.append(migration)
    return tuple(found)


def _read(file: Path) -> Migration:
    named = _FILE_NAME.fullmatch(file.name)
    if named is None:
        raise ManifestError(f"{file}: a migration is named by a time", hint="as in 20250131120000_orders.sql")
    try:
        content = file.read_bytes()
        text = content.decode()
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file} is not UTF-8: byte {error.start}", hint="save it as UTF-8") from None
    up, down = _UP.search(text), _DOWN.search(text)
    if up is None or (down is not None and down.start() < up.start()):
        raise ManifestError(
            f'{file}: a line "-- migrate:up" must come first',
            hint='write it above the SQL, and "-- migrate:down" below',
        )
    for number, line in enumerate(text[: up.start()].splitlines(), 1):
        if line.strip() and not line.startswith("--"):
            raise ManifestError(f"{file}:{number}: SQL before the line with migrate:up", hint="move it below that line")
    options = dict(word.partition(":")[::2] for word in (up["options"] or "").split())
    transaction = options.pop("transaction", "true")
    if options or transaction not in ("true", "false"):
        raise ManifestError(f"{file}: unknown option in {up[0].strip()!r}", hint="there is transaction:false alone")
    return Migration(
        named["version"], file.name, text[: down.start()] if down else text, transaction == "true",
        hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


# --- only ever more -------------------------------------------------------------------------------


def require_append_only(directory: Path, migrations: Sequence[Migration]) -> None:
    """Refuse migrations that were applied once and are others now, or gone, or that come before such a one.

    :raises MigrationError: there are some; all of them are named.
    """
    applied = read_applied(directory)
    now = {migration.name: migration.sha256 for migration in migrations}
    wrong = [
        f"{name}: {'changed' if name in now else 'gone'}" for name, digest in applied.items() if now.get(name) != digest
    ]
    last = max(applied, default="")
    wrong += [f"{name}: new, and earlier than {last}" for name in now if name not in applied and name < last]
    if wrong:
        raise MigrationError(
            f"{len(wrong)} migrations of {directory} are not as they were applied",
            detail="\n".join(wrong),
            hint="bring them back and write a new one; if no machine has ever run with them, delete their lines in "
            f"{directory / APPLIED_NAME}",
        )


def read_applied(directory: Path) -> Mapping[str, str]:
    """Return the migrations that were applied, by name, with their sha256.

    :raises ManifestError: the file that says so is damaged.
    """
    file = directory / APPLIED_NAME
    if not file.exists():
        return {}
    found = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if (entry := _APPLIED.fullmatch(line)) is None:
            raise ManifestError(f"{file}:{number}: no line of sha256sum", hint="take it from version control")
        found[entry["name"]] = entry["digest"]
    return found


def note_applied(directory: Path, migrations: Sequence[Migration]) -> None:
    """Write down that migrations were applied, where that is new."""
    text = "".join(f"{migration.sha256}  {migration.name}\n" for migration in migrations)
    file = directory / APPLIED_NAME
    if migrations and (not file.exists() or file.read_text() != text):
        write_whole(file, text.encode())


# --- in an image ----------------------------------------------------------------------------------


def migration_parts(migrations: Sequence[Migration]) -> tuple[Part, ...]:
    """Return what an image has of migrations; nothing where there are none."""
    if not migrations:
        return ()
    first = (Path(str(resources.files("pgbake"))) / "image/files/first-start").read_bytes()
    return (
        Part("directory", "/usr/share/pgbake", 0o755),
        Part("directory", PLACE, 0o755),
        Part("file", f"{PLACE}/first-start", 0o755, content=first),
        Part("file", f"{PLACE}/apply.sql", 0o644, content="".join(_apply(migrations)).encode()),
        *(Part("file", f"{PLACE}/{each.name}", 0o644, content=each.up.encode()) for each in migrations),
    )


def _apply(migrations: Sequence[Migration]) -> Iterator[str]:
    """Yield the script of psql that applies what a database lacks."""
    yield (
        "-- Applies the migrations beside it that a database lacks: psql -X -f apply.sql\n"
        "\\set ON_ERROR_STOP on\n"
        "SET client_min_messages = warning;\n"
        "CREATE TABLE IF NOT EXISTS public.schema_migrations (version varchar(128) PRIMARY KEY);\n"
        "RESET client_min_messages;\n"
    )
    for each in migrations:
        begin, end = ("BEGIN;\n", "COMMIT;\n") if each.transaction else ("", "")
        yield (
            f"SELECT NOT EXISTS (SELECT FROM public.schema_migrations WHERE version = '{each.version}')"
            " AS pgbake_pending \\gset\n"
            "\\if :pgbake_pending\n"
            f"\\echo applying {each.name}\n{begin}\\ir '{each.name.replace(chr(39), chr(39) * 2)}'\n"
            f"INSERT INTO public.schema_migrations (version) VALUES ('{each.version}');\n{end}"
            # A session of its own for each: what one has set is no matter of the next.
            "\\connect\n\\endif\n"
        )


# --- the proof ------------------------------------------------------------------------------------


def prove(root: Path, cluster: Cluster, scratch: Path, *, replay: bool = False) -> None:
    """Do by the programs of an image's tree what its first boot will do, on a data directory that is thrown away, and
    apply the migrations a second time: it must apply nothing and leave the schema as it is.

    The tree, which has its :func:`migration_parts`, is only read. The server has no network.

    :param scratch: a directory for what is written; it must not be there, and is removed.
    :param replay: apply each migration once more, whatever the table says, to see that its SQL can bear that.
    :raises MigrationError: a migration fails, or the second time is not without effect.
    :raises ServerError: the data directory cannot be made, or its server does not start.
    """
    work = scratch / "work"
    scratch.mkdir(mode=0o755)
    try:
        work.mkdir(mode=0o700)
        os.chown(work, user_id(root, "postgres") or 0, group_id(root, "postgres") or 0)
        done = run(_sandbox(root, work, cluster, replay), sandbox="bundle", env={}, check=False)
        if done.status != 0:
            raise _failure(done, second=(work / "first.sql").exists())
        if not replay and (again := _APPLYING.findall((work / "second.out").read_text())):
            raise MigrationError(f"a second run applies once more: {', '.join(again)}")
        one, two = (_schema(work / name) for name in ("first.sql", "second.sql"))
        if one != two:
            raise MigrationError(
                "a second run of the migrations leaves another schema",
                detail="\n".join(unified_diff(one, two, "after the first run", "after the second", n=1, lineterm="")),
                hint="write what may be run again: CREATE ... IF NOT EXISTS, CREATE OR REPLACE",
            )
    finally:
        remove_tree(scratch)


def _sandbox(root: Path, work: Path, cluster: Cluster, replay: bool) -> list[str]:
    script = str(resources.files("pgbake") / "image/files/prove-migrations")
    return [
        "bwrap", "--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--perms", "1777",
        "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/dev/shm",
        "--bind", str(work), "/var/lib/postgresql", "--ro-bind", script, "/run/prove",
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--die-with-parent", "--cap-add", "ALL",
        "--chdir", "/var/lib/postgresql", "--",
        "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "/bin/sh", "/run/prove",
        "/var/lib/postgresql", "replay" if replay else "once", str(cluster.major), cluster.name,
        f"--locale={cluster.locale}", *initdb_options(),
    ]  # fmt: skip


def _failure(done: Completed, *, second: bool) -> PgbakeError:
    """Return the error of a proof that failed: a migration's, with its file, line and SQL, or the server's."""
    if found := _FAILED.search(done.stderr):
        what = "cannot be applied a second time" if second else "fails"
        statement = _STATEMENT.search(done.stderr)
        return MigrationError(
            f"migration {found['name']} {what}, in the statement that ends in line {found['line']}: {found['error']}",
            detail="\n".join([found["more"].strip("\n"), statement["sql"].strip() if statement else ""]).strip("\n"),
            hint="mend it and run the same command again; nothing of it is kept",
        )
    last = "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-20:])
    return ServerError("the data directory of the image cannot be made, or its server does not start", detail=last)


def _schema(file: Path) -> list[str]:
    return [line for line in file.read_text(errors="replace").splitlines() if not line.startswith(_RANDOM)]
