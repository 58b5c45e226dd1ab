"""Two pgbakes that want the same thing: one does it, the other waits, says for whom, and takes over from a dead one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from pgbake.lock import load_lock, save_lock
from tests.integration.crash.driver import Process, unbuild, wait_until
from tests.projects import EXAMPLE, TestProject
from tests.unit.inputs.servers import Server

pytestmark = pytest.mark.integration

BUILD = ("--progress", "json", "build", "numeral")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("finishes", marks=pytest.mark.full),
        "is killed",
        pytest.param("second is interrupted", marks=pytest.mark.full),
    ],
)
def test_a_build(apart: TestProject, end: str) -> None:
    unbuild(apart, "numeral")
    first = Process(apart, BUILD)
    wait_until(lambda: first.built, "the first builds")
    with first.paused():
        second = Process(apart, BUILD)
        told = f"postgresql-15-numeral-1.3 is being built by pid {first.pid} (pgbake "
        wait_until(lambda: told in second.stderr, "the second waits")
        if end == "second is interrupted":
            second.process.send_signal(signal.SIGINT)
            assert second.wait(5) == 130 and "interrupted" in second.stderr
        if end == "is killed":
            first.kill()
    if end == "is killed":
        begin = time.monotonic()
        wait_until(lambda: second.built, "the second builds")
        assert time.monotonic() - begin < 3
        assert second.wait() == 0, second.stderr
        return
    if end == "second is interrupted":
        assert first.wait() == 0, first.stderr
        return
    assert first.wait() == 0 and second.wait() == 0, first.stderr + second.stderr
    assert len(first.built) == 1 and second.built == []


def test_a_download(apart: TestProject, cache: Path, mirror: Server) -> None:
    """The first waits for a silent server when it is killed; the second asks anew."""
    unbuild(apart, "numeral", sources=True)
    shutil.rmtree(cache / "pgbake/downloads")
    path = next(path for path in mirror.files if "numeral" in path)
    mirror.faults[path] = ["silent"]
    environment = {"XDG_CACHE_HOME": str(cache), "no_proxy": "127.0.0.1"}
    first = Process(apart, BUILD, environment)
    wait_until(lambda: mirror.asked, "the first asks")
    second = Process(apart, BUILD, environment)
    wait_until(lambda: f"numeral is being fetched by pid {first.pid} (pgbake " in second.stderr, "the second waits")
    first.kill()
    assert second.wait() == 0, second.stderr
    assert [asked for asked, _ in mirror.asked] == [path, path]


@pytest.mark.full
@pytest.mark.parametrize("killed", [False, True])
def test_a_build_root(apart: TestProject, killed: bool) -> None:
    unbuild(apart, roots=["merge"])
    args = ("--progress", "json", "build")
    first = Process(apart, args)
    wait_until(lambda: any((apart.store / "nix/store").glob("*merge.chroot")), "the first unpacks")
    with first.paused():
        second = Process(apart, args)
        told = f"build root merge is being unpacked by pid {first.pid} (pgbake "
        wait_until(lambda: told in second.stderr, "the second waits")
        if killed:
            first.kill()
    if not killed:
        assert first.wait() == 0, first.stderr
    assert second.wait() == 0, second.stderr
    assert len(first.built) + len(second.built) == 1


def test_a_server(apart: TestProject, data: Path) -> None:
    args = ("--progress", "json", "up", "--data", str(data / "one"), "--json")
    first = Process(apart, args)
    wait_until(lambda: (data / ".one.new").exists(), "the first makes the data directory")
    second = Process(apart, args)
    assert first.wait() == 0 and second.wait() == 0, first.stderr + second.stderr
    assert f"is being started or stopped by pid {first.pid} (pgbake " in second.stderr
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert (one["started"], other["started"]) == (True, False) and one["pid"] == other["pid"]


def test_a_port(apart: TestProject, data: Path) -> None:
    """The port that was free when it was chosen is taken when the server is to listen on it."""
    up = Process(apart, ("--progress", "json", "up", "--data", str(data / "one"), "--json"))
    wait_until(lambda: (data / ".one.new").exists(), "the data directory is being made")
    found = re.search(r"on port (\d+)", up.stderr)
    assert found, up.stderr
    port = int(found[1])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another test's server may have been faster still
            other.bind(("127.0.0.1", port))
            other.listen()
        assert up.wait() == 0, up.stderr
    assert f"port {port} was taken meanwhile: trying " in up.stderr
    started = json.loads(up.stdout)
    assert started["port"] != port
    assert [status["port"] for status in apart.json("status")] == [started["port"]]


@pytest.mark.full
def test_a_lock(apart: TestProject) -> None:
    """What the first has pinned is not lost when the second pins something else."""
    file = apart.directory / "pgbake.lock"
    lock = load_lock(file)
    old = {
        name: msgspec.structs.replace(lock.sources[name], version="0.1", sha256="0" * 64)
        for name in ("pgaudit", "plsh")
    }
    save_lock(msgspec.structs.replace(lock, sources={**lock.sources, **old}), file)
    first = Process(apart, ("--progress", "json", "lock", "--update", "pgaudit"))
    wait_until(lambda: "Started" in first.stderr, "the first is at work")
    second = Process(apart, ("--progress", "json", "lock", "--update", "plsh"))
    assert first.wait() == 0 and second.wait() == 0, first.stderr + second.stderr
    assert f"pgbake.lock is being made by pid {first.pid} (pgbake " in second.stderr
    assert file.read_text() == (EXAMPLE / "pgbake.lock").read_text()
