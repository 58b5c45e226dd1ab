"""Accounts of a machine or an offline tree: read from its own files, made and removed by its own kind of tools.

Nothing of the machine that works on a tree is asked for the tree's accounts: its ``/etc/passwd`` alone counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pgbake.errors import HostError
from pgbake.machine.definition import GroupRow, UserRow
from pgbake.run import run, state_of


def _entries(root: Path, file: str) -> dict[str, list[str]]:
    try:
        text = (root / "etc" / file).read_text(errors="replace")
    except OSError:
        return {}
    fields = [line.split(":") for line in text.splitlines() if ":" in line]
    return {entry[0]: entry for entry in fields}


def user_id(root: Path, name: str) -> int | None:
    """Return an account's number in a tree, or None."""
    entry = _entries(root, "passwd").get(name)
    return int(entry[2]) if entry and len(entry) > 2 and entry[2].isdecimal() else None


def group_id(root: Path, name: str) -> int | None:
    """Return a group's number in a tree, or None."""
    entry = _entries(root, "group").get(name)
    return int(entry[2]) if entry and len(entry) > 2 and entry[2].isdecimal() else None


def make_accounts(root: Path, groups: Iterable[GroupRow], users: Iterable[UserRow]) -> tuple[list[str], list[str]]:
    """Make the groups and users that a tree lacks, by their declared numbers where these are free; return which.

    :raises HostError: neither shadow's tools nor systemd-sysusers are there.
    :raises CommandError: the tool fails; its words are the detail.
    """
    _sweep(root)
    made_groups, made_users = [], []
    for group in groups:
        if group_id(root, group.name) is None:
            number = _number(root, "group", group.id, "--gid")
            run([_tool("groupadd"), *_prefix(root), "--system", *number, group.name], sandbox="host")
            made_groups.append(group.name)
    for user in users:
        if user_id(root, user.name) is None:
            member = ["--groups", ",".join(user.groups)] if user.groups else []
            run(
                [
                    _tool("useradd"), *_prefix(root), "--system", "--no-create-home", "--home-dir", user.home,
                    "--gid", str(group_id(root, user.group)), "--shell", user.shell, "--comment", user.comment,
                    *_number(root, "passwd", user.id, "--uid"), *member, user.name,
                ],
                sandbox="host",
            )  # fmt: skip
            made_users.append(user.name)
    return made_groups, made_users


def _number(root: Path, file: str, number: int, option: str) -> list[str]:
    """Return the option that gives an account its number, or nothing where another has it."""
    taken = any(len(entry) > 2 and entry[2] == str(number) for entry in _entries(root, file).values())
    return [] if taken else [option, str(number)]


def account_lines(groups: Iterable[GroupRow], users: Iterable[UserRow]) -> dict[str, str]:
    """Return the lines of ``/etc/passwd`` and ``/etc/group`` for accounts, by the name of the file.

    They are without memberships, and nobody logs in to them by password.
    """
    numbers = {group.name: group.id for group in groups}
    return {
        "passwd": "".join(
            f"{user.name}:*:{user.id}:{numbers[user.group]}:{user.comment}:{user.home}:{user.shell}\n" for user in users
        ),
        "group": "".join(f"{name}:*:{number}:\n" for name, number in numbers.items()),
    }


def remove_accounts(root: Path, groups: Iterable[str], users: Iterable[str]) -> None:
    """Remove users and groups, as far as they are there.

    :raises CommandError: the tool refuses: a process still runs as the user.
    """
    for user in users:
        if user_id(root, user) is not None:
            run([_tool("userdel"), *_prefix(root), user], sandbox="host")
    for group in groups:
        if group_id(root, group) is not None:
            run([_tool("groupdel"), *_prefix(root), group], sandbox="host")
    _sweep(root)


def _sweep(root: Path) -> None:
    """Remove what shadow's tools leave when they are killed: each writes its number into ``passwd.NUMBER`` to lock."""
    for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid"):
        for left in (root / "etc").glob(f"{name}.[0-9]*"):
            number = left.name.removeprefix(f"{name}.")
            if number.isdecimal() and state_of(int(number)) in (None, "Z"):
                left.unlink(missing_ok=True)


def _prefix(root: Path) -> list[str]:
    return [] if root == Path("/") else ["--prefix", str(root)]


def _tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise HostError(
            f"the program {name} is not installed, so the account postgres cannot be made",
            hint="install it (Debian: apt-get install passwd), or make user and group postgres yourself",
        )
    return found
