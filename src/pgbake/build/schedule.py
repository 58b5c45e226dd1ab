"""Running the steps of a plan by threads, each as soon as those that it needs are done.

Inputs have a pool of their own, since they wait for the network while builds use the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from pgbake.formats.storepath import StorePath

#: How many inputs are fetched and unpacked at once; each fetches several files at once.
_INPUTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work.

    :param needs: the steps that come first, by the paths that they make or build.
    :param is_build: whether it uses a core, and not the network and the disk.
    """

    work: Callable[[], object]
    needs: frozenset[StorePath]
    is_build: bool


def run_steps(steps: Mapping[StorePath, Step], cancel: Sequence[Callable[[], None]], builds_at_once: int) -> None:
    """Run all steps.

    :param cancel: called when one has failed, to stop those under way.
    :raises BaseException: what the first failed step raised, or what interrupted the wait for them.
    """
    waiting = dict(steps)
    running: dict[Future[object], StorePath] = {}
    done: set[StorePath] = set()
    with ThreadPoolExecutor(_INPUTS_AT_ONCE) as inputs, ThreadPoolExecutor(builds_at_once) as builds:
        try:
            while waiting or running:
                for key in [key for key, step in waiting.items() if step.needs <= done]:
                    step = waiting.pop(key)
                    running[(builds if step.is_build else inputs).submit(step.work)] = key
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
