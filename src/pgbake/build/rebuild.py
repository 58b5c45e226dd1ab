"""Building a second time, elsewhere, to see whether the same bits come out.

The second build differs from the first in all that a build could see of its machine and should not let into
its outputs: clock, time zone, uid, host name, number of cores, umask, the order of directories, the kernel's
release. Namespaces and variables give some of that; for the rest a small library is loaded into every
program of the build (``pgbake/catalogue/rebuild/elsewhere.c``), itself built from source like a package.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from pgbake.build.differences import Difference, Marks, compare_trees
from pgbake.build.engine import BuildOptions, LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.build.plan import missing_inputs
from pgbake.build.provide import Provider
from pgbake.build.schedule import Step, run_steps
from pgbake.build.wrapper import Surroundings
from pgbake.events import Planned, Sink, task
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.recipes.builders import SOURCE_DATE_EPOCH
from pgbake.recipes.lowering import Graph, Lowering, root_of
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

_UTC_OFFSET = 11 * 3600 + 45 * 60

#: Uid, gid and names are such as appear nowhere by chance: they are looked for in what differs.
ELSEWHERE = Surroundings(
    uid=147113, gid=147114, hostname="elsewhere", timezone="ELSE-11:45", umask=0o077, more_cores=1
)  # fmt: skip

#: How far the second build's clock is ahead, in seconds: another year, month, weekday and hour.
_AHEAD = 401 * 86400 + 5 * 3600 + 7 * 60
_KERNEL = "4.19.0-elsewhere"

_MARKS = {
    ELSEWHERE.hostname.encode(): "the host name",
    _KERNEL.encode(): "the kernel's release",
    str(ELSEWHERE.uid).encode(): "the uid",
    str(ELSEWHERE.gid).encode(): "the gid",
    ELSEWHERE.timezone[:4].encode() + b" ": "the time zone",
    b"+1145": "the time zone",
}

_SOURCE = Path(str(resources.files("pgbake"))) / "catalogue/rebuild/elsewhere.c"
_LIBRARY = "libpgbake-elsewhere.so"
_SCRIPT = r"""
mkdir -p "$out/lib"
printf '%s' "$source" > elsewhere.c
gcc -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -D_GNU_SOURCE $flags -o "$out/lib/$library" elsewhere.c
strip --strip-unneeded "$out/lib/$library"
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output, built twice.

    :param package: the name that the user calls the derivation by.
    :param first: the NAR's sha256 (raw bytes) as the store has it; ``second``: of the second build.
    :param kept: where the second build's directory is, if it was kept.
    """

    package: str
    output: str
    path: StorePath
    first: bytes
    second: bytes
    differences: tuple[Difference, ...] = ()
    kept: Path | None = None

    @property
    def same(self) -> bool:
        """Whether both builds gave the same bits."""
        return self.first == self.second


def elsewhere_package(lowering: Lowering) -> Derivation:
    """Lower the library that a second build runs with."""
    return lowering.graph.add(
        "pgbake-elsewhere",
        lowering.system,
        lowering.root(*root_of(lowering.server, lowering.catalogue)),
        _SCRIPT,
        env={
            "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
            "flags": f'-DSECONDS={_AHEAD} -DRELEASE="{_KERNEL}"',
            "library": _LIBRARY,
            "pname": "elsewhere",
            "source": _SOURCE.read_text(encoding="utf-8"),
        },
    )


def rebuild(
    graph: Graph,
    goals: Iterable[Derivation],
    elsewhere: Derivation,
    store: LocalStore,
    provider: Provider,
    report: Sink,
    cores: int | None = None,
    options: BuildOptions | None = None,
) -> list[Comparison]:
    """Build derivations a second time, elsewhere, and compare every output with the one in the store.

    The store stays as it is. With ``options.keep_failed`` the directory of a build that gave other bits is kept.

    :param goals: of ``graph``; they and all that they need are built.
    :param elsewhere: see :func:`elsewhere_package`; it is built.
    :raises PgbakeError: what the first failed step raised; what was under way is stopped first.
    """
    goals = list(goals)
    options = options or BuildOptions()
    jobs = JobServer(cores or len(os.sched_getaffinity(0)))
    engine = LocalEngine(store, jobs, report, options, graph.derivations.__getitem__)
    compared: dict[StorePath, list[Comparison]] = {}

    def build(derivation: Derivation) -> None:
        id = f"again:{derivation.path}"
        with jobs.core(lambda: engine.cancelled) as got:
            if got:
                with task(report, id, "build", f"{derivation.name} again"):
                    compared[derivation.path] = _compare(engine, derivation, elsewhere, id, options.keep_failed)

    inputs = missing_inputs(graph, frozenset().union(*(goal.input_srcs for goal in goals)), store)
    steps = {item.path: Step(partial(provider.provide, item), frozenset(), False) for item in inputs}
    for goal in goals:
        steps[goal.path] = Step(partial(build, goal), frozenset(goal.input_srcs & steps.keys()), True)
    store.temp_roots.add(*(path for goal in goals for path in (*goal.output_paths.values(), *goal.input_srcs)))
    report(Planned("build", len(goals)))
    try:
        run_steps(steps, [engine.cancel, provider.cancel], jobs.cores)
    finally:
        jobs.close()
    return [comparison for goal in goals for comparison in compared[goal.path]]


def _compare(
    engine: LocalEngine, derivation: Derivation, elsewhere: Derivation, task: str, keep: bool
) -> list[Comparison]:
    store = engine.store
    library = elsewhere.output_paths["out"]
    environment = {"LD_PRELOAD": f"{library}/lib/{_LIBRARY}"}
    begin = time.time()
    with engine.again(derivation, ELSEWHERE, environment, [library], task) as made:
        marks = Marks(_MARKS, begin, time.time(), _AHEAD, _UTC_OFFSET)
        found = []
        for name, path in derivation.output_paths.items():
            first, second = store.info(path).nar_sha256, hash_tree(made / path.basename).sha256
            differences: tuple[Difference, ...] = ()
            if first != second:
                differences = tuple(compare_trees(store.physical(path), made / path.basename, marks))
            package = derivation.env.get("pname", derivation.name)
            found.append(Comparison(package, name, path, first, second, differences))
        if keep and not all(comparison.same for comparison in found):
            kept = engine.keep(derivation, made.parent)
            found = [dataclasses.replace(comparison, kept=kept) for comparison in found]
    return found
