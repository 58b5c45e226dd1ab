"""The local store: Nix's layout on disk, below a root that is ``/`` or a directory of the user's.

    ROOT/nix/store/HASH-NAME            store paths: read-only, owned by root (or the user), mtime 1
    ROOT/nix/store/HASH-NAME.lock       held while somebody makes that path
    ROOT/nix/store/HASH-NAME.chroot     where it is being made
    ROOT/nix/store/.links/              equal files, hard-linked (Nix's `optimise`)
    ROOT/nix/var/nix/db/db.sqlite       what is valid: see `pgbake.store.database`
    ROOT/nix/var/nix/db/{schema,big-lock,reserved}
    ROOT/nix/var/nix/{gc.lock,temproots,gcroots}   see `pgbake.store.roots`
    ROOT/nix/var/log/nix/drvs/HH/REST-NAME.drv.bz2  build logs
    ROOT/nix/var/nix/scratch/           directories of processes at work, and what is being deleted
    ROOT/nix/var/pgbake/failed/HASH-NAME.drv        what failed builds have left, where that is wanted

Whatever the root, paths are named ``/nix/store/...``: programs of a store below another root run in a
namespace that shows ``ROOT/nix`` at ``/nix``. A path is *valid* when the database says so and it is there;
what lies in the store unregistered and unlocked is the remains of a killed process: see
:meth:`LocalStore.sweep`.

A store that this user may only read, as another's or on a file system that is mounted read-only, is opened
all the same: what is in it can be used, and whatever would write says that it cannot.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pgbake.errors import PgbakeError, StoreError, host_error
from pgbake.files import write_whole
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath, fixed_output_path, source_path
from pgbake.store.database import SCHEMA_VERSION, Database, PathInfo
from pgbake.store.locks import OnWait, acquire, directory_lock, open_lock, path_lock, patient, silent
from pgbake.store.references import ReferenceScanner
from pgbake.store.roots import TempRoots, link_root, link_roots
from pgbake.users import user_name

if TYPE_CHECKING:
    from pgbake.formats.derivation import Derivation

#: Nix fills this file at its creation, to have space for deleting paths when the disk is full.
_RESERVED_BYTES = 8 * 1024 * 1024

#: Added to a path's name, it names the directory in which the path is made.
_STAGING = ".chroot"


T = TypeVar("T")


class _Busy(Exception):
    """Another process is at work on a path."""


def _leave_alone(_holder: str) -> None:
    raise _Busy


class LocalStore:
    """An open local store. Several processes may have it open at once.

    ``read_only`` says why it cannot be written; it is None where it can.
    """

    def __init__(self, root: Path, *, release_reserve: bool = False) -> None:
        """Open the store below ``root``, and create it where there is none.

        :param release_reserve: whether to give up the disk space that is kept for deleting paths, since that is what
            is to be done; see :meth:`restore_reserve`.
        :raises StoreError: there is none and it cannot be made, or another version of Nix's schema owns it.
        """
        self.root = root
        self.store_dir = root / "nix/store"
        self.state_dir = root / "nix/var/nix"
        self.log_dir = root / "nix/var/log/nix/drvs"
        self.links_dir = self.store_dir / ".links"
        self.failed_dir = root / "nix/var/pgbake/failed"
        #: Below it builds make their outputs.
        self.builds_dir = self.store_dir
        #: Locks of the uids that builds run as.
        self.uid_pool = self.state_dir / "userpool2"
        self.statements_dir = root / "nix/var/pgbake/statements"
        self._create()
        self.read_only = self._why_read_only()
        # Nix takes this lock exclusively to change the schema, and shared while a store is open.
        self._big_lock = -1
        if self.read_only is None:
            self._big_lock = open_lock(self.state_dir / "db/big-lock")
            acquire(self._big_lock, shared=True)
        self._check_schema()
        self._reserve = self.state_dir / "db/reserved"
        if release_reserve and self.read_only is None:
            self._reserve.unlink(missing_ok=True)
        # SQLite waits for others at everything but the switch of a new database to its log.
        try:
            with directory_lock(self.state_dir / "db"):
                self.database = Database(self.state_dir / "db/db.sqlite", read_only=self.read_only is not None)
        except StoreError:
            if self._big_lock >= 0:
                os.close(self._big_lock)
            raise
        self.temp_roots = TempRoots(self.state_dir, enabled=self.read_only is None)

    def _create(self) -> None:
        try:
            if (self.state_dir / "db/schema").exists():
                return
        except OSError as error:  # a directory on the way is closed to this user
            raise host_error(error, f"cannot open the store at {self.store_dir}") from error
        try:
            for directory in (
                self.links_dir,
                self.state_dir / "db",
                self.state_dir / "temproots",
                self.state_dir / "gcroots/auto",
                self.state_dir / "userpool",
                self.log_dir,
            ):
                directory.mkdir(parents=True, exist_ok=True)
            with directory_lock(self.state_dir / "db"):
                if not (self.state_dir / "db/schema").exists():
                    with (self.state_dir / "db/reserved").open("wb") as file:
                        os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
                    write_whole(self.state_dir / "db/schema", SCHEMA_VERSION.encode())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise host_error(error, f"cannot create a store at {self.store_dir}") from error
            raise StoreError(
                f"cannot create a store at {self.store_dir}: {error.strerror}",
                hint="run as root, or name a store of your own with --store DIR",
            ) from error

    def restore_reserve(self) -> None:
        """Keep disk space for deleting paths once more, where there is enough of it."""
        try:
            with self._reserve.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)

    def _why_read_only(self) -> str | None:
        for directory in (self.store_dir, self.state_dir / "db"):
            if not os.access(directory, os.W_OK):
                if os.statvfs(directory).f_flag & os.ST_RDONLY:
                    return "its file system is mounted read-only"
                return f"{directory} belongs to {user_name(directory.stat().st_uid)}"
        return None

    def require_writable(self) -> None:
        """Check that the store can be written.

        :raises StoreError: it cannot; why is told.
        """
        if self.read_only is not None:
            raise StoreError(
                f"cannot write to the store at {self.store_dir}: {self.read_only}",
                hint="mount it writable, run as its owner, or name a store of your own with --store DIR",
            )

    def _check_schema(self) -> None:
        try:
            version = (self.state_dir / "db/schema").read_text().strip()
        except OSError as error:
            raise host_error(error, f"cannot open the store at {self.store_dir}") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"the store at {self.store_dir} has schema {version}; pgbake knows schema {SCHEMA_VERSION}",
                hint="name another store with --store DIR",
            )

    def close(self) -> None:
        """Release the store's locks and this process's temporary roots."""
        self.temp_roots.close()
        self.database.close()
        if self._big_lock >= 0:
            os.close(self._big_lock)
            self._big_lock = -1

    def __enter__(self) -> LocalStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def is_at_its_place(self) -> bool:
        """Whether ``/nix/store`` is this store itself, so that its programs run without a namespace."""
        return self.root == Path("/")

    def physical(self, path: StorePath) -> Path:
        """Return where a store path lies on this machine's disk."""
        return self.store_dir / path.basename

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Return those of ``paths`` that are registered as valid, and are there.

        A registered path that somebody has deleted is not: it is then fetched or built again.
        """
        return {path for path in self.database.valid(paths) if os.path.lexists(self.physical(path))}

    def hold(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Return those of ``paths`` that are valid, and keep collectors from them while this process lives."""
        paths = list(paths)
        self.temp_roots.add(*paths)
        return self.valid(paths)

    def lost(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Return what of valid paths, and of all that they refer to, is registered but not there any more."""
        return {path for path in self.closure(paths) if not os.path.lexists(self.physical(path))}

    def info(self, path: StorePath) -> PathInfo:
        """Return what is registered of a valid path.

        :raises StoreError: it is not valid.
        """
        info = self.database.info(path)
        if info is None:
            raise StoreError(f"{path} is not in the store")
        return info

    def closure(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """Return ``paths`` and all that they refer to, directly or not, sorted by path."""
        found: dict[StorePath, PathInfo] = {}
        pending = list(paths)
        while pending:
            path = pending.pop()
            if path not in found:
                found[path] = self.info(path)
                pending.extend(found[path].references)
        return dict(sorted(found.items()))

    @contextmanager
    def lock(self, path: StorePath, on_wait: OnWait = silent, unwanted: Callable[[], bool] = patient) -> Iterator[None]:
        """Hold the lock under which ``path`` is made, and keep collectors from it; see :func:`path_lock`.

        :raises StoreError: the store cannot be written.
        """
        self.require_writable()
        self.temp_roots.add(path)
        with path_lock(self.physical(path), on_wait, unwanted):
            yield

    def sweep(self, remove: Callable[[Path], None] | None = None) -> None:
        """Remove what killed processes left in the store: paths half-made or never registered, locks, roots.

        What another process is at work on is locked, and stays; so does all of a store that can only be read.

        :param remove: what removes a tree, if not :func:`remove_tree`.
        """
        if self.read_only is not None:
            return
        remove = remove or remove_tree
        self.temp_roots.sweep()
        with suppress(PgbakeError):  # on a disk that is too full for it
            self._scratch_turn(lambda _top: None)
        valid = {path.basename for path in self.database.paths()}
        for name in os.listdir(self.store_dir):  # noqa: PTH208 - names are what is wanted
            if name in valid:
                continue
            with suppress(_Busy, PgbakeError, OSError):  # what is not ours, or will not go, stays
                path = StorePath.from_basename(name.removesuffix(".lock").removesuffix(_STAGING))
                with path_lock(self.physical(path), _leave_alone):
                    remove(self._staging(path))
                    if not self.valid([path]):  # it may have become so just now
                        remove(self.physical(path))

    def staging(self, path: StorePath) -> Path:
        """Return an empty directory, on the store's file system, in which to make ``path``.

        The caller holds ``path``'s lock. Remains of a killed process are removed first; a collector
        spares the directory while the path is locked and a temporary root.
        """
        directory = self._staging(path)
        try:
            remove_tree(directory)
            directory.mkdir(mode=0o755)
        except OSError as error:
            raise host_error(error, f"cannot write to the store at {self.store_dir}") from error
        return directory

    def _staging(self, path: StorePath) -> Path:
        return self.store_dir / f"{path.basename}{_STAGING}"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty directory on the store's file system, removed when the ``with`` block ends.

        What a killed process left of its own is removed as well.
        """
        import tempfile

        self.require_writable()

        def make(top: Path) -> tuple[Path, int]:
            directory = Path(tempfile.mkdtemp(dir=top))
            descriptor = _open_directory(directory)
            acquire(descriptor)
            return directory, descriptor

        directory, descriptor = self._scratch_turn(make)
        try:
            yield directory
        finally:
            remove_tree(directory)
            os.close(descriptor)

    def _scratch_turn(self, make: Callable[[Path], T]) -> T:
        """Remove scratch directories of killed processes, then let ``make`` make its own before others look."""
        top = self.state_dir / "scratch"
        try:
            top.mkdir(exist_ok=True)
            turn = _open_directory(top)
            try:
                acquire(turn)  # so that nobody takes ours for a dead process's before it is locked
                for other in top.iterdir():
                    with suppress(FileNotFoundError):  # its process was done with it just now
                        lock = _open_directory(other)
                        if acquire(lock, wait=False):
                            remove_tree(other)
                        os.close(lock)
                return make(top)
            finally:
                os.close(turn)
        except OSError as error:
            raise host_error(error, f"cannot make a directory below {top}") from error

    def place(
        self,
        path: StorePath,
        made: Path,
        *,
        candidates: Iterable[StorePath] = (),
        deriver: StorePath | None = None,
        ca: str | None = None,
    ) -> PathInfo:
        """Move a finished tree into the store, as read-only as Nix has it, and return what to register.

        The caller holds ``path``'s lock and registers the result.

        :param made: the tree, on the store's file system.
        :param candidates: the store paths that it may refer to.
        :raises StoreError: it holds a device, fifo or socket.
        """
        from pgbake.store import tree  # slow, and only writers come here

        final = self._move_in(path, made)
        scanner = ReferenceScanner([*candidates, path])
        try:
            tree.canonicalise(final, owner=(0, 0) if os.geteuid() == 0 else None)
            digest = tree.hash_tree(final, consumers=[scanner.feed])
        except StoreError:
            remove_tree(final)
            raise
        return PathInfo(
            path=path,
            nar_sha256=digest.sha256,
            nar_size=digest.size,
            references=frozenset(scanner.found),
            deriver=deriver,
            ultimate=deriver is not None,
            ca=ca,
        )

    def _move_in(self, path: StorePath, made: Path) -> Path:
        final = self.physical(path)
        remove_tree(final)
        if made.is_dir() and not made.is_symlink():
            made.chmod(0o755)  # only who may write a directory may move it
        made.rename(final)
        return final

    def receive(self, path: StorePath, read: Callable[[int], bytes], verify: Callable[[Path], object]) -> None:
        """Unpack a NAR as a path, which the caller has locked, and registers when all that it refers to is there.

        :param read: gives the NAR; see :func:`pgbake.store.tree.restore`.
        :param verify: called with the tree before it is moved to its place, to raise where it is not as promised.
        :raises FormatError: the NAR is malformed or incomplete.
        :raises StoreError: it cannot be written.
        :raises HostError: the disk is full.
        """
        from pgbake.store import tree

        staging = self.staging(path)
        try:
            made = staging / "made"
            tree.restore(read, made)
            verify(made)
            tree.canonicalise_root(self._move_in(path, made))
        except OSError as error:
            raise host_error(error, f"cannot write {path} to the store") from error
        finally:
            remove_tree(staging)

    def discard(self, path: StorePath) -> None:
        """Remove what :meth:`receive` unpacked, and nobody registers; the caller has locked the path."""
        remove_tree(self.physical(path))

    def register(
        self, infos: Iterable[PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]] | None = None
    ) -> None:
        """Register placed paths as valid, their contents being on disk first; see :meth:`Database.register`."""
        infos = list(infos)  # placing may happen only now, while they are made
        self.flush()
        self.database.register(infos, outputs)

    def flush(self) -> None:
        """Bring to disk what was written to the store.

        :raises HostError: the disk is full, or fails.
        """
        import ctypes  # slow, and only writers come here

        # One syncfs for the whole file system instead of one fsync a file: a path that the database
        # calls valid must not come back empty after a power cut.
        descriptor = os.open(self.store_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise host_error(OSError(number, os.strerror(number)), "cannot write the store to disk")
        finally:
            os.close(descriptor)

    def add_source(
        self,
        name: str,
        expected_nar_sha256: bytes,
        fill: Callable[[Path], None],
        on_wait: OnWait = silent,
        unwanted: Callable[[], bool] = patient,
    ) -> StorePath:
        """Make sure that a content-addressed tree is in the store, making it with ``fill`` if it is not.

        :param expected_nar_sha256: raw digest of the tree's NAR; it decides the path.
        :param fill: makes the tree at the path that it is given, which does not exist yet.
        :param on_wait: called with the description of another process that is making it.
        :param unwanted: asked while that one is waited for; True ends it.
        :raises StoreError: the tree made is another one; both hashes are named.
        """
        path = source_path(name, expected_nar_sha256)
        ca = f"fixed:r:sha256:{base32.encode(expected_nar_sha256)}"
        return self._add(path, ca, fill, expected_nar_sha256, on_wait=on_wait, unwanted=unwanted)

    def add_file(self, name: str, sha256: bytes, file: Path) -> StorePath:
        """Make sure that a flat file of known sha256 is in the store, as Nix's flat fixed output."""
        path = fixed_output_path(name, "flat", "sha256", sha256)
        return self._add(path, f"fixed:sha256:{base32.encode(sha256)}", lambda target: _copy(file, target), None)

    def add_text(
        self,
        path: StorePath,
        contents: bytes,
        references: Iterable[StorePath] = (),
        outputs: Mapping[str, StorePath] | None = None,
    ) -> StorePath:
        """Make sure that a text file is in the store.

        :param path: its text path.
        :param outputs: of a ``.drv``: its output names and paths.
        """
        ca = f"text:sha256:{base32.encode(hashlib.sha256(contents).digest())}"
        return self._add(path, ca, lambda target: _write(target, contents), None, references, outputs)

    def add_derivation(self, derivation: Derivation) -> StorePath:
        """Write a derivation's ``.drv`` into the store, and return its path.

        It is left out where something that it refers to is not there: a package that came from a cache has neither
        its derivation nor its build root here.
        """
        if self.valid(derivation.references) != derivation.references:
            return derivation.path
        return self.add_text(derivation.path, derivation.to_aterm(), derivation.references, derivation.output_paths)

    def derivation(self, path: StorePath) -> Derivation:
        """Read a ``.drv`` that is in the store."""
        from pgbake.formats.derivation import Derivation  # slow, and not every command reads one

        return Derivation.parse(self.physical(path).read_bytes(), path.name.removesuffix(".drv"))

    def _add(
        self,
        path: StorePath,
        ca: str,
        fill: Callable[[Path], None],
        expected: bytes | None,
        references: Iterable[StorePath] = (),
        outputs: Mapping[str, StorePath] | None = None,
        on_wait: OnWait = silent,
        unwanted: Callable[[], bool] = patient,
    ) -> StorePath:
        references = list(references)
        self.temp_roots.add(path, *references)
        if path in self.valid([path]):
            return path
        with self.lock(path, on_wait, unwanted):
            if path in self.valid([path]):  # another process was faster
                return path
            staging = self.staging(path)
            try:
                made = staging / "made"
                fill(made)
                info = self.place(path, made, candidates=references, ca=ca)
                if expected is not None and info.nar_sha256 != expected:
                    remove_tree(self.physical(path))
                    raise StoreError(
                        f"{path.name} came out as another tree: expected NAR sha256 {expected.hex()}, "
                        f"got {info.nar_sha256.hex()}",
                        hint="the lock was made by another version of pgbake: run `pgbake lock`",
                    )
                self.register([info], {path: outputs} if outputs else None)
            except OSError as error:
                raise host_error(error, f"cannot write {path} to the store") from error
            finally:
                remove_tree(staging)
        return path

    def link_root(self, link: Path, target: StorePath) -> None:
        """Make ``link`` point at a store path and keep collectors from it while the link stays.

        Who may only read the store gets the link; what its owner collects is its owner's matter.
        """
        link_root(link, target, self.state_dir if self.read_only is None else None)

    def link_roots(self, directory: Path, links: Mapping[str, StorePath]) -> None:
        """Make a directory of such links, by their names; others below it go."""
        link_roots(directory, links, self.state_dir if self.read_only is None else None)

    def forget(self, paths: Iterable[StorePath]) -> None:
        """Make valid paths invalid, so that their derivations are built anew; nothing may refer to them.

        :raises StoreError: something does.
        """
        self.database.invalidate(*self.database.valid(paths))

    def log_file(self, derivation: StorePath) -> Path:
        """Return where the build log of a derivation is kept (bzip2, Nix's place for it)."""
        name = derivation.basename
        return self.log_dir / name[:2] / f"{name[2:]}.bz2"

    def build_log(self, derivation: StorePath) -> Path:
        """Return where the local engine writes the log of a build."""
        return self.log_file(derivation)

    def failed_build(self, derivation: StorePath) -> Path:
        """Return where the directory of a failed build is kept: ``store`` and ``build``, as its sandbox had them."""
        return self.failed_dir / derivation.basename


def remove_tree(path: Path) -> None:
    """Remove a file or tree, read-only directories included; do nothing where there is none."""
    if not path.is_symlink() and path.is_dir():
        if os.geteuid() != 0:  # root may delete below closed directories; others must open them first
            path.chmod(stat.S_IRWXU)
            for directory, names, _ in os.walk(path):
                for below in (Path(directory, name) for name in names):
                    if not below.is_symlink():
                        below.chmod(stat.S_IRWXU)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _write(target: Path, contents: bytes) -> None:
    target.write_bytes(contents)
