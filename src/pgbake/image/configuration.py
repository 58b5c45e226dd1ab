"""Whether rendered files are right: each is given to the program that reads it, in a machine of the image's packages.

That machine is the tree of a kept stage 1 with the same packages, unpacked once, with today's files laid over it.
Nothing of it is booted; each program runs in bubblewrap, without network, in an overlay that is thrown away. On disk,
below the directory of images::

    programs-KEY/root    the tree; KEY: digest of packages and programs
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from pgbake.events import Sink, task
from pgbake.files import write_whole
from pgbake.image import tree
from pgbake.image.kept import bench_for, read_record, throwaway, use
from pgbake.image.stage1 import Record, Stage1
from pgbake.image.workshop import Workshop
from pgbake.machine.accounts import account_lines
from pgbake.machine.apply import Machine, below
from pgbake.machine.definition import CheckRow, Cluster, Part, Rendered
from pgbake.run import run

#: Seconds that a program may take.
_LIMIT = 120
#: Directories that everybody writes to.
_OPEN = ("/dev/shm", "/run/postgresql", "/tmp")
#: A value that nobody gave.
_UNFILLED = re.compile(r"@([a-z][a-z0-9]*(?:-[a-z0-9]+)*)@")
_INCLUDE = re.compile(r"^\s*(include|include_if_exists|include_dir)\s*=?\s*'([^']+)'", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says of some files.

    :param said: empty where all is well.
    """

    check: str
    files: tuple[str, ...]
    said: tuple[str, ...] = ()


class _Whole(msgspec.Struct, frozen=True):
    """The file that says that a tree of programs is whole.

    :param stage1: of which it was made.
    """

    stage1: str


def kept_stage1(images: Path, stage: Stage1) -> tuple[Path, Record] | None:
    """Return ``stage`` where it is kept, else another with its programs, whatever its files; and its record."""
    if (record := _record(stage.directory)) is not None:
        return stage.directory, record
    for directory in sorted(images.glob("stage1-*")):
        if directory.suffix == "" and (record := _record(directory)) is not None and record.packages == stage.packages:
            return directory, record
    return None


def has_programs(images: Path, stage: Stage1) -> bool:
    """Whether the programs of an image are at hand, unpacked or in some stage 1."""
    directory = images / f"programs-{stage.packages}"
    return read_record(directory / "whole.json", _Whole) is not None or kept_stage1(images, stage) is not None


def _record(directory: Path) -> Record | None:
    try:
        return msgspec.json.decode((directory / "stage1.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):  # none, or one of another version
        return None


def open_programs(images: Path, stage: Stage1, workshop: Workshop, report: Sink) -> Path:
    """Return the tree with the programs of an image, after unpacking it if need be.

    :param stage: whose programs; they are at hand, see :func:`has_programs`.
    :raises PgbakeError: the disk is full.
    """
    directory = images / f"programs-{stage.packages}"
    if read_record(directory / "whole.json", _Whole) is None:
        found = kept_stage1(images, stage)
        assert found is not None
        made, record = found
        with bench_for(directory, "whole.json") as bench:
            if bench is not None:
                with task(report, "programs", "unpack", "programs of the image"):
                    root = tree.unpack(workshop, made / "root.tar", bench)
                    for path in record.files:
                        below(root, path).unlink(missing_ok=True)
                    write_whole(bench / "whole.json", msgspec.json.encode(_Whole(record.key)))
    use(directory)
    return directory / "root"


@dataclass(frozen=True)
class Trial:
    """A machine whose programs can be asked.

    :param lower: the tree with its programs.
    :param upper: what lies over it.
    :param store: the directory that is shown as ``/nix/store``.
    :param files: those that were laid over it, by path; others of the definition another package gives.
    """

    lower: Path
    upper: Path
    store: Path
    files: Mapping[str, str]

    def ask(self, program: str, files: Iterable[str] = (), user: str = "root") -> tuple[str, ...]:
        """Run a line of sh, and return what it says where it does not end well.

        :param files: its arguments.
        :param user: whom it runs as.
        """
        top = self.upper.parent
        layers = f"lowerdir={self.lower},upperdir={self.upper},workdir={top}/work"
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        inner = [
            "bwrap", "--bind", str(top / "root"), "/", "--dev", "/dev", "--proc", "/proc", "--perms", "0755",
            "--tmpfs", "/run", *(word for place in _OPEN for word in ("--perms", "1777", "--tmpfs", place)),
            "--ro-bind", str(self.store), "/nix/store",
            "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--cap-add", "ALL",
            "--die-with-parent", "--chdir", "/", "--", *become, "/bin/sh", "-c", program, "check", *files,
        ]  # fmt: skip
        mount = f"mount -t overlay overlay -o {shlex.quote(layers)} {shlex.quote(str(top / 'root'))}"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        done = run(
            ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", f"{mount} && exec {shlex.join(inner)}"],
            sandbox="host", env=environment, check=False, timeout=_LIMIT,
        )  # fmt: skip
        if done.status == 0:
            return ()
        lines = [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        return tuple(dict.fromkeys(lines)) or (f"it ended with status {done.status}",)


@contextmanager
def trial(lower: Path, rendered: Rendered, installed: Iterable[Part], scratch: Path, store: Path) -> Iterator[Trial]:
    """Lay rendered files over a tree until the ``with`` block ends.

    :param installed: what else a machine has that they lead to.
    :param scratch: a directory for what is thrown away; it is on the file system of the tree.
    :param store: the directory that is shown as ``/nix/store``.
    """
    with throwaway(scratch) as top:
        for made in ("upper/etc", "work", "root"):
            (top / made).mkdir(parents=True)
        for opened in (top, top / "upper", top / "root"):
            opened.chmod(0o755)
        upper = top / "upper"
        for file, lines in account_lines(rendered.groups, rendered.users).items():
            known = (lower / "etc" / file).read_text()
            there = {line.partition(":")[0] for line in known.splitlines()}
            new = [line for line in lines.splitlines(keepends=True) if line.partition(":")[0] not in there]
            (upper / "etc" / file).write_text(known + "".join(new))
        machine = Machine(upper, top / "unused")
        files = {}
        for part in (*rendered.parts, *installed):
            given = any(os.path.lexists(below(lower, path)) for path in part.unless)
            # What begins empty at each boot lies in /run, or is made by the program.
            if not given and not part.path.startswith("/run/"):
                machine.make(part)
                if part.kind == "file" and part.content:
                    files[part.path] = part.content.decode(errors="replace")
        yield Trial(lower, upper, store, files)


def check_files(where: Trial, checks: Iterable[CheckRow]) -> Iterator[Finding]:
    """Ask each program about its files, and look for values that nobody gave."""
    for path, text in sorted(where.files.items()):
        left = sorted(set(_UNFILLED.findall(text)))
        if left:
            yield Finding("values", (path,), tuple(f"{path}: @{word}@ has no value" for word in left))
    for check in checks:
        read = tuple(sorted(path for path in where.files if any(fnmatchcase(path, pattern) for pattern in check.files)))
        if read:
            yield Finding(check.name, read, where.ask(check.program, read, check.user))


def unread(where: Trial, checks: Iterable[CheckRow], cluster: Cluster) -> list[str]:
    """Return the files that no program is asked about."""
    globs = [*(pattern for check in checks for pattern in check.files), f"{cluster.conf}/*"]
    return sorted(path for path in where.files if not any(fnmatchcase(path, pattern) for pattern in globs))


def check_server(where: Trial, cluster: Cluster) -> Finding:
    """Start a throwaway server with the configuration, and ask it what it makes of that."""
    read = tuple(sorted(path for path in where.files if path.startswith(f"{cluster.conf}/")))
    programs = f"/usr/lib/postgresql/{cluster.major}/bin"
    questions = _QUESTIONS + (_IDENT if cluster.major >= 15 else "")
    script = _SERVER.format(
        programs=programs, data=cluster.data, conf=cluster.conf, port=cluster.port, sql=shlex.quote(questions),
        includes=" ".join(shlex.quote(f"{path}:{to}") for path in read for to in _included(path, where.files[path])),
    )  # fmt: skip
    return Finding("postgresql", read, where.ask(script, user="postgres"))


def _included(path: str, text: str) -> Iterator[str]:
    """Yield what a file of PostgreSQL's configuration includes; all of it must be there, whatever the server says."""
    for _, target in _INCLUDE.findall(text):
        yield target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"


#: The data directory is made elsewhere than the configuration says where the latter has one.
_SERVER = """\
said=0
for include in {includes}; do
  [ -e "${{include#*:}}" ] || {{ echo "${{include%%:*}}: includes ${{include#*:}}, which is not there"; said=1; }}
done
{programs}/initdb -D {data} -U postgres -A peer --no-sync > /tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}
{programs}/postgres -D {data} -c config_file={conf}/postgresql.conf > /tmp/log 2>&1 & server=$!
while kill -0 $server 2> /dev/null && ! grep -q 'ready to accept' /tmp/log; do sleep 0.1; done
if ! kill -0 $server 2> /dev/null; then grep -E 'LOG|WARNING|ERROR|FATAL|HINT|DETAIL' /tmp/log; exit 1; fi
{programs}/psql -XAtqw -h /run/postgresql -p {port} -d postgres -c {sql} > /tmp/answer 2>&1 || said=1
kill -INT $server; wait $server
if [ -s /tmp/answer ]; then cat /tmp/answer; said=1; fi
exit $said
"""

#: A name with a dot is a setting of a library's, which must be there to read it: those that are not preloaded yet are
#: loaded by their name.
_QUESTIONS = """
SET client_min_messages = error;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT DISTINCT split_part(f.name, '.', 1) FROM pg_file_settings f WHERE f.name LIKE '%.%' LOOP
    BEGIN EXECUTE format('LOAD %L', name); EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
END $$;
SELECT format('%s:%s: %s: %s', sourcefile, sourceline, name, error) FROM pg_file_settings WHERE error IS NOT NULL
UNION ALL
SELECT format('%s:%s: %s: no library reads this setting', sourcefile, sourceline, f.name)
  FROM pg_file_settings f WHERE f.name LIKE '%.%' AND NOT EXISTS (SELECT FROM pg_settings s WHERE s.name = f.name)
UNION ALL
SELECT format('%s:%s: %s', current_setting('hba_file'), line_number, error)
  FROM pg_hba_file_rules WHERE error IS NOT NULL
"""
#: From 15 on.
_IDENT = """
UNION ALL
SELECT format('%s:%s: %s', current_setting('ident_file'), line_number, error)
  FROM pg_ident_file_mappings WHERE error IS NOT NULL
"""
