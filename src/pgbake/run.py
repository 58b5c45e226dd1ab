"""Running other programs: the one place from which pgbake starts a subprocess and waits for it."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgbake.errors import CommandError, HostError
from pgbake.users import identity

#: Where a command runs. ``host``: on this machine as it is, with the caller's rights.
#: ``bundle``: a bundle's program, in the namespace that shows the store at its place.
#: ``build``: in a build sandbox without network.
SandboxName = Literal["host", "bundle", "build"]

#: Debian packages that bring the programs which pgbake itself calls.
PACKAGE_OF_PROGRAM = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "bwrap": "bubblewrap",
    "dpkg-deb": "dpkg",
    "gpg": "gpg",
    "gpgv": "gpgv",
    "skopeo": "skopeo",
}
#: Those that a machine may well do without -> what is not to be had then.
OPTIONAL_PROGRAMS = {"skopeo": "pushing container images"}


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished command left: its exit status and, where captured, its output as text."""

    status: int
    stdout: str
    stderr: str


def paste(argv: Sequence[str]) -> str:
    """Return the command line quoted for a POSIX shell, ready to paste."""
    return shlex.join(argv)


def describe_status(status: int) -> str:
    """Say in words what an exit status of :mod:`subprocess` means (negative: killed by that signal)."""
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with status {status}"


def state_of(pid: int) -> str | None:
    """Return the state of a process as proc(5) has it, such as R, S, or Z where it is dead and not reaped yet; None of
    one that is not there.

    The init of some containers takes seconds to reap.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None


def missing_program(name: str) -> HostError:
    """Return the error for a program that is not installed, with the package that brings it."""
    package = PACKAGE_OF_PROGRAM.get(name)
    hint = f"install it: apt-get install {package}" if package else f"install {name} and try again"
    return HostError(f"the program {name} is not installed", hint=hint)


def run(
    argv: Sequence[str],
    *,
    sandbox: SandboxName,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    check: bool = True,
    hint: str | None = None,
    timeout: float | None = None,
    user: int | None = None,
    lock: int | None = None,
) -> Completed:
    """Run a program to its end and return its output as text (UTF-8, undecodable bytes replaced).

    :param sandbox: where it runs; named at each call so that a reader sees what is confined.
    :param check: raise when the status is not zero.
    :param timeout: seconds after which the program is killed.
    :param user: uid to run it as, with that user's own group and no others; for root only.
    :param lock: descriptor of a lock on what the program writes to. The program inherits it, so the lock stays
        for as long as the program lives, also where pgbake is killed before it ends.
    :raises HostError: the program is not installed.
    :raises CommandError: it failed; the message holds the command ready to paste, the detail its
        last lines.
    """
    try:
        done = subprocess.run(
            list(argv), env=env, cwd=cwd, input=stdin, capture_output=True, check=False, timeout=timeout,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            pass_fds=() if lock is None else (lock,), **identity(user),
        )  # fmt: skip
    except FileNotFoundError:
        raise missing_program(argv[0]) from None
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"command did not end within {timeout:.0f} s: {paste(argv)}", status=-signal.SIGKILL, hint=hint
        ) from None
    stdout = done.stdout.decode(errors="replace")
    stderr = done.stderr.decode(errors="replace")
    if check and done.returncode != 0:
        where = "" if sandbox == "host" else f" (in the {sandbox} sandbox)"
        raise CommandError(
            f"command {describe_status(done.returncode)}{where}: {paste(argv)}",
            status=done.returncode,
            hint=hint,
            detail="\n".join((stderr.strip() or stdout.strip()).splitlines()[-20:]) or None,
        )
    return Completed(done.returncode, stdout, stderr)
