"""bubblewrap sandboxes on this machine: whether they can be had, and the command lines for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pgbake.build.wrapper import MOUNT_OPTIONS, SANDBOX_OPTIONS, SCRIPT_COMMAND
from pgbake.errors import HostError
from pgbake.formats.storepath import STORE_DIR, StorePath
from pgbake.run import missing_program
from pgbake.store.local import LocalStore
from pgbake.users import identity

#: Settings of the kernel that forbid unprivileged user namespaces, with the value that does.
_FORBIDDING = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}


def build_command(
    store: LocalStore, build_root: StorePath, inputs: Iterable[StorePath], outputs_dir: Path, build_dir: Path
) -> list[str]:
    """Return the command that performs a wrapped derivation's script in one sandbox.

    :param inputs: the store paths that the build sees, with all that they refer to.
    :param outputs_dir: shown as ``/nix/store``, where the build makes its outputs.
    """
    command = ["bwrap", *SANDBOX_OPTIONS, "--ro-bind", str(store.physical(build_root)), "/"]
    command += ["--bind", str(outputs_dir), STORE_DIR]
    for path in sorted(inputs):
        command += ["--ro-bind", str(store.physical(path)), str(path)]
    command += ["--bind", str(build_dir), "/build", *MOUNT_OPTIONS]
    return [*command, *SCRIPT_COMMAND]


def require_sandbox(uid: int | None) -> None:
    """Check that a sandbox can be made here, as ``uid`` where given.

    :raises HostError: bubblewrap is missing, or something forbids user namespaces; what, and what to type.
    """
    command = ["bwrap", "--unshare-user", "--uid", "1000", "--unshare-pid", "--unshare-net"]
    command += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    if shutil.which("bwrap") is None:
        raise missing_program("bwrap")
    probe = subprocess.run(command, capture_output=True, text=True, check=False, **identity(uid))
    if probe.returncode == 0:
        return
    for name, value in _FORBIDDING.items():
        try:
            current = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if current == value:
            setting = name.replace("/", ".")
            allowed = {"0": "1", "1": "0"}[value] if "max" not in name else "65536"
            raise HostError(
                f"this machine forbids user namespaces, which the build sandbox needs: {setting} = {value}",
                hint=f"as root: sysctl -w {setting}={allowed}",
                detail=probe.stderr.strip(),
            )
    raise HostError(
        "the build sandbox cannot be made: bubblewrap may not create namespaces here",
        hint="inside a container, allow them (for Docker: --security-opt seccomp=unconfined --security-opt "
        "apparmor=unconfined); otherwise see the message below",
        detail=probe.stderr.strip(),
    )


def namespace_command(store: LocalStore, argv: list[str]) -> list[str]:
    """Return the command that runs a program of the store, which needs to see it at ``/nix``.

    Where the store is at its place that is the program itself. Elsewhere it is bubblewrap with the
    machine as it is and the store's ``nix`` at ``/nix``; the user stays who they are.
    """
    if store.is_at_its_place:
        return argv
    command = ["bwrap", "--dev-bind", "/", "/"]
    if not Path("/nix").is_dir():
        # Where the machine has no /nix, the root is made anew from links and binds of what is there.
        command = ["bwrap", "--tmpfs", "/"]
        for entry in sorted(os.listdir("/")):  # noqa: PTH208 - names are what is wanted
            source = Path("/", entry)
            if source.is_symlink():
                command += ["--symlink", str(source.readlink()), str(source)]
            else:
                command += ["--dev-bind", str(source), str(source)]
    command += ["--bind", str(store.root / "nix"), "/nix", "--chdir", os.getcwd(), "--"]  # noqa: PTH109
    return [*command, *argv]
