"""Small files: read in bounded time and space, written whole or not at all.

.NAME.new    the next content, on disk before it is renamed to NAME; overwritten by the next attempt
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Give a file a new content, which is on disk when this returns; at any moment it has the old or the new one.

    Who may write the same file at once holds a lock meanwhile.

    :param mode: permissions of the file, less the umask.
    :raises OSError: it could not be written; what was there is still there.
    """
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)  # a killed process's, perhaps with another mode
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_directory(file.parent)


def flush_directory(directory: Path) -> None:
    """Bring to disk which names a directory holds, so that a rename in it outlives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems know no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_small_file(file: Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    :raises OSError: it cannot be read, is no regular file (a pipe would be waited for), or is larger.
    """
    # Without waiting for the other end, should it be a pipe.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 1_000_000} MB")
    return content


def read_hint(error: OSError, file: Path) -> str:
    """Return what to type after :func:`read_small_file` has failed."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"make it readable for you: chmod u+r {file}; or run as its owner"
    return f"look at what is there: ls -l {file}"
