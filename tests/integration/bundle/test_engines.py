"""The local engine and a stock Nix give the same bits."""

from __future__ import annotations

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.oracle import Oracle

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("sandbox", ["true", "false"])
def test_nix_builds_an_extension_and_the_merge_alike(
    nix: Oracle, bundle: Bundle, store: LocalStore, sandbox: str
) -> None:
    derivations = bundle.by_name()
    for name in ("bundle", "pgvector"):
        # Whatever refers to it, such as an earlier bundle, goes with it.
        closure = nix.run("nix-store", "-q", "--referrers-closure", derivations[name].outputs["out"].path)
        nix.run("nix-store", "--delete", "--ignore-liveness", *closure.stdout.decode().split())
    for name in ("pgvector", "bundle"):
        derivation = derivations[name]
        out = derivation.outputs["out"].path
        assert not nix.on_disk(out).exists()
        built = nix.run("nix-store", "-r", str(derivation.path), "--option", "sandbox", sandbox)
        assert built.stdout.decode().strip() == out
        info = store.info(StorePath.parse(out))
        assert nix.run("nix-store", "-q", "--hash", out).stdout.decode().strip() == (
            f"sha256:{base32.encode(info.nar_sha256)}"
        )
        references = nix.run("nix-store", "-q", "--references", out).stdout.decode().split()
        assert references == sorted(str(path) for path in info.references)
