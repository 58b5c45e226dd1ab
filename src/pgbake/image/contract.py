"""The contract of an image: what a machine's tree must be, path by path and account by account, and nothing else.

What stage 1 put there is remembered when it is made (:func:`remember`); what an installed bundle adds is the machine
definition's. A tree that deviates is told so with all deviations at once: what is missing, what differs, what nobody
has declared.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from pgbake.files import write_whole
from pgbake.machine.accounts import group_id, user_id
from pgbake.machine.apply import below
from pgbake.machine.definition import Part, Rendered

#: Where a machine keeps what is not the image's to say: below these anything may be, and change.
_FREE = ("/dev", "/nix", "/proc", "/run", "/sys", "/tmp", "/var/lib/postgresql", "/var/log/postgresql", "/var/tmp")
#: Where a machine that has been booted keeps its own.
_FREE_BOOTED = ("/boot/efi", "/home", "/lost+found", "/root", "/var")
#: What the first boot makes or writes elsewhere: globs.
_AT_BOOT = (
    "/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/apt/sources.list*", "/etc/cloud/*", "/etc/default/locale",
    "/etc/group",
    "/etc/group-", "/etc/gshadow", "/etc/gshadow-", "/etc/hostname", "/etc/hosts", "/etc/ld.so.cache",
    "/etc/locale.gen", "/etc/localtime", "/etc/machine-id", "/etc/passwd", "/etc/passwd-",
    "/etc/resolv.conf", "/etc/shadow",
    "/etc/shadow-", "/etc/ssh/ssh_host_*", "/etc/ssh/sshd_config*", "/etc/sub[ug]id*",
    "/etc/sudoers.d", "/etc/sudoers.d/90-cloud-init-users",
    "/etc/systemd/network/10-cloud-init-*", "/etc/timezone", "/usr/.updated", "/usr/lib/locale/locale-archive",
)  # fmt: skip
#: Written by tools whenever an account is made; the accounts themselves are compared.
_ACCOUNT_FILES = tuple(f"/etc/{name}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid"))


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What lies at a path.

    :param kind: ``d``, ``f``, ``l``, or ``?`` for anything else.
    :param what: a file's sha256 in hexadecimal, a link's target.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    what: str = ""


class Memory(msgspec.Struct, frozen=True):
    """What stage 1 has put into a tree."""

    entries: dict[str, Entry]
    users: dict[str, tuple[str, ...]]
    groups: dict[str, tuple[str, ...]]


class Deviation(msgspec.Struct, frozen=True, order=True):
    """One thing that is not as it must be."""

    what: str
    found: str


def remember(root: Path, file: Path) -> None:
    """Write down what is in a tree."""
    memory = Memory(dict(_entries(root, ())), _accounts(root, "passwd"), _accounts(root, "group"))
    write_whole(file, msgspec.json.encode(memory))


def recall(file: Path) -> Memory:
    """Read what :func:`remember` has written."""
    return msgspec.json.decode(file.read_bytes(), type=Memory)


def deviations(
    root: Path, memory: Memory, wanted: Rendered, added: Iterable[Part] = (), *, booted: bool = False
) -> list[Deviation]:
    """Hold a tree against what it must be.

    :param wanted: what the machine definition says of what is installed.
    :param added: paths that are there beside.
    :param booted: whether the machine has been booted, and may have made what is its own.
    """
    free = (*_FREE, *(_FREE_BOOTED if booted else ()))
    loose = _AT_BOOT if booted else ()
    parts = {part.path: part for part in (*wanted.parts, *added) if not _given(root, part)}
    found = dict(_entries(root, free))
    told = [*_account_deviations(root, memory, wanted)]
    expected = {path: entry for path, entry in memory.entries.items() if not _is_below(path, free)}
    ways = {str(parent) for path in parts for parent in Path(path).parents}
    for path in sorted({*found, *expected, *parts}):
        if path in _ACCOUNT_FILES or any(fnmatchcase(path, pattern) for pattern in loose):
            continue
        part, entry = parts.get(path), found.get(path)
        if part is not None and not (part.runtime or part.data) and not (booted and part.keep):
            told += _compare_part(root, part)
        elif part is None and path in expected:
            told += _compare(path, expected[path], entry)
        elif part is None and entry is not None and not (entry.kind == "d" and path in ways):
            told.append(Deviation(path, f"{_KINDS[entry.kind]} that nobody has declared"))
    return sorted(told)


def drift(root: Path, wanted: Rendered) -> list[Deviation]:
    """Hold a machine, live or not, against what is declared, and nothing else: what it has beside is its own.

    Files that are the administrator's to change are told as well, and so are accounts with other numbers.
    """
    told: list[Deviation] = []
    for part in wanted.parts:
        if not (part.runtime or part.data or _given(root, part)):
            told += _compare_part(root, part)
    users, groups = _accounts(root, "passwd"), _accounts(root, "group")
    told += [Deviation(f"group {group.name}", "missing") for group in wanted.groups if group.name not in groups]
    for user in wanted.users:
        if user.name not in users:
            told.append(Deviation(f"user {user.name}", "missing"))
            continue
        for word, want, have in zip(("home", "shell"), (user.home, user.shell), users[user.name][2:], strict=True):
            if want != have:
                told.append(Deviation(f"user {user.name}", f"has {word} {have or 'none'}, and not {want}"))
        for group in user.groups:
            if user.name not in groups.get(group, ("", ""))[1].split(","):
                told.append(Deviation(f"user {user.name}", f"is no member of {group}"))
    return sorted(set(told))


_KINDS = {"d": "a directory", "f": "a file", "l": "a link", "?": "a device, socket or pipe"}


def _compare(path: str, expected: Entry, found: Entry | None) -> Iterator[Deviation]:
    if found is None:
        yield Deviation(path, "missing")
        return
    if found.kind != expected.kind:
        yield Deviation(path, f"{_KINDS[found.kind]}, and not {_KINDS[expected.kind]}")
        return
    if found.what != expected.what:
        leads = f"leads to {found.what}, and not to {expected.what}"
        yield Deviation(path, leads if found.kind == "l" else "changed")
    if found.kind != "l" and found.mode != expected.mode:
        yield Deviation(path, f"has mode {found.mode:04o}, and not {expected.mode:04o}")
    if (found.uid, found.gid) != (expected.uid, expected.gid):
        yield Deviation(path, f"belongs to {found.uid}:{found.gid}, and not to {expected.uid}:{expected.gid}")


def _compare_part(root: Path, part: Part) -> Iterator[Deviation]:
    place = below(root, part.path)
    found = _entry(place) if os.path.lexists(place) else None
    owner, group = user_id(root, part.owner), group_id(root, part.group)
    kind = part.kind[0]
    what = hashlib.sha256(part.content).hexdigest() if kind == "f" else part.target
    uid, gid = (0, 0) if kind == "l" else (owner or 0, group or 0)
    yield from _compare(part.path, Entry(kind, part.mode, uid, gid, what), found)


def _given(root: Path, part: Part) -> bool:
    return any(os.path.lexists(below(root, path)) for path in part.unless)


def _account_deviations(root: Path, memory: Memory, wanted: Rendered) -> Iterator[Deviation]:
    users, groups = dict(memory.users), dict(memory.groups)
    found_users, found_groups = _accounts(root, "passwd"), _accounts(root, "group")
    for group in wanted.groups:
        if group.name in found_groups:  # its number is the machine's to choose
            groups.setdefault(group.name, (found_groups[group.name][0], ""))
        else:
            yield Deviation(f"group {group.name}", "missing")
    for user in wanted.users:
        if user.name not in found_users:
            yield Deviation(f"user {user.name}", "missing")
            continue
        number = str(group_id(root, user.group))
        users.setdefault(user.name, (found_users[user.name][0], number, user.home, user.shell))
    for kind, expected, found in (("user", users, found_users), ("group", groups, found_groups)):
        fields = ("number", "group", "home", "shell") if kind == "user" else ("number", "members")
        for name in sorted({*expected, *found}):
            if name not in expected:
                yield Deviation(f"{kind} {name}", "nobody has declared it")
            elif name not in found:
                yield Deviation(f"{kind} {name}", "missing")
            else:
                for field, want, have in zip(fields, expected[name], found[name], strict=True):
                    if want != have:
                        yield Deviation(f"{kind} {name}", f"has {field} {have or 'none'}, and not {want or 'none'}")
    shadow = root / "etc/shadow"
    for line in shadow.read_text().splitlines() if shadow.exists() else ():
        name, password = line.split(":")[:2]
        if password[:1] not in ("!", "*"):
            yield Deviation(f"user {name}", "has a password" if password else "needs no password")


def _accounts(root: Path, name: str) -> dict[str, tuple[str, ...]]:
    """Return accounts by name: number, group, home and shell; or number and members."""
    file = root / "etc" / name
    lines = [line.split(":") for line in (file.read_text().splitlines() if file.exists() else ()) if line]
    if name == "passwd":
        return {words[0]: (words[2], words[3], words[5], words[6]) for words in lines}
    return {words[0]: (words[2], ",".join(sorted(words[3].split(",")))) for words in lines}


def changes(root: Path, memory: Memory, free: Iterable[str]) -> Iterator[tuple[str, Entry | None]]:
    """Yield the paths of a tree that are not as stage 1 has put them there, with what is there now; None: nothing.

    :param free: paths below which nothing is looked at.
    """
    free = tuple(free)
    found = dict(_entries(root, free))
    expected = {path: entry for path, entry in memory.entries.items() if not _is_below(path, free)}
    for path in sorted({*found, *expected}):
        if found.get(path) != expected.get(path):
            yield path, found.get(path)


def _entries(root: Path, free: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    """Yield what is in a tree; of a path that is free, nothing below it."""
    files: list[tuple[str, Path]] = []
    for directory, names, others in os.walk(root):
        base = "/" + str(Path(directory).relative_to(root)) if Path(directory) != root else ""
        names[:] = [name for name in sorted(names) if f"{base}/{name}" not in free]
        files += [(f"{base}/{name}", Path(directory, name)) for name in (*names, *others)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip((path for path, _ in files), pool.map(_entry, (place for _, place in files)), strict=True)


def _entry(place: Path) -> Entry:
    status = place.lstat()
    mode, uid, gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if stat.S_ISLNK(status.st_mode):
        return Entry("l", 0, uid, gid, str(place.readlink()))
    if stat.S_ISDIR(status.st_mode):
        return Entry("d", mode, uid, gid)
    if stat.S_ISREG(status.st_mode):
        with place.open("rb") as file:
            return Entry("f", mode, uid, gid, hashlib.file_digest(file, "sha256").hexdigest())
    return Entry("?", mode, uid, gid)


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
