"""Two machines' configurations beside one another, each as parts of the definition or as a tree of files."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.machine.apply import below
from pgbake.machine.definition import Part

#: Where a machine's configuration lies.
_CONFIGURED = ("etc", "boot/grub")
#: What lies there and is no configuration: made by tools of what is installed, or with secrets in it.
_LEFT_OUT = (
    "/etc/alternatives/*", "/etc/gshadow*", "/etc/ld.so.cache", "/etc/rc[0-6S].d/*", "/etc/shadow*",
    "/etc/ssh/ssh_host_*_key",
)  # fmt: skip
#: Bytes of a file that is compared as a text.
_LARGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side has at a path.

    :param owner: name or number of user and group; None where the side does not tell.
    """

    kind: str
    mode: int = 0
    owner: tuple[str, str] | None = None
    target: str = ""
    content: bytes = b""


Side = Mapping[str, Seen]


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """A path in which two sides differ, and how: words, or lines of a unified diff."""

    path: str
    lines: tuple[str, ...]


def side_of_parts(parts: Iterable[Part], root: Path | None = None) -> Side:
    """Return rendered parts as a side.

    :param root: a tree that they are compared with: what begins empty at a boot is not in it, and what another package
        gives there is left out.
    """
    if root is not None:
        parts = [
            part
            for part in parts
            if not part.runtime and not any(os.path.lexists(below(root, path)) for path in part.unless)
        ]
    return {
        part.path: Seen("link", target=part.target)
        if part.kind == "link"
        else Seen(part.kind, part.mode, (part.owner, part.group), content=part.content)
        for part in parts
    }


def side_of_tree(root: Path, other: Side | None = None) -> Side:
    """Return a tree of files as a side.

    :param other: look only at what that side has; None: at all files and links below :data:`_CONFIGURED`, or below the
        tree where it has none of these.
    """
    if other is not None:
        places = {path: below(root, path) for path in other}
    else:
        tops = [root / name for name in _CONFIGURED if (root / name).is_dir()] or [root]
        places = {
            f"/{place.relative_to(root)}": place
            for begin in tops
            for top, directories, files in os.walk(begin)
            for place in (Path(top, name) for name in (*files, *directories))
            if place.is_symlink() or not place.is_dir()
        }
        places = {
            path: place for path, place in places.items() if not any(fnmatchcase(path, left) for left in _LEFT_OUT)
        }
    users, groups = _names(root, "passwd"), _names(root, "group")
    seen = {}
    for path, place in places.items():
        if not os.path.lexists(place):
            continue
        status = place.lstat()
        # A directory of rendered files has no accounts, and its owners say nothing.
        owner = (users.get(status.st_uid, str(status.st_uid)), groups.get(status.st_gid, str(status.st_gid)))
        if stat.S_ISLNK(status.st_mode):
            seen[path] = Seen("link", target=str(place.readlink()))
        elif stat.S_ISDIR(status.st_mode):
            seen[path] = Seen("directory", stat.S_IMODE(status.st_mode), owner if users else None)
        elif stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
            mode = stat.S_IMODE(status.st_mode)
            seen[path] = Seen("file", mode, owner if users else None, content=place.read_bytes())
    return seen


def _names(root: Path, file: str) -> dict[int, str]:
    try:
        lines = [line.split(":") for line in (root / "etc" / file).read_text(errors="replace").splitlines()]
    except OSError:
        return {}
    return {int(words[2]): words[0] for words in lines if len(words) > 2 and words[2].isdecimal()}


def differences(one: Side, two: Side) -> list[Difference]:
    """Return in what two sides differ, by path."""
    found = []
    for path in sorted({*one, *two}):
        if path not in two:
            found.append(Difference(path, (f"only in the first: {one[path].kind}",)))
        elif path not in one:
            found.append(Difference(path, (f"only in the second: {two[path].kind}",)))
        elif lines := _compare(one[path], two[path]):
            found.append(Difference(path, tuple(lines)))
    return found


def _compare(one: Seen, two: Seen) -> list[str]:
    if one.kind != two.kind:
        return [f"a {one.kind}, and a {two.kind}"]
    if one.kind == "link":
        return [] if one.target == two.target else [f"leads to {one.target}, and to {two.target}"]
    lines = [] if one.mode == two.mode else [f"mode {one.mode:04o}, and {two.mode:04o}"]
    if one.owner and two.owner and one.owner != two.owner:
        lines.append(f"belongs to {':'.join(one.owner)}, and to {':'.join(two.owner)}")
    if one.content != two.content and b"\0" in one.content + two.content:
        lines.append("other bytes, which are no text")
    elif one.content != two.content:
        first, second = (side.content.decode(errors="replace").splitlines() for side in (one, two))
        lines += list(difflib.unified_diff(first, second, lineterm="", n=1))[2:]
    return lines
