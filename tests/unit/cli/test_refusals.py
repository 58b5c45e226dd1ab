"""What caches have and nobody trusted has signed is built; it is told before hours of building, with what to type."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.statements import store_statement
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.statement import Statement
from pgbake.formats.system import host_system
from tests.projects import TestProject

KEY = SecretKey("a-1", bytes(32))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestProject:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    project = TestProject.copy(tmp_path / "project", tmp_path / "home")
    return dataclasses.replace(project, store=tmp_path / "store")


def plan(project: TestProject, trust: str, *keys: SecretKey, stated: bool = False) -> tuple[bool, str]:
    """Plan with a cache that has the bundle, signed by some keys; return whether it is pulled, and what is told.

    :param stated: they say that its checks have passed, too.
    """
    path = project.project.bundle(host_system()).path
    info = NarInfo(path, "nar/x.nar", "none", bytes(32), 120)
    info = dataclasses.replace(info, signatures=tuple(key.sign(info.fingerprint) for key in keys))
    cache = project.directory / "cache"
    cache.mkdir(exist_ok=True)
    (cache / f"{path.digest}.narinfo").write_text(info.to_text())
    if stated:
        said = Statement(path, info.nar_sha256, "check", {"result": "PASSED"})
        store_statement(BinaryCache(cache.as_uri()), said.sign(keys))
    manifest = project.directory / "pgbake.toml"
    manifest.write_text(f'{manifest.read_text()}\n[[cache]]\nurl = "{cache.as_uri()}"\n[trust]\n{trust}\n')
    done = subprocess.run(
        [sys.executable, "-m", "pgbake", "-C", str(project.directory), "plan", "--json"],
        env={**os.environ, **project.environment()}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return str(path) in [item["path"] for item in json.loads(done.stdout)["pull"]], done.stderr


def test_a_trusted_bundle_is_pulled(project: TestProject) -> None:
    assert plan(project, f'keys = ["{KEY.public}"]', KEY, stated=True) == (True, "")


def test_whoever_says_so_in_writing_takes_it_unchecked(project: TestProject) -> None:
    assert plan(project, f'keys = ["{KEY.public}"]\nstatements = []', KEY) == (True, "")


@pytest.mark.parametrize(
    ("trust", "keys", "problem", "hint"),
    [
        ("", (), "it bears no signature; no key is trusted", "cache sign"),
        ("", (KEY,), "it is signed by a-1; no key is trusted", 'keys = ["a-1:..."]'),
        (f'keys = ["{KEY.public}"]', (KEY,), "lacks the statement check", "statements = []"),
        (f'keys = ["{KEY.public}"]\nstatements = ["check"]', (KEY,), "lacks the statement check", "pushes it"),
    ],
)
def test_another_is_built_and_why_is_told(
    project: TestProject, trust: str, keys: tuple[SecretKey, ...], problem: str, hint: str
) -> None:
    pulled, told = plan(project, trust, *keys)
    assert not pulled
    warning, advice = told.splitlines()
    assert warning.startswith("warning: 1 path that caches have cannot be taken: ") and problem in warning
    assert advice.startswith("hint: ") and hint in advice
