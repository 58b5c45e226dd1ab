"""Each obstacle that `pgbake doctor` knows, made real, and named with what to type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree
from tests.projects import REPOSITORY
from tests.unit.cli.test_errors import Project

AS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not AS_ROOT, reason="needs root")

#: A mount namespace, in which a test may mount what it likes.
MOUNT = ("unshare", "--mount") if AS_ROOT else ("unshare", "--user", "--map-root-user", "--mount")


def in_shell(script: str, *args: str | Path, namespace: tuple[str, ...] = MOUNT) -> tuple[str, ...]:
    """Return a prefix that runs a command in a namespace after a script, whose arguments are $1, $2, ..."""
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.fail("no namespaces here") if os.environ.get("CI") == "true" else pytest.skip("no namespaces here")
    count = len(args)
    return (*namespace, "sh", "-ec", f'{script}; shift {count}; exec "$@"', "sh", *map(str, args))


class Examined:
    """An answer of the doctor."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in done.stderr, done.stderr
        self.status = done.returncode
        self.answer = json.loads(done.stdout)
        self.findings: dict[str, dict[str, Any]] = {f["name"]: f for f in self.answer["findings"]}
        assert self.status == (0 if self.answer["ok"] else 1)
        assert self.answer["ok"] == (not self.named("problem"))

    def named(self, state: str) -> set[str]:
        return {f["name"] for f in self.answer["findings"] if f["state"] == state}

    def problem(self, name: str) -> tuple[str, str]:
        """Return what was found, and what to type."""
        assert name in self.named("problem"), self.answer
        return self.findings[name]["found"], self.findings[name]["hint"]

    def warning(self, name: str) -> tuple[str, str]:
        assert name in self.named("warning"), self.answer
        return self.findings[name]["found"], self.findings[name]["hint"]


@pytest.fixture
def project() -> Iterator[Project]:
    """A project whose mirror is a directory, so that apt is not asked; all can reach it."""
    with tempfile.TemporaryDirectory(prefix="pgbake-doctor-") as directory:
        Path(directory).chmod(0o755)
        made = Project(Path(directory))
        suite = Path(directory, "mirror/dists/bookworm")
        suite.mkdir(parents=True)
        made.edit("[platform]", f'[platform]\nmirrors = ["file://{directory}/mirror"]')
        yield made
        remove_tree(made.store)


def doctor(
    project: Project, *prefix: str, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
) -> Examined:
    data = {"XDG_DATA_HOME": str(project.directory.parent / "data")}
    return Examined(
        project.run("doctor", "--json", *options, prefix=tuple(prefix), environment={**data, **(environment or {})})
    )


def everything_in(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*") if "doctor" not in path.name)


def test_where_nothing_stands_in_the_way(project: Project) -> None:
    before = everything_in(project.directory.parent)
    examined = doctor(project)
    assert examined.status == 0 and not examined.named("problem"), examined.answer
    groups = list(dict.fromkeys(f["group"] for f in examined.answer["findings"]))
    assert groups == ["This machine", "Programs", "Sandbox", "Store", "Files", "Debian"]
    assert {"system", "bubblewrap", "build sandbox", "store", "downloads"} <= examined.named("ok")
    assert all(f["hint"] for f in examined.answer["findings"] if f["state"] != "ok")
    assert everything_in(project.directory.parent) == before, "it only looks"


def test_the_answer_for_people(project: Project, tmp_path: Path) -> None:
    done = project.run("doctor", "--offline", environment={"PATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "  ✗ bubblewrap: not installed: bwrap" in lines
    assert lines[lines.index("  ✗ bubblewrap: not installed: bwrap") + 1] == (
        "      as root: apt-get install bubblewrap"
    )
    assert "problems in pgbake's way" in lines[-1]
    plain = project.run("doctor", "--offline", environment={"PYTHONIOENCODING": "ascii"})
    assert "  ok system: " in plain.stdout and "pgbake can work here" in plain.stdout.splitlines()[-1]


# --- programs ---------------------------------------------------------------------------------------


def test_missing_programs_are_named_with_their_packages(project: Project, tmp_path: Path) -> None:
    for program in ("apt-get", "gpgv"):
        (tmp_path / program).symlink_to("/bin/true")
    examined = doctor(project, environment={"PATH": str(tmp_path)})
    assert examined.problem("apt") == ("not installed: apt-cache, apt-config", "as root: apt-get install apt")
    assert examined.problem("bubblewrap") == ("not installed: bwrap", "as root: apt-get install bubblewrap")
    assert "gpgv" in examined.named("ok") and "build sandbox" in examined.named("problem")


def test_programs_that_do_not_run(project: Project, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    tmp_path.chmod(0o755)
    found, hint = doctor(project, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).problem("bubblewrap")
    assert "does not run" in found and "apt-get install --reinstall bubblewrap" in hint


@as_root
def test_a_setuid_bubblewrap(project: Project) -> None:
    own = project.directory.parent / "bin"
    own.mkdir()
    shutil.copy(str(shutil.which("bwrap")), own)
    (own / "bwrap").chmod(0o4755)
    found, hint = doctor(project, environment={"PATH": f"{own}:{os.environ['PATH']}"}).warning("bubblewrap")
    assert "setuid root" in found and hint.endswith(f"chmod u-s {own}/bwrap")


# --- the sandbox ------------------------------------------------------------------------------------

USER = ("unshare", "--user", "--map-root-user")


@pytest.mark.parametrize(("kind", "step"), [("user", "a user namespace"), ("net", "a network namespace")])
def test_namespaces_that_a_sysctl_forbids(project: Project, kind: str, step: str) -> None:
    forbid = in_shell(f"echo 0 > /proc/sys/user/max_{kind}_namespaces", namespace=USER)
    examined = doctor(project, *forbid)
    assert f"at {step}: " in examined.problem("build sandbox")[0]
    found, hint = examined.problem(f"user.max_{kind}_namespaces")
    assert found.startswith("is 0") and f"sysctl -w user.max_{kind}_namespaces=65536" in hint
    assert examined.named("problem") == {"build sandbox", f"user.max_{kind}_namespaces"}


def test_namespaces_that_are_all_in_use(project: Project) -> None:
    taken = """echo 1 > /proc/sys/user/max_user_namespaces; mkfifo $1
      unshare --user sh -c 'echo > $1; exec sleep 5' sh $1 > /dev/null 2>&1 &
      read -r line < $1"""
    wait = in_shell(taken, project.directory / "ready", namespace=USER)
    found, hint = doctor(project, *wait).problem("user.max_user_namespaces")
    assert found.startswith("is 1, and all are in use") and "user.max_user_namespaces=2" in hint


FILTER = (sys.executable, "-m", "tests.seccomp")
SOURCES = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_a_container_s_filter_of_system_calls(project: Project) -> None:
    examined = doctor(project, *FILTER, "mount", "--", environment=SOURCES)
    assert "at a user namespace: " in examined.problem("build sandbox")[0]
    found, hint = examined.problem("seccomp")
    assert "a filter of system calls is at work" in found and "--security-opt seccomp=unconfined" in hint


def test_a_filter_that_refuses_user_namespaces_only(project: Project) -> None:
    """Root's builds get on without."""
    examined = doctor(project, *FILTER, "newuser", "--", environment=SOURCES)
    of_its_kind = examined.warning if os.geteuid() == 0 else examined.problem
    assert "a user namespace" in of_its_kind("build sandbox")[0]
    found, hint = of_its_kind("seccomp")
    assert "a filter of system calls is at work" in found and "--security-opt seccomp=unconfined" in hint


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [
        ("kernel/unprivileged_userns_clone", "0", "as root: sysctl -w kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_parser -r /etc/apparmor.d/bwrap"),
    ],
)
def test_settings_of_other_kernels(project: Project, setting: str, value: str, hint: str) -> None:
    """The refusal is real, by a filter; the setting, which this kernel may not have, is shown as it would be."""
    script = "mount -t tmpfs none /proc/sys; mkdir /proc/sys/kernel /proc/sys/user; echo $2 > /proc/sys/$1"
    script += "; echo 1 > /proc/sys/user/max_user_namespaces"
    examined = doctor(project, *in_shell(script, setting, value), *FILTER, "newuser", "--", environment=SOURCES)
    found, typed = examined.problem(setting.replace("/", "."))
    assert found.startswith(f"is {value}: ") and hint in typed


@as_root
def test_a_masked_proc(project: Project) -> None:
    """As containers have it: parts of /proc are mounted over. Root's builds get on with plain namespaces."""
    examined = doctor(project, *in_shell("mount --bind -o ro /proc/sys /proc/sys"))
    assert "a new /proc is refused" in examined.warning("build sandbox")[0]
    found, hint = examined.warning("/proc")
    assert "/proc/sys" in found and "systempaths=unconfined" in hint


@as_root
def test_missing_device_nodes(project: Project) -> None:
    script = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/full c 1 9; mkdir /dev/shm"
    examined = doctor(project, *in_shell(script))
    assert "at a new /dev: " in examined.problem("build sandbox")[0]
    assert examined.problem("/dev/tty")[1] == "as root: mknod -m 666 /dev/tty c 5 0"
    assert "/dev/full" in examined.named("problem") and "/dev/null" not in examined.findings


@as_root
def test_a_chroot(project: Project) -> None:
    root = project.directory.parent / "root"
    root.mkdir()
    script = """cd $1; for x in /*; do
      if [ -L $x ]; then cp -P $x .$x; elif [ -d $x ]; then mkdir .$x; mount --rbind $x .$x; fi
    done"""
    enter = ("chroot", str(root), "env", "-C", str(REPOSITORY))
    _found, hint = doctor(project, *in_shell(script, root), *enter).problem("chroot")
    assert "systemd-nspawn" in hint


@as_root
def test_a_bubblewrap_that_build_users_cannot_reach(project: Project) -> None:
    own = project.directory.parent / "bin"
    own.mkdir(mode=0o700)
    shutil.copy(str(shutil.which("bwrap")), own)
    examined = doctor(project, environment={"PATH": str(own)})
    assert examined.problem(str(own)) == (
        "is closed to the users that builds run as", f"as root: chmod o+x {own}"
    )  # fmt: skip


def test_build_points_at_the_doctor(project: Project) -> None:
    error, hint = project.fails("build", prefix=(*FILTER, "mount", "--"), environment=SOURCES)
    assert "build sandbox cannot be made" in error and "`pgbake doctor`" in hint


# --- the store and other places ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "finding", "said", "typed"),
    [
        ("ro,size=50m", "store's disk", "is mounted read-only", "mount -o remount,rw "),
        ("noexec,size=50m", "store's disk: run programs", "Permission denied", "mount -o remount,exec "),
        ("noexec,size=50m", "store's disk: load libraries", "not permitted", "mount -o remount,exec "),
        ("size=60k", "store's disk: reserve space", "No space left", "free some space"),
    ],
)
def test_mount_options_of_the_store(project: Project, options: str, finding: str, said: str, typed: str) -> None:
    project.store.mkdir()
    found, hint = doctor(project, *in_shell(f"mount -t tmpfs -o {options},mode=755 none $1", project.store)).problem(
        finding
    )
    assert said in found and f"tmpfs at {project.store}" in found and typed in hint


@pytest.mark.parametrize(
    ("options", "said"),
    [("size=50m", "GB free on the tmpfs at "), ("size=9g,nr_inodes=500", "inodes of 100000 wanted")],
)
def test_a_small_disk_is_a_warning(project: Project, options: str, said: str) -> None:
    project.store.mkdir()
    examined = doctor(project, *in_shell(f"mount -t tmpfs -o {options},mode=755 none $1", project.store))
    assert examined.status == 0 and said in examined.warning("store's disk")[0]


def test_file_systems_that_are_too_simple(project: Project) -> None:
    """That of message queues has no directories, let alone links."""
    project.store.mkdir()
    done = subprocess.run(
        [*in_shell("mount -t mqueue none $1", project.store), "true"], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("this kernel mounts no mqueue here")
    examined = doctor(project, *in_shell("mount -t mqueue none $1", project.store))
    found, hint = examined.problem("store's disk")
    assert f"the mqueue at {project.store} is no place for files" in found and hint.startswith("put it on")


@as_root
def test_closed_directories(project: Project) -> None:
    project.directory.parent.chmod(0o700)
    examined = doctor(project)
    for name in ("build users", "servers' user"):
        found, hint = examined.problem(name)
        assert f"{project.directory.parent} is closed to others" in found
        assert f"chmod o+x {project.directory.parent}" in hint


@as_root
def test_somebody_else_s_store(project: Project) -> None:
    LocalStore(project.store).close()
    home = project.directory.parent / "home"
    home.mkdir()
    shutil.chown(home, 4242, 4242)
    user = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups")
    own = {"XDG_CACHE_HOME": str(home), "XDG_DATA_HOME": str(home), "HOME": str(home)}
    examined = doctor(project, *user, environment=own)
    found, hint = examined.problem("store")
    assert "belongs to root" in found and "--store DIR" in hint
    assert examined.warning("user")[0].startswith("uid 4242 has no name")
    closed = project.directory.parent / "closed"
    LocalStore(closed / "store").close()
    closed.chmod(0o700)
    found, hint = doctor(project, *user, environment=own | {"PGBAKE_STORE": f"{closed}/store"}).problem("store")
    assert f"{closed} is closed to you" in found and "--store DIR" in hint


def test_what_is_in_the_store_and_should_not_be(project: Project) -> None:
    with LocalStore(project.store) as store:
        paths = [store.add_text(StorePath(digit * 32, f"text{digit}"), b"text") for digit in "0123"]
        remove_tree(store.physical(paths[1]))
        store.physical(paths[2]).touch()
        (store.store_dir / "holiday.jpg").touch()
        (store.store_dir / f"{'9' * 32}-unregistered.lock").touch()
        (project.store / "nix/notes").mkdir()
    examined = doctor(project)
    assert examined.status == 0
    assert examined.warning("lost paths")[0].endswith(": text1")
    assert examined.warning("changed paths")[0].endswith(": text2")
    assert examined.warning(f"foreign files in {project.store}/nix/store")[0].startswith("holiday.jpg;")
    assert examined.warning(f"foreign files in {project.store}/nix")[0].startswith("notes;")
    assert (project.store / "nix/store/holiday.jpg").exists() and (project.store / "nix/notes").exists()


def test_a_store_of_another_schema_or_damaged(project: Project) -> None:
    LocalStore(project.store).close()
    database = project.store / "nix/var/nix/db"
    (database / "schema").write_text("99")
    assert "has schema 99" in doctor(project).problem("store")[0]
    (database / "schema").write_text("10")
    (database / "db.sqlite").write_bytes(b"not a database" * 1000)
    found, hint = doctor(project).problem("store")
    assert "file is not a database" in found and "pgbake repair" in hint


def test_shared_memory(project: Project) -> None:
    small = doctor(project, *in_shell("mount -t tmpfs -o size=64m none /dev/shm"))
    found, hint = small.warning("/dev/shm")
    assert found.startswith("has 67 MB") and "--shm-size=1g" in hint
    closed = doctor(project, *in_shell("mount -t tmpfs -o ro none /dev/shm"))
    assert closed.warning("/dev/shm")[0].startswith("cannot be written: Read-only file system")


# --- mirrors ----------------------------------------------------------------------------------------


class _Late(BaseHTTPRequestHandler):
    """A mirror whose clock is an hour ahead of ours."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        import time

        return super().date_time_string(time.time() + 3600)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_mirrors_that_do_not_answer_and_a_clock_that_is_wrong(project: Project) -> None:
    with HTTPServer(("127.0.0.1", 0), _Late) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        late = f"http://127.0.0.1:{server.server_port}"
        project.edit('mirrors = ["file', f'mirrors = ["{late}", "http://127.0.0.1:9", "file:///nowhere", "file')
        examined = doctor(project, environment={"no_proxy": "127.0.0.1"})
        server.shutdown()
    assert examined.status == 0 and late in examined.named("ok")
    found, hint = examined.warning("http://127.0.0.1:9")
    assert found.startswith("bookworm: ") and "Connection refused" in found and "mirrors" in hint
    assert "there is no /nowhere/dists/bookworm" in examined.warning("file:///nowhere")[0]
    (clock,) = [f for f in examined.answer["findings"] if f["name"] == "clock" and f["state"] == "warning"]
    assert clock["found"].startswith("is 60 minutes behind the mirrors'") and "timedatectl" in clock["hint"]
    assert "not asked" in doctor(project, options=("--offline",)).findings["mirrors"]["found"]


def test_without_any_mirror(project: Project) -> None:
    project.edit("mirrors = [", 'mirrors = ["gopher://example.org", ')
    found, hint = doctor(project).problem("mirrors")
    assert "gopher://example.org" in found and "write it as" in hint
