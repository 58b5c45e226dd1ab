"""Machines that are booted: trees of Debian releases with systemd, in systemd-nspawn with no network.

systemd-nspawn itself comes from a tree as well, so nothing is installed. Inside, this Python runs pgbake: its files are
shown read-only at their own places, with the store of the tests at ``/shelf``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.closures import secret_key
from tests.debian import HOST, debian_tree
from tests.namespaces import in_tree
from tests.projects import REPOSITORY

#: What a small server has; Python's libraries come along, for this machine's own Python to run there.
MACHINE = (*HOST, "dpkg", "iproute2", "login", "mount", "procps", "python3", "systemd", "systemd-sysv")


@dataclass(frozen=True)
class Booted:
    """A machine that runs.

    :param init: the pid of its init, as this machine has it.
    """

    tree: Path
    init: int
    shelf: Path

    def command(self, *argv: str, user: str = "root") -> list[str]:
        """Return the command that runs a program in the machine."""
        environment = {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in environment.items()]
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return [
            "nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i", *words, *become,
            *argv,
        ]  # fmt: skip

    def attempt(self, *argv: str, user: str = "root", stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program, which may fail."""
        return subprocess.run(
            self.command(*argv, user=user), input=stdin, capture_output=True, text=True, check=False,
            stdin=None if stdin is not None else subprocess.DEVNULL, errors="replace",
        )  # fmt: skip

    def run(self, *argv: str, user: str = "root", stdin: str | None = None) -> str:
        """Run a program, which must succeed; return what it prints."""
        done = self.attempt(*argv, user=user, stdin=stdin)
        if done.returncode != 0:
            journal = self.attempt("journalctl", "-b", "--no-pager", "-n", "40").stdout
            raise AssertionError(f"{shlex.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{journal}")
        return done.stdout

    def pgbake(self, *args: str) -> str:
        """Run pgbake there, which takes bundles from the tests' store."""
        return self.run("pgbake", *args)

    def trust(self, *keys: str, cache: str = "file:///cache") -> None:
        """Let the machine take bundles from a cache, signed by keys of the tests."""
        names = ", ".join(f'"{secret_key(key).public}"' for key in keys)
        file = self.tree / "etc/pgbake/config.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'[[cache]]\nurl = "{cache}"\n\n[trust]\nkeys = [{names}]\n')

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements as the superuser, by the name that everybody knows."""
        words = [word for statement in statements for word in ("-c", statement)]
        return self.run("psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", database, *words, user="postgres").strip()


@contextmanager
def booted(tree: Path, shelf: Path, binds: Mapping[Path, Path] | None = None) -> Iterator[Booted]:
    """Boot a tree until the ``with`` block ends.

    :param shelf: the root of a store, shown at ``/shelf``.
    :param binds: further directories of this machine, each with its place there.
    """
    (tree / "etc/machine-id").write_text("")
    shown = _with_pgbake(tree, shelf, binds or {})
    nspawn = debian_tree("bookworm", ("systemd-container",))
    libraries = f"{nspawn}/usr/lib/x86_64-linux-gnu"
    command = [
        f"{nspawn}/usr/bin/systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network",
        f"--directory={tree}", f"--machine=pgbake-{os.getpid()}", "--console=pipe", "--kill-signal=SIGRTMIN+4",
        *(f"--bind-ro={source}:{place}" for source, place in shown.items()),
    ]  # fmt: skip
    # Without the hybrid hierarchy of some hosts, which systemd in the machine does not know.
    script = f"umount /sys/fs/cgroup/unified 2> /dev/null; exec {shlex.join(command)}"
    log = tree.with_name(f"{tree.name}.log").open("w")
    process = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": f"{libraries}/systemd:{libraries}"},
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        machine = Booted(
            tree, _child(process, ("/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init")), shelf
        )
        deadline = time.monotonic() + 60
        while (state := machine.attempt("systemctl", "is-system-running").stdout.strip()) not in (
            "running",
            "degraded",
        ):
            assert time.monotonic() < deadline, f"the machine does not boot: {state}\n{Path(log.name).read_text()}"
            time.sleep(0.2)
        machine.run("ip", "link", "set", "lo", "up")
        yield machine
    finally:
        process.terminate()  # nspawn asks the machine to power off
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@contextmanager
def contained(
    tree: Path, shelf: Path, binds: Mapping[Path, Path] | None = None, *, command: bool = True
) -> Iterator[Booted]:
    """Let a tree be the root of namespaces of its own until the ``with`` block ends, as a container's is: no systemd,
    no network but loopback; the parameters are those of :func:`booted`.

    :param command: give it the command pgbake, with Python.
    """
    shown = _with_pgbake(tree, shelf, binds or {}) if command else dict(binds or {})
    place = shlex.quote(str(tree))
    process = subprocess.Popen(
        in_tree(tree, f"mount --bind {place} {place}", shown, ("sleep", "infinity")), stdin=subprocess.DEVNULL
    )
    try:
        yield Booted(tree, _child(process, ("sleep",)), shelf)
    finally:
        process.kill()  # and so all that runs there
        process.wait()


def _with_pgbake(tree: Path, shelf: Path, binds: Mapping[Path, Path]) -> dict[Path, Path]:
    """Give a tree the command pgbake; return what is to be shown there, and where."""
    # Another release's python3 is another one than that of the virtual environment.
    packages = f"{REPOSITORY}/.venv/lib/python3.11/site-packages"
    wrapper = tree / "usr/local/bin/pgbake"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY}/src:{packages} exec /usr/bin/python3.11 -m pgbake "$@"\n')
    wrapper.chmod(0o755)
    shown = {REPOSITORY: REPOSITORY, shelf: Path("/shelf"), **binds}
    if not (tree / "usr/bin/python3.11").exists():  # another release: this machine's Python, with that one's libraries
        shown |= {Path(place): Path(place) for place in ("/usr/bin/python3.11", "/usr/lib/python3.11")}
    return shown


def _child(process: subprocess.Popen[bytes], programs: tuple[str, ...]) -> int:
    """Return the pid of a process's child once it is one of these programs."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                if words[0] in programs:
                    return int(child)
        time.sleep(0.05)
    raise AssertionError(f"none of {programs} has started: {process.poll()}")
