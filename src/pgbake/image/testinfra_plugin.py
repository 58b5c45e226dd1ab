"""A plugin of pytest that lets pytest-testinfra reach a machine in systemd-nspawn, as ``--hosts=nspawn://PID``.

PID is that of the machine's init here. Only pytest imports this: testinfra is no dependency of pgbake.
"""

from __future__ import annotations

from typing import Any

import testinfra.backend
from testinfra.backend.base import BaseBackend, CommandResult

from pgbake.image.boot import entering

testinfra.backend.BACKENDS["nspawn"] = f"{__name__}.NspawnBackend"


class NspawnBackend(BaseBackend):  # type: ignore[misc]
    """Runs commands in the namespaces of a machine's init."""

    NAME = "nspawn"

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Run a command of the shell in the machine."""
        words = [*entering(int(self.hostname)), "/bin/sh", "-c", self.get_command(command, *args)]
        return self.run_local(" ".join(["%s"] * len(words)), *words)
