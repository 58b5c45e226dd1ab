"""The store of a real Nix: read as it lies there, and written by nobody but Nix.

What is valid is read from Nix's database, which is opened for reading only. Paths are added, held and rooted by Nix's
daemon (`pgbake.store.daemon`); nothing below ``/nix`` is written by this process.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pgbake.errors import StoreError, host_error
from pgbake.formats.storepath import StorePath, source_path
from pgbake.store.daemon import Connection
from pgbake.store.database import Database, PathInfo
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.locks import OnWait, patient, silent
from pgbake.store.roots import link_root, link_roots

#: How often, and after how many seconds each, Nix is asked to delete what may be held still.
_ATTEMPTS, _PAUSE = 20, 0.1


class _Held:
    """What this process holds in Nix's store, in the place of :class:`pgbake.store.roots.TempRoots`."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection
        self._held: set[StorePath] = set()
        self.on_wait: OnWait = silent

    def add(self, *paths: StorePath) -> None:
        """Keep Nix from collecting ``paths`` while the connection lasts; it waits for a collector by itself."""
        new = [path for path in paths if path not in self._held]
        self._connection().hold(new)
        self._held.update(new)

    def release(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Count ``paths`` as held no more; return what else is."""
        self._held.difference_update(paths)
        return set(self._held)

    def sweep(self) -> None:
        """Do nothing: Nix does."""

    def held(self) -> Iterator[tuple[int, StorePath]]:
        """Yield nothing: who holds what is known to Nix."""
        return iter(())

    def close(self) -> None:
        """Forget them; the connection's end drops them."""
        self._held.clear()


class NixStore(LocalStore):
    """The store at ``/nix`` of the Nix that is installed on this machine. Safe to use from several threads."""

    def __init__(self, state: Path) -> None:
        """Open the store; Nix itself is asked only when something is to be written.

        :param state: a directory of this user's for what pgbake keeps beside a store: statements.
        :raises StoreError: there is none, or it cannot be read.
        """
        self._refreshing = threading.RLock()
        self._old: list[Database] = []
        self._connected: Connection | None = None
        self._received: dict[StorePath, Path] = {}
        super().__init__(Path("/"))
        self.temp_roots: Any = _Held(lambda: self.connection)
        self.statements_dir = state / "statements"
        self.failed_dir = state / "failed"
        self.builds_dir = state / "builds"
        self.uid_pool = state / "userpool2"
        self._state = state

    def _create(self) -> None:
        if not (self.state_dir / "db/db.sqlite").exists():
            # A Nix that was never used: its first connection makes the store.
            self.connection.close()
            self._connected = None

    def _why_read_only(self) -> str | None:
        return "it is Nix's"

    def require_writable(self) -> None:
        """Check that Nix answers.

        :raises HostError: it does not.
        """
        assert self.connection

    @property
    def connection(self) -> Connection:
        """The connection to Nix that holds this process's paths, opened at the first need."""
        with self._refreshing:
            if self._connected is None:
                self._connected = Connection()
                if hasattr(self, "database"):
                    self.refresh()  # from now on Nix has it open, and it may change
            return self._connected

    def close(self) -> None:
        """Hang up; what was held may be collected."""
        if self._connected is not None:
            self._connected.close()
        for directory in self._received.values():
            remove_tree(directory)
        for database in self._old:
            database.close()
        super().close()

    def refresh(self) -> None:
        """Read the database anew: what Nix registered since is seen from now on."""
        with self._refreshing:
            self._old.append(self.database)  # another thread may be reading it
            self.database = Database(self.state_dir / "db/db.sqlite", read_only=True)

    def hold(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Return those of ``paths`` that are valid, and keep Nix from collecting them while this process lives."""
        valid = self.valid(paths)
        self.temp_roots.add(*valid)
        return self.valid(valid)

    @contextmanager
    def lock(self, path: StorePath, on_wait: OnWait = silent, unwanted: Callable[[], bool] = patient) -> Iterator[None]:
        """Hold a path; Nix locks it when it is added."""
        self.temp_roots.add(path)
        yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty directory outside of the store, removed when the ``with`` block ends."""
        with tempfile.TemporaryDirectory(prefix="pgbake-") as directory:
            yield Path(directory)

    def receive(self, path: StorePath, read: Callable[[int], bytes], verify: Callable[[Path], object]) -> None:
        """Unpack a NAR outside of the store, for :meth:`register`; see :meth:`LocalStore.receive`."""
        from pgbake.store import tree

        directory = Path(tempfile.mkdtemp(prefix="pgbake-"))
        try:
            tree.restore(read, directory / "made")
            verify(directory / "made")
        except BaseException as error:
            remove_tree(directory)
            if isinstance(error, OSError):
                raise host_error(error, f"cannot unpack {path.name} below {directory}") from error
            raise
        with self._refreshing:
            self._received[path] = directory

    def discard(self, path: StorePath) -> None:
        """Remove what :meth:`receive` unpacked, and Nix was not given or did not take."""
        with self._refreshing:
            directory = self._received.pop(path, None)
        if directory is not None:
            remove_tree(directory)

    def register(
        self, infos: Iterable[PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]] | None = None
    ) -> None:
        """Give Nix what was received, each path after those that it refers to.

        :raises StoreError: Nix refuses one.
        """
        from pgbake.store import tree

        given = {info.path: info for info in infos}
        needs = {path: info.references & given.keys() - {path} for path, info in given.items()}
        for path in TopologicalSorter(needs).static_order():
            directory = self._received.pop(path)
            try:
                self.connection.add_nar(given[path], partial(tree.dump, directory / "made"))
            finally:
                remove_tree(directory)
        self.refresh()

    def flush(self) -> None:
        """Do nothing: Nix brings to disk what it takes."""

    def add_source(
        self,
        name: str,
        expected_nar_sha256: bytes,
        fill: Callable[[Path], None],
        on_wait: OnWait = silent,
        unwanted: Callable[[], bool] = patient,
    ) -> StorePath:
        """Make sure that a content-addressed tree is in the store; see :meth:`LocalStore.add_source`."""
        from pgbake.store import tree

        path = source_path(name, expected_nar_sha256)
        if self.hold([path]):
            return path
        with tempfile.TemporaryDirectory(prefix="pgbake-") as directory:
            made = Path(directory, "made")
            try:
                fill(made)
                digest = tree.hash_tree(made)
                if digest.sha256 != expected_nar_sha256:
                    raise StoreError(
                        f"{path.name} came out as another tree: expected NAR sha256 {expected_nar_sha256.hex()}, "
                        f"got {digest.sha256.hex()}",
                        hint="the lock was made by another version of pgbake: run `pgbake lock`",
                    )
                self.connection.add(name, "fixed:r:sha256", (), lambda write: tree.dump(made, write))
            except OSError as error:
                raise host_error(error, f"cannot make {name} below {directory}") from error
            finally:
                remove_tree(made)
        self.refresh()
        return path

    def add_file(self, name: str, sha256: bytes, file: Path) -> StorePath:
        """Make sure that a flat file is in the store; see :meth:`LocalStore.add_file`."""

        def dump(write: Callable[[bytes], object]) -> None:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    write(block)

        path = self.connection.add(name, "fixed:sha256", (), dump)
        self.refresh()
        return path

    def add_text(
        self,
        path: StorePath,
        contents: bytes,
        references: Iterable[StorePath] = (),
        outputs: Mapping[str, StorePath] | None = None,
    ) -> StorePath:
        """Make sure that a text file is in the store; see :meth:`LocalStore.add_text`."""
        references = list(references)
        if not self.valid([path]):
            self.connection.add(path.name, "text:sha256", references, lambda write: write(contents))
            self.refresh()
        return path

    def link_root(self, link: Path, target: StorePath) -> None:
        """Make ``link`` point at a store path and let Nix keep what it points at, while the link stays."""
        link_root(link, target, None)
        self.connection.add_root(Path(os.path.abspath(link)))  # noqa: PTH100 - the link itself, not its target

    def link_roots(self, directory: Path, links: Mapping[str, StorePath]) -> None:
        """Make a directory of such links, by their names; others below it go."""
        link_roots(directory, links, None)
        for name in links:
            self.connection.add_root(Path(os.path.abspath(directory / name)))  # noqa: PTH100

    def staging(self, path: StorePath) -> Path:
        """Return an empty directory of this user's, in which pgbake's own engine makes a path a second time."""
        directory = self.builds_dir / path.basename
        try:
            remove_tree(directory)
            directory.mkdir(mode=0o755, parents=True)
        except OSError as error:
            raise host_error(error, f"cannot write to {directory.parent}") from error
        return directory

    def build_log(self, derivation: StorePath) -> Path:
        """Return where the log of such a second build is written."""
        return self._state / "logs" / f"{derivation.basename}.bz2"

    def forget(self, paths: Iterable[StorePath]) -> None:
        """Let Nix delete valid paths.

        :raises StoreError: it does not, since something needs one of them.
        """
        from pgbake.store.daemon import DaemonError

        valid = self.valid(paths)
        if not valid:
            return
        # Another connection, which holds all that this one holds but them.
        with self._refreshing:
            old, self._connected = self._connected, Connection()
            held = self.temp_roots.release(valid)
            self._connected.hold(held)
            if old is not None:
                old.close()
        for attempt in range(_ATTEMPTS):
            try:
                self.connection.delete(valid)
                break
            except DaemonError as error:
                # Who served the old connection may not have noticed yet.
                if attempt == _ATTEMPTS - 1:
                    raise StoreError(
                        f"Nix does not delete {min(valid)}: {error}",
                        hint=f"`nix-store --query --roots {min(valid)}` names what keeps it",
                    ) from error
                time.sleep(_PAUSE)
        self.refresh()
