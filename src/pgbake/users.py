"""Running programs as another user, which root does for builds and servers."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import TypedDict


class Identity(TypedDict, total=False):
    """Arguments of :class:`subprocess.Popen` that say as whom a program runs."""

    user: int
    group: int
    extra_groups: list[int]


def identity(user: int | None) -> Identity:
    """Return the arguments that make :mod:`subprocess` run a program as ``user``; none for None."""
    if user is None:
        return {}
    try:
        group = pwd.getpwuid(user).pw_gid
    except KeyError:
        group = user
    return {"user": user, "group": group, "extra_groups": []}


def become(who: Identity) -> None:
    """Make this process, which is root's, that of another user; it stays as it is where ``who`` is empty."""
    if who:
        os.setgroups(who["extra_groups"])
        os.setgid(who["group"])
        os.setuid(who["user"])


def user_name(uid: int) -> str:
    """Return a user's name, or their number in words where they have none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def closed_directory(path: Path) -> Path | None:
    """Return the directory on the way to ``path`` that lets other users not pass, or None."""
    for directory in reversed([path, *path.parents]):
        if directory.is_dir() and not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None
