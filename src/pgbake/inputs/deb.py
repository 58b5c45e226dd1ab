"""Unpacking Debian packages: a pure function of the file, and nothing of the package is ever run.

A ``.deb`` (deb(5)) is an ``ar`` archive::

    debian-binary        "2.0\\n"
    control.tar[.xz]     control fields; maintainer scripts, which are read (`pgbake.inputs.maintainer`)
    data.tar[.xz]        the files; also .gz, .zst, .bz2, .lzma or plain
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from pgbake.errors import HostError, InputError

#: Top-level directories that live below ``usr/`` since Debian merged the two.
MERGED = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})

_CHUNK = 1 << 20
#: Bytes of a control file or maintainer script; real ones have some thousand.
_LARGEST_CONTROL = 1 << 20
_DAMAGE = (
    tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError,
    # tarfile follows a chain of long-name headers by recursion.
    RecursionError,
)  # fmt: skip


def unpack(deb: Path, into: Path, keep: Callable[[str], bool] | None = None) -> tuple[str, ...]:
    """Unpack a package's files below ``into`` and return the paths of all but the directories.

    The tree has a merged ``/usr`` (``/lib/x`` becomes ``usr/lib/x``; the links at the top are the
    caller's to make), and of the metadata only whether the owner may execute a file: modes are 0755 and
    0644. Symbolic links are as the package has them. Hard links stay links where both names are kept.

    :param into: an existing, empty directory.
    :param keep: decides over each path (relative to ``into``, directories with a slash at the end).
        A directory is also made when something kept lies in it.
    :raises InputError: the file is no Debian package or damaged, or holds what no package should: a
        path out of its tree or through one of its own links, a device, a pipe, one path twice.
    :raises HostError: the disk is full or ``into`` is not writable.
    """
    tree = _Tree(deb, into)
    wanted = keep or (lambda _path: True)
    # Names of files that are left out, and the kept names that are hard links to them.
    unkept_targets: dict[str, list[str]] = {}
    with _members(deb) as members:
        for member, content in members:
            path = tree.path_of(member.name)
            if not path or (path in MERGED and (member.isdir() or member.issym())):
                continue
            if not wanted(path + "/" if member.isdir() else path):
                continue
            if member.isdir():
                tree.make_directory(path)
            elif member.issym():
                tree.make_symlink(path, member.linkname)
            elif member.islnk():
                target = tree.path_of(member.linkname)
                if target in tree.placed:
                    tree.make_hard_link(path, target)
                else:
                    unkept_targets.setdefault(target, []).append(path)
            elif content is not None:
                tree.make_file(path, content, bool(member.mode & 0o100))
            else:
                raise tree.refusal(f"{path} is neither a file, a directory nor a link")
    if unkept_targets:
        with _members(deb) as members:
            for member, content in members:
                first, *others = unkept_targets.pop(tree.path_of(member.name), [""])
                if first and content is not None:
                    tree.make_file(first, content, bool(member.mode & 0o100))
                    for other in others:
                        tree.make_hard_link(other, first)
    if unkept_targets:
        raise tree.refusal(f"it has a hard link to {min(unkept_targets)}, which is not in it")
    return tuple(tree.placed)


def control_files(deb: Path) -> dict[str, str]:
    """Return the text of each file of a package's control archive: ``control``, ``postinst``, ``triggers``, ...

    :raises InputError: the file is no Debian package, or damaged.
    :raises HostError: it cannot be read.
    """
    found = {}
    with _members(deb, "control.tar") as members:
        for member, content in members:
            if content is not None:
                found[member.name.removeprefix("./")] = content.read(_LARGEST_CONTROL).decode("utf-8", "replace")
    return found


class _Tree:
    """The directory that a package is unpacked into, where nothing is written through a link."""

    def __init__(self, deb: Path, root: Path) -> None:
        self.deb = deb
        self.root = root
        self.directories = {""}
        #: All but the directories, in the package's order.
        self.placed: dict[str, None] = {}

    def refusal(self, why: str) -> InputError:
        return InputError(
            f"{self.deb.name} is not a package that can be trusted: {why}",
            hint="find out where it comes from; no package of Debian's is like this",
        )

    def path_of(self, name: str) -> str:
        """A name in the archive as a path in the tree; empty for the top itself."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise self.refusal(f"it holds a path out of its tree: {name}")
        if len(parts) > 1 and parts[0] in MERGED:
            parts.insert(0, "usr")
        return "/".join(parts)

    def make_directory(self, path: str) -> None:
        if path in self.directories:
            return
        self.make_directory(posixpath.dirname(path))
        if path in self.placed:
            raise self.refusal(f"it holds {path} both as a directory and as a file or link")
        full = self.root / path
        full.mkdir()
        full.chmod(0o755)  # whatever the umask
        self.directories.add(path)

    def place(self, path: str) -> Path:
        """Make sure that the path is new and its parent a real directory; return the full path."""
        self.make_directory(posixpath.dirname(path))
        if path in self.placed or path in self.directories or path in MERGED:
            raise self.refusal(f"it holds {path} twice, or as a file where a directory belongs")
        self.placed[path] = None
        return self.root / path

    def make_file(self, path: str, content: IO[bytes], executable: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.place(path), flags)
        try:
            os.fchmod(descriptor, 0o755 if executable else 0o644)
            while chunk := content.read(_CHUNK):
                left = memoryview(chunk)
                while left:
                    left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)

    def make_symlink(self, path: str, target: str) -> None:
        pointed = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
        if self.path_of(pointed) == path:
            return  # usr/bin/x -> /bin/x: after the merge, the file itself
        climbed = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not target.startswith("/") and climbed.startswith(".."):
            raise self.refusal(f"its link {path} points out of its tree: {target}")
        self.place(path).symlink_to(target)

    def make_hard_link(self, path: str, target: str) -> None:
        os.link(self.root / target, self.place(path), follow_symlinks=False)


@contextmanager
def _members(deb: Path, archive: str = "data.tar") -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]]:
    """Open a package's files: the members with, for regular files, their content to be read at once."""
    try:
        with (
            deb.open("rb") as file,
            _decompressed(*_find(deb, file, archive)) as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar,
        ):
            yield ((m, tar.extractfile(m) if m.isreg() else None) for m in tar)
    except _DAMAGE as error:
        raise InputError(f"{deb.name} is damaged: {error}", hint=f"remove {deb} and run again") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room on the disk and run again" if full else None
        raise HostError(f"cannot unpack {deb.name}: {error.strerror or error}", hint=hint) from None


def _find(deb: Path, file: BinaryIO, archive: str) -> tuple[str, BinaryIO]:
    """Find ``data.tar`` or ``control.tar`` in the ``ar`` archive; return its suffix and its bytes."""
    if file.read(8) != b"!<arch>\n":
        raise InputError(f"{deb.name} is not a Debian package: it is no ar archive")
    while len(header := file.read(60)) == 60:
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        size = int(header[48:58])
        if name == archive or name.startswith(f"{archive}."):
            return name.removeprefix(archive), io.BufferedReader(_Section(file, size), _CHUNK)
        file.seek(size + size % 2, os.SEEK_CUR)
    raise InputError(f"{deb.name} is damaged: it has no {archive}")


class _Section(io.RawIOBase):
    """The next ``size`` bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _decompressed(suffix: str, file: BinaryIO) -> IO[bytes]:
    match suffix:
        case "":
            return file
        case ".xz" | ".lzma":
            return lzma.LZMAFile(file)
        case ".gz":
            return cast(IO[bytes], gzip.GzipFile(fileobj=file))
        case ".bz2":
            return bz2.BZ2File(file)
        case ".zst":
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(file)
    raise ValueError(f"unknown compression {suffix}")
