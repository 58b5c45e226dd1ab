"""The oracle itself: that it builds, sandboxed or not, and that a builder may use bubblewrap within."""

from __future__ import annotations

import os
import shutil

import pytest

from pgbake.formats import base32, storepath
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.formats.storepath import StorePath
from pgbake.store import tree
from pgbake.store.references import ReferenceScanner
from tests.oracle import Oracle, TextFile

pytestmark = pytest.mark.integration

SCRIPT = """
busybox mkdir "$out"
busybox id -u >"$out/uid"
echo "$dep" >"$out/reference"
busybox ls / >"$out/root"
"""


def make_root(oracle: Oracle) -> StorePath:
    """Add a small build root to the store: bubblewrap, its libraries, and a shell that needs none."""
    root = oracle.tmp("root")
    for place in ("usr/bin", "usr/lib", "nix/store", "dev", "proc", "build"):
        (root / place).mkdir(parents=True)
    shutil.copy(oracle.tree / "usr/bin/busybox", root / "usr/bin/busybox")
    shutil.copy(oracle.tree / "usr/bin/bwrap", root / "usr/bin/bwrap")
    [libraries] = (oracle.tree / "usr/lib").glob("*-linux-gnu")
    for pattern in ("ld-linux-*", "libc.so.6", "libcap.so.2", "libselinux.so.1", "libpcre2-8.so.0"):
        for library in libraries.glob(pattern):
            shutil.copy(library, root / "usr/lib" / library.name)
    added = StorePath.parse(oracle.run("nix-store", "--add", "/tmp/root").stdout.decode().strip())
    assert added == storepath.source_path("root", tree.hash_tree(root).sha256)
    return added


def no_inputs(_: StorePath) -> bytes:
    return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="builds need root")
@pytest.mark.parametrize("sandbox", ["true", "false"])
def test_a_build_with_bubblewrap_inside(oracle: Oracle, sandbox: str) -> None:
    root = make_root(oracle)
    [loader] = oracle.on_disk(f"{root}/usr/lib").glob("ld-linux-*")
    wrapper = ["--library-path", f"{root}/usr/lib", f"{root}/usr/bin/bwrap"]
    wrapper += ["--unshare-user", "--unshare-pid", "--uid", "1000", "--ro-bind", str(root), "/"]
    wrapper += [
        "--bind",
        "/nix/store",
        "/nix/store",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "/usr/bin/busybox",
        "sh",
        "-euc",
    ]
    drv = with_outputs(
        Derivation(
            name="built",
            outputs={"out": Output("")},
            input_drvs={},
            input_srcs=frozenset({root}),
            system=f"{os.uname().machine}-linux",
            builder=f"{root}/usr/lib/{loader.name}",
            args=(*wrapper, SCRIPT),
            env={"PATH": "/usr/bin", "dep": str(root)},
        ),
        no_inputs,
    )
    oracle.import_files([TextFile.of(drv)])
    built = oracle.run("nix-store", "--realise", str(drv.path), "--option", "sandbox", sandbox).stdout.decode().strip()
    assert built == drv.outputs["out"].path
    on_disk = oracle.on_disk(built)
    assert (on_disk / "uid").read_text() == "1000\n"
    assert (on_disk / "root").read_text().split() == ["build", "dev", "nix", "proc", "usr"]
    scanner = ReferenceScanner([root, drv.path, StorePath.parse(built)])
    hashed = tree.hash_tree(on_disk, [scanner.feed])
    told = oracle.run("nix-store", "--query", "--hash", built).stdout.decode().strip()
    assert told == f"sha256:{base32.encode(hashed.sha256)}"
    references = oracle.run("nix-store", "--query", "--references", built).stdout.decode().split()
    assert sorted(map(str, scanner.found)) == sorted(references) == [str(root)]
