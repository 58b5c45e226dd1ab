from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import HostError, ManifestError
from pgbake.events import Event, Notice, silent
from pgbake.formats.keys import SecretKey, Signature, TrustedKeys
from pgbake.formats.narinfo import fingerprint
from pgbake.formats.storepath import StorePath
from pgbake.signing import VARIABLE, read_secret_key, secret_keys, sign_paths, write_secret_key
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

ONE, TWO = SecretKey("a-1", bytes(32)), SecretKey("a-2", bytes(32))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a-1.key"
    write_secret_key(file, ONE)
    return file


def test_a_key_file_is_its_owners_alone(file: Path) -> None:
    events: list[Event] = []
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == ONE.export() + "\n"
    assert read_secret_key(file, events.append) == ONE and not events
    assert list(file.parent.iterdir()) == [file]


def test_a_key_file_is_never_overwritten(file: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="never overwritten"):
        write_secret_key(file, TWO)
    assert read_secret_key(file, silent) == ONE
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HostError, match="never overwritten"):
        write_secret_key(tmp_path / "link", TWO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.key", "link"]


def test_a_key_that_others_read_is_told_of(file: Path) -> None:
    events: list[Event] = []
    file.chmod(0o644)
    assert read_secret_key(file, events.append) == ONE
    assert [event.text for event in events if isinstance(event, Notice)] == [
        f"others can read the secret key {file}: chmod 600 {file}"
    ]


@pytest.mark.parametrize("content", [b"", b"\xff", b"a-1:xxx", str(ONE.public).encode(), ONE.export().encode()[:-5]])
def test_what_is_no_key_is_one_error_that_shows_nothing_of_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=str(file)) as caught:
        read_secret_key(file, silent)
    assert caught.value.hint and ONE.export()[10:20] not in caught.value.message


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no"):
        read_secret_key(tmp_path / "none", silent)
    with pytest.raises(ManifestError, match="cannot read"):
        read_secret_key(tmp_path, silent)


def test_the_environment_serves_where_no_file_is_named(file: Path) -> None:
    environment = {VARIABLE: f"{ONE.export()}\n{TWO.export()}\n"}
    assert secret_keys([], silent, environment) == [ONE, TWO]
    assert secret_keys([file, file], silent, environment) == [ONE]
    assert secret_keys([], silent, {}) == secret_keys([], silent, {VARIABLE: " "}) == []
    with pytest.raises(ManifestError, match=VARIABLE):
        secret_keys([], silent, {VARIABLE: "a-1:x"})


def test_two_keys_of_one_name_do_not_sign_together(file: Path, tmp_path: Path) -> None:
    write_secret_key(tmp_path / "other", SecretKey("a-1", bytes(31) + b"\1"))
    with pytest.raises(ManifestError, match='bear the name "a-1"'):
        secret_keys([file, tmp_path / "other"], silent, {})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


def add(store: LocalStore, tmp_path: Path) -> StorePath:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    expected = hash_tree(tmp_path / "tree").sha256

    def fill(place: Path) -> None:
        place.mkdir()
        (place / "file").write_text("x")

    return store.add_source("x", expected, fill)


def test_signatures_are_joined(store: LocalStore, tmp_path: Path) -> None:
    path = add(store, tmp_path)
    assert sign_paths(store, [store.info(path)], [ONE]) == {path: 1}
    assert sign_paths(store, [store.info(path)], [ONE, TWO]) == {path: 1}
    assert sign_paths(store, [store.info(path)], [ONE, TWO]) == {path: 0}
    info = store.info(path)
    found = [Signature.parse(text) for text in info.signatures]
    message = fingerprint(path, info.nar_sha256, info.nar_size, info.references)
    assert [one.name for one in found] == ["a-1", "a-2"]
    assert TrustedKeys((ONE.public, TWO.public)).signers(message, found) == ("a-1", "a-2")


def test_what_is_not_valid_gains_no_signature(store: LocalStore) -> None:
    path = StorePath("0" * 32, hashlib.sha256(b"").hexdigest())
    store.database.add_signatures({path: ["a-1:x"]})
    assert store.database.info(path) is None
