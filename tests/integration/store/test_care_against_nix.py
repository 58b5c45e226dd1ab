"""Collecting, optimising and repairing, as real Nix sees it; and Nix's own collector on a store of ours."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.build.repair import Repair
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.collector import GcOptions, collect_garbage
from pgbake.store.findroots import find_roots
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.optimise import optimise
from pgbake.store.verify import verify
from tests.integration.build.conftest import workshop  # noqa: F401 - a fixture
from tests.integration.build.workshop import Workshop
from tests.oracle import Oracle
from tests.unit.store.texts import damage, text, tree

pytestmark = pytest.mark.integration


def said(oracle: Oracle, *args: str) -> set[str]:
    return set(oracle.run(*args).stdout.decode().split())


def assert_sound(oracle: Oracle) -> None:
    """Nix finds no fault, says of each path what we say, and has nothing left to link."""
    complaints = oracle.run("nix-store", "--verify", "--check-contents").stderr
    assert not any(word in complaints for word in (b"error", b"modified", b"disappeared")), complaints
    with LocalStore(oracle.root) as store:
        for path, info in store.database.registered().items():
            assert said(oracle, "nix-store", "-q", "--references", str(path)) == {str(r) for r in info.references}


@pytest.mark.parametrize("keep_outputs", [False, True])
def test_both_collectors_agree_about_what_is_dead(oracle: Oracle, keep_outputs: bool) -> None:
    chance = random.Random(11)
    with LocalStore(oracle.root) as store:
        paths: list[StorePath] = []
        for number in range(60):
            references = chance.sample(paths, min(len(paths), chance.choice((0, 0, 1, 2))))
            paths.append(text(store, f"path-{number}{chance.choice(('', '.drv'))}", *references))
        derivations = [path for path in paths if path.name.endswith(".drv")]
        with sqlite3.connect(store.database.file) as database:
            for path in paths:
                if not path.name.endswith(".drv") and chance.random() < 0.5:
                    drv = str(chance.choice(derivations))
                    database.execute("update ValidPaths set deriver = ? where path = ?", (drv, str(path)))
                    number = database.execute("select id from ValidPaths where path = ?", (drv,)).fetchone()[0]
                    database.execute(
                        "insert or ignore into DerivationOutputs values (?, ?, ?)", (number, path.name, str(path))
                    )
        roots = store.state_dir / "gcroots"
        for path in chance.sample(paths, 4):
            (roots / path.name).symlink_to(str(path))
        (roots / "beside" / "deeper").mkdir(parents=True)
        (roots / "beside/deeper" / paths[0].basename).touch()
        (oracle.tmp("link")).symlink_to(str(paths[1]))
        (roots / "auto/0123").symlink_to("/tmp/link")
        (roots / "auto/4567").symlink_to("/tmp/gone")
        store.temp_roots.close()
        options = ["--option", "keep-outputs", str(keep_outputs).lower()]
        dead = {name for name in said(oracle, "nix-store", "--gc", "--print-dead", *options) if "/nix/store/" in name}
        # Nix sees /tmp/link elsewhere than we do.
        (roots / "auto/0123").unlink(missing_ok=True)
        (roots / "auto/0123").symlink_to(oracle.tmp("link"))
        ours = collect_garbage(store, GcOptions(keep_outputs=keep_outputs))
        assert {str(info.path) for info in ours.deleted} == dead and 5 < len(dead) < 55
        assert not (roots / "auto/4567").is_symlink()
    assert_sound(oracle)


def test_each_optimises_as_the_other(oracle: Oracle) -> None:
    with LocalStore(oracle.root) as store:
        for number in range(3):
            tree(
                store,
                f"tree-{number}",
                {"bin/x": b"same" * 100, "x": b"same" * 100, "own": bytes([number]), "empty": b""},
            )
        done = optimise(store)
        assert done.files == 6
        assert b" 0 files" in oracle.run("nix-store", "--optimise").stderr
        assert_sound(oracle)
        names = {link.name for link in store.links_dir.iterdir()}
        for link in store.links_dir.iterdir():
            link.unlink()
        oracle.run("nix-store", "--optimise")
        assert {link.name for link in store.links_dir.iterdir()} == names
        tree(store, "late", {"x": b"same" * 100, "empty": b""})
        oracle.run("nix-store", "--optimise")
        assert optimise(store).files == 0
        store.temp_roots.close()
        collect_garbage(store)
        assert not list(store.links_dir.iterdir())


# --- beside a running build -----------------------------------------------------------------------------------------


@pytest.fixture
def nix_beside(workshop: Workshop, nix_tree: Path, tmp_path: Path) -> Iterator[Oracle]:  # noqa: F811
    """Real Nix on the very store of the workshop."""
    (tmp_path / "oracle").mkdir()
    oracle = Oracle(tmp_path / "oracle", nix_tree)
    (oracle.root / "nix").rmdir()
    (oracle.root / "nix").symlink_to(workshop.store.root / "nix")
    yield oracle
    remove_tree(oracle.root)


class Build(threading.Thread):
    """A build that waits for a word in the middle."""

    def __init__(self, workshop: Workshop) -> None:  # noqa: F811
        super().__init__()
        self.workshop = workshop
        self.need = workshop.derivation("echo needed > $out", name="need")
        workshop.build(self.need)
        self.derivation = workshop.derivation(
            "mkdir $out; echo begun; while [ ! -e /build/go ]; do sleep 0.05; done; cat $need0 > $out/file",
            name="slow", needs=(self.need,),
        )  # fmt: skip
        self.garbage = text(workshop.store, "garbage")
        workshop.store.temp_roots.close()  # as if another process had made all that

    def run(self) -> None:
        plan = set(self.derivation.input_srcs) | {self.workshop.path(self.need)}
        self.workshop.store.temp_roots.add(*plan)
        self.workshop.build(self.derivation)

    def __enter__(self) -> Build:
        self.start()
        self.place = self.workshop.store.store_dir / f"{self.derivation.path.basename}.chroot/build"
        deadline = time.monotonic() + 20
        while not self.place.exists():
            assert time.monotonic() < deadline and self.is_alive()
            time.sleep(0.02)
        time.sleep(0.3)
        return self

    def __exit__(self, *_exc: object) -> None:
        (self.place / "go").touch()
        self.join()


def test_nixs_collector_takes_nothing_of_a_running_build(workshop: Workshop, nix_beside: Oracle) -> None:  # noqa: F811
    with Build(workshop) as build:
        nix_beside.run("nix-store", "--gc")
        assert not workshop.store.valid([build.garbage]) and build.place.exists()
    assert (workshop.store.physical(workshop.path(build.derivation)) / "file").read_text() == "needed\n"
    complaints = nix_beside.run("nix-store", "--verify", "--check-contents").stderr
    assert b"error" not in complaints and b"modified" not in complaints


def test_two_collectors_of_ours_take_nothing_of_a_running_build(workshop: Workshop, nix_beside: Oracle) -> None:  # noqa: F811
    command = [sys.executable, "-m", "pgbake", "--store", str(workshop.store.root), "gc"]
    with Build(workshop) as build:
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
        for process in both:
            output, _ = process.communicate()
            assert process.returncode == 0, output
        assert not workshop.store.valid([build.garbage]) and build.place.exists()
        kinds = {root.kind for root in find_roots(workshop.store) if root.path == workshop.path(build.need)}
        assert "temporary" in kinds
    assert (workshop.store.physical(workshop.path(build.derivation)) / "file").read_text() == "needed\n"
    assert verify(workshop.store).findings == ()
    complaints = nix_beside.run("nix-store", "--verify", "--check-contents").stderr
    assert b"error" not in complaints and b"modified" not in complaints


# --- repair -----------------------------------------------------------------------------------------------------------


def built(workshop: Workshop, script: str, *needs: Derivation, name: str = "thing") -> Derivation:  # noqa: F811
    derivation = workshop.derivation(script, name=name, needs=needs)
    workshop.build(derivation)
    return derivation


def mend(workshop: Workshop, *, with_graph: bool = False) -> dict[str, tuple[str | None, str | None]]:  # noqa: F811
    repair = Repair(workshop.store)
    if with_graph:
        repair.graph = workshop.graph
    outcomes = repair.mend(verify(workshop.store).findings)
    return {done.subject.rpartition("-")[2]: (done.way, done.why) for done in outcomes}


def test_damaged_and_missing_packages_are_rebuilt(workshop: Workshop, nix_beside: Oracle) -> None:  # noqa: F811
    low = built(workshop, "mkdir $out; echo low > $out/file", name="low")
    high = built(workshop, "mkdir $out; cp $need0/file $out/file; echo $need0 > $out/ref", low, name="high")
    lost = built(workshop, "echo $need0 > $out", high, name="lost")
    before = {path: info.nar_sha256 for path, info in workshop.store.database.registered().items()}
    damage(workshop.store.physical(workshop.path(low)) / "file")
    damage(workshop.store.physical(workshop.path(high)) / "file")
    remove_tree(workshop.store.physical(workshop.path(lost)))
    repair = Repair(workshop.store, dry_run=True)
    assert {done.way for done in repair.mend(verify(workshop.store).findings)} == {"rebuilt"}
    assert len(verify(workshop.store).findings) == 3, "nothing was done yet"
    assert mend(workshop) == dict.fromkeys(("low", "high", "lost"), ("rebuilt", None))
    assert verify(workshop.store, references=True).findings == ()
    assert {path: info.nar_sha256 for path, info in workshop.store.database.registered().items()} == before
    complaints = nix_beside.run("nix-store", "--verify", "--check-contents").stderr
    assert b"error" not in complaints and b"modified" not in complaints
    assert not [place for place in workshop.store.store_dir.iterdir() if place.suffix in (".lock", ".chroot")]


def test_what_cannot_be_mended_is_told_with_the_reason(workshop: Workshop) -> None:  # noqa: F811
    source = text(workshop.store, "source")
    damage(workshop.store.physical(source))
    chancy = built(workshop, "date +%N > $out; echo $RANDOM$RANDOM >> $out", name="chancy")
    damage(workshop.store.physical(workshop.path(chancy)))
    outcomes = mend(workshop)
    assert outcomes["source"][0] is None and "it was not built here" in str(outcomes["source"][1])
    assert outcomes["chancy"][0] is None and "made again with other contents" in str(outcomes["chancy"][1])
    assert len(verify(workshop.store).findings) == 2


def test_a_derivation_is_written_again_where_the_project_knows_it(workshop: Workshop) -> None:  # noqa: F811
    thing = built(workshop, "echo thing > $out")
    for path in (thing.path, workshop.path(thing)):
        damage(workshop.store.physical(path))
    assert mend(workshop, with_graph=True) == {"thing.drv": ("written", None), "thing": ("rebuilt", None)}
    assert verify(workshop.store).findings == ()


def test_a_damaged_hash_is_told_from_damaged_contents(workshop: Workshop) -> None:  # noqa: F811
    thing = workshop.path(built(workshop, "echo thing > $out"))
    right = workshop.store.info(thing).nar_sha256
    with sqlite3.connect(workshop.store.database.file) as database:
        wrong = f"sha256:{bytes([right[0] ^ 1, *right[1:]]).hex()}"
        database.execute("update ValidPaths set hash = ? where path = ?", (wrong, str(thing)))
    assert mend(workshop) == {"thing": ("registered", None)}
    assert workshop.store.info(thing).nar_sha256 == right and verify(workshop.store).findings == ()


def test_a_damaged_link_is_not_linked_to_after_a_repair(workshop: Workshop, nix_beside: Oracle) -> None:  # noqa: F811
    one = built(workshop, "mkdir $out; seq 1000 > $out/file; echo 1 > $out/own", name="one")
    two = built(workshop, "mkdir $out; seq 1000 > $out/file; echo 2 > $out/own", name="two")
    optimise(workshop.store)
    files = [workshop.store.physical(workshop.path(made)) / "file" for made in (one, two)]
    assert files[0].samefile(files[1])
    damage(files[0], in_place=True)
    outcomes = mend(workshop)
    assert {way for way, _ in outcomes.values()} == {"removed", "rebuilt"} and len(outcomes) == 3
    assert verify(workshop.store).findings == () and not files[0].samefile(files[1])
    optimise(workshop.store)
    assert files[0].samefile(files[1]) and files[0].read_text().startswith("1\n2\n")
    assert verify(workshop.store).findings == ()
    assert b" 0 files" in nix_beside.run("nix-store", "--optimise").stderr


def test_a_cache_is_asked_first(workshop: Workshop) -> None:  # noqa: F811
    one, two = (built(workshop, f"echo {name} > $out", name=name) for name in ("one", "two"))
    for made in (one, two):
        damage(workshop.store.physical(workshop.path(made)))
    asked: list[StorePath] = []

    def fetch(path: StorePath, into: Path | None) -> bool:
        asked.append(path)
        if path == workshop.path(one) and into is not None:
            into.write_text("one\n")
        return path == workshop.path(one)

    outcomes = Repair(workshop.store, fetch=fetch).mend(verify(workshop.store).findings)
    assert {done.subject.rpartition("-")[2]: done.way for done in outcomes} == {"one": "fetched", "two": "rebuilt"}
    assert set(asked) == {workshop.path(one), workshop.path(two)} and verify(workshop.store).findings == ()
