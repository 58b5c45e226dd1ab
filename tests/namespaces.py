"""Namespaces in which something of the machine is forbidden or missing."""

from __future__ import annotations

import ctypes
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


def without_user_namespaces(argv: Sequence[str]) -> list[str]:
    """Return the command that runs another one as a root who may make any namespace but a user namespace.

    For root only: it is a user namespace with all of the machine's uids, in which the sysctl that limits
    further ones, ``user.max_user_namespaces``, is 0. That setting counts per namespace.
    """
    return [sys.executable, "-m", "tests.namespaces", *argv]


def with_nix_at(directory: Path, argv: Sequence[str]) -> list[str]:
    """Return the command that runs another one where ``directory`` is ``/nix``, whatever the machine has there."""
    command = ["bwrap"]
    for entry in sorted(Path("/").iterdir()):
        if entry.is_symlink():
            command += ["--symlink", str(entry.readlink()), str(entry)]
        elif entry.name != "nix":
            command += ["--dev-bind", str(entry), str(entry)]
    return [*command, "--bind", str(directory), "/nix", "--", *argv]


def in_tree(root: Path, mount: str, shows: Mapping[Path, Path], argv: Sequence[str]) -> list[str]:
    """Return the command that runs another one with a tree as its root, in namespaces of its own: no network but
    loopback, nothing mounted but proc, dev, an empty run and an empty tmp; all that it starts ends with it.

    For root only.

    :param mount: a line of sh that mounts the tree at ``root``.
    :param shows: files and directories of this machine to show there read-only, each with its place.
    """
    shown = ""
    for source, place in shows.items():
        make = "mkdir -p" if source.is_dir() else "touch"
        shown += f"mkdir -p .{place.parent}; {make} .{place}; mount --bind -o ro {shlex.quote(str(source))} .{place}\n"
    script = f"""
        mount --make-rprivate /
        {mount}
        cd {shlex.quote(str(root))}
        mkdir -p proc dev run tmp
        mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs -o mode=0755 tmpfs run
        mount -t tmpfs -o mode=1777 tmpfs tmp
        {shown}
        ip link set lo up
        exec chroot . {shlex.join(argv)}
    """
    return ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-euc", script]


def _enter(argv: Sequence[str]) -> NoReturn:
    libc = ctypes.CDLL(None, use_errno=True)
    ready, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _check(libc.unshare, _CLONE_NEWUSER | _CLONE_NEWNS)
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as setting:  # noqa: PTH123
            setting.write("0")
        os.execvp(argv[0], list(argv))
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as map_:  # noqa: PTH123
            map_.write(f"0 0 {2**32 - 1}")
    os.write(mapped[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _check(call: Callable[[int], int], argument: int) -> None:
    if call(argument) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    _enter(sys.argv[1:])
