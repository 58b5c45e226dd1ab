"""The collector: what is dead and what is not, in which order it goes, and what else goes with it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import StoreError
from pgbake.events import Event, Notice
from pgbake.formats.storepath import StorePath
from pgbake.store import collector
from pgbake.store.collector import GcOptions, collect_garbage, reachable, referrers_first
from pgbake.store.database import PathInfo
from pgbake.store.findroots import Root, find_roots
from pgbake.store.local import LocalStore
from pgbake.store.locks import acquire, exclusive_lock, open_lock
from tests.unit.store.texts import text, tree


def forget_roots(store: LocalStore) -> None:
    """Give up what this process holds since it made the paths."""
    store.temp_roots.close()


# --- what is dead ---------------------------------------------------------------------------------------------------


def named(number: int) -> StorePath:
    return StorePath(f"{number:032d}", f"path-{number}")


@st.composite
def stores(draw: st.DrawFn) -> tuple[dict[StorePath, PathInfo], dict[StorePath, frozenset[StorePath]], set[StorePath]]:
    """A store in which a path refers to earlier ones; derivers and outputs may be any, valid or not."""
    count = draw(st.integers(0, 9))
    numbers = st.integers(0, count + 1)
    infos = {}
    for number in range(count):
        references = draw(st.frozensets(st.integers(0, number), max_size=3))
        deriver = draw(st.none() | numbers)
        infos[named(number)] = PathInfo(
            named(number), bytes(32), 1, frozenset(map(named, references)),
            deriver=None if deriver is None else named(deriver),
        )  # fmt: skip
    outputs = {path: frozenset(map(named, draw(st.frozensets(numbers, max_size=2)))) for path in infos}
    return infos, outputs, set(map(named, draw(st.frozensets(numbers, max_size=3))))


@given(stores(), st.booleans(), st.booleans())
def test_what_is_reachable_is_what_nix_says_in_other_words(
    drawn: tuple[dict[StorePath, PathInfo], dict[StorePath, frozenset[StorePath]], set[StorePath]],
    keep_outputs: bool,
    keep_derivations: bool,
) -> None:
    """Nix looks from the other end: a path may go if all that keep it may go."""
    infos, outputs, roots = drawn

    def keepers(path: StorePath) -> set[StorePath]:
        found = {other for other, info in infos.items() if path in info.references}
        if keep_derivations:
            found |= {other for other, info in infos.items() if info.deriver == path}
        if keep_outputs:
            found |= {drv for drv, made in outputs.items() if path in made}
        return found

    def kept(path: StorePath) -> bool:
        seen: set[StorePath] = set()
        pending = {path}
        while pending:
            seen |= pending
            pending = {keeper for one in pending for keeper in keepers(one)} - seen
        return bool(seen & roots)

    expected = {path for path in infos if kept(path)}
    found = reachable(infos, outputs, roots, keep_outputs=keep_outputs, keep_derivations=keep_derivations)
    assert found == expected
    order = [info.path for info in referrers_first(infos)]
    assert sorted(order) == sorted(infos)
    for info in infos.values():
        assert all(order.index(info.path) <= order.index(reference) for reference in info.references)


def test_what_a_link_holds_stays_and_all_else_goes(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "root") as store:
        one = text(store, "one")
        two = text(store, "two", one)
        alone = text(store, "alone")
        user = text(store, "user", alone)
        link = tmp_path / "result"
        store.link_root(link, two)
        forget_roots(store)
        would = collect_garbage(store, GcOptions(dry_run=True))
        assert [info.path for info in would.deleted] == [user, alone] and store.valid([user, alone])
        done = collect_garbage(store)
        assert [info.path for info in done.deleted] == [user, alone], "who refers goes first"
        assert done.kept == 2 and done.freed == would.freed == 2 * 4096
        assert Root(two, "link", str(link)) in done.roots
        assert set(store.database.paths()) == {one, two}
        assert {path.name for path in store.store_dir.iterdir()} == {".links", one.basename, two.basename}
        assert not list((store.state_dir / "scratch").iterdir())
        link.unlink()
        collect_garbage(store)
        assert store.database.paths() == [] and not list((store.state_dir / "gcroots/auto").iterdir())


def test_what_this_process_made_stays(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one = text(store, "one")
        assert collect_garbage(store).deleted == () and store.physical(one).exists()
        assert [root.kind for root in find_roots(store)] == ["temporary"]
        assert find_roots(store)[0].holder.startswith(f"pid {os.getpid()} (")


def test_what_a_running_program_uses_stays(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        opened, named_in_environment, inside = (text(store, name) for name in ("opened", "named", "inside"))
        forget_roots(store)
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        environment = {"A": f"x:{store.physical(named_in_environment)}/bin:y", "B": f"-I{store.physical(inside)}"}
        with (
            store.physical(opened).open() as descriptor,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor.fileno()]
            ) as process,
        ):
            descriptor.close()
            assert process.stdout is not None
            process.stdout.readline()
            holders = {root.path: root.holder for root in find_roots(store) if root.kind == "process"}
            assert holders.keys() == {opened, named_in_environment, inside}
            assert holders[opened].startswith(f"pid {process.pid} (")
            assert collect_garbage(store).deleted == ()
            process.communicate()
        assert len(collect_garbage(store).deleted) == 3


def test_what_a_program_uses_of_another_store_does_not_stay(tmp_path: Path) -> None:
    """The same path, below another root: opened, run in, and named in a variable."""
    with LocalStore(tmp_path / "one") as store, LocalStore(tmp_path / "two") as other:
        path = tree(store, "program", {"file": b"1"})
        assert tree(other, "program", {"file": b"1"}) == path
        forget_roots(store)
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        theirs = other.physical(path)
        with (
            (theirs / "file").open() as descriptor,
            subprocess.Popen(
                command,
                env={"A": f"-I{theirs}/bin"},
                cwd=theirs,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[descriptor.fileno()],
            ) as process,
        ):
            assert process.stdout is not None
            process.stdout.readline()
            assert [root for root in find_roots(store) if root.kind == "process"] == []
            assert path in {root.path for root in find_roots(other) if root.kind == "process"}
            assert [info.path for info in collect_garbage(store).deleted] == [path]
            process.communicate()


def test_a_program_in_its_stores_namespace_is_seen(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        path = tree(store, "program", {"bin/sleep": Path("/bin/sleep").read_bytes()})
        forget_roots(store)
        command = [
            "bwrap",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/lib",
            "/lib",
            "--symlink",
            "usr/lib64",
            "/lib64",
        ]
        command += ["--bind", str(tmp_path / "nix"), "/nix"]
        command += ["--proc", "/proc", "--", f"{path}/bin/sleep", "60"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 5
            while not (found := [root for root in find_roots(store) if root.kind == "process"]):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("no namespace can be made here")
                time.sleep(0.02)
            assert {root.path for root in found} == {path}
            with LocalStore(tmp_path / "another") as another:
                assert tree(another, "program", {"bin/sleep": Path("/bin/sleep").read_bytes()}) == path
                assert [root.kind for root in find_roots(another)] == ["temporary"], "it runs from another store"
        finally:
            process.kill()
            process.wait()


def test_profiles_and_their_generations(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        paths = [text(store, f"generation-{number}") for number in range(1, 6)]
        profiles = store.state_dir / "profiles"
        profiles.mkdir()
        now = time.time()
        for number, path in enumerate(paths, 1):
            link = profiles / f"system-{number}-link"
            link.symlink_to(str(path))
            os.utime(link, (now, now - (6 - number) * 86400), follow_symlinks=False)
        (profiles / "system").symlink_to("system-2-link")
        forget_roots(store)
        assert collect_garbage(store).deleted == (), "nobody asked for it"
        day = 86400.0
        would = collect_garbage(store, GcOptions(dry_run=True, keep_generations=2))
        assert {info.path for info in would.deleted} == {paths[0], paths[2]}, "the second is current"
        # Two days and a half ago the third from the end was the newest.
        would = collect_garbage(store, GcOptions(dry_run=True, older_than=2.5 * day))
        assert {info.path for info in would.deleted} == {paths[0]}
        would = collect_garbage(store, GcOptions(dry_run=True, older_than=2.5 * day, keep_generations=1))
        assert {info.path for info in would.deleted} == {paths[0]}
        done = collect_garbage(store, GcOptions(keep_generations=1))
        assert {info.path for info in done.deleted} == {paths[0], paths[2], paths[3]}
        assert sorted(link.name for link in profiles.iterdir()) == ["system", "system-2-link", "system-5-link"]


def test_what_is_young_stays_with_what_it_needs(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        old = text(store, "old")
        needed = text(store, "needed")
        young = text(store, "young", needed)
        forget_roots(store)
        with sqlite3.connect(store.database.file) as database:
            database.execute(
                "update ValidPaths set registrationTime = 1000 where path in (?, ?)", (str(old), str(needed))
            )
        assert [info.path for info in collect_garbage(store, GcOptions(keep_for=3600)).deleted] == [old]
        assert store.valid([young, needed]) == {young, needed}
        collect_garbage(store)
        assert store.database.paths() == []


def test_it_stops_when_enough_is_freed(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        for number in range(10):
            tree(store, f"tree-{number}", {"file": bytes([number]) * 1_000_000})
        forget_roots(store)
        done = collect_garbage(store, GcOptions(max_freed=2_500_000))
        assert len(done.deleted) == 3 and 2_500_000 <= done.freed < 3_500_000
        assert len(store.database.paths()) == 7


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "root") as store:
        kept = tree(store, "kept", {"file": b"x" * 100_000})
        gone = [tree(store, f"gone-{number}", {"file": b"y" * 100_000}) for number in range(2)]
        shares = tree(store, "shares", {"file": b"x" * 100_000, "other": b"z"})
        from pgbake.store.optimise import optimise

        assert optimise(store).files == 2
        store.link_root(tmp_path / "result", kept)
        forget_roots(store)
        before = _used(store.store_dir)
        would = collect_garbage(store, GcOptions(dry_run=True))
        done = collect_garbage(store)
        assert {info.path for info in done.deleted} == {*gone, shares}
        assert done.freed == would.freed == before - _used(store.store_dir)
        assert done.links == would.links == 2 and len(list(store.links_dir.iterdir())) == 1


def _used(directory: Path) -> int:
    inodes = {}
    for place in directory.rglob("*"):
        status = place.lstat()
        inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


def test_old_failed_builds_and_logs_go(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "root") as store:
        alive = text(store, "alive.drv")
        store.link_root(tmp_path / "result", alive)
        dead = StorePath("0" * 32, "dead.drv")
        long_ago = time.time() - 40 * 86400
        for path in (alive, dead):
            log = store.log_file(path)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"log")
            os.utime(log, (long_ago, long_ago))
        for name, age in (("old", 8), ("new", 6)):
            place = store.failed_dir / f"{'1' * 32}-{name}.drv"
            (place / "build").mkdir(parents=True)
            os.utime(place, (time.time() - age * 86400,) * 2)
        forget_roots(store)
        done = collect_garbage(store)
        assert [place.name[33:] for place in done.failed] == ["old.drv"] and done.logs == (store.log_file(dead),)
        assert [place.name[33:] for place in store.failed_dir.iterdir()] == ["new.drv"]
        assert store.log_file(alive).exists() and not store.log_file(dead).exists()


# --- beside others, and when it is killed ---------------------------------------------------------------------------


def test_remains_of_the_killed_go_and_what_is_being_made_stays(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        half, busy = StorePath("1" * 32, "half"), StorePath("2" * 32, "busy")
        (store.store_dir / f"{half.basename}.chroot/store").mkdir(parents=True)
        store.physical(half).write_bytes(b"x" * 10_000)
        with store.lock(busy):
            staging = store.staging(busy)
            (staging / "made").write_text("half")
            assert collect_garbage(store).freed >= 10_000
            assert (staging / "made").exists() and not store.physical(half).exists()


def test_who_wants_a_root_waits_and_then_sees_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a path while a collector has decided about it gets it made anew."""
    with LocalStore(tmp_path) as store, LocalStore(tmp_path) as other:
        one = text(store, "one")
        forget_roots(store)
        begun = threading.Event()
        withdraw = collector._withdraw

        def ask() -> None:
            begun.set()
            answers.append(text(other, "one"))

        def slow(*args: object) -> None:
            threading.Thread(target=ask).start()
            begun.wait()
            time.sleep(0.3)
            assert not answers, "it waits"
            withdraw(*args)  # type: ignore[arg-type]

        answers: list[StorePath] = []
        monkeypatch.setattr(collector, "_withdraw", slow)
        assert [info.path for info in collect_garbage(store).deleted] == [one]
        deadline = time.monotonic() + 10
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answers == [one] and other.physical(one).read_text() == "one"


def test_a_second_collector_says_for_whom_it_waits(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        one = text(store, "one")
        forget_roots(store)
        events: list[Event] = []
        with exclusive_lock(store.state_dir / "gc.lock"):
            thread = threading.Thread(target=collect_garbage, args=(store, None, events.append))
            thread.start()
            deadline = time.monotonic() + 10
            while not events and time.monotonic() < deadline:
                time.sleep(0.01)
            assert store.valid([one])
        thread.join()
        (notice,) = [event for event in events if isinstance(event, Notice)]
        assert f"collected by pid {os.getpid()} (" in notice.text and not store.valid([one])


_KILLED = """
import os, sys
from pathlib import Path
from pgbake.store import collector
from pgbake.store.local import LocalStore
count = int(sys.argv[2])
def counted(function):
    def patched(*args, **kwargs):
        global count
        count -= 1
        if count < 0:
            os._exit(9)
        return function(*args, **kwargs)
    return patched
collector._BATCH = 2
os.rename = counted(os.rename)
collector.remove_tree = counted(collector.remove_tree)
Path.rename = counted(Path.rename)
with LocalStore(Path(sys.argv[1])) as store:
    invalidate = store.database.invalidate
    store.database.invalidate = counted(invalidate)
    collector.collect_garbage(store)
"""


def test_a_kill_at_any_step_leaves_only_what_the_next_one_removes(tmp_path: Path) -> None:
    for count in range(100):
        root = tmp_path / str(count)
        with LocalStore(root) as store:
            kept = text(store, "kept")
            (store.state_dir / "gcroots/kept").symlink_to(str(kept))
            last = kept
            for number in range(5):
                last = text(store, f"dead-{number}", last)
        status = subprocess.run([sys.executable, "-c", _KILLED, root, str(count)], check=False).returncode
        with LocalStore(root) as store:
            valid = store.database.paths()
            assert all(os.path.lexists(store.physical(path)) for path in valid), "what is valid is there"
            assert store.database.problems() == [] and kept in valid
            store.sweep()
            assert {place.name for place in store.store_dir.iterdir()} == {".links", *(p.basename for p in valid)}
            assert not list((store.state_dir / "scratch").iterdir())
            collect_garbage(store)
            assert store.database.paths() == [kept]
        if status == 0:
            assert count > 10, "it was killed at no step"
            return
    raise AssertionError("it never came to its end")


def test_a_store_that_can_only_be_read_is_not_collected(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        text(store, "one")
        store.read_only = "a test says so"
        with pytest.raises(StoreError, match="a test says so"):
            collect_garbage(store)
        assert collect_garbage(store, GcOptions(dry_run=True)).deleted == ()


_FULL = """
import sys
from pathlib import Path
from pgbake.store.collector import collect_garbage
from pgbake.store.local import LocalStore
from tests.unit.store.texts import text, tree
root = Path(sys.argv[1])
with LocalStore(root) as store:
    for number in range(300):
        text(store, f"text-{number}")
    tree(store, "large", {"file": b"x" * 100_000})
with (root / "ballast").open("wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(b"x" * 4096)
    except OSError:
        pass
with LocalStore(root, release_reserve=True) as store:
    done = collect_garbage(store)
    print(len(done.deleted), len(store.database.paths()), (store.state_dir / "db/reserved").exists())
(root / "ballast").unlink()
with LocalStore(root, release_reserve=True) as store:
    collect_garbage(store)
    print((store.state_dir / "db/reserved").stat().st_size)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_it_works_on_a_full_disk(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=32m none {tmp_path} && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    done = subprocess.run([*prefix, sys.executable, "-c", _FULL, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("301 0 ") and second == str(8 * 1024 * 1024)


def test_who_waits_for_a_collector_says_for_whom(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        told: list[str] = []
        store.temp_roots.on_wait = told.append
        lock = open_lock(store.state_dir / "gc.lock")
        acquire(lock)
        release = threading.Timer(0.3, os.close, [lock])
        release.start()
        begin = time.monotonic()
        store.temp_roots.add(StorePath("0" * 32, "wanted"))
        assert time.monotonic() - begin > 0.2
        assert told == [f"pid {os.getpid()} ({told[0].partition('(')[2]}"]
        release.join()


def test_statements_go_with_what_they_are_about(tmp_path: Path) -> None:
    with LocalStore(tmp_path) as store:
        path = text(store, "stated")
        directory = store.statements_dir / path.digest
        directory.mkdir(parents=True)
        (directory / "check.json").write_text("{}")
    with LocalStore(tmp_path) as store:
        collect_garbage(store, GcOptions(dry_run=True))
        assert directory.exists()
        assert [info.path for info in collect_garbage(store, GcOptions()).deleted] == [path]
        assert not directory.exists()
