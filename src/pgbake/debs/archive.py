"""Writing a package: a directory becomes a ``.deb``, by dpkg-deb, the same bytes each time.

What could differ is fixed here: owners (root), times (one for all), permissions, the order (dpkg-deb sorts), and how it
is compressed. zstd, since xz takes ten times as long for a fifth less; dpkg reads it since 1.21.18 (Debian 12).
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pgbake.errors import host_error
from pgbake.run import run

#: The number of threads is told, so that it does not follow from the machine; the blocks of xz do not depend on it.
_COMPRESSION = ("-Zxz", "-z0", "--threads-max=2")


def gzipped(text: str) -> bytes:
    """Return a text compressed as Debian's policy wants documents to be, without name or time."""
    return gzip.compress(text.encode(), 9, mtime=0)


def installed_size(tree: Path) -> int:
    """Return what a tree takes when it is installed, in KiB, counted as dpkg-gencontrol does."""
    total = 0
    for directory, names, files in os.walk(tree):
        for name in files:
            file = Path(directory, name)
            total += 1 if file.is_symlink() else (file.stat().st_size + 1023) // 1024
        total += len(names)
    return total


def write_control(tree: Path, control: str, scripts: Mapping[str, str], triggers: str = "") -> None:
    """Write the control archive's files into a tree that holds all of the package's files."""
    directory = tree / "DEBIAN"
    directory.mkdir(mode=0o755)
    sums, conffiles = [], []
    for where, names, files in os.walk(tree):
        names.sort()
        for name in sorted(files):
            file = Path(where, name)
            path = str(file.relative_to(tree))
            if file.is_symlink() or path.startswith("DEBIAN/"):
                continue
            with file.open("rb") as stream:
                sums.append(f"{hashlib.file_digest(stream, 'md5').hexdigest()}  {path}\n")
            if path.startswith("etc/"):
                conffiles.append(f"/{path}\n")
    texts = {"control": control, "md5sums": "".join(sorted(sums, key=lambda line: line[34:]))}
    texts |= {"conffiles": "".join(conffiles), "triggers": triggers, **scripts}
    for name, text in texts.items():
        if text:
            file = directory / name
            file.write_text(text, encoding="utf-8")
            file.chmod(0o755 if name in scripts else 0o644)


def build_deb(tree: Path, into: Path, epoch: int) -> None:
    """Build a package of a tree with its control files, and move it to ``into`` when it is whole.

    :param epoch: the time of all files, in seconds since 1970.
    :raises HostError: there is no dpkg-deb, or it is too old; or the disk is full.
    """
    temporary = into.with_name(f".{into.name}.new")
    try:
        for where, names, files in os.walk(tree, topdown=False):
            for name in (*names, *files):
                os.utime(Path(where, name), (epoch, epoch), follow_symlinks=False)
            Path(where).chmod(0o755)
            os.utime(where, (epoch, epoch))
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C"}
        command = ["dpkg-deb", "--root-owner-group", *_COMPRESSION, "--build", str(tree), str(temporary)]
        run(command, sandbox="host", env=environment, hint="its message is above; dpkg 1.21.9 or newer is needed")
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(into)
    except OSError as error:
        raise host_error(error, f"cannot write {into}") from error
    finally:
        temporary.unlink(missing_ok=True)
