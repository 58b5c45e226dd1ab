"""Upstream sources that no Debian index names: tarballs by URL, and directories of the user's.

A tarball is fetched once to learn its hash and size, which the lock records; from then on it is an input like any
other. A directory is pinned by the hash of its tree, less what builds and version control leave in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

from pgbake.errors import InputError, host_error
from pgbake.events import Progressed, Sink, task, throttled
from pgbake.inputs.fetch import innermost
from pgbake.inputs.pins import Pin

#: What lies in a directory of sources and is none.
_NOT_SOURCES = (
    ".git", ".hg", ".svn", ".deps", "__pycache__", "node_modules", "target", "results", "tmp_check", "output_iso",
    "log", "regression.diffs", "regression.out",
    # where the manifest lies beside the sources: the lock would hold its own hash
    "pgbake.toml", "pgbake.lock", "result",
    "*.o", "*.bc", "*.so", "*.pyc", "*~", ".*.swp",
)  # fmt: skip
_CHUNK = 1 << 18
_TIMEOUT = (10.0, 30.0)
#: Each thread's session, which keeps its connection: a Cargo.lock names hundreds of small files.
_local = threading.local()


def pin_url(
    url: str, version: str, downloads: Path, report: Sink, sha256: str | None = None, name: str | None = None
) -> Pin:
    """Fetch a file to learn its hash and size; it stays among the downloads.

    :param sha256: what it must be, in hexadecimal.
    :param name: what it is called, where its URL does not tell.
    :raises InputError: it cannot be had, or is another than ``sha256`` says.
    :raises HostError: the disk is full.
    """
    base, _, last = url.rpartition("/")
    name = name or last
    if not name or "://" not in base:
        raise InputError(f"{url!r} names no file", hint="write the URL of a tarball: https://HOST/.../NAME-1.0.tar.gz")
    digest, size = hashlib.sha256(), 0
    partial = downloads / f".{os.getpid()}-{name}"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        id = f"fetch:{url}"
        tell = throttled(report, id)
        with task(report, id, "fetch", name), _opened(url) as stream, partial.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
                tell(size)
            report(Progressed(id, size))
        got = digest.hexdigest()
        if sha256 and got != sha256:
            raise InputError(
                f"wrong content of {url}",
                hint="somebody changed the file, or the recipe's sha256 is of another version",
                detail=f"expected sha256 {sha256}\ngot      sha256 {got}, {size} bytes",
            )
        partial.replace(downloads / f"{got}-{unquote(name)}")
    except OSError as error:
        raise host_error(error, f"cannot fetch {url}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Pin(version=version, path=unquote(name), size=size, sha256=got, archive=base)


@contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    """Open what a URL names, to be read once."""
    import requests

    if url.startswith("file://"):
        path = Path(unquote(urlsplit(url).path))
        try:
            stream = path.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", hint="is the path right?") from None
        with stream:
            yield stream
        return
    try:
        session: requests.Session | None = getattr(_local, "session", None)
        if session is None:
            session = _local.session = requests.Session()
        with session.get(url, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code != 200:
                raise InputError(
                    f"{url}: {response.status_code} {response.reason}", hint="is the URL right, and the version there?"
                )
            response.raw.decode_content = False
            yield cast(BinaryIO, response.raw)
    except requests.RequestException as error:
        raise InputError(
            f"cannot fetch {url}: {innermost(error)}", hint="is the host's name right? is there a network?"
        ) from None


def copy_directory(directory: Path, into: Path) -> None:
    """Copy a directory's sources: files, links and what may be executed, without what builds leave.

    :param into: a directory that does not exist, or an empty one.
    :raises InputError: there is no such directory.
    :raises HostError: it cannot be read, or the disk is full.
    """

    def ignored(_where: str, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatchcase(name, glob) for glob in _NOT_SOURCES)]

    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}", hint="see `path` of the source in the recipe")
    try:
        shutil.copytree(directory, into, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        reason = error if isinstance(error, OSError) and error.errno else OSError(0, str(error))
        raise host_error(reason, f"cannot copy {directory}") from error
