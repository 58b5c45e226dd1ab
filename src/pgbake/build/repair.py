"""Bringing back what `pgbake.store.verify` found damaged: fetched, unpacked again, or rebuilt into the same path.

A path comes back as it was registered, or not at all: whatever is fetched or made must have the registered NAR hash.
One exception proves the database wrong instead of the contents: where what was made anew equals what is on disk, and
neither has the registered hash, the hash is what was damaged, and is registered anew.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pgbake.build.engine import LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.build.plan import make_plan, missing_inputs
from pgbake.build.provide import Provider
from pgbake.build.realise import realise
from pgbake.build.wrapper import USUAL
from pgbake.errors import PgbakeError, StoreError
from pgbake.events import Planned, Sink, silent, task
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.recipes.lowering import Graph
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.replace import replace
from pgbake.store.tree import hash_tree
from pgbake.store.verify import Finding, rescan

#: Puts the contents of a path at a place that does not exist yet; False where nobody has them. Without a place it only
#: says whether somebody offers them. What it puts there need not be verified: it is held against the registered hash.
Fetch = Callable[[StorePath, Path | None], bool]

Way = Literal["fetched", "unpacked", "written", "rebuilt", "registered", "removed", "reindexed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one finding.

    :param way: how it was mended, or would be; None: it could not be.
    :param why: why it could not be.
    """

    subject: str
    way: Way | None
    why: str | None = None


@dataclass
class Repair:
    """What damaged paths are brought back from.

    :param fetch: asked first.
    :param graph: of the project: its inputs and derivations.
    :param provider: brings the graph's inputs into the store.
    :param cores: how many a rebuild may use; None means all that this process may use.
    """

    store: LocalStore
    fetch: Fetch | None = None
    graph: Graph = field(default_factory=Graph)
    provider: Provider | None = None
    report: Sink = silent
    cores: int | None = None
    dry_run: bool = False
    _damaged: set[StorePath] = field(default_factory=set)
    _done: dict[StorePath, Outcome] = field(default_factory=dict)

    def mend(self, findings: Sequence[Finding]) -> list[Outcome]:
        """Mend what was found; the outcome of each, in the same order. One that cannot be mended stops no other.

        :raises StoreError: the store cannot be written.
        """
        if not self.dry_run:
            self.store.require_writable()
        contents = [f for f in findings if f.kind in ("missing", "modified", "unreadable")]
        self._damaged = {finding.path for finding in contents if finding.path}
        self.store.temp_roots.add(*self._damaged)
        # A damaged link first: nothing is to be linked to it any more.
        first = {id(f): self._entry(f) for f in findings if f not in contents}
        return [first[id(f)] if f.path is None or id(f) in first else self._path(f.path) for f in findings]

    # --- links and the database -------------------------------------------------------------------------------

    def _entry(self, finding: Finding) -> Outcome:
        subject = finding.subject
        try:
            if finding.kind == "link":
                if not self.dry_run:
                    Path(subject).unlink(missing_ok=True)
                return Outcome(subject, "removed")
            if finding.path is not None:
                if not self.dry_run:
                    self.store.database.correct(rescan(self.store, finding.path))
                return Outcome(subject, "registered")
            if subject != str(self.store.database.file):
                return Outcome(subject, None, f"{finding.what}; what it is can be known from a sound copy only")
            if not self.dry_run:
                self.store.database.reindex()
                if problems := self.store.database.problems():
                    return Outcome(subject, None, problems[0])
            return Outcome(subject, "reindexed")
        except (PgbakeError, OSError) as error:
            return Outcome(subject, None, str(error))

    # --- paths --------------------------------------------------------------------------------------------------

    def _path(self, path: StorePath) -> Outcome:
        if path not in self._done:
            self._done[path] = Outcome(str(path), None, "it is needed to mend itself")
            try:
                self._done[path] = Outcome(str(path), self._bring_back(path))
            except (PgbakeError, OSError) as error:
                hint = f" ({error.hint})" if isinstance(error, PgbakeError) and error.hint else ""
                self._done[path] = Outcome(str(path), None, f"{error}{hint}")
            self._damaged.discard(path)
        return self._done[path]

    def _bring_back(self, path: StorePath) -> Way:
        if self.fetch is not None and self.fetch(path, None):
            if self.dry_run:
                return "fetched"
            with self._making(path) as made:
                if self.fetch(path, made):
                    return self._settle(path, made, "fetched")
        item = self.graph.inputs.get(path)
        if item is not None and self.provider is not None:
            if self.dry_run:
                return "unpacked"
            with self._making(path) as made:
                self.provider.remake(item, made)
                return self._settle(path, made, "unpacked")
        if path in self.graph.derivations:
            if self.dry_run:
                return "written"
            with self._making(path) as made:
                made.write_bytes(self.graph.derivations[path].to_aterm())
                return self._settle(path, made, "written")
        return self._rebuild(path)

    @contextmanager
    def _making(self, path: StorePath) -> Iterator[Path]:
        with self.store.lock(path):
            staging = self.store.staging(path)
            try:
                yield staging / "made"
            finally:
                remove_tree(staging)

    def _settle(self, path: StorePath, made: Path, way: Way) -> Way:
        """Put what was made in its place, or find that the database is what is wrong."""
        try:
            replace(self.store, path, made)
        except StoreError:
            again = hash_tree(made)
            if not os.path.lexists(self.store.physical(path)) or hash_tree(self.store.physical(path)) != again:
                raise
            info = self.store.info(path)
            self.store.database.correct(dataclasses.replace(info, nar_sha256=again.sha256, nar_size=again.size))
            return "registered"
        return way

    # --- rebuilding -----------------------------------------------------------------------------------------------

    def _rebuild(self, path: StorePath) -> Way:
        derivation = self._deriver(path)
        self._require_inputs(derivation)
        if self.dry_run:
            return "rebuilt"
        jobs = JobServer(self.cores or len(os.sched_getaffinity(0)))
        way: Way = "rebuilt"
        try:
            engine = LocalEngine(self.store, jobs, self.report, find=self._derivation)
            id = f"repair:{derivation.path}"
            self.report(Planned("build", 1))
            with (
                jobs.core(lambda: engine.cancelled),
                task(self.report, id, "build", f"{derivation.name} again"),
                engine.again(derivation, USUAL, {}, (), id) as made,
            ):
                for output in derivation.output_paths.values():
                    if output == path:
                        way = self._settle(output, made / output.basename, "rebuilt")
                    elif output in self._damaged:
                        done = self._settle(output, made / output.basename, "rebuilt")
                        self._done[output] = Outcome(str(output), done)
        finally:
            jobs.close()
        return way

    def _deriver(self, path: StorePath) -> Derivation:
        deriver = self.store.info(path).deriver
        if deriver is None:
            raise StoreError(
                "it was not built here, and no cache or input has it",
                hint=None if self.graph.inputs else "run it where the project's pgbake.toml is",
            )
        if deriver in self.graph.derivations:
            return self.graph.derivations[deriver]
        if deriver in self._damaged:
            self._path(deriver)
        if not self.store.valid([deriver]) or self._is_hopeless(deriver):
            raise StoreError(f"its derivation {deriver.basename} is not in the store any more, or damaged itself")
        return self.store.derivation(deriver)

    def _require_inputs(self, derivation: Derivation) -> None:
        """See to it that what a build needs is there and whole."""
        makers = [self.graph.derivations[drv] for drv in derivation.input_drvs if drv in self.graph.derivations]
        needed = set(derivation.input_srcs)
        for drv, names in derivation.input_drvs.items():
            made = self._derivation(drv)
            needed |= {made.output_paths[name] for name in names}
        there = self.store.database.valid({*needed, *derivation.input_drvs})
        for path in sorted(self._damaged & self.store.closure(there).keys()):
            if self._path(path).way is None:
                raise StoreError(f"its build needs {path}, which is damaged itself: {self._path(path).why}")
        if self.dry_run:
            return
        missing = needed - self.store.valid(needed)
        if missing and self.provider is not None:
            for item in missing_inputs(self.graph, missing & self.graph.inputs.keys(), self.store):
                self.provider.provide(item)
            plan = make_plan(self.graph, [maker.path for maker in makers], self.store)
            realise(plan, self.store, self.provider, self.report, self.cores)
            missing = needed - self.store.valid(needed)
        if missing:
            raise StoreError(
                f"its build needs {min(missing)}, which is not in the store any more",
                hint=None if self.provider else "run it where the project's pgbake.toml is",
            )

    def _derivation(self, path: StorePath) -> Derivation:
        return self.graph.derivations.get(path) or self.store.derivation(path)

    def _is_hopeless(self, path: StorePath) -> bool:
        return path in self._done and self._done[path].way is None
