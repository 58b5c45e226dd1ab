"""The local engine: what a build sees, what it leaves, and what a fault leaves behind. Real sandboxes."""

from __future__ import annotations

import bz2
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbake.build.engine import LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.build.wrapper import USUAL
from pgbake.errors import BuildError, HostError
from pgbake.events import Notice, PhaseChanged
from pgbake.formats.derivation import Derivation
from tests.integration.build.workshop import Workshop

pytestmark = pytest.mark.integration


def test_a_build_sees_what_is_declared_and_nothing_else(workshop: Workshop) -> None:
    need = workshop.derivation("echo needed > $out", name="need")
    workshop.build(need)
    derivation = workshop.derivation(
        """
        {
          echo "ids $(id -u) $(id -g) $(id -un)"
          echo "host $(uname -n)"
          echo "umask $(umask)"
          echo "build $(pwd) $(ls -A /build | wc -l)"
          echo "tmp $(ls -A /tmp | wc -l)"
          echo "interfaces $(tail -n +3 /proc/net/dev | wc -l)"
          echo "processes $(ls -d /proc/[0-9]* | wc -l)"
          (: > /usr/written) 2> /dev/null && echo "root is writable" || echo "root is read-only"
          (: > $need0) 2> /dev/null && echo "input is writable" || echo "input is read-only"
          echo "store" $(ls /nix/store)
          echo "stdin $(wc -c < /dev/stdin)"
        } > $out
        """,
        needs=(need,),
    )
    seen = dict(line.split(" ", 1) for line in workshop.build(derivation).read_text().splitlines())
    assert seen["ids"] == "1000 100 build"
    assert seen["host"] == "localhost"
    assert seen["umask"] == "0022"
    assert seen["build"] == "/build 0" and seen["tmp"] == "0"
    assert seen["interfaces"] == "1"  # a loopback that is down
    assert int(seen["processes"]) < 8
    assert seen["root"] == "is read-only" and seen["input"] == "is read-only"
    declared = {workshop.path(need), workshop.root, workshop.path(derivation)}  # the last is being written
    assert set(seen["store"].split()) == {path.basename for path in declared}
    assert seen["stdin"] == "0"


def test_the_environment_is_the_derivations_and_the_wrappers(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    derivation = workshop.derivation("env -0 > $out")
    seen = dict(entry.split("=", 1) for entry in workshop.build(derivation).read_text().split("\0") if entry)
    for name, value in {**derivation.env, **USUAL.environment}.items():
        assert seen.pop(name) == value, name
    # What make needs, and what bash sets by itself.
    assert set(seen) == {"MAKEFLAGS", "NIX_BUILD_CORES", "PWD", "SHLVL", "_"}


def test_outputs_are_what_nix_makes_of_them(workshop: Workshop) -> None:
    derivation = workshop.derivation(
        """
        mkdir -p $out/bin
        echo program > $out/bin/program; chmod 4755 $out/bin/program
        echo data > $out/data; chmod 666 $out/data
        ln -s bin/program $out/link
        echo "see $out" > $doc
        """,
        outputs=("out", "doc"),
    )
    out = workshop.build(derivation)
    for path, mode in ((out, 0o40555), (out / "bin/program", 0o100555), (out / "data", 0o100444)):
        status = path.lstat()
        assert (status.st_mode, status.st_mtime, status.st_uid) == (mode, 1, os.geteuid())
    assert (out / "link").lstat().st_mtime == 1
    doc = workshop.path(derivation, "doc")
    assert workshop.store.info(doc).references == {workshop.path(derivation)}
    assert workshop.store.info(workshop.path(derivation)).references == frozenset()
    assert workshop.store.info(doc).deriver == derivation.path and workshop.store.info(doc).ultimate
    assert not list(workshop.store.store_dir.glob("*.chroot")) and not list(workshop.store.store_dir.glob("*.lock"))


def test_only_what_is_named_is_a_reference(workshop: Workshop) -> None:
    named, unnamed = (
        workshop.derivation("echo 1 > $out", name="named"),
        workshop.derivation("echo 2 > $out", name="other"),
    )
    workshop.build(named)
    workshop.build(unnamed)
    derivation = workshop.derivation("echo $need0 > $out; cat $need1 > /dev/null", needs=(named, unnamed))
    workshop.build(derivation)
    assert workshop.store.info(workshop.path(derivation)).references == {workshop.path(named)}


def test_phases_and_log(workshop: Workshop) -> None:
    derivation = workshop.derivation(
        """
        echo '@nix {"action":"setPhase","phase":"paint"}' >&2
        echo one; echo two >&2; : > $out
        """
    )
    workshop.build(derivation)
    assert PhaseChanged("task", "paint") in workshop.events
    log = bz2.decompress(workshop.store.log_file(derivation.path).read_bytes()).decode()
    assert log == "--- phase: paint\none\ntwo\n"


def test_a_failure_tells_phase_last_lines_and_where_the_log_is(workshop: Workshop) -> None:
    derivation = workshop.derivation(
        """
        echo '@nix {"action":"setPhase","phase":"paint"}' >&2
        for i in $(seq 100); do echo line $i; done
        exit 3
        """
    )
    with pytest.raises(BuildError) as caught:
        workshop.build(derivation)
    assert caught.value.message == "thing failed to build in phase paint: the build exited with status 3"
    assert caught.value.detail and caught.value.detail.endswith("line 99\nline 100")
    assert caught.value.hint and str(workshop.store.log_file(derivation.path)) in caught.value.hint
    assert not workshop.store.valid([workshop.path(derivation)])
    assert not list(workshop.store.store_dir.glob("*.chroot"))


def test_a_build_that_fails_since_the_disk_is_full_says_so(workshop: Workshop) -> None:
    derivation = workshop.derivation(
        """
        echo '@nix {"action":"setPhase","phase":"paint"}' >&2
        echo much > /dev/full
        """
    )
    with pytest.raises(HostError) as caught:
        workshop.build(derivation)
    assert caught.value.message == "thing failed to build in phase paint: No space left on device"
    assert caught.value.hint and caught.value.hint.startswith("free disk space")
    assert caught.value.detail and "write error" in caught.value.detail


@pytest.mark.parametrize(
    ("script", "outputs", "error", "message"),
    [
        ("exit 0", ("out",), BuildError, "did not make its output out"),
        (": > $out", ("out", "doc"), BuildError, "did not make its output doc"),
        ("mkfifo $out", ("out",), Exception, "thing"),
        ("kill -9 $$", ("out",), BuildError, "failed to build"),
    ],
)
def test_what_is_no_output_is_refused(
    workshop: Workshop, script: str, outputs: tuple[str, ...], error: type[Exception], message: str
) -> None:
    derivation = workshop.derivation(script, outputs=outputs)
    with pytest.raises(error, match=message):
        workshop.build(derivation)
    assert not workshop.store.valid([workshop.path(derivation, output) for output in outputs])


_CHILD = """
import sys
from pathlib import Path
from pgbake.build.engine import LocalEngine
from pgbake.build.jobserver import JobServer
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
derivation = store.derivation(StorePath.parse(sys.argv[2]))
LocalEngine(store, JobServer(2), lambda event: print(event, flush=True)).build(derivation, "task")
"""


def start_child(workshop: Workshop, derivation: Derivation) -> subprocess.Popen[str]:
    """Build in a process of its own."""
    workshop.store.add_derivation(derivation)
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(workshop.store.root), str(derivation.path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def running(chroot: Path) -> str:
    """Return the processes of a sandbox."""
    return subprocess.run(["pgrep", "-f", str(chroot)], capture_output=True, text=True, check=False).stdout


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_pgbake_leaves_nothing_valid_and_no_process(workshop: Workshop) -> None:
    derivation = workshop.derivation("echo half > $out; sleep 100")
    child = start_child(workshop, derivation)
    chroot = workshop.store.physical(derivation.path).with_name(derivation.path.basename + ".chroot")
    made = chroot / "store" / workshop.path(derivation).basename
    wait_for(made.exists)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not workshop.store.valid([workshop.path(derivation)])

    wait_for(lambda: not running(chroot))
    # The next build of the same path finds the remains, removes them and is through.
    quick = workshop.derivation("echo whole > $out", name="quick")
    assert workshop.build(quick).read_text() == "whole\n"
    again = start_child(workshop, derivation)
    wait_for(lambda: made.exists() and made.read_text() == "half\n")
    again.send_signal(signal.SIGKILL)
    again.wait()


def test_a_pgbake_killed_while_a_sandbox_is_set_up_leaves_no_process(workshop: Workshop) -> None:
    """bubblewrap's processes end with their parents only once all of them are there: some 20 ms."""
    chroots: list[Path] = []
    for moment in range(8):
        derivation = workshop.derivation("sleep 100", name=f"sleeper-{moment}")
        chroot = workshop.store.physical(derivation.path).with_name(derivation.path.basename + ".chroot")
        child = start_child(workshop, derivation)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        while not (chroot / "build").exists() or not children.read_text():
            assert child.poll() is None
        time.sleep(0.003 * moment)
        child.send_signal(signal.SIGKILL)
        child.wait()
        chroots.append(chroot)
    wait_for(lambda: not any(map(running, chroots)))


def test_two_at_once_build_once_and_say_for_whom_they_wait(workshop: Workshop) -> None:
    derivation = workshop.derivation("echo $RANDOM$RANDOM > $out; sleep 2")
    child = start_child(workshop, derivation)
    chroot = workshop.store.physical(derivation.path).with_name(derivation.path.basename + ".chroot")
    wait_for(chroot.exists)
    begin = time.monotonic()
    workshop.build(derivation)
    assert time.monotonic() - begin > 0.5
    notices = [event.text for event in workshop.events if isinstance(event, Notice)]
    (notice,) = notices
    assert notice.startswith(f"thing is being built by pid {child.pid} (python -c ")
    assert notice.endswith("; waiting for it")
    assert child.wait() == 0
    assert not [event for event in workshop.events if isinstance(event, PhaseChanged)]


def test_cancel_ends_a_build_at_once(workshop: Workshop) -> None:
    derivation = workshop.derivation("sleep 100")
    jobs = JobServer(2)
    engine = LocalEngine(workshop.store, jobs, workshop.events.append)
    timer = threading.Timer(0.5, engine.cancel)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(BuildError):
        engine.build(derivation, "task")
    assert time.monotonic() - begin < 5
    timer.join()
    jobs.close()
