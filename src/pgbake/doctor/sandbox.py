"""Whether builds get their sandbox: it is started, and where it is refused the cause is looked for.

bubblewrap needs a user namespace, and in it namespaces of the other kinds, mounts, a new /proc and a small
/dev. Each may be refused by a setting of the kernel, by a security module or by a container's filter, and the
kernel's own answer is mostly just "Operation not permitted". So after a refusal less and less is asked for,
which tells the step, and then every setting that is known to forbid that step is read.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgbake.build.engine import build_uids
from pgbake.build.sandbox import require_sandbox
from pgbake.doctor.finding import Finding, few, ok, problem, warning
from pgbake.errors import PgbakeError
from pgbake.users import closed_directory, identity

#: What the sandbox asks for, step by step, each with all before it, and the kinds of namespace that it takes.
_STEPS = (
    ("a user namespace", ("--unshare-user", "--uid", "1000", "--ro-bind", "/", "/"), ("user", "mnt")),
    ("a pid namespace", ("--unshare-pid",), ("pid",)),
    ("an IPC and a UTS namespace", ("--unshare-ipc", "--unshare-uts"), ("ipc", "uts")),
    ("a network namespace", ("--unshare-net",), ("net",)),
    ("a new /proc", ("--proc", "/proc"), ()),
    ("a new /dev", ("--dev", "/dev"), ()),
)
_START = "the start of bubblewrap"
#: Device nodes that bubblewrap shows in a sandbox, with their numbers.
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_CONTAINER = (
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
_KEEP = "; to keep it, write the same into /etc/sysctl.d/60-pgbake.conf"


def examine_sandbox() -> Iterator[Finding]:
    """Start a sandbox as builds do, as a build user where root builds, and say what forbids it."""
    if shutil.which("bwrap") is None:
        yield problem("build sandbox", "cannot be tried without bubblewrap")
        return
    uid = next(build_uids(), None) if os.geteuid() == 0 else None
    who = f"as build user {uid}" if uid is not None else "as this user"
    try:
        sandbox = require_sandbox(uid)
    except PgbakeError as error:
        yield from _refused(uid, who, error)
        return
    if not sandbox.plain:
        yield ok("build sandbox", f"bubblewrap makes it, {who}")
        return
    # Builds get on without; but an ordinary user's would not, nor does a server from a store that is not at /nix.
    step, kinds, said = _refused_step(uid)
    yield warning(
        "build sandbox",
        f"of plain namespaces, {who}: {step or 'one in a user namespace'} is refused to it ({said})",
    )
    for cause in _causes(step, kinds, said):
        yield dataclasses.replace(cause, state="warning")


def _refused(uid: int | None, who: str, error: PgbakeError) -> Iterator[Finding]:
    step, kinds, said = _refused_step(uid)
    causes = list(_causes(step, kinds, said))
    yield problem(
        "build sandbox",
        f"refused {who} at {step or 'the whole of it'}: {said or error.message}",
        None if causes else "none of the settings that are known to forbid it does; `dmesg` may tell who refused it",
    )
    yield from causes


def _refused_step(uid: int | None) -> tuple[str, tuple[str, ...], str]:
    """Return the first step that is refused, the namespaces that it takes, and bubblewrap's words."""
    options: list[str] = []
    for step, more, kinds in _STEPS:
        options += more
        try:
            done = subprocess.run(
                ["bwrap", *options, "true"], capture_output=True, text=True, check=False, cwd="/", **identity(uid)
            )
        except OSError as error:
            return _START, (), str(error)
        if done.returncode != 0:
            return step, kinds, done.stderr.strip().removeprefix("bwrap: ")
    return "", (), ""


def _causes(step: str, kinds: Sequence[str], said: str) -> Iterator[Finding]:
    """Yield what is known to forbid a step."""
    sysctl = Path("/proc/sys")
    limits = {kind: _read(sysctl / f"user/max_{kind}_namespaces") for kind in kinds}
    none = [kind for kind, limit in limits.items() if limit == "0"]
    for kind in none:
        name = f"user.max_{kind}_namespaces"
        yield problem(name, "is 0: no such namespace may be made", f"as root: sysctl -w {name}=65536{_KEEP}")
    known = [(int(limit), kind) for kind, limit in limits.items() if limit]
    if known and not none and ("ENOSPC" in said or "No space left on device" in said):
        least, kind = min(known)
        name = f"user.max_{kind}_namespaces"
        yield problem(
            name,
            f"is {least}, and all are in use; or too many are nested in each other (32 at most)",
            f"see who has them with `lsns`; as root: sysctl -w {name}={least * 2}{_KEEP}",
        )
    if step == _START and (closed := closed_directory(Path(str(shutil.which("bwrap"))))):
        yield problem(str(closed), "is closed to the users that builds run as", f"as root: chmod o+x {closed}")
    if step == "a user namespace":
        yield from _no_user_namespace(sysctl)
    if step == "a new /proc":
        hidden = _mounts_below("/proc/")
        if hidden:
            yield problem(
                "/proc",
                f"is masked by a container ({few(hidden)}), and who sees but a part of it is given no new one",
                "start the container with --security-opt systempaths=unconfined (podman: --security-opt unmask=ALL)",
            )
    if step == "a new /dev":
        yield from _no_devices(Path("/dev"))
    yield from _filters(said)


def _no_user_namespace(sysctl: Path) -> Iterator[Finding]:
    name = "kernel.unprivileged_userns_clone"
    if _read(sysctl / "kernel/unprivileged_userns_clone") == "0":
        yield problem(name, "is 0: only root may make user namespaces", f"as root: sysctl -w {name}=1{_KEEP}")
    name = "kernel.apparmor_restrict_unprivileged_userns"
    if _read(sysctl / "kernel/apparmor_restrict_unprivileged_userns") == "1":
        yield problem(
            name,
            "is 1: AppArmor lets only programs with a profile use user namespaces",
            "as root: printf 'abi <abi/4.0>,\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }\\n'"
            f" > /etc/apparmor.d/bwrap && apparmor_parser -r /etc/apparmor.d/bwrap; or: sysctl -w {name}=0{_KEEP}",
        )
    if not (sysctl / "user/max_user_namespaces").exists():
        yield problem("kernel", "has no user namespaces (CONFIG_USER_NS)", "use a kernel that has, as Debian's")
    if _in_chroot():
        yield problem(
            "chroot",
            "this is one, and the kernel makes no user namespace in a chroot",
            "enter the directory with `bwrap --dev-bind DIRECTORY / COMMAND` or `systemd-nspawn -D DIRECTORY` instead",
        )


def _no_devices(directory: Path) -> Iterator[Finding]:
    for name, (major, minor) in _DEVICES.items():
        node = directory / name
        try:
            status = node.stat()
            right = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(major, minor)
        except OSError:
            right = False
        if not right:
            yield problem(
                str(node), "is not there, or is no such device", f"as root: mknod -m 666 {node} c {major} {minor}"
            )


def _filters(said: str) -> Iterator[Finding]:
    """Yield what confines this process; each may be the cause, and none can be asked what it refuses."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    if status.get("Seccomp", "").strip() == "2":
        yield problem(
            "seccomp",
            "a filter of system calls is at work, as containers have it, which may refuse namespaces and mounts",
            f"start the container with {_CONTAINER}; for a systemd unit: RestrictNamespaces=no",
        )
    profile = _read(Path("/proc/self/attr/apparmor/current")) or _read(Path("/proc/self/attr/current"))
    enforced = _read(Path("/sys/fs/selinux/enforce")) == "1"
    if enforced:
        yield problem(
            "SELinux",
            f"is enforcing, for this process as {profile}; it may refuse namespaces",
            "see what it refused with `ausearch -m avc -ts recent`; to try without it, as root: setenforce 0",
        )
    elif profile and profile.split()[0].rstrip("\0") not in ("unconfined", "kernel"):
        yield problem(
            "AppArmor",
            f"this process is confined by the profile {profile.rstrip(chr(0))}, which may refuse namespaces and mounts",
            "start the container with --security-opt apparmor=unconfined; see `dmesg | grep DENIED`",
        )
    if status.get("NoNewPrivs", "").strip() == "1" and "setuid" in said:
        yield problem(
            "no_new_privs",
            "is set, so that a setuid bubblewrap gains nothing",
            "as root: chmod u-s /usr/bin/bwrap; for a systemd unit: NoNewPrivileges=no",
        )


def _in_chroot() -> bool:
    try:
        return not Path("/proc/1/root").samefile("/")
    except OSError:  # only root may look; but mostly the root of a chroot is no mount
        return "/" not in _mounts()


def _mounts() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _mounts_below(prefix: str) -> list[str]:
    # binfmt_misc is mounted there on every machine and hides nothing.
    return [mount for mount in _mounts() if mount.startswith(prefix) and "binfmt_misc" not in mount]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
