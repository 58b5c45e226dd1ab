"""Providing outside inputs: fetched, verified, unpacked, and added to the store under their own hash."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.events import Notice, Sink, task
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.upstream import copy_directory
from pgbake.recipes.imports import import_package
from pgbake.recipes.lowering import Input
from pgbake.recipes.recipe import Catalogue
from pgbake.store.local import LocalStore


@dataclass(frozen=True)
class Provider:
    """Brings inputs into a store.

    :param mirrors: asked only when something is to be fetched, since finding out takes apt's time.
    :param downloads: where fetched files are kept.
    """

    store: LocalStore
    catalogue: Catalogue
    mirrors: Callable[[], Mirrors]
    downloads: Path
    report: Sink
    #: One for each fetch: one that fails sets its own, and must not end others before its error is told.
    _stops: list[threading.Event] = field(default_factory=list)

    def cancel(self) -> None:
        """End what is being fetched, from another thread."""
        for stop in self._stops:
            stop.set()

    def provide(self, item: Input) -> None:
        """Make an input valid in the store.

        :raises InputError: no mirror gives a file of it, or another one; or a package cannot be unpacked.
        :raises StoreError: unpacking gave another tree than the lock says.
        """
        if self.store.valid([item.path]):  # another process was faster
            return
        if item.kind == "text":
            with tempfile.NamedTemporaryFile() as file:
                file.write(item.content)
                file.flush()
                digest = hashlib.sha256(item.content).digest()
                self.store.add_file(item.path.name, digest, Path(file.name))
            return
        files, stop = self._fetched(item)
        if item.kind == "source" and item.tree is None:
            ((name, pin),) = item.pins.items()
            self.store.add_file(item.path.name, bytes.fromhex(pin.sha256), files[name])
            return

        def waiting(holder: str) -> None:
            what = f"build root {item.name}" if item.kind == "root" else item.name
            self.report(Notice("info", f"{what} is being unpacked by {holder}; waiting for it"))

        assert item.tree is not None
        with self._unpacking(item):
            self.store.add_source(
                item.path.name, item.tree, lambda into: self._fill(item, files, into), waiting, stop.is_set
            )

    def remake(self, item: Input, into: Path) -> None:
        """Make an input's tree once more, outside of the store's paths, for one that is damaged there.

        :raises InputError: see :meth:`provide`.
        """
        if item.kind == "text":
            into.write_bytes(item.content)
            return
        files, _ = self._fetched(item)
        with self._unpacking(item):
            self._fill(item, files, into)

    def _fetched(self, item: Input) -> tuple[dict[str, Path], threading.Event]:
        stop = threading.Event()
        self._stops.append(stop)
        if item.kind == "source" and item.tree is not None:
            return {}, stop  # a directory of the user's
        return fetch(item.pins, self.mirrors(), self.downloads, self.report, stop=stop), stop

    @contextmanager
    def _unpacking(self, item: Input) -> Iterator[None]:
        """Report the unpacking of a package; build roots report their own."""
        if item.kind not in ("runtime", "deb"):
            yield
            return
        ((name, pin),) = item.pins.items()
        with task(self.report, f"unpack:{item.path}", "unpack", f"{name} {pin.version}"):
            yield

    def _fill(self, item: Input, files: Mapping[str, Path], into: Path) -> None:
        if item.kind == "root":
            make_build_root(files, into, self.report)
            return
        if not files:
            copy_directory(self.catalogue.user_source(item.name), into)
            return
        ((name, file),) = files.items()
        if item.kind == "source":
            shutil.copyfile(file, into)
        else:
            import_package(self.catalogue, file, name, into)
