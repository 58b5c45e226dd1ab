"""The whole examination, group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgbake.doctor.debian import examine_mirrors
from pgbake.doctor.engine import examine_engine
from pgbake.doctor.finding import Finding, Report
from pgbake.doctor.machine import examine_machine, examine_programs
from pgbake.doctor.places import examine_cache, examine_data, examine_store
from pgbake.doctor.sandbox import examine_sandbox
from pgbake.inputs.mirrors import Mirrors
from pgbake.places import Engine


def examine(
    store_root: Path,
    cache: Path,
    data: Path,
    mirrors: Callable[[], Mirrors],
    suite: str,
    engine: tuple[Engine, str],
    offline: bool = False,
) -> Report:
    """Look at all that pgbake depends on; nothing that was there is changed.

    :param store_root: below it lies, or will lie, the store.
    :param cache: directory of downloads.
    :param data: directory of servers' data.
    :param mirrors: finds the mirrors.
    :param suite: the platform's, to ask mirrors for.
    :param engine: the one that builds, and why.
    :param offline: ask no mirror.
    """
    groups: dict[str, Callable[[], Iterable[Finding]]] = {
        "This machine": examine_machine,
        "Programs": examine_programs,
        "Sandbox": examine_sandbox,
        "Store": lambda: [*examine_engine(*engine), *(examine_store(store_root) if engine[0] == "local" else ())],
        "Files": lambda: [*examine_cache(cache), *examine_data(data)],
        "Debian": lambda: examine_mirrors(mirrors, suite, offline),
    }
    # At once: most of the time goes into waiting for apt, mirrors and sandboxes.
    with ThreadPoolExecutor(len(groups)) as pool:
        return list(zip(groups, pool.map(lambda group: list(group()), groups.values()), strict=True))
