"""What a run would do: what to take from caches, which inputs to fetch and unpack, what to build, what is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from pgbake.cache.substituters import Offer, Substituters
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.recipes.lowering import Graph, Input
from pgbake.store.local import LocalStore

#: What a user calls the variables of a derivation.
_WORDS = {
    "buildRoot": "its build root",
    "makeFlags": "its make flags",
    "configureFlags": "its configure flags",
    "program": "the merge itself",
    "script": "its build script",
    "spec": "what the bundle holds",
    "src": "its source",
}

#: Variables that follow from others which are told.
_FOLLOWS = {"builder", "postgresqlParts"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for some goals, in an order in which it can be done.

    :param inputs: outside inputs that are not in the store.
    :param builds: derivations to build, each after those that it needs.
    :param reused: derivations whose outputs are in the store already and are used.
    :param substitutes: paths to bring from binary caches: outputs, inputs, and what they refer to.
    :param derivations: all of the graph, by path.
    """

    inputs: tuple[Input, ...]
    builds: tuple[Derivation, ...]
    reused: tuple[Derivation, ...]
    substitutes: Mapping[StorePath, list[Offer]] = field(default_factory=dict)
    derivations: Mapping[StorePath, Derivation] = field(default_factory=dict, repr=False)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.builds and not self.inputs and not self.substitutes


def why(derivation: Derivation, store: LocalStore) -> str:
    """Say in a few words why a derivation is to be built: what differs from its last build here."""
    last = store.database.latest(f"{derivation.name}.drv")
    if last is None or not store.valid([last]):
        return "it was never built here"
    if last == derivation.path:
        return "its last build did not finish, or was removed"
    old = store.derivation(last)
    changes = [
        key
        for key in sorted(old.env.keys() | derivation.env.keys())
        if key not in derivation.outputs and old.env.get(key) != derivation.env.get(key)
    ]
    rebuilt = {path.name.removesuffix(".drv") for path in derivation.input_drvs.keys() - old.input_drvs.keys()}
    inputs = {path.name for path in derivation.input_srcs - old.input_srcs if str(path) not in derivation.env.values()}
    reasons = [*sorted(rebuilt | inputs), *(_WORDS.get(key, key) for key in changes if key not in _FOLLOWS)]
    return f"changed: {', '.join(reasons)}" if reasons else "an input of its inputs has changed"


def make_plan(graph: Graph, goals: Iterable[StorePath], store: LocalStore, caches: Substituters | None = None) -> Plan:
    """Find what is missing for the goals, which are derivations of ``graph``.

    What is there of the graph is kept from collectors from now on: the plan stays true until it is carried out.

    What is valid is not looked into further: a package whose outputs are there needs neither its build
    root nor its sources. What it refers to is: somebody may have deleted a part of the store by hand. The same
    holds for a package that a cache has.

    :param caches: asked, all at once, for whatever may be missing; None asks nobody.
    """
    outputs = {path for derivation in graph.derivations.values() for path in derivation.output_paths.values()}
    store.temp_roots.add(*graph.derivations, *graph.inputs, *outputs)
    return _Planner(graph, store, caches).plan(list(goals))


class _Planner:
    """Walks a graph from the goals down."""

    def __init__(self, graph: Graph, store: LocalStore, caches: Substituters | None) -> None:
        self._graph = graph
        self._store = store
        self._caches = caches
        self._builds: dict[StorePath, Derivation] = {}
        self._reused: dict[StorePath, Derivation] = {}
        self._substituted: set[StorePath] = set()
        self._lost: set[StorePath] = set()
        self._inputs: set[StorePath] = set()
        self._substitutes: dict[StorePath, list[Offer]] = {}
        self._makers = {
            output: path for path, made in graph.derivations.items() for output in made.output_paths.values()
        }

    def plan(self, goals: list[StorePath]) -> Plan:
        if self._caches is not None:
            self._caches.offers(*self._questions(goals))
        for goal in goals:
            self._visit(goal)
        wanted = self._lost.union(*(derivation.input_srcs for derivation in self._builds.values()))
        for path in sorted(wanted - self._store.valid(wanted)):
            if not self._substitute([path]):
                self._inputs.add(path)
        return Plan(
            missing_inputs(self._graph, self._inputs, self._store),
            tuple(self._builds.values()),
            tuple(self._reused.values()),
            self._substitutes,
            self._graph.derivations,
        )

    def _questions(self, goals: list[StorePath]) -> tuple[set[StorePath], set[StorePath]]:
        """Return all paths that may be missing, and those of them that are wanted for themselves."""
        asked: set[StorePath] = set()
        seen: set[StorePath] = set()
        pending = list(goals)
        while pending:
            path = pending.pop()
            if path in seen:
                continue
            seen.add(path)
            derivation = self._graph.derivations[path]
            wanted = set(derivation.output_paths.values())
            missing = wanted - self._store.valid(wanted)
            if missing:
                asked |= missing
                asked |= derivation.input_srcs - self._store.valid(derivation.input_srcs)
                pending += derivation.input_drvs
        sure = {path for goal in goals for path in self._graph.derivations[goal].output_paths.values()}
        return asked, sure & asked

    def _visit(self, path: StorePath) -> None:
        if path in self._builds or path in self._reused or path in self._substituted:
            return
        derivation = self._graph.derivations[path]
        wanted = derivation.output_paths.values()
        valid = self._store.valid(wanted)
        if len(valid) == len(wanted):
            self._reused[path] = derivation
            for path_lost in sorted(self._store.lost(wanted)):
                if path_lost in self._makers:
                    self._visit(self._makers[path_lost])
                elif path_lost in self._graph.inputs:
                    self._lost.add(path_lost)
            return
        if self._substitute(sorted(set(wanted) - valid)):
            self._substituted.add(path)
            return
        for needed in sorted(derivation.input_drvs):
            self._visit(needed)
        self._builds[path] = derivation

    def _substitute(self, paths: list[StorePath]) -> bool:
        """Take paths, and what they refer to, from the caches; False where they cannot give all of it.

        Of what they refer to, outside inputs that no cache has are fetched.
        """
        if self._caches is None:
            return False
        found: dict[StorePath, list[Offer]] = {}
        inputs: set[StorePath] = set()
        wave = set(paths)
        while wave := wave - found.keys() - self._substitutes.keys() - inputs:
            wave -= self._store.hold(wave)
            offers = self._caches.offers(wave, sure=() if wave <= set(paths) else wave)
            lacking = wave - offers.keys()
            if not lacking <= self._graph.inputs.keys() or lacking & set(paths):
                return False
            inputs |= lacking
            found |= offers
            wave = {reference for path in offers for reference in offers[path][0].info.references}
        self._substitutes |= found
        self._inputs |= inputs
        return True


def missing_inputs(graph: Graph, wanted: Set[StorePath], store: LocalStore) -> tuple[Input, ...]:
    """Return those of the wanted outside inputs that are not in the store, in the order to get them in."""
    inputs = [graph.inputs[path] for path in wanted - store.valid(wanted)]
    # Large ones first: a build root is unpacked while the rest is still on its way.
    return tuple(sorted(inputs, key=lambda item: (-sum(pin.size for pin in item.pins.values()), item.name)))
