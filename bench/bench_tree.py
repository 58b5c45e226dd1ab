"""Hashing a file tree of 400 MB, beside ``nix-hash --type sha256 DIR`` on the same tree.

Run it as ``python -m bench.bench_tree``. Real Nix comes from ``tests/oracle.py``; it is started by its own loader,
without the oracle's namespaces, so that its time is that of ``nix-hash`` alone.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pgbake.store.tree import hash_tree
from tests.oracle import unpacked_nix

RUNS = 5
BAR = 1.5
FILES = 9000
BYTES = 400_000_000


def make_tree(root: Path) -> None:
    """Make the same tree each time: many small files, some large ones, one in ten names a symlink."""
    rng = random.Random(1)
    directories = [root]
    for number in range(FILES // 10):
        directories.append(rng.choice(directories) / f"directory-{number}")
        directories[-1].mkdir()
    weights = [rng.lognormvariate(0, 2.2) for _ in range(FILES)]
    total = sum(weights)
    for number, weight in enumerate(weights):
        path = rng.choice(directories) / f"file-{number}"
        path.write_bytes(rng.randbytes(int(weight / total * BYTES)))
        if number % 7 == 0:
            path.chmod(0o755)
        if number % 10 == 0:
            (rng.choice(directories) / f"link-{number}").symlink_to(path.name)


def nix_hash(nix: Path, root: Path) -> str:
    """Return what real Nix says, in hexadecimal."""
    [loader] = (nix / "usr/lib").glob("*-linux-gnu/ld-linux-*")
    libraries = f"{loader.parent}:{nix / 'usr/lib/nix'}"
    command = [loader, "--library-path", libraries, nix / "usr/bin/nix-hash", "--type", "sha256", root]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise SystemExit(f"nix-hash failed: {said.stderr}")
    return said.stdout.strip()


def seconds(work: Callable[[], object]) -> float:
    """Return how long one run takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the one line of the comparison: the best of several runs each, taken in turn."""
    nix = unpacked_nix()
    with tempfile.TemporaryDirectory(prefix="pgbake-bench-") as directory:
        root = Path(directory, "tree")
        root.mkdir()
        make_tree(root)
        if hash_tree(root).sha256.hex() != nix_hash(nix, root):
            raise SystemExit("the two disagree about the hash")
        times = [(seconds(lambda: hash_tree(root)), seconds(lambda: nix_hash(nix, root))) for _ in range(RUNS)]
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    print(f"hash tree: {ours:.2f} s, nix-hash {theirs:.2f} s, ratio {ours / theirs:.2f} (bar {BAR})")


if __name__ == "__main__":
    main()
