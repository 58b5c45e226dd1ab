"""Providing outside inputs: fetched, verified, unpacked, and added to the store under their own hash."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pgbake.events import Notice, Sink, task
from pgbake.inputs.buildroot import import_runtime, make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
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
        stop = threading.Event()
        self._stops.append(stop)
        files = fetch(item.pins, self.mirrors(), self.downloads, self.report, stop=stop)
        if item.kind == "source":
            ((name, pin),) = item.pins.items()
            self.store.add_file(item.path.name, bytes.fromhex(pin.sha256), files[name])
        elif item.kind == "root":
            self._add_tree(item, lambda into: make_build_root(files, into, self.report), stop)
        else:
            ((name, pin),) = item.pins.items()
            rules = self.catalogue.import_rules(name)
            with task(self.report, f"unpack:{item.path}", "unpack", f"{name} {pin.version}"):
                self._add_tree(item, lambda into: import_runtime(files[name], into, *rules), stop)

    def _add_tree(self, item: Input, fill: Callable[[Path], None], stop: threading.Event) -> None:
        assert item.tree is not None

        def waiting(holder: str) -> None:
            what = f"build root {item.name}" if item.kind == "root" else item.name
            self.report(Notice("info", f"{what} is being unpacked by {holder}; waiting for it"))

        self.store.add_source(item.path.name, item.tree, fill, waiting, stop.is_set)
