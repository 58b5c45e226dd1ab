"""The parts of a build that need no sandbox: the wrapper, the job server, logs, plans, the order of steps."""

from __future__ import annotations

import bz2
import dataclasses
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.build.jobserver import JobServer
from pgbake.build.log import BuildLog, read_log
from pgbake.build.plan import make_plan, why
from pgbake.build.schedule import Step, run_steps
from pgbake.build.wrapper import unwrap
from pgbake.bundle.merge import Bundle, lower_bundle
from pgbake.errors import BuildError, ManifestError
from pgbake.events import Event, LogLine, PhaseChanged
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore


@pytest.fixture(scope="module")
def bundle(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> Bundle:
    return lower_bundle(manifest, catalogue, lock, SYSTEMS["x86_64-linux"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path) as store:
        yield store


def pretend(store: LocalStore, *paths: StorePath) -> None:
    """Register paths as valid, with nothing in them."""
    for path in paths:
        store.physical(path).touch()
    store.database.register([PathInfo(path, bytes(32), 1) for path in paths])


# --- the wrapper ----------------------------------------------------------------------------------------


def test_only_the_wrapper_itself_is_recognised(bundle: Bundle) -> None:
    derivation = bundle.by_name()["pgvector"]
    assert unwrap(derivation) is not None
    for other in (
        dataclasses.replace(derivation, args=(*derivation.args[:-1], derivation.args[-1] + " ")),
        dataclasses.replace(derivation, args=derivation.args[1:]),
        dataclasses.replace(derivation, builder="/bin/sh"),
        dataclasses.replace(derivation, input_srcs=frozenset()),
        dataclasses.replace(derivation, env={k: v for k, v in derivation.env.items() if k != "buildRoot"}),
    ):
        assert unwrap(other) is None


# --- the job server -------------------------------------------------------------------------------------


def test_makes_share_the_cores(tmp_path: Path) -> None:
    """Two makes at once, each with eight jobs, run no more than two at any moment."""
    (tmp_path / "Makefile").write_text(
        "all: 1 2 3 4 5 6 7 8\n%:\n\t@echo + >> log; sleep 0.1; echo - >> log\n.PHONY: all\n"
    )
    jobs = JobServer(2)

    def start(name: str) -> subprocess.Popen[bytes]:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "Makefile").write_text((tmp_path / "Makefile").read_text().replace("log", "../log"))
        return subprocess.Popen(
            ["make", "-s"], cwd=directory, env={"PATH": "/usr/bin:/bin", "MAKEFLAGS": jobs.makeflags},
            pass_fds=jobs.descriptors, stderr=subprocess.PIPE,
        )  # fmt: skip

    with jobs.core(lambda: False), jobs.core(lambda: False):
        makes = [start("one"), start("two")]
        assert [make.communicate()[1] for make in makes] == [b"", b""]
    running = most = 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2 and running == 0
    # Nothing got lost: both cores are there again.
    with jobs.core(lambda: False) as one, jobs.core(lambda: False) as two:
        assert one and two
        with jobs.core(lambda: True) as third:
            assert not third
    jobs.close()


# --- logs -----------------------------------------------------------------------------------------------


def test_a_log_is_kept_compressed_and_told(tmp_path: Path) -> None:
    events: list[Event] = []
    log = BuildLog(tmp_path / "ab" / "thing.drv.bz2", "task", events.append)
    for line in (b"one\n", b'@nix {"action":"setPhase","phase":"build"}\n', b"@nix {broken\n", b"\xff last\n"):
        log.write(line)
    log.close()
    assert log.phase == "build" and log.last[-1] == "\ufffd last"
    assert PhaseChanged("task", "build") in events and LogLine("task", "one") in events
    assert bz2.decompress(log.file.read_bytes()).endswith(b"\xff last\n")
    assert read_log(log.file).startswith("one\n--- phase: build\n")
    assert [file.name for file in log.file.parent.iterdir()] == ["thing.drv.bz2"]
    with pytest.raises(ManifestError, match="there is no log"):
        read_log(tmp_path / "none")


# --- plans ----------------------------------------------------------------------------------------------


def test_everything_is_planned_in_an_order_that_works(bundle: Bundle, store: LocalStore) -> None:
    plan = make_plan(bundle.graph, [bundle.derivation.path], store)
    seen: set[StorePath] = set()
    for derivation in plan.builds:
        assert derivation.input_drvs.keys() <= seen
        seen.add(derivation.path)
    assert seen == bundle.graph.derivations.keys()
    assert {item.path for item in plan.inputs} == bundle.graph.inputs.keys()
    assert plan.inputs[0].kind == "root" and not plan.reused and not plan.empty
    assert why(bundle.derivation, store) == "it was never built here"


def test_nothing_below_what_is_there_is_asked_for(bundle: Bundle, store: LocalStore) -> None:
    server, vector = bundle.by_name()["postgresql"], bundle.by_name()["pgvector"]
    pretend(store, *server.output_paths.values())
    plan = make_plan(bundle.graph, [vector.path], store)
    assert [d.name for d in plan.builds] == [vector.name] and [d.name for d in plan.reused] == [server.name]
    assert sorted(item.name for item in plan.inputs) == ["core", "pgvector"]
    pretend(store, *vector.output_paths.values())
    assert make_plan(bundle.graph, [vector.path], store).empty


def test_a_missing_output_means_building_again(bundle: Bundle, store: LocalStore) -> None:
    server = bundle.by_name()["postgresql"]
    pretend(store, *list(server.output_paths.values())[1:])
    assert make_plan(bundle.graph, [server.path], store).builds == (server,)


def test_why_tells_what_differs(bundle: Bundle, store: LocalStore) -> None:
    vector = bundle.by_name()["pgvector"]
    pretend(store, *vector.input_srcs, *vector.input_drvs)
    store.add_derivation(vector)
    assert why(vector, store) == "its last build did not finish, or was removed"
    changed = dataclasses.replace(vector, env={**vector.env, "makeFlags": "OTHER=1"})
    assert why(changed, store) == "changed: its make flags"


# --- the order of steps ---------------------------------------------------------------------------------


def path(name: str) -> StorePath:
    return StorePath("0" * 32, name)


def test_steps_wait_for_what_they_need() -> None:
    done: list[str] = []

    def step(name: str, *needs: str, is_build: bool = True) -> Step:
        def work() -> None:
            time.sleep(0.02)
            done.append(name)

        return Step(work, frozenset(map(path, needs)), is_build)

    steps = {path("c"): step("c", "a", "b"), path("b"): step("b", "a"), path("a"): step("a", is_build=False)}
    run_steps(steps, [], 2)
    assert done == ["a", "b", "c"]


def test_the_first_error_stops_the_rest_and_is_raised() -> None:
    done: list[str] = []
    stopped: list[bool] = []

    def fail() -> None:
        raise BuildError("the first")

    def slow() -> None:
        while not stopped:
            time.sleep(0.01)

    steps = {
        path("bad"): Step(fail, frozenset(), True),
        path("slow"): Step(slow, frozenset(), True),
        path("after"): Step(lambda: done.append("after"), frozenset([path("bad")]), True),
    }
    with pytest.raises(BuildError, match="the first"):
        run_steps(steps, [lambda: stopped.append(True)], 2)
    assert stopped == [True] and done == []
