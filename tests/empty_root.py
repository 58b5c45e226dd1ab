"""A root with nothing in it but the store, /proc, /dev, /tmp, a shell and one line of passwd; and servers in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Variables by which a bundle's libraries find their data.
OURS = re.compile(
    r"^(LOCPATH|GCONV_PATH|TZDIR|OPENSSL_\w+|GNUTLS_\w+|SASL_PATH|KRB5_\w+|GSS_\w+|LDAP\w+|SSL_CERT_\w+|TERMINFO\w*"
    r"|PERL5LIB|PYTHON\w+|TCL_LIBRARY|PROJ_\w+|GDAL_\w+|ICU_\w+|LIBXSLT_\w+|LD_\w+|PG\w*BAKE\w*)=",
    re.MULTILINE,
)

#: The user inside. PostgreSQL wants one with a name.
UID = 1000


@dataclass(frozen=True)
class EmptyRoot:
    """Runs programs in such a root, each in namespaces of its own, with no environment.

    :param store: the directory that is shown at /nix/store.
    :param tmp: the directory that is shown at /tmp; it stays between runs.
    :param host: a directory to show as the root instead of an empty one; it may be changed.
    :param network: the process whose network programs share (see `private_network`); None: each has its own.
    :param uid: the user inside.
    """

    store: Path
    tmp: Path
    host: Path | None = None
    network: int | None = None
    uid: int = UID

    def command(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs a program in the root."""
        run = self.tmp / "run-postgresql"
        run.mkdir(exist_ok=True)
        # fmt: off
        return [
            *enter(self.network), "bwrap", "--unshare-user", "--uid", str(self.uid), "--gid", str(self.uid),
            "--unshare-pid", *(() if self.network else ("--unshare-net",)), "--unshare-ipc", "--die-with-parent",
            "--clearenv", *self.machine(), "--ro-bind", str(self.store), "/nix/store", "--proc", "/proc",
            "--dev", "/dev", "--bind", str(self.tmp), "/tmp", "--bind", str(run), "/var/run/postgresql",
            "--chdir", "/tmp",
            *(word for name, value in (environment or {}).items() for word in ("--setenv", name, value)),
            "--", *argv,
        ]
        # fmt: on

    def machine(self) -> list[str]:
        """Return bwrap's arguments for what is there but the store."""
        if self.host:
            return ["--bind", str(self.host), "/"]
        passwd = self.tmp / "passwd"
        passwd.write_text(f"dba:x:{self.uid}:{self.uid}::/tmp:/bin/sh\n")
        return ["--tmpfs", "/", "--ro-bind", static_shell(), "/bin/sh", "--ro-bind", str(passwd), "/etc/passwd"]

    def run(self, *argv: str, environment: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
        """Run a program in the root and return what it prints; it must succeed."""
        done = self.attempt(*argv, environment=environment, stdin=stdin)
        assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(
        self, *argv: str, environment: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the root, which may fail."""
        return subprocess.run(
            self.command(argv, environment), input=stdin, capture_output=True, text=True, check=False,
            stdin=None if stdin is not None else subprocess.DEVNULL, errors="replace",
        )  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A server that was started in an empty root by initdb and pg_ctl."""

    root: EmptyRoot
    bundle: str

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements by psql, without -h, and return what they print."""
        args = [word for statement in statements for word in ("-c", statement)]
        return self.psql("-d", database, *args).strip()

    def psql(self, *args: str, stdin: str | None = None) -> str:
        return self.root.run(
            f"{self.bundle}/bin/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "dba", *args, stdin=stdin
        )


def start(
    root: EmptyRoot, bundle: str, options: str, initdb: str = "--locale=C.UTF-8", prepare: str = ":"
) -> subprocess.Popen[bytes]:
    """Make a cluster and start its server in a sandbox that lives until it is killed.

    :param options: the server's, such as ``-c name='value'``.
    :param initdb: initdb's own options.
    :param prepare: a command between the two.
    """
    script = f"""
        b={bundle}/bin
        $b/initdb -D /tmp/data -U dba --auth=trust {initdb} > /tmp/initdb.log 2>&1 || exit 1
        {prepare}
        $b/pg_ctl -D /tmp/data -l /tmp/log -o "{options}" -w start > /tmp/start.log 2>&1 || exit 2
        : > /tmp/ready
        while :; do sleep 1; done
    """
    process = subprocess.Popen(root.command(["/bin/sh", "-c", script]), stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (root.tmp / "ready").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            logs = "".join(file.read_text(errors="replace") for file in root.tmp.glob("*log"))
            process.kill()
            raise AssertionError(f"the server did not start ({process.returncode}):\n{logs}")
        time.sleep(0.05)
    return process


def static_shell() -> str:
    """Return the path of a shell that needs no library."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed"
    return busybox


@contextmanager
def private_network() -> Iterator[int]:
    """Make a network of loopback alone, for several programs; yield the process that keeps it."""
    command = ["unshare", "-Urn", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        try:
            assert keeper.stdout and keeper.stdout.readline() == "up\n"
            yield keeper.pid
        finally:
            keeper.kill()


def enter(network: int | None) -> list[str]:
    """Return the words before a command that is to run in a network of `private_network`."""
    return ["nsenter", "-t", str(network), "-U", "-n", "--preserve-credentials", "--"] if network else []
