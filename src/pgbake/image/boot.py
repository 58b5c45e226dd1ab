"""Booting a tree in systemd-nspawn: a throwaway overlay of it, in namespaces without network.

systemd-nspawn comes from the workshop; nothing of this machine but its kernel is part of what boots. What the machine
writes goes to a directory of its own and is deleted at the end: the image stays as it was, never booted.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pgbake.errors import ServerError
from pgbake.formats.system import host_system
from pgbake.image.kept import throwaway
from pgbake.image.workshop import Workshop
from pgbake.run import Completed, run

_INITS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
#: Lines of the console that an error shows.
SHOWN_OF_CONSOLE = 40


class Machine(ABC):
    """A machine that runs, wherever that is.

    ``seconds`` is how long it took from the start until systemd had started everything.
    """

    seconds: float

    @abstractmethod
    def run(self, *argv: str, user: str | None = None, check: bool = True, stdin: bytes | None = None) -> Completed:
        """Run a program in the machine, as root or another user.

        :raises CommandError: it failed.
        """

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the superuser, and return what psql prints (``-At``)."""
        words = ["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]
        return self.run(*words, user="postgres").stdout.strip()


@dataclass(frozen=True)
class Booted(Machine):
    """A machine in systemd-nspawn.

    :param root: its files, as this machine sees them.
    :param init: the pid of its init here.
    """

    root: Path
    init: int
    seconds: float

    def run(self, *argv: str, user: str | None = None, check: bool = True, stdin: bytes | None = None) -> Completed:
        """Run a program in the machine; see :class:`Machine`."""
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return run([*entering(self.init), *become, *argv], sandbox="host", check=check, stdin=stdin)


def entering(init: int) -> list[str]:
    """Return the beginning of a command line that runs a program in a machine of systemd-nspawn, by its init's pid."""
    words = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i"]
    return [*words, *(f"{name}={value}" for name, value in _ENVIRONMENT.items())]


@contextmanager
def booted(workshop: Workshop, tree: Path, limit: float) -> Iterator[Booted]:
    """Boot a tree until the ``with`` block ends.

    :param limit: seconds that it has until systemd has started everything.
    :raises ServerError: it does not come up in time; the end of its console is the detail.
    """
    with throwaway(tree.parent) as top:
        for directory in ("upper", "work", "root"):
            (top / directory).mkdir()
        (top / "upper").chmod(0o755)
        yield from _booted(workshop, tree, top, limit)


def _booted(workshop: Workshop, tree: Path, top: Path, limit: float) -> Iterator[Booted]:
    root, console = top / "root", top / "console"
    libraries = workshop.tree / "usr/lib" / host_system().triplet
    loader = libraries / host_system().loader
    command = [
        str(loader), "--library-path", f"{libraries}/systemd:{libraries}", f"{workshop.tree}/usr/bin/systemd-nspawn",
        "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network", f"--directory={root}",
        f"--machine=pgbake-{os.getpid()}", "--console=pipe", "--kill-signal=SIGRTMIN+4", "--link-journal=no",
        "cloud-init=disabled",  # no cloud is here, and some profiles would wait for theirs
    ]  # fmt: skip
    layers = f"lowerdir={tree},upperdir={top}/upper,workdir={top}/work"
    # A hybrid hierarchy of control groups, which some machines have, is not what systemd of today knows.
    script = (
        f"mount -t overlay overlay -o {shlex.quote(layers)} {shlex.quote(str(root))} && "
        f"{{ umount /sys/fs/cgroup/unified 2> /dev/null; exec {shlex.join(command)}; }}"
    )
    begin = time.monotonic()
    with console.open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        machine = _await(process, console, begin, limit)
        yield machine
    finally:
        process.terminate()  # nspawn asks the machine to power off
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], console: Path, begin: float, limit: float) -> Booted:
    state = "nothing has started"
    while time.monotonic() - begin < limit and process.poll() is None:
        init = _init(process.pid)
        if init is not None:
            machine = Booted(Path(f"/proc/{init}/root"), init, time.monotonic() - begin)
            state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return Booted(machine.root, init, time.monotonic() - begin)
        time.sleep(0.1)
    lines = console.read_text(errors="replace").splitlines()[-SHOWN_OF_CONSOLE:]
    if (init := _init(process.pid)) is not None:
        machine = Booted(Path(f"/proc/{init}/root"), init, limit)
        lines += machine.run("systemctl", "list-jobs", "--no-pager", check=False).stdout.splitlines()
    raise ServerError(
        f"the machine did not come up in {limit:.0f} s: {state}",
        detail="\n".join(lines),
        hint="the lines above are the end of its console, and what it waits for; --timeout gives it more time",
    )


def _init(parent: int) -> int | None:
    """Return the pid of the machine's init, a child of nspawn's, once it is there."""
    with suppress(OSError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{child}/cmdline").read_text().split("\0")[0] in _INITS:
                    return int(child)
    return None
