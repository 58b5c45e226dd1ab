"""A root with nothing in it but the store, /proc, /dev, /tmp, a shell and one line of passwd."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: The user inside. PostgreSQL wants one with a name.
UID = 1000


@dataclass(frozen=True)
class EmptyRoot:
    """Runs programs in such a root, each in namespaces of its own, with no environment.

    :param store: the directory that is shown at /nix/store.
    :param tmp: the directory that is shown at /tmp; it stays between runs.
    """

    store: Path
    tmp: Path

    def command(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs a program in the root."""
        busybox = shutil.which("busybox")
        assert busybox, "busybox-static is not installed"
        passwd = self.tmp / "passwd"
        passwd.write_text(f"dba:x:{UID}:{UID}::/tmp:/bin/sh\n")
        run = self.tmp / "run-postgresql"
        run.mkdir(exist_ok=True)
        # fmt: off
        return [
            "bwrap", "--unshare-user", "--uid", str(UID), "--gid", str(UID), "--unshare-pid", "--unshare-net",
            "--unshare-ipc", "--die-with-parent", "--clearenv", "--tmpfs", "/",
            "--ro-bind", str(self.store), "/nix/store", "--proc", "/proc", "--dev", "/dev",
            "--bind", str(self.tmp), "/tmp", "--bind", str(run), "/var/run/postgresql",
            "--ro-bind", busybox, "/bin/sh", "--ro-bind", str(passwd), "/etc/passwd", "--chdir", "/tmp",
            *(word for name, value in (environment or {}).items() for word in ("--setenv", name, value)),
            "--", *argv,
        ]
        # fmt: on

    def run(self, *argv: str, environment: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
        """Run a program in the root and return what it prints; it must succeed."""
        done = subprocess.run(
            self.command(argv, environment), input=stdin, capture_output=True, text=True, check=False,
            stdin=None if stdin is not None else subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
