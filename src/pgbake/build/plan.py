"""What a run would do: which inputs to fetch and unpack, what to build, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.recipes.lowering import Graph, Input
from pgbake.store.local import LocalStore


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

    def why(self, derivation: Derivation) -> str:
        """Say in a few words why a derivation is to be built."""
        building = {other.path: other for other in self.builds}
        changed = [building[path].name for path in sorted(derivation.input_drvs) if path in building]
        return f"it needs {', '.join(changed)}" if changed else "it is not in the store"


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
