"""A machine with a real Nix at ``/nix``: pgbake runs in a mount namespace that shows the oracle's store there.

It finds in PATH programs that run that Nix.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
        setting = [f"NIX_CONFIG={self._config()}\n{config}"] if config else []
        for name in ("nix-store", "nix-daemon", "nix"):
            command = shlex.join(oracle.command("/usr/bin/env", *setting, name, binds=binds))
            program = self.programs / name
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            program.chmod(0o755)

    def _config(self) -> str:
        (word,) = [word for word in self.oracle.command("true") if word.startswith("NIX_CONFIG=")]
        return word.removeprefix("NIX_CONFIG=")

    def pgbake(
        self, project: TestProject, *args: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pgbake`` in a project, with this Nix in reach and no store named."""
        with self.start(project, *args, environment=environment) as process:
            stdout, stderr = process.communicate()
        if check and process.returncode != 0:
            raise AssertionError(f"pgbake {' '.join(args)}: exit {process.returncode}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def start(
        self, project: TestProject, *args: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start ``pgbake`` in a project; see :meth:`pgbake`."""
        variables = {**project.environment(), **(environment or {})}
        variables.pop("PGBAKE_STORE", None)
        variables["PATH"] = f"{self.programs}:{variables.get('PATH', os.environ['PATH'])}"
        return subprocess.Popen(
            self.command([sys.executable, "-m", "pgbake", "-C", str(project.directory), *args]),
            env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on this machine."""
        script = 'mount --bind "$1" /nix; shift; exec "$@"'
        command = ["unshare", "--mount", "sh", "-euc", script, "sh", str(self.oracle.root / "nix"), *argv]
        return self.farm.command(command) if self.farm is not None else command
