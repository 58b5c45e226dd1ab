"""Suites that came with sources: they are run by PGXS from a copy of the source, against a server of the bundle.

The build's script has unpacked the source below ``/build/source``. PGXS needs a tree with the bundle's programs and
PostgreSQL's headers: links, but for ``pg_config``, which finds everything relative to where it lies itself, and for
the directories of PGXS, since makefiles name ``..`` of them, and those into which some suites install anew what the
bundle has; the server does not look there.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pgbake.checks.harness.pgregress import Known, Teller, run_suite
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Server, Session

SOURCE = Path("/build/source")
_TREE = Path("/build/postgresql/usr")
#: A server that finds itself: suites connect back to it by libpq's default directory, which is the sandbox's own.
_SOCKETS = "/tmp"
#: What pg_regress sets where it starts a server itself; and a default that a suite shows.
_SETTINGS = {"max_prepared_transactions": "2", "log_line_prefix": "%m [%p] "}


class Suites:
    """The suites of a check, with the tree that they are run by."""

    def __init__(self, session: Session) -> None:
        variables = os.environ
        self.session = session
        self.known = Known(session.spec["known"], session.spec["sometimes"])
        major = session.major
        self.bin = _TREE / f"lib/postgresql/{major}/bin"
        self.pgxs = _TREE / f"lib/postgresql/{major}/lib/pgxs"
        program = self.bin / "pg_config"
        real = [Path(f"lib/postgresql/{major}"), Path("share")]
        link([session.bundle, Path(variables["dev"]) / "usr"], _TREE, real)
        program.unlink()
        shutil.copy(session.bundle / program.relative_to(_TREE), program)

    @cached_property
    def flags(self) -> list[str]:
        """Words for make, as the builder of extensions has them."""
        return ["USE_PGXS=1", f"PG_CONFIG={self.bin}/pg_config", "with_llvm=no"]

    def server(
        self, name: str, settings: Mapping[str, str] | None = None, preload: Sequence[str] | None = None
    ) -> Server:
        """Start a server in the locale and with the sockets that suites expect."""
        sockets = {"unix_socket_directories": f"{self.session.directory / name},{_SOCKETS}"}
        server = self.session.server(name, {**_SETTINGS, **sockets, **(settings or {})}, preload, locale="C")
        server.sql(f'CREATE ROLE "{self.user}" SUPERUSER LOGIN')
        return server

    @cached_property
    def user(self) -> str:
        """The system's name for the user, as which suites' servers connect back to themselves."""
        return pwd.getpwuid(os.getuid()).pw_name

    def environment(self, server: Server) -> dict[str, str]:
        """Return the environment of a suite."""
        found = {
            **server.environment,
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LANG": "C",
            "LC_ALL": "C",
            "PGUSER": self.user,
            "USER": self.user,
        }
        del found["PGDATABASE"]  # pg_regress names its own
        return found

    def teller(
        self, prefix: str = "", source: Path = SOURCE, planned: Sequence[str] = (), parts: bool = False
    ) -> Teller:
        """Return what tells the tests of a suite."""
        return Teller(self.session.report, source, self.known, prefix, parts, planned)

    def tell(self, name: str, came: Failure | Skipped | None, seconds: float = 0, quiet: bool = False) -> None:
        """Tell what came of a test, or of a suite as a whole.

        :param came: None: it has passed.
        :param quiet: then nothing is told.
        """
        report = self.session.report
        if isinstance(came, Skipped):
            report.add(name, "skipped", str(came), seconds)
            return
        reason = self.known.reason(name, came is None)
        if came is None:
            if not quiet:
                report.add(name, "passed", "", seconds)
        elif reason is not None:
            report.add(name, "skipped", f"known to fail: {reason}", seconds)
        else:
            report.add(name, "failed", came.message, seconds, came.detail)

    def variables(self, directory: Path, names: Sequence[str], flags: Sequence[str]) -> dict[str, str]:
        """Return variables of a directory's Makefile, expanded.

        :raises Failure: make cannot read it.
        """
        asked = [f"--eval=pgbake-{name}: ; @echo '$({name})'" for name in names]
        command = ["make", "-s", "--no-print-directory", *asked, *flags]
        done = subprocess.run(
            [*command, *(f"pgbake-{name}" for name in names)],
            cwd=directory, capture_output=True, text=True, check=False,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": "/build", "LC_ALL": "C"},
        )  # fmt: skip
        lines = done.stdout.split("\n")[: len(names)]
        if done.returncode != 0 or len(lines) != len(names):
            raise Failure(f"make cannot read {directory}/Makefile", done.stderr or done.stdout)
        return dict(zip(names, lines, strict=True))

    def run(
        self,
        server: Server,
        directory: Path,
        tests: Sequence[str],
        options: Sequence[str],
        prefix: str,
        isolation: bool,
    ) -> None:
        """Run tests of a directory by the bundle's pg_regress, as ``make installcheck`` would.

        :raises Failure: it fails by itself.
        """
        where, program = ("isolation", "pg_isolation_regress") if isolation else ("regress", "pg_regress")
        output = directory / "output_iso" if isolation else directory
        output.mkdir(exist_ok=True)
        command = [
            f"{self.pgxs}/src/test/{where}/{program}", f"--inputdir={directory}", f"--outputdir={output}",
            f"--bindir={self.bin}", *options, *tests,
        ]  # fmt: skip
        run_suite(command, directory, self.environment(server), self.teller(prefix, directory, tests))
        still_there(server)


def still_there(server: Server) -> None:
    """Look whether a server has outlived a suite; crashes of single processes are told at the end of each check.

    :raises Failure: it has not.
    """
    if not server.running:
        raise Failure(f"the server {server.name} did not outlive it", server.log_end())


def link(sources: Sequence[Path], into: Path, real: Sequence[Path]) -> None:
    """Make a directory of links to what several directories hold.

    :param real: directories below all of whose directories are real, whatever they are links to.
    """
    into.mkdir(parents=True)
    entries: dict[str, list[Path]] = {}
    for source in sources:
        for name in sorted(os.listdir(source)):  # noqa: PTH208 - names are what is wanted
            entries.setdefault(name, []).append(source / name)
    for name, found in entries.items():
        directories = [path for path in found if path.is_dir()]
        below = [path.relative_to(name) for path in real if path.parts[:1] == (name,)]
        everything = Path() in real and bool(directories)
        if below or everything or (len(found) > 1 and len(directories) == len(found)):
            link(directories, into / name, [Path()] if everything else below)
        elif found[0].is_symlink() and not found[0].exists():  # libpq.so, of one package, leads to a file of another
            (into / name).symlink_to(found[0].readlink())
        else:
            (into / name).symlink_to(found[0])


def configuration(options: Sequence[str], pgxs: Path, source: Path) -> Path | None:
    """Return the file of settings that options of pg_regress name for a server of its own."""
    words = iter(options)
    for word in words:
        if word.startswith("--temp-config"):
            named = word.partition("=")[2] or next(words)
            below = Path(os.path.normpath(named)).relative_to(os.path.normpath(pgxs))
            return source / below
    return None


def settings(text: str) -> dict[str, str]:
    """Return the settings of a configuration file of the server's."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"\s*([\w.]+)\s*(?:=|\s)\s*('(?:[^']|'')*'|[^#\s]+)", line):
            value = match[2]
            found[match[1]] = value[1:-1].replace("''", "'") if value.startswith("'") else value
    return found


def words(text: str) -> list[str]:
    """Return the words of a variable of make's, as the shell would see them."""
    return shlex.split(text)
