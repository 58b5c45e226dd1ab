"""A machine with a real Nix at ``/nix``: pgbake runs in a mount namespace that shows the oracle's store there.

It finds in PATH programs that run that Nix.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.farm import Farm
from tests.oracle import Oracle
from tests.projects import TestProject


def forget(nix: Oracle, *outputs: str) -> None:
    """Let Nix delete outputs, and with them whatever refers to them."""
    closure = nix.run("nix-store", "-q", "--referrers-closure", *outputs).stdout.decode().split()
    nix.run("nix-store", "--delete", "--ignore-liveness", *closure)
    assert not any(nix.on_disk(output).exists() for output in outputs)


class NixHost:
    """Runs commands where a real Nix owns ``/nix``.

    :param config: lines of its nix.conf, as `NIX_CONFIG` has them, beside the oracle's.
    :param farm: where builders are reached.
    """

    def __init__(self, oracle: Oracle, directory: Path, config: str = "", farm: Farm | None = None) -> None:
        self.oracle = oracle
        self.farm = farm
        binds = [farm.directory] if farm is not None else []
        self.programs = directory / "nix-programs"
        self.programs.mkdir(parents=True)
        self.home = oracle.root / "home"
        setting = [f"NIX_CONFIG={self._config()}\n{config}"] if config else []
        for name in ("nix-store", "nix-daemon", "nix"):
            command = shlex.join(oracle.command("/usr/bin/env", *setting, name, binds=binds))
            program = self.programs / name
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            program.chmod(0o755)

    def _config(self) -> str:
        (word,) = [word for word in self.oracle.command("true") if word.startswith("NIX_CONFIG=")]
        return word.removeprefix("NIX_CONFIG=")

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Let Nix's daemon run during the ``with`` block."""
        socket = self.oracle.root / "nix/var/nix/daemon-socket/socket"
        socket.unlink(missing_ok=True)
        log = self.programs.parent / "nix-daemon.log"
        with log.open("w") as stream:
            self._daemon = subprocess.Popen([self.programs / "nix-daemon"], stdin=subprocess.DEVNULL, stderr=stream)
        try:
            until = time.monotonic() + 60
            while not socket.exists():
                if self._daemon.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"Nix's daemon does not start: {log.read_text()}")
                time.sleep(0.05)
            yield
        finally:
            self.kill_daemon()

    def kill_daemon(self) -> None:
        """End the daemon, whose socket stays behind."""
        self._daemon.kill()
        self._daemon.wait()

    def pgbake(
        self,
        project: TestProject,
        *args: str,
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pgbake`` in a project to its end; see :meth:`start`."""
        with self.start(project, *args, **options) as process:
            stdout, stderr = process.communicate()
        if check and process.returncode != 0:
            raise AssertionError(f"pgbake {' '.join(args)}: exit {process.returncode}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def start(
        self,
        project: TestProject,
        *args: str,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        around: Sequence[str] = (),
        writable: bool = False,
    ) -> subprocess.Popen[str]:
        """Start ``pgbake`` in a project, with this Nix in reach and no store named.

        :param user: uid of the one who runs it; root without.
        :param around: the begin of a command line that runs it.
        :param writable: whether it may write to /nix, as far as the kernel is asked.
        """
        variables = {**project.environment(), "XDG_DATA_HOME": str(self.home), **(environment or {})}
        variables.pop("PGBAKE_STORE", None)
        variables["PATH"] = f"{self.programs}:{variables.get('PATH', os.environ['PATH'])}"
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return subprocess.Popen(
            self.command(
                [*around, *become, sys.executable, "-m", "pgbake", "-C", str(project.directory), *args], writable
            ),
            env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def command(self, argv: Sequence[str], writable: bool = False) -> list[str]:
        """Return the command line that runs ``argv`` on this machine, where only Nix can write to ``/nix``."""
        mount = 'mount --bind "$1" /nix; ' + ("" if writable else "mount -o remount,bind,ro /nix; ")
        script = f'{mount}shift; exec "$@"'
        command = ["unshare", "--mount", "sh", "-euc", script, "sh", str(self.oracle.root / "nix"), *argv]
        return self.farm.command(command) if self.farm is not None else command
