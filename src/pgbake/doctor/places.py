"""Where pgbake keeps things: the store, downloads, data of servers. What their file systems can do is tried."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbake.build.engine import build_uids
from pgbake.build.sandbox import require_namespace
from pgbake.bundle.cluster import default_user
from pgbake.bundle.server import LONGEST_SOCKET_DIR
from pgbake.doctor.finding import Finding, few, ok, problem, warning
from pgbake.errors import PgbakeError
from pgbake.formats.storepath import StorePath
from pgbake.mounts import Mount, mount_of
from pgbake.places import nix_owns_the_store
from pgbake.store.local import LocalStore, remove_tree
from pgbake.users import closed_directory, user_name

#: Free space (bytes) and inodes that a bundle from source takes at most. The example's paths are 0.95 GB and 26,000
#: inodes, its downloads 0.34 GB; directories of builds under way, several at once, are allowed twice as much again.
STORE_BYTES = 3_000_000_000
STORE_INODES = 100_000
CACHE_BYTES = 500_000_000
CACHE_INODES = 2_000
DATA_BYTES = 200_000_000
DATA_INODES = 3_000

#: What Nix and pgbake have in the store that is no store path.
_OWN = re.compile(r"\.links|.*\.(lock|chroot|drv\.chroot)|\.tmp-.*|tmp-.*")


def examine_store(root: Path) -> Iterator[Finding]:
    """Look at the store below ``root``: whose it is, what is in it, what its file system can do."""
    nix = root / "nix"
    place = f"{root / 'nix/store'}"
    if os.geteuid() == 0 and root != Path("/") and nix_owns_the_store():
        place += ", since a real Nix owns /nix"
    try:
        exists = (nix / "var/nix/db/schema").exists()
    except OSError as error:
        closed = closed_directory(nix)
        where = f"{closed} is closed to you" if closed else str(error)
        yield problem("store", f"{place}: {where}", "name a store of your own with --store DIR")
        return
    if not exists:
        yield ok("store", f"{place}, to be made by the first build")
    else:
        try:
            with LocalStore(root) as store:
                yield from _open_store(store, place)
                if store.read_only:
                    return
        except PgbakeError as error:
            yield problem("store", error.message, error.hint)
    yield from _foreign(nix)
    yield from _reachable(root / "nix/store")
    yield from examine_place("store's disk", nix / "var/nix", STORE_BYTES, STORE_INODES, _STORE_TRIALS)


def examine_cache(directory: Path) -> Iterator[Finding]:
    """Look at the directory of downloads and indexes."""
    yield from examine_place("downloads", directory, CACHE_BYTES, CACHE_INODES, _CACHE_TRIALS)


def examine_data(directory: Path) -> Iterator[Finding]:
    """Look at the directory below which servers have their data."""
    servers = directory / "servers"
    yield from examine_place("servers' data", directory, DATA_BYTES, DATA_INODES, _DATA_TRIALS)
    user = default_user()
    if user is not None and (closed := closed_directory(_existing(servers))):
        yield problem(
            "servers' user",
            f"PostgreSQL runs as {user_name(user)}, who cannot reach {servers}: {closed} is closed to others",
            f"as root: chmod o+x {closed}; or name another directory: pgbake up --data DIR",
        )
    # A data directory's name is that of the bundle with its version and eight digits.
    if len(os.fsencode(servers)) + len("/example-15-12345678") > LONGEST_SOCKET_DIR:
        yield warning(
            "servers' sockets",
            f"the path {servers} is too long for a Unix socket in it",
            "name a shorter directory: pgbake up --data DIR",
        )
    yield from examine_place("/tmp", Path(tempfile.gettempdir()), 10_000_000, 100, _CACHE_TRIALS)


def _open_store(store: LocalStore, place: str) -> Iterator[Finding]:
    registered = store.database.paths()
    owner = user_name(store.store_dir.stat().st_uid)
    if store.read_only:
        yield problem(
            "store",
            f"{place}: {store.read_only}; what is built in it can be used, and nothing be added",
            "to build, name a store of your own with --store DIR",
        )
    else:
        yield ok("store", f"{place}, of {owner}, {len(registered)} valid paths")
    lost, changed = [], []
    for path in registered:
        try:
            status = store.physical(path).lstat()
        except OSError:
            lost.append(path.name)
        else:
            # All that a store holds is from the first second of 1970; a directory that gained a file is not.
            if status.st_mtime != 1:
                changed.append(path.name)
    if lost:
        yield warning(
            "lost paths", f"registered, but deleted by somebody: {few(lost)}", "`pgbake build` makes anew what it needs"
        )
    if changed:
        yield warning(
            "changed paths",
            f"changed since they were registered: {few(changed)}",
            "nothing in a store is to be changed by hand: delete them, and `pgbake build` makes them anew",
        )
    if not store.is_at_its_place:
        yield _namespace(store)


def _namespace(store: LocalStore) -> Finding:
    """Programs of a store elsewhere run where it is shown at /nix."""
    name = "bundle's programs"
    user = default_user()
    try:
        require_namespace(store, user)
    except PgbakeError as error:
        detail = (error.detail or error.message).strip()
        return problem(name, f"cannot be shown the store at /nix: {detail}", "see the build sandbox above")
    return ok(name, "run in a namespace that shows the store at /nix")


def _foreign(nix: Path) -> Iterator[Finding]:
    """Name what neither Nix nor pgbake has put there."""
    try:
        beside = sorted(name for name in os.listdir(nix) if name not in ("store", "var"))  # noqa: PTH208
        names = sorted(os.listdir(nix / "store"))  # noqa: PTH208
        strange = [name for name in names if not _OWN.fullmatch(name) and not _is_store_path(name)]
    except OSError:
        return
    for directory, names in ((nix, beside), (nix / "store", strange)):
        if names:
            yield warning(
                f"foreign files in {directory}",
                f"{few(names)}; pgbake neither uses nor touches them",
                "whoever put them there may take them away",
            )


def _is_store_path(name: str) -> bool:
    try:
        StorePath.parse(f"/nix/store/{name}")
    except PgbakeError:
        return False
    return True


def _reachable(store: Path) -> Iterator[Finding]:
    if os.geteuid() == 0 and next(build_uids(), None) is not None and (closed := closed_directory(_existing(store))):
        yield problem(
            "build users",
            f"cannot reach {store}: {closed} is closed to others",
            f"as root: chmod o+x {closed}; or name a store elsewhere with --store DIR",
        )


# --- file systems ----------------------------------------------------------------------------------


def examine_place(
    name: str, directory: Path, bytes_wanted: int, inodes_wanted: int, trials: tuple[_Trial, ...]
) -> Iterator[Finding]:
    """Try what pgbake does with files in a directory, or in the one that it would be made in."""
    place = _existing(directory)
    mount = mount_of(place)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".pgbake-doctor-") as scratch:
            failed = [finding for trial in trials if (finding := _try(trial, name, Path(scratch), mount))]
    except OSError as error:
        yield _not_writable(name, place, mount, error)
        return
    yield from failed
    try:
        status = os.statvfs(place)
    except OSError:
        return
    free = status.f_bavail * status.f_frsize
    space = f"{place}: {free / 1e9:.1f} GB free on the {mount.kind} at {mount.point}"
    if free < bytes_wanted:
        yield warning(
            name,
            f"{space}; a bundle from source takes {bytes_wanted / 1e9:.1f}",
            "free some space, or name another place",
        )
    elif status.f_files and status.f_favail < inodes_wanted:
        yield warning(
            name, f"{space}, but only {status.f_favail} inodes of {inodes_wanted} wanted",
            "delete small files, or name another place",
        )  # fmt: skip
    elif not failed:
        yield ok(name, space)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Something to do in an empty directory; an :class:`OSError` says that it cannot be done."""

    what: str
    do: Callable[[Path], None]
    hint: str


def _try(trial: _Trial, name: str, scratch: Path, mount: Mount) -> Finding | None:
    directory = scratch / trial.do.__name__.strip("_")
    directory.mkdir()
    try:
        trial.do(directory)
    except (OSError, PgbakeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return problem(
            f"{name}: {trial.what}",
            f"not possible on the {mount.kind} at {mount.point}: {why}",
            _FREE if full else trial.hint.format(mount=mount.point),
        )
    finally:
        remove_tree(directory)
    return None


def _move(directory: Path) -> None:
    (directory / "one").mkdir()
    (directory / "one/file").write_bytes(b"x" * 10000)
    (directory / "one").rename(directory / "two")
    descriptor = os.open(directory / "two/file", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(directory: Path) -> None:
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reserve(directory: Path) -> None:
    with (directory / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 65536)


def _link(directory: Path) -> None:
    (directory / "file").touch()
    (directory / "hard").hardlink_to(directory / "file")
    (directory / "symbolic").symlink_to("file")


def _modes(directory: Path) -> None:
    file = directory / "file"
    file.touch()
    for mode in (0o555, 0o444):
        file.chmod(mode)
        os.utime(file, ns=(1_000_000_000, 1_000_000_000))
        status = file.stat()
        if status.st_mode & 0o777 != mode or status.st_mtime != 1:
            raise OSError(errno.EPERM, "a file's mode or time did not stay as it was set")


def _names(directory: Path) -> None:
    for name in ("a", "A", "ü", "n" * 255):
        (directory / name).touch()
    if len(os.listdir(directory)) != 4:  # noqa: PTH208
        raise OSError(errno.EEXIST, 'names that differ in case only, as "a" and "A", are the same file there')


def _owners(directory: Path) -> None:
    uid = next(build_uids(), None) if os.geteuid() == 0 else None
    if uid is not None:
        file = directory / "file"
        file.touch()
        os.chown(file, uid, uid)
        if file.stat().st_uid != uid:
            raise OSError(errno.EPERM, f"a file cannot be given to build user {uid}")


def _execute(directory: Path) -> None:
    program = directory / "program"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    subprocess.run([str(program)], check=True, capture_output=True)


def _map(directory: Path) -> None:
    """As the loader does with a library."""
    file = directory / "file"
    file.write_bytes(bytes(mmap.PAGESIZE))
    with file.open("rb") as stream:
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE).close()


_FREE = "free some space (`df -h`) or inodes (`df -i`)"
_ELSEWHERE = "put it on a file system of Linux's own, such as ext4, xfs or btrfs"
_REMOUNT = "as root: mount -o remount,exec {mount}; or name a store elsewhere with --store DIR"
_CACHE_TRIALS = (
    _Trial("write and rename", _move, _ELSEWHERE),
    _Trial("lock", _lock, _ELSEWHERE + "; for NFS, mount it with version 4"),
)
_DATA_TRIALS = (*_CACHE_TRIALS, _Trial("modes", _modes, _ELSEWHERE))
_STORE_TRIALS = (
    *_DATA_TRIALS,
    _Trial("reserve space", _reserve, _ELSEWHERE),
    _Trial("hard links", _link, _ELSEWHERE),
    _Trial("names", _names, _ELSEWHERE),
    _Trial("owners", _owners, "NFS: export it with no_root_squash; else " + _ELSEWHERE),
    _Trial("run programs", _execute, _REMOUNT),
    _Trial("load libraries", _map, _REMOUNT),
)


def _not_writable(name: str, place: Path, mount: Mount, error: OSError) -> Finding:
    option = {"store's disk": "--store DIR", "downloads": "the variable XDG_CACHE_HOME"}.get(name, "XDG_DATA_HOME")
    if error.errno == errno.EROFS or "ro" in mount.options:
        return problem(
            name,
            f"{place}: the {mount.kind} at {mount.point} is mounted read-only",
            f"as root: mount -o remount,rw {mount.point}; or name another place with {option}",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return problem(name, f"{place}: {error.strerror}", _FREE)
    if os.access(place, os.W_OK):
        return problem(name, f"{place}: the {mount.kind} at {mount.point} is no place for files", _ELSEWHERE)
    owner = user_name(place.stat().st_uid) if os.access(place, os.F_OK) else "somebody else"
    return problem(
        name,
        f"{place}, of {owner}: {error.strerror}",
        f"run as {owner}, or name another place with {option}",
    )


def _existing(directory: Path) -> Path:
    """Return the directory, or the nearest above it that exists, with links followed."""
    for candidate in (directory, *directory.parents):
        try:
            if candidate.is_dir():
                return candidate.resolve()
        except OSError:
            continue
    return Path("/")
