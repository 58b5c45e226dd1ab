"""Caches and keys: each thing that is wrong is named with its line; what a path must bear to be believed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from pgbake import trust
from pgbake.errors import CacheError, ManifestError
from pgbake.formats.digest import write_sha256
from pgbake.formats.keys import SecretKey, Signature, TrustedKeys
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath, text_path
from pgbake.manifest import Manifest, load_manifest
from pgbake.trust import CacheSetting, Settings, Trust, load_settings

MANIFEST = 'name = "a"\npostgresql = 15\n'
ONE, TWO = SecretKey("example-1", bytes(32)), SecretKey("example-2", bytes(32))
KEY, KEY_TWO = str(ONE.public), str(TWO.public)
OTHER = str(SecretKey("example-1", bytes(31) + b"\1").public)


def read(tmp_path: Path, text: str) -> Manifest:
    file = tmp_path / "pgbake.toml"
    file.write_text(MANIFEST + text)
    return load_manifest(file)


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/cache", "http://localhost:8080", "https://cache.example.org/a/b", "gs://bucket/a", "az://b/a",
        "s3://bucket/prefix?region=eu-central-1&endpoint=http://127.0.0.1:1", "http://[::1]:80/x",
    ],
)  # fmt: skip
def test_urls_of_caches(tmp_path: Path, url: str) -> None:
    assert read(tmp_path, f'[[cache]]\nurl = "{url}"\npriority = 10\npush = true\n').cache == (
        CacheSetting(url, 10, True),
    )


@pytest.mark.parametrize(
    ("text", "line", "problem", "hint"),
    [
        ('[[cache]]\nurl = "/srv/cache"\n', 4, "is no URL of a cache", "file:///DIR"),
        ('[[cache]]\nurl = "ftp://host/x"\n', 4, "is no URL of a cache", "s3://BUCKET"),
        ('[[cache]]\nurl = "http://"\n', 4, "is no URL of a cache", "http(s)://HOST"),
        ('[[cache]]\nurl = "http://[x"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "http://h:99999999"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "http://h/a b"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "http://h/\\n"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "s3:///prefix"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "file:"\n', 4, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "http://u@h/"\n', 4, "must not hold a user", "netrc"),
        ('[[cache]]\nurl = "http://:secret@h/"\n', 4, "must not hold a user", "netrc"),
        ('[[cache]]\nurl = "http://a"\n[[cache]]\nurl = "x"\n', 6, "is no URL of a cache", ""),
        ('[[cache]]\nurl = "http://a"\n[[cache]]\nurl = "http://a"\n', 6, "listed twice", ""),
        ('[[cache]]\nurl = "http://a"\npriority = -1\n', 5, "less than 0", ""),
        ('[[cache]]\nurl = "http://a"\nprioriti = 1\n', 5, 'unknown key "prioriti"', "priority"),
        ('[[cache]]\npush = true\n', None, '"url" is missing', ""),
        ('[cache]\nurl = "http://a"\n', 3, "cache: expected array", ""),
        (f'[trust]\nkeys = [\n  "{KEY}",\n  "{KEY_TWO}%",\n]\n', 6, '"example-2" is not whole', "keygen"),
        (f'[trust]\nkeys = ["{KEY}", "{KEY}"]\n', 4, "listed twice", ""),
        (f'[trust]\nkeys = [\n"{KEY}",\n"{OTHER}"]\n', 6, "two different keys bear", "example-2"),
        (f'[trust]\nkeys = ["{ONE.export()}"]\n', 4, "seems to be a secret key", ""),
        (f'[trust]\nkeys = "{KEY}"\n', 4, "expected array", "list"),
        ('[trust]\nrequire-signatures = "no"\n', 4, "expected bool", "true or false"),
        ('[trust]\nstatements = ["chek"]\n', 4, "is no kind of statement", "known: check"),
        ('[trust]\nkey = []\n', 4, 'unknown key "key" in [trust]', "keys"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, line: int | None, problem: str, hint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, text)
    said = f"{caught.value.message} {caught.value.hint}"
    assert problem in caught.value.message and hint in said
    assert caught.value.message.startswith(f"{tmp_path}/pgbake.toml:{line}: " if line else str(tmp_path))
    assert "secret@" not in said and ONE.export()[15:30] not in said


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The machine's and the user's configuration, not there yet."""
    found = tmp_path / "machine.toml", tmp_path / "user.toml"
    monkeypatch.setattr(trust, "configuration_files", lambda: found)
    return found


def settings(manifest: Manifest) -> Settings:
    return load_settings(manifest.cache, manifest.trust)


def test_nothing_said_trusts_nobody(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert load_settings() == settings(read(tmp_path, "")) == Settings((), Trust(TrustedKeys(), True, ("check",)))


def test_checks_are_demanded_unless_somebody_says_otherwise(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert settings(read(tmp_path, "[trust]\nstatements = []\n")).trust.statements == ()
    assert settings(read(tmp_path, "[trust]\nrequire-signatures = false\n")).trust.statements == ()
    files[0].write_text('[trust]\nstatements = ["check"]\n')
    demanding = settings(read(tmp_path, "[trust]\nstatements = []\n")).trust
    assert demanding.statements == ("check",)  # what the machine demands, no manifest takes back
    assert demanding.demands_checks and not demanding.unchecked().demands_checks


def test_what_files_say_is_joined(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_text(
        f'[[cache]]\nurl = "file:///machine"\n[[cache]]\nurl = "file:///a"\npriority = 9\n'
        f'[trust]\nkeys = ["{KEY}", "{KEY_TWO}"]\nstatements = ["check"]\n'
    )
    files[1].write_text(f'[[cache]]\nurl = "file:///user"\n[trust]\nkeys = ["{OTHER}"]\n')
    manifest = read(tmp_path, f'[[cache]]\nurl = "file:///a"\n[trust]\nkeys = ["{KEY}"]\nstatements = ["provenance"]\n')
    found = settings(manifest)
    assert [(cache.url, cache.priority) for cache in found.caches] == [
        ("file:///a", None), ("file:///machine", None), ("file:///user", None),
    ]  # fmt: skip
    assert list(map(str, found.trust.keys.keys)) == [KEY, KEY_TWO, OTHER]
    assert found.trust.statements == ("provenance", "check")
    assert found.trust.require_signatures
    assert [cache.url for cache in load_settings().caches] == ["file:///machine", "file:///a", "file:///user"]
    files[1].write_text("[trust]\nrequire-signatures = false\n")
    assert not load_settings().trust.require_signatures


def test_a_wrong_configuration_is_named(files: tuple[Path, Path]) -> None:
    files[1].write_text('[trust]\nkeys = ["x"]\n')
    with pytest.raises(ManifestError, match=f"{files[1]}:2: keys: this is no public key"):
        load_settings()


def test_where_the_configuration_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert trust.configuration_files() == (Path("/etc/pgbake/config.toml"), Path("/x/pgbake/config.toml"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert trust.configuration_files()[1] == Path("/h/.config/pgbake/config.toml")


INFO = NarInfo(StorePath("0" * 32, "x"), "nar/x.nar", "none", bytes(32), 120)


def signed(*keys: SecretKey) -> NarInfo:
    return dataclasses.replace(INFO, signatures=tuple(key.sign(INFO.fingerprint) for key in keys))


def test_whom_the_user_trusts_is_believed() -> None:
    check = Trust(TrustedKeys((ONE.public,))).check
    check(signed(ONE), "file:///c")
    check(signed(TWO, ONE), "file:///c")
    good = signed(ONE)
    wrong = Signature("example-1", bytes(64))
    check(dataclasses.replace(good, signatures=(wrong, *good.signatures)), "file:///c")
    Trust(require_signatures=False).check(INFO, "file:///c")


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (INFO, "it bears no signature; trusted: example-1"),
        (signed(TWO), "it is signed by example-2; trusted: example-1"),
        (dataclasses.replace(signed(ONE), nar_size=121), "its signature of example-1"),
        (dataclasses.replace(signed(ONE), references=frozenset({INFO.path})), "its signature of example-1"),
        (dataclasses.replace(INFO, ca=write_sha256(bytes(32)).join(["text:", ""])), "it bears no signature"),
    ],
)
def test_all_else_is_refused_with_what_to_type(info: NarInfo, problem: str) -> None:
    with pytest.raises(CacheError) as caught:
        Trust(TrustedKeys((ONE.public,))).check(info, "file:///c")
    assert str(info.path) in caught.value.message and "file:///c" in caught.value.message
    assert problem in caught.value.message and caught.value.hint


def test_no_key_at_all_is_told() -> None:
    with pytest.raises(CacheError, match="signed by example-1; no key is trusted") as caught:
        Trust().check(signed(ONE), "file:///c")
    assert caught.value.hint and 'keys = ["example-1:..."]' in caught.value.hint


def test_a_path_that_follows_from_its_contents_needs_no_signature() -> None:
    digest = hashlib.sha256(b"x").digest()
    info = dataclasses.replace(INFO, path=text_path("x", digest), ca=f"text:{write_sha256(digest)}")
    Trust().check(info, "file:///c")
