from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from pgbake.errors import HostError, InputError
from pgbake.events import Event, Finished, Notice, Planned, Progressed, Started, silent
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.inputs.registry import Registry
from tests.unit.inputs.servers import Server

CONTENT = random.Random(1).randbytes(400_000)
PATH = "pool/main/a/a_1.0~b+c_all.deb"
ASKED = "pool/main/a/a_1.0~b%2Bc_all.deb"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbake.inputs.fetch._FIRST_PAUSE", 0.01)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "downloads"


def pin_of(content: bytes, path: str = PATH) -> Pin:
    return Pin("1.0~b+c", path, len(content), hashlib.sha256(content).hexdigest())


PIN = pin_of(CONTENT)


def mirrors(*bases: Server | str) -> Mirrors:
    return Mirrors(tuple(base if isinstance(base, str) else base.url for base in bases))


def part_of(downloads: Path, pin: Pin, content: bytes) -> Path:
    downloads.mkdir(parents=True, exist_ok=True)
    part = downloads / f"{pin.sha256}-{pin.filename}.part"
    part.write_bytes(content)
    return part


def assert_only(downloads: Path, *files: Path) -> None:
    assert sorted(downloads.iterdir()) == sorted(files)


def test_a_file_is_fetched_once_and_told_of(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    events: list[Event] = []
    got = fetch({"a": PIN}, mirrors(server), downloads, events.append)
    assert got == {"a": downloads / f"{PIN.sha256}-a_1.0~b+c_all.deb"}
    assert got["a"].read_bytes() == CONTENT
    assert events[0] == Planned("fetch", 1)
    assert events[1] == Started("fetch:a", "fetch", "a 1.0~b+c", len(CONTENT))
    assert isinstance(events[-1], Finished)
    assert (events[-1].id, events[-1].outcome) == ("fetch:a", "done")
    counts = [event.done for event in events if isinstance(event, Progressed)]
    assert counts == sorted(counts)
    assert counts[-1] == len(CONTENT)
    events.clear()
    assert fetch({"a": PIN}, mirrors(server), downloads, events.append) == got
    assert events == []
    assert len(server.asked) == 1
    assert_only(downloads, got["a"])


def test_labels_may_share_a_file(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    got = fetch({"a": PIN, "b": PIN}, mirrors(server), downloads, silent)
    assert got["a"] == got["b"]
    assert len(server.asked) == 1


def test_nothing_wanted_is_nothing_done(downloads: Path) -> None:
    events: list[Event] = []
    assert fetch({}, Mirrors(()), downloads, events.append) == {}
    assert events == []


def test_a_damaged_download_is_fetched_anew(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    path = fetch({"a": PIN}, mirrors(server), downloads, silent)["a"]
    path.write_bytes(bytes(len(CONTENT)))
    fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert path.read_bytes() == CONTENT


def test_many_files_at_once(server: Server, downloads: Path) -> None:
    pins: dict[str, Pin] = {}
    for number in range(40):
        content = random.Random(number).randbytes(number * 1000)
        server.files[f"pool/{number}"] = content
        server.faults[f"pool/{number}"] = ["slow"] if number % 2 else []
        pins[str(number)] = pin_of(content, f"pool/{number}")
    events: list[Event] = []
    got = fetch(pins, mirrors(server), downloads, events.append)
    assert {label: hashlib.sha256(path.read_bytes()).hexdigest() for label, path in got.items()} == {
        label: pin.sha256 for label, pin in pins.items()
    }
    assert events[0] == Planned("fetch", 40)
    assert sum(isinstance(event, Finished) and event.outcome == "done" for event in events) == 40


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_transient_status_is_tried_again(server: Server, downloads: Path, status: int) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = [status, status]
    fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert len(server.asked) == 3


def test_the_server_says_how_long_to_wait(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = [429]
    server.retry_after = "1"
    started = time.monotonic()
    fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_lasting_status_moves_on_to_the_next_mirror(
    server: Server, other_server: Server, downloads: Path, status: int
) -> None:
    server.faults[ASKED] = [status]
    server.files[ASKED] = other_server.files[ASKED] = CONTENT
    fetch({"a": PIN}, mirrors(server, other_server), downloads, silent)
    assert (len(server.asked), len(other_server.asked)) == (1, 1)


def test_a_cut_transfer_goes_on_where_it_ended(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    # More cuts than attempts: each brought something.
    server.faults[ASKED] = ["cut"] * 6
    path = fetch({"a": PIN}, mirrors(server), downloads, silent)["a"]
    assert path.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for _, asked in server.asked[1:]]
    assert starts == sorted(set(starts))
    assert starts[0] == len(CONTENT) // 2


def test_a_server_that_tells_no_length_may_be_cut_too(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = ["untold"]
    assert fetch({"a": PIN}, mirrors(server), downloads, silent)["a"].read_bytes() == CONTENT


def test_the_next_run_resumes(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    part_of(downloads, PIN, CONTENT[:1000])
    path = fetch({"a": PIN}, mirrors(server), downloads, silent)["a"]
    assert path.read_bytes() == CONTENT
    assert server.asked == [(ASKED, "bytes=1000-")]
    assert_only(downloads, path)


def test_a_part_that_is_whole_needs_no_server(server: Server, downloads: Path) -> None:
    part_of(downloads, PIN, CONTENT)
    fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert server.asked == []


@pytest.mark.parametrize("fault", ["whole", "shifted", 416])
def test_a_server_without_ranges_starts_anew(server: Server, downloads: Path, fault: str | int) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = [fault]
    part_of(downloads, PIN, CONTENT[:1000])
    assert fetch({"a": PIN}, mirrors(server), downloads, silent)["a"].read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"stale" * 100, bytes(len(CONTENT)), bytes(len(CONTENT) + 9)])
def test_a_wrong_beginning_is_not_held_against_the_mirror(server: Server, downloads: Path, stale: bytes) -> None:
    server.files[ASKED] = CONTENT
    part_of(downloads, PIN, stale)
    assert fetch({"a": PIN}, mirrors(server), downloads, silent)["a"].read_bytes() == CONTENT


def test_wrong_content_is_fatal_and_names_both_hashes(server: Server, other_server: Server, downloads: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    server.files[ASKED], other_server.files[ASKED] = wrong, CONTENT
    with pytest.raises(InputError, match="wrong content of a") as caught:
        fetch({"a": PIN}, mirrors(server, other_server), downloads, silent)
    assert f"{server.url}/{ASKED}" in caught.value.message
    assert caught.value.detail is not None
    assert PIN.sha256 in caught.value.detail
    assert hashlib.sha256(wrong).hexdigest() in caught.value.detail
    assert other_server.asked == []
    assert_only(downloads)


@pytest.mark.parametrize("wrong", [CONTENT + b"more" * 100_000, CONTENT[:10], b""])
def test_content_of_another_size_is_wrong(server: Server, downloads: Path, wrong: bytes) -> None:
    server.files[ASKED] = wrong
    with pytest.raises(InputError, match="wrong content of a") as caught:
        fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert str(PIN.size) in (caught.value.detail or "")
    assert_only(downloads)


def test_every_mirror_tried_is_named_with_its_status(
    server: Server, other_server: Server, downloads: Path, tmp_path: Path
) -> None:
    other_server.faults[ASKED] = [503] * 9
    bases = (
        server.url,
        other_server.url,
        "http://127.0.0.1:1/debian",
        "http://nowhere.invalid/debian",
        f"file://{tmp_path}",
    )
    events: list[Event] = []
    with pytest.raises(InputError, match="no mirror gave a") as caught:
        fetch({"a": PIN}, Mirrors(bases), downloads, events.append)
    lines = (caught.value.detail or "").splitlines()
    said = ("404", "503", "Connection refused", "nowhere.invalid", "no such file")
    assert len(lines) == len(bases)
    for line, base, status in zip(lines, bases, said, strict=True):
        assert line.startswith(base)
        assert status in line
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome == "failed"
    assert_only(downloads)


def test_files_gone_from_all_mirrors_suggest_a_new_lock(server: Server, downloads: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert "pgbake lock" in (caught.value.hint or "")


def test_a_crate_that_is_gone_is_taken_in_another_version_or_from_elsewhere(server: Server, downloads: Path) -> None:
    crate = Pin("1.0.0", "x/x-1.0.0.crate", 5, PIN.sha256, "crates")
    with pytest.raises(InputError, match=r"no mirror gave crate x 1\.0\.0") as caught:
        fetch({"crate x": crate}, Mirrors((), crates=Registry([server.url]).templates), downloads, silent)
    assert "`cargo update`" in (caught.value.hint or "") and "[platform] crates" in (caught.value.hint or "")
    with pytest.raises(InputError) as caught:
        fetch({"crate x": crate}, Mirrors((), crates=Registry(["http://nowhere.invalid"]).templates), downloads, silent)
    assert "network" in (caught.value.hint or "") and "[platform] crates" in (caught.value.hint or "")


def test_a_mirror_that_is_down_is_asked_last_from_then_on(server: Server, downloads: Path) -> None:
    pins: dict[str, Pin] = {}
    for number in range(30):
        server.files[f"pool/{number}"] = content = str(number).encode()
        pins[str(number)] = pin_of(content, f"pool/{number}")
    started = time.monotonic()
    fetch(pins, mirrors("http://nowhere.invalid/debian", server), downloads, silent, jobs=1)
    assert len(server.asked) == 30
    assert time.monotonic() - started < 10


def test_security_has_mirrors_of_its_own(server: Server, other_server: Server, downloads: Path) -> None:
    other_server.files[ASKED] = CONTENT
    pin = Pin(PIN.version, PIN.path, PIN.size, PIN.sha256, "security")
    fetch({"a": pin}, Mirrors((server.url,), (other_server.url,)), downloads, silent)
    assert server.asked == []
    with pytest.raises(HostError, match="security"):
        fetch({"a": pin}, Mirrors((server.url,)), downloads / "none", silent)


def test_a_mirror_on_disk(tmp_path: Path, downloads: Path) -> None:
    base = tmp_path / "my mirror"
    (base / PATH).parent.mkdir(parents=True)
    (base / PATH).write_bytes(CONTENT)
    part_of(downloads, PIN, CONTENT[:1000])
    assert fetch({"a": PIN}, mirrors(f"file://{base}"), downloads, silent)["a"].read_bytes() == CONTENT
    (base / PATH).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(InputError, match="wrong content"):
        fetch({"a": PIN}, mirrors(f"file://{base}"), tmp_path / "else", silent)


def test_an_error_ends_the_other_transfers(server: Server, downloads: Path) -> None:
    large = random.Random(2).randbytes(1_000_000)
    server.files["pool/silent"] = large
    server.faults["pool/silent"] = ["silent"]
    server.files["pool/slow"] = large
    server.faults["pool/slow"] = ["slow"] * 99
    pins = {"silent": pin_of(large, "pool/silent"), "slow": pin_of(large, "pool/slow"), "a": PIN}
    events: list[Event] = []
    started = time.monotonic()
    with pytest.raises(InputError, match="no mirror gave a"):
        fetch(pins, mirrors(server), downloads, events.append)
    assert time.monotonic() - started < 4
    outcomes = {event.id: event.outcome for event in events if isinstance(event, Finished)}
    assert outcomes["fetch:a"] == "failed"


def test_interrupt_ends_promptly_and_keeps_the_part(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = ["cut", "silent"]
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch({"a": PIN}, mirrors(server), downloads, silent)
    assert time.monotonic() - started < 4
    (part,) = downloads.iterdir()
    assert part.read_bytes() == CONTENT[: len(CONTENT) // 2]


#: Fetches the pins that stand as JSON on its input.
PROGRAM = """
import sys
from pathlib import Path
import msgspec
from pgbake.errors import PgbakeError
from pgbake.events import silent
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
base, downloads = sys.argv[1:]
try:
    fetch(msgspec.json.decode(sys.stdin.read(), type=dict[str, Pin]), Mirrors((base,)), Path(downloads), silent)
except PgbakeError as error:
    print(error.message)
"""


def test_threads_that_want_the_same_file_wait_without_a_word(server: Server, downloads: Path) -> None:
    server.files[ASKED] = CONTENT
    server.faults[ASKED] = ["slow"]
    events: list[Event] = []
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(fetch, {"a": PIN}, mirrors(server), downloads, events.append) for _ in range(3)]
        assert {made.result()["a"].read_bytes() for made in done} == {CONTENT}
    assert len(server.asked) == 1
    assert not [event for event in events if isinstance(event, Notice)]


def test_two_processes_fetch_the_same_file(server: Server, downloads: Path) -> None:
    pins: dict[str, Pin] = {}
    for number in range(8):
        content = random.Random(number).randbytes(200_000)
        server.files[f"pool/{number}"] = content
        server.faults[f"pool/{number}"] = ["slow", "slow"]
        pins[str(number)] = pin_of(content, f"pool/{number}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.url, downloads], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(pins))
        process.stdin.close()
    for process in processes:
        assert process.stdout is not None
        assert (process.stdout.read(), process.wait(60)) == (b"", 0)
    assert sorted(path.name for path in downloads.iterdir()) == sorted(
        f"{pin.sha256}-{pin.filename}" for pin in pins.values()
    )
    assert sorted(path for path, _ in server.asked) == sorted(pin.path for pin in pins.values())


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to mount a small disk in")
    content = bytes(3_000_000)
    (tmp_path / "a").write_bytes(content)
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    done = subprocess.run(
        [*namespace, "sh", "-c", mount, small, sys.executable, "-c", PROGRAM, f"file://{tmp_path}", small],
        input=msgspec.json.encode({"a": pin_of(content, "a")}).decode(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"the disk is full: {small}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_of_somebody_else_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HostError, match="cannot write"):
        fetch({"a": PIN}, Mirrors(("file:///",)), tmp_path / "downloads", silent)


def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot write"):
        fetch({"a": PIN}, Mirrors(("file:///",)), tmp_path / "file" / "downloads", silent)
