"""Pushes to and pulls from binary caches, beside ``nix copy`` of Debian's Nix in the same run.

Both sides are whole commands, from their start to their end, on one file system; turns alternate, each begins with
nothing left to write to disk, and the best of each side counts. Both push the same paths, out of the very same store,
to empty caches, signed, with zstd; and pull each from the cache that it has written, into empty stores, with
signatures required. Memory is the peak of a command's largest process, and never seen to be less than this one's own.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

from bench.bench_tree import FILES
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.project import Project
from pgbake.store.local import LocalStore, remove_tree
from tests.cache import test_cache
from tests.closures import add_output, make_closure, secret_key
from tests.oracle import Oracle, unpacked_nix
from tests.projects import EXAMPLE, copy_store
from tests.s3 import S3Server, acting_as
from tests.web import FarProxy

TURNS = 3
BAR = 0.8
MEMORY_BAR = 150  # MB
BYTES = 400_000_000
SMALL_PATHS = 150
LATENCY = 0.005
FEWER = 3


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float
    megabytes: float


def run(command: list[str], environment: dict[str, str] | None = None) -> Run:
    """Run a command, with nothing left to write from what was before."""
    os.sync()
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command[-6:]} failed: {said.read().decode()[-3000:]}")
    return Run(seconds, usage.ru_maxrss / 1024)


class Bench:
    """A store with something to push, as pgbake's and as Nix's; caches and empty stores as they are wanted."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        (scratch / "source").mkdir()
        self.nix = Oracle(scratch / "source", unpacked_nix())
        copy_store(test_cache() / "store", scratch / "source")
        self.key = scratch / "key"
        self.key.write_text(secret_key().export())
        self.key.chmod(0o600)
        (scratch / "config/pgbake").mkdir(parents=True)
        (scratch / "config/pgbake/config.toml").write_text(f'[trust]\nkeys = ["{secret_key().public}"]\n')

    def pgbake(self, *args: str, store: str = "source") -> Run:
        """Run pgbake on a store."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "PGBAKE_STORE": str(self.scratch / store),
            "XDG_CACHE_HOME": str(self.scratch / "cache"),
            "XDG_CONFIG_HOME": str(self.scratch / "config"),
        }
        return run([sys.executable, "-m", "pgbake", "-C", str(self.scratch), *args], environment)

    def push(self, path: StorePath) -> Run:
        """Push to an empty cache."""
        self._remove("ours")
        return self.pgbake("push", "--to", f"file://{self.scratch}/ours", "--key", str(self.key), str(path))

    def nix_push(self, path: StorePath) -> Run:
        """Let Nix push to an empty cache."""
        self._remove("theirs")
        cache = f"file://{self.scratch}/theirs?compression=zstd&secret-key={self.key}"
        return run(self.nix.command("nix", "copy", "--to", cache, str(path), binds=[self.scratch]))

    def pull(self, path: StorePath) -> Run:
        """Pull into an empty store."""
        self._remove("target")
        LocalStore(self.scratch / "target").close()
        took = self.pgbake("pull", "--from", f"file://{self.scratch}/ours", str(path), store="target")
        with LocalStore(self.scratch / "target") as store:
            assert path in store.valid([path])
        return took

    def nix_pull(self, path: StorePath) -> Run:
        """Let Nix pull into an empty store."""
        self._remove("target")
        (self.scratch / "target").mkdir()
        nix = Oracle(self.scratch / "target", self.nix.tree)
        nix.run("nix-store", "--init")
        trusted = ["--option", "trusted-public-keys", str(secret_key().public)]
        cache = f"file://{self.scratch}/theirs"
        took = run(nix.command("nix", "copy", "--from", cache, *trusted, str(path), binds=[self.scratch]))
        nix.run("nix-store", "--query", "--hash", str(path))
        return took

    def _remove(self, name: str) -> None:
        remove_tree(self.scratch / name)


def compare(what: str, ours: Callable[[], Run], theirs: Callable[[], Run]) -> None:
    """Print the line of a comparison."""
    turns = [(ours(), theirs()) for _ in range(TURNS)]
    best = [min(run.seconds for run in column) for column in zip(*turns, strict=True)]
    most = [max(run.megabytes for run in column) for column in zip(*turns, strict=True)]
    print(
        f"{what}: {best[0]:.2f} s, nix copy {best[1]:.2f} s, ratio {best[0] / best[1]:.2f} (bar {BAR}); "
        f"peak memory {most[0]:.0f} MB (bar {MEMORY_BAR}), nix copy at most {most[1]:.0f} MB",
        flush=True,
    )


def fill_large(tree: Path, _own: StorePath) -> None:
    """Make the same tree each time: many small files, some large ones, that compress as programs do."""
    with get_context("spawn").Pool(1) as other:  # memory that this process has once held would count as its children's
        other.apply(_fill_large, (tree,))


def _fill_large(root: Path) -> None:
    rng = random.Random(1)
    words = [rng.randbytes(rng.randrange(2, 12)) for _ in range(40_000)]
    often = list(accumulate(1 / (rank + 2) for rank in range(len(words))))
    text = b"".join(rng.choices(words, cum_weights=often, k=6_000_000))
    root.mkdir()
    directories = [root]
    for number in range(FILES // 10):
        directories.append(rng.choice(directories) / f"directory-{number}")
        directories[-1].mkdir()
    weights = [rng.lognormvariate(0, 2.2) for _ in range(FILES)]
    total = sum(weights)
    for number, weight in enumerate(weights):
        left = int(weight / total * BYTES)
        with (rng.choice(directories) / f"file-{number}").open("wb") as file:
            while left > 0:
                start = rng.randrange(len(text) - 1_000_000)
                left -= file.write(text[start : start + min(left, 1_000_000)])


def pull_one_by_one(url: str, top: StorePath, root: Path) -> float:
    """Pull a closure with one request after the other, and return the seconds."""
    from pgbake.cache.cache import BinaryCache
    from pgbake.cache.compression import decompressed
    from pgbake.store.database import PathInfo

    os.sync()
    begin = time.perf_counter()
    cache = BinaryCache(url)
    wanted = [top]
    infos: dict[StorePath, NarInfo] = {}
    with LocalStore(root) as store:
        while wanted:
            path = wanted.pop()
            info = cache.narinfo(path)
            assert info is not None
            infos[path] = info
            wanted += [new for new in info.references if new not in infos and new not in wanted]
        for path, info in infos.items():
            with cache.objects.open(info.url) as source, decompressed(info.compression, source) as nar:
                store.receive(path, nar.read, lambda _made: None)
        store.register(
            [PathInfo(path, info.nar_sha256, info.nar_size, info.references) for path, info in infos.items()]
        )
    return time.perf_counter() - begin


def bench_far(bench: Bench) -> None:
    """Print what a bucket that is far away costs."""
    with LocalStore(bench.scratch / "source") as store:
        closure = make_closure(store, "far", leaves=SMALL_PATHS - 5, size=4000)
    top = str(closure.top)
    (bench.scratch / "s3").mkdir()
    server = S3Server(bench.scratch / "s3")
    try:
        with acting_as("admin"), FarProxy(server.address, 0) as near, FarProxy(server.address, LATENCY) as far:
            bench.pgbake("push", "--to", server.url(), "--key", str(bench.key), top)
            nothing = []
            for _ in range(TURNS):
                near.requests.clear()
                address = server.url(address=near.address)
                nothing.append(bench.pgbake("push", "--to", address, "--key", str(bench.key), top))
            print(
                f"nothing to push of {SMALL_PATHS} paths: {min(run.seconds for run in nothing):.2f} s (bar 0.1), "
                f"{len(near.requests)} requests (bar 1)"
            )
            turns = []
            for _ in range(TURNS):
                for name in ("target", "single"):
                    remove_tree(bench.scratch / name)
                    LocalStore(bench.scratch / name).close()
                remove_tree(bench.scratch / "cache")
                address = server.url(address=far.address)
                ours = bench.pgbake("pull", "--from", address, top, store="target").seconds
                turns.append((ours, pull_one_by_one(address, closure.top, bench.scratch / "single")))
    finally:
        server.kill()
    ours, single = (min(column) for column in zip(*turns, strict=True))
    print(
        f"pull of {SMALL_PATHS} small paths, {LATENCY * 1000:.0f} ms away: {ours:.2f} s, "
        f"one request at a time {single:.2f} s, {single / ours:.1f} times faster (bar {FEWER})"
    )


def main() -> None:
    """Print all lines."""
    # Not below /tmp, which may be no real disk.
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as directory:
        bench = Bench(Path(directory))
        with LocalStore(bench.scratch / "source") as store:
            closures = {f"{FILES} files": add_output(store, "large", fill_large, [])}
            bundle = Project(EXAMPLE).bundle(host_system()).path
            if bundle in store.valid([bundle]):
                closures["the example's bundle"] = bundle
        for what, path in closures.items():
            compare(f"push {what}", lambda path=path: bench.push(path), lambda path=path: bench.nix_push(path))  # type: ignore[misc]
            compare(f"pull {what}", lambda path=path: bench.pull(path), lambda path=path: bench.nix_pull(path))  # type: ignore[misc]
        bench_far(bench)
        shutil.rmtree(bench.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
