"""A store with a small build root, for builds of a few lines of shell."""

from __future__ import annotations

from pathlib import Path

from pgbake.build.engine import BuildOptions, LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.events import Event
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.recipes.lowering import Graph
from pgbake.store.local import LocalStore


class Workshop:
    """A store with a small build root, and scripts built in it one at a time."""

    def __init__(self, store: LocalStore, root: StorePath) -> None:
        self.store = store
        self.root = root
        self.graph = Graph()
        self.events: list[Event] = []

    def derivation(
        self, script: str, name: str = "thing", outputs: tuple[str, ...] = ("out",), needs: tuple[Derivation, ...] = ()
    ) -> Derivation:
        return self.graph.add(
            name,
            host_system(),
            self.root,
            script,
            env={"pname": name, **{f"need{n}": need.outputs["out"].path for n, need in enumerate(needs)}},
            outputs=outputs,
            needs={need.path: ("out",) for need in needs},
        )

    def build(self, derivation: Derivation, options: BuildOptions | None = None) -> Path:
        jobs = JobServer(2)
        try:
            LocalEngine(self.store, jobs, self.events.append, options).build(derivation, "task")
        finally:
            jobs.close()
        return self.store.physical(self.path(derivation))

    def path(self, derivation: Derivation, output: str = "out") -> StorePath:
        return derivation.output_paths[output]

    def run(self, script: str) -> str:
        """Build a script whose output is one file; return what it wrote."""
        return self.build(self.derivation(script)).read_text()
