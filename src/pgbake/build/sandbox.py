"""bubblewrap sandboxes on this machine: whether they can be had, and the command lines for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgbake.build.wrapper import BUILD_DIR, MOUNT_OPTIONS, NAMESPACES, USUAL, Surroundings
from pgbake.errors import HostError
from pgbake.formats.storepath import STORE_DIR, StorePath
from pgbake.run import missing_program
from pgbake.store.local import LocalStore
from pgbake.users import Identity, identity

#: Settings of the kernel that forbid unprivileged user namespaces, with the value that does.
_FORBIDDING = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}

#: What a build's sandbox prints when it is set up; its script starts when it has read one line.
#: Without this a build could outlive a pgbake that is killed while bubblewrap sets the sandbox up: only then
#: do all of its processes end with their parents. (Of the shell's own variables nothing is to remain.)
READY = b"@pgbake ready\n"
_AT_A_WORD = (
    "/usr/bin/bash", "-c",
    f'echo "{READY.decode().strip()}"; read -r || exit; export -n OLDPWD PWD SHLVL; exec "$@" < /dev/null', "bash",
)  # fmt: skip

_ASK_THE_DOCTOR = "`pgbake doctor` looks for what forbids it, and says what to type"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How a build is confined on this machine.

    :param uid: the user of this machine that it runs as; None for the caller.
    :param plain: whether its namespaces are root's own, for want of user namespaces. The build then has its
        uid of this machine inside as well.
    """

    uid: int | None
    plain: bool = False

    @property
    def identity(self) -> Identity:
        """As whom bubblewrap is started: arguments of :class:`subprocess.Popen`."""
        return {} if self.plain else identity(self.uid)

    def command(
        self,
        store: LocalStore,
        build_root: StorePath,
        inputs: Iterable[StorePath],
        outputs_dir: Path,
        build_dir: Path,
        surroundings: Surroundings = USUAL,
        program: Sequence[str] = (),
    ) -> list[str]:
        """Return the command that performs a wrapped derivation's script in one sandbox; see :data:`READY`.

        :param inputs: the store paths that the build sees, with all that they refer to.
        :param outputs_dir: shown as ``/nix/store``, where the build makes its outputs.
        :param program: run in the script's place, and at once.
        """
        command = ["bwrap", *self.namespaces(surroundings)]
        command += ["--ro-bind", str(store.physical(build_root)), "/", "--bind", str(outputs_dir), STORE_DIR]
        for path in sorted(inputs):
            command += ["--ro-bind", str(store.physical(path)), str(path)]
        command += ["--bind", str(build_dir), BUILD_DIR, *MOUNT_OPTIONS]
        if self.plain:
            # In memory, and writable by whom the build is.
            command += ["--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/dev/shm"]
            user = f"{self.uid}:{self.uid}"
            command += ["/usr/sbin/chroot", "--skip-chdir", f"--userspec={user}", "--groups=", "/"]
        return [*command, *(program or (*_AT_A_WORD, *surroundings.command))]

    def namespaces(self, surroundings: Surroundings = USUAL) -> tuple[str, ...]:
        """Return bubblewrap's options for the sandbox's namespaces, and who one is in them."""
        if not self.plain:
            return surroundings.user_namespace
        # bubblewrap changes its uid by a user namespace only; coreutils' chroot does it here, with these rights.
        rights = (word for name in ("SETUID", "SETGID", "SYS_CHROOT") for word in ("--cap-add", f"CAP_{name}"))
        return (
            *NAMESPACES, "--hostname", surroundings.hostname, "--die-with-parent", "--cap-drop", "ALL", *rights,
        )  # fmt: skip


def require_sandbox(uid: int | None) -> Sandbox:
    """Return the sandbox that can be made here, for builds as ``uid`` where given.

    One in a user namespace where that is allowed; else, for root, one of plain namespaces.

    :raises HostError: bubblewrap is missing, or something forbids namespaces; what, and what to type.
    """
    if shutil.which("bwrap") is None:
        raise missing_program("bwrap")
    refused = probe(Sandbox(uid))
    if refused is None:
        return Sandbox(uid)
    plain = Sandbox(uid, plain=True)
    if uid is not None and probe(plain) is None:
        return plain
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
                detail=refused,
            )
    raise HostError(
        "the build sandbox cannot be made: bubblewrap may not create namespaces here",
        hint=_ASK_THE_DOCTOR,
        detail=refused,
    )


def probe(sandbox: Sandbox) -> str | None:
    """Make a sandbox of a kind and leave it; return what bubblewrap says if that is refused."""
    command = ["bwrap", *sandbox.namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **sandbox.identity)
    except OSError as error:  # such as a program that the build user cannot reach
        return f"cannot start {shutil.which('bwrap')} as uid {sandbox.uid}: {error.strerror}"
    return None if done.returncode == 0 else done.stderr.strip()


def require_namespace(store: LocalStore, user: int | None = None) -> None:
    """Check that programs can be shown the store at ``/nix``, as ``user`` where given.

    :raises HostError: bubblewrap is missing, or something forbids it.
    """
    if store.is_at_its_place:
        return
    if shutil.which("bwrap") is None:
        raise missing_program("bwrap")
    command = namespace_command(store, ["/bin/sh", "-c", ":"])
    done = subprocess.run(command, capture_output=True, text=True, check=False, **identity(user))
    if done.returncode != 0:
        raise HostError(
            f"programs cannot be shown the store at {store.store_dir} in its place, /nix/store",
            hint=_ASK_THE_DOCTOR,
            detail=done.stderr.strip(),
        )


def namespace_command(store: LocalStore, argv: list[str], *, die_with_parent: bool = False) -> list[str]:
    """Return the command that runs a program of the store, which needs to see it at ``/nix``.

    Where the store is at its place that is the program itself. Elsewhere it is bubblewrap with the
    machine as it is and the store's ``nix`` at ``/nix``; the user stays who they are.

    :param die_with_parent: let the program end with the bubblewrap that started it, and that with its parent.
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
    if die_with_parent:
        command.append("--die-with-parent")
    command += ["--bind", str(store.root / "nix"), "/nix", "--chdir", os.getcwd(), "--"]  # noqa: PTH109
    return [*command, *argv]
