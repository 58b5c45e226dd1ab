"""Realising a plan: inputs are fetched and unpacked, derivations built, each as soon as it can be.

A graph of steps, run by threads: each step waits for those that it needs. Inputs have a pool of their
own, since they wait for the network while builds use the cores; builds share one job server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from pgbake.build.engine import LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.build.plan import Plan, outputs_of
from pgbake.build.provide import Provider
from pgbake.events import Planned, Sink, task
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore

#: How many inputs are fetched and unpacked at once; each fetches several files at once.
_INPUTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Step:
    work: Callable[[], None]
    needs: frozenset[StorePath]
    is_build: bool


def realise(plan: Plan, store: LocalStore, provider: Provider, report: Sink, cores: int | None = None) -> None:
    """Do what a plan says. When this returns, all its outputs are valid.

    :param provider: brings the plan's inputs into the store.
    :param cores: how many the builds may use together; None means all that this process may use.
    :raises PgbakeError: what the first failed step raised; what was under way is stopped first.
    """
    if plan.empty:
        return
    store.temp_roots.add(*(path for derivation in plan.reused for path in outputs_of(derivation)))
    store.temp_roots.add(*(path for derivation in plan.builds for path in derivation.input_srcs))
    jobs = JobServer(cores or len(os.sched_getaffinity(0)))
    engine = LocalEngine(store, jobs, report)
    report(Planned("build", len(plan.builds)))
    steps: dict[StorePath, _Step] = {}
    for item in plan.inputs:
        steps[item.path] = _Step(partial(provider.provide, item), frozenset(), False)
    for derivation in plan.builds:
        needs = frozenset({*derivation.input_drvs, *derivation.input_srcs} & steps.keys())
        steps[derivation.path] = _Step(partial(_build, engine, jobs, derivation, report), needs, True)
    try:
        _run(steps, [engine.cancel, provider.cancel], jobs.cores)
    finally:
        jobs.close()


def _build(engine: LocalEngine, jobs: JobServer, derivation: Derivation, report: Sink) -> None:
    with jobs.core(lambda: engine.cancelled) as got:
        if got:
            with task(report, str(derivation.path), "build", derivation.name):
                engine.build(derivation, str(derivation.path))


def _run(steps: Mapping[StorePath, _Step], cancel: Sequence[Callable[[], None]], builds_at_once: int) -> None:
    waiting = dict(steps)
    running: dict[Future[None], StorePath] = {}
    done: set[StorePath] = set()
    with ThreadPoolExecutor(_INPUTS_AT_ONCE) as inputs, ThreadPoolExecutor(builds_at_once) as builds:
        try:
            while waiting or running:
                for path in [path for path, step in waiting.items() if step.needs <= done]:
                    step = waiting.pop(path)
                    running[(builds if step.is_build else inputs).submit(step.work)] = path
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done.add(running.pop(future))
        except BaseException:
            # One failed, or the user interrupts: nothing further starts, and what runs is stopped.
            for future in running:
                future.cancel()
            for stop in cancel:
                stop()
            raise
