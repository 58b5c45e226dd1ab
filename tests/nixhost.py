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

from tests.oracle import Oracle
from tests.projects import TestProject


class NixHost:
    """Runs commands where a real Nix owns ``/nix``.

    :param config: lines of its nix.conf, as `NIX_CONFIG` has them, beside the oracle's.
    """

    def __init__(self, oracle: Oracle, directory: Path, config: str = "") -> None:
        self.oracle = oracle
        self.programs = directory / "nix-programs"
        self.programs.mkdir(parents=True)
        setting = [f"NIX_CONFIG={self._config()}\n{config}"] if config else []
        for name in ("nix-store", "nix-daemon", "nix"):
            command = shlex.join(oracle.command("/usr/bin/env", *setting, name))
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
        variables = {**project.environment(), **(environment or {})}
        variables.pop("PGBAKE_STORE", None)
        variables["PATH"] = f"{self.programs}:{variables.get('PATH', os.environ['PATH'])}"
        done = subprocess.run(
            self.command([sys.executable, "-m", "pgbake", "-C", str(project.directory), *args]),
            env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"pgbake {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on this machine."""
        script = 'mount --bind "$1" /nix; shift; exec "$@"'
        return ["unshare", "--mount", "sh", "-euc", script, "sh", str(self.oracle.root / "nix"), *argv]
