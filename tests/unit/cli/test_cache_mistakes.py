"""What users mistype about caches: each is one error with a hint that can be typed, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree
from tests.small_closures import add_path

COMMAND = [sys.executable, "-m", "pgbake"]


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGBAKE_", "XDG_", "AWS_"))}
    return {**kept, "HOME": str(home), "PGBAKE_STORE": str(home / "store")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("no directory")
    return home


@pytest.fixture
def path(home: Path) -> StorePath:
    (home / "tree").write_text("x")

    def fill(place: Path) -> None:
        place.write_text("x")

    with LocalStore(home / "store") as store:
        path = store.add_source("x", hash_tree(home / "tree").sha256, fill)
        store.link_root(home / "result", path)
    return path


def pgbake(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], cwd=home, env=environment(home), capture_output=True, text=True, check=False
    )


def refused(home: Path, *args: str) -> str:
    done = pgbake(home, *args)
    assert done.returncode in (1, 2) and done.stdout == ""
    *_, message, hint = done.stderr.splitlines()
    assert message.startswith("error: ") and hint.startswith("hint: "), done.stderr
    return f"{message}\n{hint}"


@pytest.mark.parametrize("command", ["info", "ls", "verify", "gc --keep x", "sign --remove x"])
def test_a_directory_that_is_not_there(home: Path, command: str) -> None:
    words = command.split()
    told = refused(home, "cache", words[0], *words[1:], "./typo")
    assert f"there is no cache in {home}/typo" in told and "push --to ./typo" in told
    assert not (home / "typo").exists()


@pytest.mark.parametrize("command", ["info", "ls", "verify"])
def test_a_file_is_no_cache(home: Path, command: str) -> None:
    assert "file: Not a directory" in refused(home, "cache", command, "./file")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("./file", "Not a directory"),
        ("/proc/nowhere", "there is no such place"),
        ("", "the URL of a cache is empty"),
        ("http://", "empty host"),
        ("local", "can only be pulled from"),
        ("http://127.0.0.1:1", "can only be read"),
    ],
)
def test_no_place_to_push_to(home: Path, path: StorePath, url: str, problem: str) -> None:
    assert problem in refused(home, "push", "--to", url, str(path))
    assert not (home / "local").exists()


def test_no_cache_to_pull_from(home: Path, path: StorePath) -> None:
    assert f"there is no cache in {home}/typo" in refused(home, "pull", "--from", "./typo", str(path))
    assert "nix/var/nix/db: No such file or directory" in refused(home, "pull", "--from", "local?root=/x", str(path))


def test_a_link_names_a_path(home: Path, path: StorePath) -> None:
    done = pgbake(home, "push", "--json", "--to", "./cache", "./result")
    assert json.loads(done.stdout)[0]["sent"] == [str(path)]
    assert "nolink is no store path" in refused(home, "push", "--to", "./cache", "./nolink")


def test_what_is_there_without_a_signature_is_told_again(home: Path) -> None:
    with LocalStore(home / "store") as store:
        path = add_path(store, "x")
    first = pgbake(home, "push", "--to", "./cache", str(path))
    again = pgbake(home, "push", "--to", "./cache", str(path))
    events = pgbake(home, "--progress", "json", "push", "--to", "./cache", str(path)).stderr.splitlines()
    assert [json.loads(event)["event"] for event in events] == ["Notice"]
    assert first.stderr.splitlines()[-2:] == again.stderr.splitlines()[-2:]
    assert "warning: nobody will take what bears no signature: 1 path" in again.stderr
    pgbake(home, "keygen", "a-1")
    # What the hint says.
    assert pgbake(home, "cache", "sign", "--key", "a-1.key", f"file://{home}/cache").returncode == 0
    assert pgbake(home, "push", "--to", "./cache", str(path)).stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_one_line(home: Path, number: signal.Signals) -> None:
    os.mkfifo(home / "archive")
    process = subprocess.Popen(
        [*COMMAND, "import", "./archive"], cwd=home, env=environment(home), stderr=subprocess.PIPE, text=True
    )
    with (home / "archive").open("wb"):  # it waits for the archive's begin
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told.strip()) == (130, "interrupted")
