"""A bundle's closure keeps to the manifest's budget; sizes are those of the store, in which a budget is measured."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

from pgbake.checks.harness.closure import below
from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Session

_STORE = Path("/nix/store")
_REFERENCE = re.compile(rb"/nix/store/([0-9a-z]{32}-[0-9A-Za-z+._?=-]+)")


def check(session: Session) -> None:
    """Perform the check. The specification holds ``budget`` in bytes, or None."""
    report = session.report
    sizes = {path.name: nar_size(path) for path in closure(session.bundle)}
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))
    lines = [f"{sizes[name]:>12} {name[33:]}" for name in largest]
    report.files["sizes.txt"] = "\n".join((f"{total:>12} the closure of {len(sizes)} paths", *lines, ""))
    budget: int | None = session.spec["budget"]
    with report.test("within the budget"):
        if budget is None:
            raise Skipped("the manifest sets none: max_closure")
        if total > budget:
            what = ", ".join(f"{name[33:]} {_megabytes(sizes[name])}" for name in largest[:5])
            raise Failure(
                f"the closure has {_megabytes(total)}, more than the {_megabytes(budget)} of max_closure: {what}",
                "\n".join(lines[:20]),
            )


def closure(top: Path) -> list[Path]:
    """Return the store paths that one refers to, by whatever way, and itself."""
    found = {top.name: top}
    pending = [top]
    while pending:
        for name in references(pending.pop()):
            path = _STORE / name
            if name not in found and path.exists():  # a name that is cut off, or of what a build had, is not there
                found[name] = path
                pending.append(path)
    return list(found.values())


def references(path: Path) -> set[str]:
    """Return the names of store paths that stand in files and links of a store path."""
    found: set[bytes] = set()
    if path.is_file():
        return {os.fsdecode(name) for name in _REFERENCE.findall(path.read_bytes())}
    for entry in below([path]):
        if entry.is_symlink():
            found.update(_REFERENCE.findall(os.fsencode(os.readlink(entry.path))))
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
            with open(entry.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found.update(_REFERENCE.findall(data))
    return {os.fsdecode(name) for name in found}


def nar_size(path: Path | os.DirEntry[str], top: bool = True) -> int:
    """Return the size of a path's NAR: words are of eight bytes, and each string has its length before it."""
    size = _string("nix-archive-1") if top else 0
    size += _string("(") + _string("type") + _string(")")
    if path.is_symlink():
        return size + _string("symlink") + _string("target") + _string(os.readlink(path))
    if path.is_dir():
        size += _string("directory")
        with os.scandir(path) as entries:
            for entry in entries:
                size += _string("entry") + _string("(") + _string("name") + _string(entry.name)
                size += _string("node") + nar_size(entry, top=False) + _string(")")
        return size
    status = path.stat()
    size += _string("regular") + _string("contents") + _padded(status.st_size)
    return size + (_string("executable") + _string("") if status.st_mode & 0o100 else 0)


def _string(text: str) -> int:
    return _padded(len(os.fsencode(text)))


def _padded(length: int) -> int:
    return 8 + (length + 7) // 8 * 8


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
