"""The local engine and a stock Nix give the same bits."""

from __future__ import annotations

import os

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.nixhost import forget
from tests.oracle import Oracle

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("sandbox", ["true", "false"])
def test_nix_builds_an_extension_and_the_merge_alike(
    nix: Oracle, bundle: Bundle, store: LocalStore, sandbox: str
) -> None:
    derivations = bundle.by_name()
    forget(nix, *(derivations[name].outputs["out"].path for name in ("bundle", "pgvector")))
    for name in ("pgvector", "bundle"):
        derivation = derivations[name]
        out = derivation.outputs["out"].path
        built = nix.run("nix-store", "-r", str(derivation.path), "--option", "sandbox", sandbox)
        assert built.stdout.decode().strip() == out
        info = store.info(StorePath.parse(out))
        assert nix.run("nix-store", "-q", "--hash", out).stdout.decode().strip() == (
            f"sha256:{base32.encode(info.nar_sha256)}"
        )
        references = nix.run("nix-store", "-q", "--references", out).stdout.decode().split()
        assert references == sorted(str(path) for path in info.references)


@pytest.mark.full
def test_nix_builds_every_package_alike(nix: Oracle, bundle: Bundle, store: LocalStore) -> None:
    outputs = [path for derivation in bundle.by_name().values() for path in derivation.output_paths.values()]
    forget(nix, *map(str, outputs))
    cores = str(len(os.sched_getaffinity(0)))
    nix.run("nix-store", "-r", str(bundle.derivation.path), "--option", "sandbox", "true", "--cores", cores)
    for path in outputs:
        info = store.info(path)
        known = nix.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
        assert known == f"sha256:{base32.encode(info.nar_sha256)}", path.name
        references = nix.run("nix-store", "-q", "--references", str(path)).stdout.decode().split()
        assert references == sorted(str(reference) for reference in info.references), path.name
