"""What a run would do: which inputs to fetch and unpack, what to build, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

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
    """

    inputs: tuple[Input, ...]
    builds: tuple[Derivation, ...]
    reused: tuple[Derivation, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.builds and not self.inputs


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


def make_plan(graph: Graph, goals: Iterable[StorePath], store: LocalStore) -> Plan:
    """Find what is missing for the goals, which are derivations of ``graph``.

    What is there of the graph is kept from collectors from now on: the plan stays true until it is carried out.

    What is valid is not looked into further: a package whose outputs are there needs neither its build
    root nor its sources. What it refers to is: somebody may have deleted a part of the store by hand.
    """
    outputs = {path for derivation in graph.derivations.values() for path in derivation.output_paths.values()}
    store.temp_roots.add(*graph.derivations, *graph.inputs, *outputs)
    builds: dict[StorePath, Derivation] = {}
    reused: dict[StorePath, Derivation] = {}
    lost: set[StorePath] = set()
    makers = {output: path for path, made in graph.derivations.items() for output in made.output_paths.values()}

    def visit(path: StorePath) -> None:
        if path in builds or path in reused:
            return
        derivation = graph.derivations[path]
        wanted = derivation.output_paths.values()
        if len(store.valid(wanted)) == len(wanted):
            reused[path] = derivation
            for path_lost in sorted(store.lost(wanted)):
                if path_lost in makers:
                    visit(makers[path_lost])
                elif path_lost in graph.inputs:
                    lost.add(path_lost)
            return
        for needed in sorted(derivation.input_drvs):
            visit(needed)
        builds[path] = derivation

    for goal in goals:
        visit(goal)
    wanted = lost.union(*(derivation.input_srcs for derivation in builds.values()))
    return Plan(missing_inputs(graph, wanted, store), tuple(builds.values()), tuple(reused.values()))


def missing_inputs(graph: Graph, wanted: Set[StorePath], store: LocalStore) -> tuple[Input, ...]:
    """Return those of the wanted outside inputs that are not in the store, in the order to get them in."""
    inputs = [graph.inputs[path] for path in wanted - store.valid(wanted)]
    # Large ones first: a build root is unpacked while the rest is still on its way.
    return tuple(sorted(inputs, key=lambda item: (-sum(pin.size for pin in item.pins.values()), item.name)))
