"""What a run would do: which inputs to fetch and unpack, what to build, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable
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
        return not self.builds


def why(derivation: Derivation, store: LocalStore) -> str:
    """Say in a few words why a derivation is to be built: what differs from its last build here."""
    last = store.database.latest(f"{derivation.name}.drv")
    if last is None:
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


def outputs_of(derivation: Derivation) -> list[StorePath]:
    """Return the store paths of all outputs of a derivation."""
    return [StorePath.parse(output.path) for output in derivation.outputs.values()]


def make_plan(graph: Graph, goals: Iterable[StorePath], store: LocalStore) -> Plan:
    """Find what is missing for the goals, which are derivations of ``graph``.

    What is valid is not looked into further: a package whose outputs are there needs neither its build
    root nor its sources.
    """
    builds: dict[StorePath, Derivation] = {}
    reused: dict[StorePath, Derivation] = {}
    inputs: dict[StorePath, Input] = {}

    def visit(path: StorePath) -> None:
        if path in builds or path in reused:
            return
        derivation = graph.derivations[path]
        wanted = outputs_of(derivation)
        if len(store.valid(wanted)) == len(wanted):
            reused[path] = derivation
            return
        for needed in sorted(derivation.input_drvs):
            visit(needed)
        for source in derivation.input_srcs - store.valid(derivation.input_srcs):
            inputs[source] = graph.inputs[source]
        builds[path] = derivation

    for goal in goals:
        visit(goal)
    # Large ones first: a build root is unpacked while the rest is still on its way.
    order = sorted(inputs.values(), key=lambda item: (-sum(pin.size for pin in item.pins.values()), item.name))
    return Plan(tuple(order), tuple(builds.values()), tuple(reused.values()))
