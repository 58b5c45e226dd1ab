"""Debian packages made by hand, also such as dpkg-deb would never make."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def file(name: str, content: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o777
    return info, b""


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


def make_deb(
    path: Path,
    *members: tuple[tarfile.TarInfo, bytes],
    compression: str = ".xz",
    postinst: str = "touch /maintainer-script-was-run\n",
) -> Path:
    """Write a package with these members of its data archive, and a script of these lines."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w") as tar:
        info, content = file("./postinst", f"#!/bin/sh\n{postinst}".encode(), 0o755)
        tar.addfile(info, io.BytesIO(content))
    packed = COMPRESSIONS[compression](data.getvalue())
    write_ar(
        path,
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", gzip.compress(control.getvalue())),
            (f"data.tar{compression}", packed),
        ],
    )
    return path


def write_ar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with path.open("wb") as out:
        out.write(b"!<arch>\n")
        for name, content in members:
            out.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            out.write(content + b"\n" * (len(content) % 2))


def tree(root: Path) -> dict[str, tuple[str, str]]:
    """All that a store keeps of a tree: path to kind and content (or target)."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        mode = path.lstat().st_mode
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = (f"directory {mode & 0o7777:o}", "")
        else:
            found[name] = (f"file {mode & 0o7777:o}", path.read_bytes().decode("latin-1"))
    return found
