"""``pgbake keygen`` and ``pgbake sign``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgbake.formats.keys import PublicKey, SecretKey, Signature, TrustedKeys
from pgbake.formats.narinfo import fingerprint
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

KEY = SecretKey("a-1", bytes(32))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def pgbake(home: Path, *args: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "PGBAKE_STORE": str(home / "store")}
    environment.pop("PGBAKE_SECRET_KEY", None)
    if key is not None:
        environment["PGBAKE_SECRET_KEY"] = key
    return subprocess.run(
        [sys.executable, "-m", "pgbake", *args], cwd=home, env=environment, capture_output=True, text=True, check=False
    )


def add(home: Path) -> StorePath:
    (home / "tree").write_text("x")
    expected = hash_tree(home / "tree").sha256

    def fill(place: Path) -> None:
        place.write_text("x")

    with LocalStore(home / "store") as store:
        return store.add_source("x", expected, fill)


def test_a_key_is_made_shown_and_kept(home: Path) -> None:
    made = pgbake(home, "keygen", "cache.example.org-1")
    public = PublicKey.parse(made.stdout.strip())
    file = home / "cache.example.org-1.key"
    assert public.name == "cache.example.org-1" and file.stat().st_mode & 0o777 == 0o600
    assert f'[trust]\nkeys = ["{public}"]\n' in made.stderr
    secret = file.read_text().partition(":")[2].strip()
    assert secret not in made.stdout + made.stderr
    shown = pgbake(home, "keygen", "--public", file.name)
    assert (shown.stdout, shown.stderr) == (f"{public}\n", "")
    answer = json.loads(pgbake(home, "keygen", "--public", file.name, "--json").stdout)
    assert answer == {"name": public.name, "public": str(public), "file": str(file)}
    again = pgbake(home, "keygen", "cache.example.org-1")
    assert again.returncode == 1 and "never overwritten" in again.stderr
    assert file.read_text().partition(":")[2].strip() == secret


@pytest.mark.parametrize("args", [[], ["a", "--public", "x"], ["--public", "x", "--out", "y"]])
def test_keygen_wants_a_name_or_a_file(home: Path, args: list[str]) -> None:
    done = pgbake(home, "keygen", *args)
    assert done.returncode == 2 and "Name the new key" in done.stderr


def test_paths_are_signed(home: Path) -> None:
    path = add(home)
    (home / "key").write_text(KEY.export())
    (home / "key").chmod(0o600)
    assert "would sign 1 of 1 path as a-1" in pgbake(home, "sign", "--key", "key", "--dry-run", str(path)).stdout
    with LocalStore(home / "store") as store:
        assert not store.info(path).signatures
    assert "signed 1 of 1 path as a-1" in pgbake(home, "sign", "--key", "key", str(path)).stdout
    with LocalStore(home / "store") as store:
        info = store.info(path)
    message = fingerprint(path, info.nar_sha256, info.nar_size, info.references)
    assert TrustedKeys((KEY.public,)).signers(message, map(Signature.parse, info.signatures)) == ("a-1",)
    answer = json.loads(pgbake(home, "sign", "--json", str(path), key=KEY.export()).stdout)
    assert answer == {"keys": ["a-1"], "signed": [], "present": [str(path)]}


@pytest.mark.parametrize("key", [None, "", "a-1:x", KEY.export()[:-4]])
def test_without_a_good_key_nothing_is_signed(home: Path, key: str | None) -> None:
    done = pgbake(home, "sign", str(add(home)), key=key)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "error: " in done.stderr and "hint: " in done.stderr
    assert KEY.export()[10:20] not in done.stderr
