"""Realising a plan: paths come from caches, inputs are fetched and unpacked, derivations built, each as soon as it
can be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial

from pgbake.build.engine import BuildOptions, LocalEngine, short_name
from pgbake.build.jobserver import JobServer
from pgbake.build.nix import NixEngine, kind_of
from pgbake.build.plan import Plan
from pgbake.build.provide import Provider
from pgbake.build.schedule import Step, run_steps
from pgbake.cache.pull import Puller
from pgbake.cache.substituters import Substituters
from pgbake.errors import BuildError
from pgbake.events import Planned, Sink, task
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.nix import NixStore

Takes = Callable[[Derivation, BuildError], bool]


def realise(
    plan: Plan,
    store: LocalStore,
    provider: Provider,
    report: Sink,
    cores: int | None = None,
    options: BuildOptions | None = None,
    caches: Substituters | None = None,
    takes: Takes | None = None,
    nix_settings: Mapping[str, str] | None = None,
) -> None:
    """Do what a plan says. When this returns, all its outputs are valid, but for failures that were taken.

    :param provider: brings the plan's inputs into the store.
    :param cores: how many the builds may use together; None means all that this process may use.
    :param caches: those that offered the plan's substitutes.
    :param takes: is told of a build that failed, and says whether the others go on; nothing may need that build.
    :param nix_settings: of Nix's configuration, where the store is Nix's and it builds.
    :raises Ungiven: caches do not give whole what they offered; what came before it is kept.
    :raises StoreError: the store cannot be written.
    :raises PgbakeError: what the first failed step raised; what was under way is stopped first.
    """
    if plan.empty:
        return
    store.require_writable()
    for derivation in plan.reused:
        if store.database.valid([derivation.path]):
            # Whoever deleted it from the store took what builds read their inputs from.
            store.add_derivation(derivation)
    store.sweep()
    stop = threading.Event()
    steps: dict[StorePath, Step] = {}
    for item in plan.inputs:
        steps[item.path] = Step(partial(provider.provide, item), frozenset(), False)
    pulled: frozenset[StorePath] = frozenset()
    if plan.substitutes:
        assert caches is not None
        # All in one step, under the name of one of them: they share connections, and are registered together.
        pulled = frozenset([next(iter(plan.substitutes))])
        references = {path for offers in plan.substitutes.values() for path in offers[0].info.references}
        work = partial(Puller(store, caches, report, stop).run, plan.substitutes)
        steps |= {path: Step(work, frozenset(references & steps.keys()), False) for path in pulled}
    cancel = [provider.cancel, stop.set]
    if plan.builds:
        for kind in ("build", "check"):
            report(Planned(kind, sum(kind_of(derivation) == kind for derivation in plan.builds)))
    if isinstance(store, NixStore):
        run_steps(steps, cancel, 1)
        if plan.builds:
            engine = NixEngine(store, report, plan.derivations.__getitem__, cores or 0, options, nix_settings)
            # One step for all, in a thread, so that an interrupt here stops them.
            all_of_them = Step(partial(engine.build, plan.builds, takes), frozenset(), True)
            run_steps({plan.builds[0].path: all_of_them}, [engine.cancel], 1)
        return
    jobs = JobServer(cores or len(os.sched_getaffinity(0)))
    try:
        if plan.builds:  # only they need what a machine may lack: a sandbox
            local = LocalEngine(store, jobs, report, options, plan.derivations.__getitem__)
            cancel.insert(0, local.cancel)
            for derivation in plan.builds:
                needs = ({*derivation.input_drvs, *derivation.input_srcs} & steps.keys()) | pulled
                steps[derivation.path] = Step(
                    partial(_build, local, jobs, derivation, report, takes), frozenset(needs), True
                )
        run_steps(steps, cancel, jobs.cores)
    finally:
        jobs.close()


def _build(engine: LocalEngine, jobs: JobServer, derivation: Derivation, report: Sink, takes: Takes | None) -> None:
    with jobs.core(lambda: engine.cancelled) as got:
        if not got:
            return
        kind = kind_of(derivation)
        title = short_name(derivation) if kind == "check" else derivation.name
        try:
            with task(report, str(derivation.path), kind, title, cancelled=lambda: engine.cancelled):
                engine.build(derivation, str(derivation.path))
        except BuildError as error:
            if engine.cancelled or takes is None or not takes(derivation, error):
                raise
