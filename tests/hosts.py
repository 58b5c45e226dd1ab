"""Hosts to run a bundle on: an unpacked tree as the root, the store at its place, a network of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.empty_root import UID, EmptyRoot

#: The host's own password of the user inside, and its hash (SHA-512) for /etc/passwd.
PASSWORD = "secret"
_HASH = "$6$pgbake$eUIHX2DInRh.ZKWe../3KICwy3SbAeBTLnsXT8kfw9n4JhpZCWuB4auoz6MzjCAW.7a1/9g/rz/QpjnqQRKHY1"


@dataclass(frozen=True)
class HostRoot(EmptyRoot):
    """A root that is an unpacked tree, read-only, with /tmp, /run and /var empty.

    ``/etc`` is a copy, to which the user inside is added; a test may change it in ``tmp/etc``.

    :param tree: such as `tests.debian.debian_tree` gives.
    """

    tree: Path = field(kw_only=True)

    @property
    def etc(self) -> Path:
        """The directory that is shown at /etc, made at the first use."""
        etc = self.tmp / "etc"
        if not etc.exists():
            shutil.copytree(self.tree / "etc", etc, symlinks=True)
            with (etc / "passwd").open("a") as file:
                file.write(f"dba:{_HASH}:{UID}:{UID}::/tmp:/bin/sh\n")
        return etc

    def command(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs a program in the root."""
        # fmt: off
        return [
            "bwrap", "--unshare-user", "--uid", str(UID), "--gid", str(UID), "--unshare-pid", "--unshare-net",
            "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--clearenv", "--ro-bind", str(self.tree), "/",
            "--ro-bind", str(self.etc), "/etc", "--ro-bind", str(self.store), "/nix/store", "--proc", "/proc",
            "--dev", "/dev", "--tmpfs", "/run", "--tmpfs", "/var", "--bind", str(self.tmp), "/tmp", "--chdir", "/tmp",
            *(word for name, value in (environment or {}).items() for word in ("--setenv", name, value)),
            "--", *argv,
        ]
        # fmt: on


@dataclass(frozen=True)
class HostServer:
    """A server of a bundle that runs in a root: by the socket with no password, over TCP with SCRAM or by PAM."""

    root: HostRoot
    bundle: str

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements by psql over the socket, each by itself, and return what they print."""
        words = [word for statement in statements for word in ("-c", statement)]
        return self.psql("-d", database, *words).strip()

    def psql(self, *args: str, stdin: str | None = None) -> str:
        """Run psql over the socket."""
        return self.root.run(
            f"{self.bundle}/bin/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "dba", *args, stdin=stdin
        )

    def program(self, command: str) -> str:
        """Return what the server gets from a command by COPY FROM PROGRAM; errors of it included."""
        escaped = command.replace("'", "''")
        return self.sql(f"CREATE TEMP TABLE l (l text); COPY l FROM PROGRAM '({escaped}) 2>&1; :'; TABLE l")

    def log(self) -> str:
        """Return the server's log."""
        return (self.root.tmp / "log").read_text(errors="replace")


@contextmanager
def running(
    root: HostRoot, bundle: str, settings: Mapping[str, str], access: Sequence[str] = ()
) -> Iterator[HostServer]:
    """Make a cluster by the bundle's initdb, run its server in the root, and kill it at the end.

    :param access: lines that come first in pg_hba.conf.
    """
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    (root.tmp / "access").write_text("".join(f"{line}\n" for line in access))
    (root.tmp / "password").write_text("scrambled\n")
    script = f"""
        b={bundle}/bin
        $b/initdb -D /tmp/data -U dba --locale=en_US.UTF-8 --auth-local=trust --auth-host=scram-sha-256 \
            --pwfile=/tmp/password --no-sync > /tmp/initdb.log 2>&1 || exit 1
        cat /tmp/data/pg_hba.conf >> /tmp/access && cat /tmp/access > /tmp/data/pg_hba.conf || exit 2
        $b/pg_ctl -D /tmp/data -l /tmp/log -o "{options}" -w start > /tmp/start.log 2>&1 || exit 3
        : > /tmp/ready
        while :; do sleep 1; done
    """
    process = subprocess.Popen(root.command(["/bin/sh", "-c", script]), stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (root.tmp / "ready").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                logs = "".join(file.read_text(errors="replace") for file in root.tmp.glob("*log"))
                raise AssertionError(f"the server did not start ({process.returncode}):\n{logs}")
            time.sleep(0.05)
        yield HostServer(root, bundle)
    finally:
        process.kill()
        process.wait()
