"""Keys, signatures, narinfos and content addresses beside real Nix's."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.digest import parse_sha256
from pgbake.formats.keys import PublicKey, SecretKey, Signature, TrustedKeys
from pgbake.formats.narinfo import CacheInfo, NarInfo, fingerprint
from pgbake.formats.storepath import StorePath
from pgbake.signing import sign_paths
from pgbake.store.local import LocalStore
from tests.oracle import Oracle

pytestmark = pytest.mark.integration

KEY = SecretKey("test-1", bytes(range(32)))


def lines(oracle: Oracle, *argv: str) -> list[str]:
    return oracle.run(*argv).stdout.decode().splitlines()


def built(oracle: Oracle) -> StorePath:
    """Build a path that bears a reference and does not certify itself."""
    oracle.tmp("built.nix").write_text(
        'derivation { name = "built"; system = builtins.currentSystem; builder = "/usr/bin/busybox";'
        ' args = ["sh" "-c" "echo ${builtins.toFile "dep" "x"} $out > $out"]; }'
    )
    return StorePath.parse(lines(oracle, "nix-build", "--no-out-link", "/tmp/built.nix")[0])


def narinfo(oracle: Oracle, cache: str, path: StorePath) -> NarInfo:
    return NarInfo.parse(oracle.tmp(f"{cache}/{path.digest}.narinfo").read_text())


def give_key(oracle: Oracle, key: SecretKey = KEY) -> str:
    file = f"/tmp/{key.name}.key"
    oracle.tmp(f"{key.name}.key").write_text(key.export())
    return file


def test_keys_of_nix_are_ours(shared_oracle: Oracle) -> None:
    oracle = shared_oracle
    secret = lines(oracle, "nix", "key", "generate-secret", "--key-name", "new-1")[0]
    public = oracle.run("nix", "key", "convert-secret-to-public", stdin=secret.encode()).stdout.decode().strip()
    assert SecretKey.parse(secret).public == PublicKey.parse(public)
    oracle.run("nix-store", "--generate-binary-cache-key", "old-1", "/tmp/old.key", "/tmp/old.pub")
    old = SecretKey.parse(oracle.tmp("old.key").read_text())
    assert old.public == PublicKey.parse(oracle.tmp("old.pub").read_text())
    assert old.export() == oracle.tmp("old.key").read_text().strip()
    ours = oracle.run("nix", "key", "convert-secret-to-public", stdin=KEY.export().encode()).stdout.decode()
    assert ours.strip() == str(KEY.public)


def test_nix_signs_as_we_do(shared_oracle: Oracle) -> None:
    oracle, path = shared_oracle, built(shared_oracle)
    file = give_key(oracle)
    oracle.run("nix", "copy", "--to", f"file:///tmp/signed?secret-key={file}", str(path))
    info = narinfo(oracle, "signed", path)
    assert path in info.references and len(info.references) == 2
    assert info.signatures == (KEY.sign(info.fingerprint),)
    oracle.run("nix", "store", "sign", "--key-file", file, str(path))
    assert str(info.signatures[0]) in lines(oracle, "nix", "path-info", "--sigs", str(path))[0].split()


@pytest.mark.parametrize("compression", ["none", "zstd", "xz", "bzip2", "gzip"])
def test_narinfos_of_nix_are_read(shared_oracle: Oracle, compression: str) -> None:
    oracle, path = shared_oracle, built(shared_oracle)
    cache = f"cache-{compression}"
    oracle.run("nix", "copy", "--to", f"file:///tmp/{cache}?compression={compression}", str(path))
    info = narinfo(oracle, cache, path)
    assert info.compression == compression and info.path == path
    assert oracle.tmp(f"{cache}/{info.url}").stat().st_size == info.file_size
    digest, size = (lines(oracle, "nix-store", "-q", option, str(path))[0] for option in ("--hash", "--size"))
    assert (parse_sha256(digest), int(size)) == (info.nar_sha256, info.nar_size)
    assert info.deriver == StorePath.parse(lines(oracle, "nix-store", "-q", "--deriver", str(path))[0])
    assert NarInfo.parse(info.to_text()) == info
    assert CacheInfo.parse(oracle.tmp(f"{cache}/nix-cache-info").read_text()) == CacheInfo()


def test_nix_reads_our_narinfo(shared_oracle: Oracle) -> None:
    """One written anew by us, signed by us, is taken by a Nix that requires signatures."""
    oracle, path = shared_oracle, built(shared_oracle)
    oracle.run("nix", "copy", "--to", "file:///tmp/ours", str(path))
    for file in oracle.tmp("ours").glob("*.narinfo"):
        info = NarInfo.parse(file.read_text())
        signed = dataclasses.replace(info, signatures=(KEY.sign(info.fingerprint),))
        file.write_text(signed.to_text())
    oracle.tmp("ours/nix-cache-info").write_text(CacheInfo(30, True).to_text())
    into = ["--store", "/tmp/other-store", "--from", "file:///tmp/ours"]
    oracle.run("nix", "copy", *into, "--option", "trusted-public-keys", str(KEY.public), str(path))
    shutil.rmtree(oracle.tmp(".cache"), ignore_errors=True)
    other = str(PublicKey("test-1", bytes(32)))
    into[1] = "/tmp/third-store"
    refused = oracle.run("nix", "copy", *into, "--option", "trusted-public-keys", other, str(path), check=False)
    assert refused.returncode != 0 and b"signature" in refused.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["--add"],
        ["--add-fixed", "sha256"],
        ["--add-fixed", "sha1"],
        ["--add-fixed", "md5"],
        ["--add-fixed", "sha512"],
        ["--add-fixed", "--recursive", "sha256"],
        ["--add-fixed", "--recursive", "sha1"],
        ["text"],
    ],
    ids=" ".join,
)
def test_content_addressed_paths_certify_themselves(shared_oracle: Oracle, argv: list[str]) -> None:
    oracle = shared_oracle
    oracle.tmp("hello").write_text("hello\n")
    if argv == ["text"]:
        oracle.tmp("text.nix").write_text('builtins.toFile "text" "of ${builtins.toFile "dep" "x"}"')
        path = StorePath.parse(
            lines(oracle, "nix-instantiate", "--eval", "--read-write-mode", "/tmp/text.nix")[0].strip('"')
        )
    else:
        path = StorePath.parse(lines(oracle, "nix-store", *argv, "/tmp/hello")[0])
    oracle.run("nix", "copy", "--to", "file:///tmp/ca", str(path))
    info = narinfo(oracle, "ca", path)
    assert info.ca is not None and info.certifies_itself
    assert bool(info.references) == (argv == ["text"])
    address = ContentAddress.parse(info.ca)
    other = dataclasses.replace(address, digest=bytes(len(address.digest)))
    assert other.path(path.name, info.references) != path


def test_a_built_path_does_not_certify_itself(shared_oracle: Oracle) -> None:
    path = built(shared_oracle)
    shared_oracle.run("nix", "copy", "--to", "file:///tmp/ca", str(path))
    assert not narinfo(shared_oracle, "ca", path).certifies_itself


def test_nix_finds_our_signatures_in_the_store(oracle: Oracle) -> None:
    path = built(oracle)
    with LocalStore(oracle.root) as store:
        assert set(sign_paths(store, store.closure([path]).values(), [KEY]).values()) == {1}
        info = store.info(path)
    assert TrustedKeys((KEY.public,)).signers(
        fingerprint(path, info.nar_sha256, info.nar_size, info.references), map(Signature.parse, info.signatures)
    )
    assert any(word.startswith("test-1:") for word in lines(oracle, "nix", "path-info", "--sigs", str(path))[0].split())
    verify = [
        "nix",
        "store",
        "verify",
        "--sigs-needed",
        "1",
        "--recursive",
        str(path),
        "--option",
        "trusted-public-keys",
    ]
    oracle.run(*verify, str(KEY.public))
    assert oracle.run(*verify, str(PublicKey("test-1", bytes(32))), check=False).returncode != 0
