"""Looking into the sources of an upstream: a tarball, a zip file or a directory, as texts by name.

Nothing is unpacked and nothing of it is run: members are read where they lie. So whatever a hostile tarball holds,
nothing of it is written anywhere; one whose names would leave their directory is refused all the same, before a
build unpacks it.
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from pgbake.errors import InputError

#: Names of files that say how a program is built, what it is, and what it includes.
_TOLD = (
    "META.json", "*.control", "*.control.in", "Makefile*", "makefile", "GNUmakefile*", "CMakeLists.txt", "*.cmake",
    "meson.build", "configure", "configure.ac", "configure.in", "autogen.sh", "Cargo.toml", "LICEN[SC]E*", "COPYING*",
    "COPYRIGHT*", "license*", "licence*", "*.c", "*.h", "*.cc", "*.cpp", "*.cxx", "*.hpp", "*.rs",
)  # fmt: skip
#: Directories with what is no source of the program itself.
_LEFT_OUT = frozenset({".git", "target", "node_modules", "test", "tests", "t", "bench", "benchmark"})
#: Bytes of one file and of all together, and how many names: more is no extension's source.
_LARGEST_FILE = 4_000_000
_LARGEST = 400_000_000
_MOST_NAMES = 300_000


@dataclass(frozen=True, slots=True)
class SourceTree:
    """What was read of an upstream's sources.

    :param label: the name of the tarball or directory, without its suffix.
    :param names: every file, relative to the directory that a build unpacks.
    :param texts: those that tell something, by name.
    """

    label: str
    names: frozenset[str]
    texts: dict[str, str]


def read_directory(directory: Path) -> SourceTree:
    """Read what tells something in a directory of sources; links are not followed.

    :raises InputError: it cannot be read.
    """
    names, texts, total = set[str](), dict[str, str](), 0
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}", hint="name a directory, or the URL of a tarball")
    try:
        pending = [directory]
        while pending:
            for path in sorted(pending.pop().iterdir()):
                if path.is_symlink():
                    continue
                name = path.relative_to(directory).as_posix()
                if path.is_dir():
                    if path.name not in (".git", "target", "node_modules"):
                        pending.append(path)
                elif path.is_file():
                    names.add(name)
                    if _tells(name) and path.stat().st_size <= _LARGEST_FILE and total < _LARGEST:
                        texts[name] = path.read_text(encoding="utf-8", errors="replace")
                        total += len(texts[name])
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}", hint="is it yours to read?") from error
    return SourceTree(directory.resolve().name, frozenset(names), texts)


def read_tarball(file: Path, name: str) -> SourceTree:
    """Read what tells something in a tarball (``.tar.*``, ``.tgz``) or zip file.

    :param name: what it is called upstream, which tells its form.
    :raises InputError: it is none, damaged, or hostile; or its files do not lie in one directory.
    """
    names, texts, total = set[str](), dict[str, str](), 0
    try:
        with _members(file, name) as members:
            for path, size, read in members:
                plain = posixpath.normpath(path)
                if path.startswith("/") or plain.startswith("..") or "\0" in path:
                    raise InputError(
                        f"{name} is hostile: it holds {path!r}, which would leave the directory it is unpacked in",
                        hint="get the sources from somebody else",
                    )
                names.add(plain)
                total += size
                if len(names) > _MOST_NAMES or total > 10 * _LARGEST:
                    raise InputError(f"{name} is too large to be an extension's source", hint="is the URL right?")
                if read is not None and size <= _LARGEST_FILE and _tells(plain.partition("/")[2]):
                    texts[plain] = read().decode("utf-8", "replace")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is damaged, or no tarball: {error}", hint="is the URL that of a tarball?") from error
    tops = {path.partition("/")[0] for path in names if "/" in path}
    flat = [path for path in names if "/" not in path]
    if len(tops) != 1 or flat:
        others = ", ".join(sorted(tops | set(flat))[:5])
        raise InputError(
            f"{name} does not hold one directory with the sources, but {others or 'nothing'}",
            hint="unpack it and add the directory: pgbake add ./DIRECTORY",
        )
    top = tops.pop() + "/"
    return SourceTree(
        stem(name),
        frozenset(path.removeprefix(top) for path in names),
        {path.removeprefix(top): text for path, text in texts.items()},
    )


def stem(name: str) -> str:
    """Return a tarball's name without its suffix: ``foo-1.2`` of ``foo-1.2.tar.gz``."""
    return re.sub(r"\.(tar(\.\w+)?|tgz|tbz2?|txz|zip|crate)$", "", name)


_Reader = Callable[[], bytes]


@contextmanager
def _members(file: Path, name: str) -> Iterator[Iterator[tuple[str, int, _Reader | None]]]:
    """Give each file's name, size and how to read it; what is no plain file has no reader."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            yield (
                (item.filename, item.file_size, lambda item=item: _limited(archive.open(item)))  # type: ignore[misc]
                for item in archive.infolist()
                if not item.is_dir()
            )
        return
    with file.open("rb") as raw:
        stream: IO[bytes] = raw
        if raw.read(4) == b"\x28\xb5\x2f\xfd":
            import zstandard

            raw.seek(0)
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                yield _tar_members(tar)
            return
        raw.seek(0)
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            yield _tar_members(tar)


def _tar_members(tar: tarfile.TarFile) -> Iterator[tuple[str, int, _Reader | None]]:
    for item in tar:
        if item.isdir():
            continue

        def read(item: tarfile.TarInfo = item) -> bytes:
            stream = tar.extractfile(item)
            return _limited(stream) if stream else b""

        yield item.name, max(item.size, 0), read if item.isreg() else None


def _limited(stream: IO[bytes]) -> bytes:
    with stream:
        return stream.read(_LARGEST_FILE)  # what the header says of the size may be a lie


def _tells(name: str) -> bool:
    *directories, base = name.split("/")
    return not _LEFT_OUT.intersection(directories) and any(fnmatchcase(base, glob) for glob in _TOLD)
