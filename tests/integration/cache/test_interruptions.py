"""Commands that are killed, that meet each other, and that run out of disk: what is there is whole, always."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.verify import verify
from pgbake.errors import HostError, PgbakeError
from pgbake.events import silent
from pgbake.formats.narinfo import NarInfo
from pgbake.store.local import LocalStore
from tests.cache import scratch_directory
from tests.closures import make_closure
from tests.disks import SmallDisk
from tests.integration.cache.transfers import OURS, Place, check_directory, check_store

pytestmark = pytest.mark.integration

KB = 1024


@pytest.fixture
def seed() -> int:
    """Say PGBAKE_CRASH_SEED to repeat a run."""
    seed = int(os.environ.get("PGBAKE_CRASH_SEED", time.time_ns() % 1_000_000))
    print(f"PGBAKE_CRASH_SEED={seed}")
    return seed


def command(place: Place, *args: str, store: str = "source") -> subprocess.Popen[str]:
    """Start pgbake on one of the place's stores."""
    (place.directory / "config/pgbake").mkdir(parents=True, exist_ok=True)
    (place.directory / "config/pgbake/config.toml").write_text(f'[trust]\nkeys = ["{OURS.public}"]\n')
    variables = {
        "PGBAKE_STORE": str(place.directory / store),
        "PGBAKE_SECRET_KEY": OURS.export(),
        "XDG_CONFIG_HOME": str(place.directory / "config"),
        "XDG_CACHE_HOME": str(place.directory / "home-cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pgbake", *args],
        env={**os.environ, **variables},
        cwd=place.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole_so_far(cache: Path) -> None:
    """What was told of a moment ago is there, with all that it refers to."""
    for file in list(cache.glob("*.narinfo")):
        info = NarInfo.parse(file.read_text())
        assert (cache / info.url).stat().st_size == info.file_size
        assert all((cache / f"{reference.digest}.narinfo").exists() for reference in info.references)


def test_a_push_that_is_killed(place: Place, seed: int) -> None:
    rng = random.Random(seed)
    closure = make_closure(place.source, leaves=60, size=200_000)
    killed = 0
    for _ in range(8):
        process = command(place, "push", "--to", place.url, str(closure.top))
        while process.poll() is None and not any(place.cache.rglob("*.nar.zst")):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        if process.poll() is None:
            killed += 1
        process.send_signal(signal.SIGKILL)
        process.communicate()
        whole_so_far(place.cache)
        found = verify(BinaryCache(place.url), silent).findings
        assert {finding.kind for finding in found} <= {"index", "cache-info", "root"}, found
    assert killed
    process = command(place, "push", "--to", place.url, str(closure.top))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    for left in place.cache.rglob(".*#1"):  # the narinfo that was being written
        left.unlink()
    check_directory(place.cache, closure.paths)
    assert not verify(BinaryCache(place.url), silent).findings


def test_a_pull_that_is_killed(place: Place, seed: int) -> None:
    rng = random.Random(seed)
    closure = place.pushed(leaves=60, size=200_000)
    before: set[object] = set()
    for _ in range(6):
        process = command(place, "pull", "--from", place.url, str(closure.top), store="target")
        deadline = time.monotonic() + 0.25 + rng.uniform(0, 0.3)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        place.target.sweep()
        now = check_store(place.target)
        assert before <= now
        before = set(now)
    process = command(place, "pull", "--from", place.url, str(closure.top), store="target")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    check_store(place.target, closure.paths)


def test_two_pushes_and_a_pull_at_once(place: Place) -> None:
    """The reader gets a whole closure as soon as its top is told of; both writers' paths are in the index."""
    shared = make_closure(place.source, "shared", leaves=20, size=50_000)
    more = make_closure(place.source, "more", leaves=20, size=50_000)
    first = command(place, "push", "--to", place.url, str(shared.top), str(more.top))
    second = command(place, "push", "--to", place.url, str(more.top), str(shared.top))
    pulled = False
    while not pulled:
        running = first.poll() is None or second.poll() is None
        whole_so_far(place.cache)
        if place.narinfo_file(shared.top).exists():
            place.pull(shared)
            pulled = True
        assert pulled or running
    for process in (first, second):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    check_directory(place.cache, (*shared.paths, *more.paths))
    check_store(place.target, shared.paths)


def test_two_pulls_into_one_store_at_once(place: Place) -> None:
    one = make_closure(place.source, "one", leaves=30, size=50_000)
    place.push(one)
    processes = [
        command(place, "pull", "--from", place.url, str(path), store="target") for path in (one.top, one.library)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    check_store(place.target, one.paths)


def test_a_store_that_others_remove_from_meanwhile(place: Place) -> None:
    """A cache whose objects vanish while they are pulled: an error, or all of it."""
    closure = place.pushed(leaves=40, size=20_000)
    names = sorted(place.cache.glob("nar/*"))
    started = threading.Event()

    def remove() -> None:
        started.wait()
        for file in names[::2]:
            file.unlink()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        place.pull(closure, report=lambda _event: started.set())
    except PgbakeError as error:
        assert place.url in f"{error} {error.detail}"
        check_store(place.target)
    else:
        check_store(place.target, closure.paths)
    thread.join()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount the disk that is filled")
    with scratch_directory("disk") as directory:
        disk = SmallDisk(directory / "disk")
        yield disk
        disk.close()


def test_a_disk_full_in_the_middle_of_a_pull(place: Place, disk: SmallDisk) -> None:
    closure = place.pushed(leaves=20, size=300_000)
    with LocalStore(disk.place) as store:
        errors = []
        before: set[object] = set()
        for free in (0, 64 * KB, 400 * KB, 1500 * KB, 3000 * KB, 100_000 * KB):
            disk.resize(free)
            try:
                place.pull(closure, store=store)
            except HostError as error:
                errors.append(str(error))
                assert "No space left on device" in str(error) or "disk is full" in str(error)
                assert "space" in str(error.hint)
            disk.resize(100_000 * KB)
            now = check_store(store)
            assert before <= now
            before = set(now)
        assert len(errors) >= 3
        check_store(store, closure.paths)


def test_a_disk_full_in_the_middle_of_a_push(place: Place, disk: SmallDisk) -> None:
    closure = make_closure(place.source, leaves=20, size=300_000)
    cache = disk.place / "cache"
    cache.mkdir()
    (disk.place / "other").write_bytes(bytes(100 * KB))  # a tmpfs of size 0 would have no limit
    errors = []
    for free in (0, 64 * KB, 400 * KB, 3000 * KB, 100_000 * KB):
        disk.resize(free)
        try:
            place.push(closure, cache.as_uri())
        except HostError as error:
            errors.append(str(error))
            assert "No space left on device" in str(error) or "disk is full" in str(error)
            assert "space" in str(error.hint)
        disk.resize(100_000 * KB)
        check_directory(cache)
    assert len(errors) >= 3
    check_directory(cache, closure.paths)
