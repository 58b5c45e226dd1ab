"""The engine ``nix``: a real Nix at ``/nix`` builds what pgbake asks for, and pgbake writes nothing there by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.keys import SecretKey
from pgbake.store.local import LocalStore
from tests.integration.build.test_failures import change_numeral
from tests.nixhost import NixHost, forget
from tests.oracle import Oracle
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture
def host(nix: Oracle, tmp_path: Path) -> NixHost:
    return NixHost(nix, tmp_path)


def test_what_is_built_is_what_the_local_engine_builds(
    host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore
) -> None:
    goals = [bundle.by_name()[name] for name in ("pgvector", "bundle")]
    forget(host.oracle, *(goal.outputs["out"].path for goal in goals))
    done = host.pgbake(project, "build")
    assert done.stdout.strip() == str(bundle.path)
    assert "building postgresql-15-pgvector" in done.stderr and "built postgresql-15-pgvector" in done.stderr
    for goal in goals:
        path = goal.output_paths["out"]
        known = host.oracle.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
        assert known == f"sha256:{base32.encode(store.info(path).nar_sha256)}"
    # What ./result points at is a root of Nix's.
    dead = host.oracle.run("nix-store", "--gc", "--print-dead", binds=[project.directory]).stdout.decode().split()
    assert str(bundle.path) not in dead
    assert host.pgbake(project, "build").stderr == ""


def test_checks_run_in_it(host: NixHost, project: TestProject) -> None:
    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    # A text that no run before has had, for the copied store keeps results.
    (uses / "pgvector.sql").write_text(f"-- {uuid4()}\nSELECT '[1,2]'::vector <-> '[1,3]' = 1;\n")
    (outcome,) = json.loads(host.pgbake(project, "check", "smoke/pgvector", "--json").stdout)
    assert outcome["state"] == "passed" and outcome["tests"]


def test_a_build_that_fails_tells_its_phase_and_its_end(host: NixHost, project: TestProject) -> None:
    change_numeral(project, "COPT=-include /usr/include/no-such-header.h")
    failed = host.pgbake(project, "build", "numeral", check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "fatal error: /usr/include/no-such-header.h: No such file or directory" in failed.stderr
    assert "error: postgresql-15-numeral-1.3 failed to build in phase build: " in failed.stderr
    assert "hint: the whole log: pgbake log numeral" in failed.stderr
    assert "no-such-header.h" in host.pgbake(project, "log", "numeral").stdout


def test_what_is_nixs_to_do_is_refused(host: NixHost, project: TestProject) -> None:
    for args in (["gc"], ["repair"], ["optimise"], ["sign", "--dry-run"]):
        done = host.pgbake(project, *args, check=False)
        assert done.returncode == 1 and "belongs to Nix" in done.stderr and "nix-store --gc" in done.stderr, args
    assert "engine: nix" in host.pgbake(project, "doctor", "--offline", check=False).stdout


def test_nothing_of_it_is_written_but_by_nix(
    host: NixHost, project: TestProject, bundle: Bundle, tmp_path: Path
) -> None:
    """Of all that pgbake does in a build, a check and a look at the log, strace sees no call that changes /nix.

    Elsewhere in these tests /nix is read-only for it; here it may be written, and is not.
    """
    goal = bundle.by_name()["numeral"]
    forget(host.oracle, *map(str, goal.output_paths.values()))
    calls = "%file,write,writev,pwrite64,pwritev,fallocate,fchmod,fchown,fsetxattr,ftruncate"
    trace = ["strace", "-f", "-qq", "-y", "-s", "300", "-e", f"trace={calls}", "-o"]
    commands = {
        "build": ("build", "numeral"),
        "check": ("check", "--again", "smoke/numeral"),
        "log": ("log", "numeral"),
    }
    with host.daemon():
        for name, args in commands.items():
            host.pgbake(project, *args, around=[*trace, str(tmp_path / name)], writable=True)
    assert all(host.oracle.on_disk(str(path)).exists() for path in goal.output_paths.values())
    for name in commands:
        seen = (tmp_path / name).read_text()
        assert '"/nix/' in seen
        assert not [line for line in seen.splitlines() if writes_to_nix(line)], name


_CHANGES = re.compile(
    r"^\d+ +(chmod|chown|lchown|fchmodat2?|fchownat|creat|link(at)?|mkdir(at)?|mknod(at)?|rename(at2?)?|rmdir|"
    r"truncate|unlink(at)?|utime|utimes|utimensat|l?setxattr|l?removexattr)\(.*\"/nix/"
)
#: Where the link lies counts, and not what it points at.
_LINKS = re.compile(r'^\d+ +symlink(at)?\("[^"]*", (AT_FDCWD(<[^>]*>)?, |\d+<[^>]*>, )?"/nix/')
_WRITES = re.compile(r"^\d+ +(write|writev|pwrite64|pwritev|fallocate|fchmod|fchown|fsetxattr|ftruncate)\(\d+</nix/")
#: SQLite makes root, whose they are, the owner of the files that readers and writers share.
_NO_CHANGE = re.compile(r"\d+ +fchown\(\d+</nix/var/nix/db/db\.sqlite-(wal|shm)>, 0, 0\)")
#: A reader of SQLite's opens this file so; that nothing is written to it is seen by the other calls.
_OPENS = re.compile(
    r'\d+ +open(at)?\((AT_FDCWD(<[^>]*>)?, )?"/nix/(?!var/nix/db/db\.sqlite-wal)[^"]*", '
    r"[^)]*\b(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC)\b"
)


def writes_to_nix(call: str) -> bool:
    """Whether a line of strace's is a call that would change something below /nix."""
    return not _NO_CHANGE.match(call) and any(pattern.match(call) for pattern in (_CHANGES, _LINKS, _WRITES, _OPENS))


def test_it_is_seen_when_something_is_written() -> None:
    assert writes_to_nix('12 openat(AT_FDCWD</tmp>, "/nix/var/nix/db/db.sqlite", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3')
    assert writes_to_nix('12 symlinkat("/a", AT_FDCWD, "/nix/var/nix/gcroots/auto/x") = 0')
    assert writes_to_nix('12 pwrite64(6</nix/var/nix/db/db.sqlite-wal>, "", 32, 0) = 32')
    assert not writes_to_nix('12 openat(AT_FDCWD, "/nix/var/nix/db/db.sqlite", O_RDONLY|O_CLOEXEC) = 3')
    assert not writes_to_nix('12 symlink("/nix/store/x", "/tmp/result") = 0')
    assert not writes_to_nix('12 rename("/tmp/a", "/tmp/b") = 0')
    assert not writes_to_nix('12 write(4<socket:[99]>, "/nix/store", 10) = 10')


def test_a_second_build_is_made_outside_of_its_store(host: NixHost, project: TestProject) -> None:
    told = json.loads(host.pgbake(project, "build", "--rebuild", "--json", "numeral").stdout)
    assert told["same"] and {output["package"] for output in told["outputs"]} == {"numeral"}


def test_a_second_build_that_differs(host: NixHost, project: TestProject) -> None:
    change_numeral(project, "COPT=-g -Wl,--build-id=0x$(shell date +%s)00")
    done = host.pgbake(project, "build", "--rebuild", "--keep-failed", "--json", "numeral", check=False)
    assert done.returncode == 1, done.stderr
    (kept,) = {output["kept"] for output in json.loads(done.stdout)["outputs"] if not output["same"]}
    assert Path(kept).is_dir() and not kept.startswith("/nix/")


def test_what_a_failed_build_leaves_is_kept_by_nix(host: NixHost, project: TestProject) -> None:
    change_numeral(project, "COPT=-include /usr/include/no-such-header.h")
    failed = host.pgbake(project, "build", "--keep-failed", "numeral", check=False)
    kept = re.search(r"Nix keeps its directory: (/\S+)", failed.stderr)
    assert failed.returncode == 1 and kept, failed.stderr
    assert host.oracle.on_disk(kept[1]).is_dir()
    entered = host.pgbake(project, "enter", "numeral", "true", check=False)
    assert entered.returncode == 1 and "Nix builds it, and keeps what fails by itself" in entered.stderr
    assert "pgbake --engine local build --keep-failed numeral" in entered.stderr


def test_checks_run_again(host: NixHost, project: TestProject) -> None:
    def states(*args: str) -> list[str]:
        told = json.loads(host.pgbake(project, "check", *args, "smoke/pgvector", "--json").stdout)
        return [outcome["state"] for outcome in told]

    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    (uses / "pgvector.sql").write_text(f"-- {uuid4()}\nSELECT '[1,2]'::vector <-> '[1,3]' = 1;\n")
    assert states() == ["passed"]
    assert states() == ["kept"]
    assert states("--again") == ["passed"]
    (uses / "pgvector.sql").write_text(f"-- {uuid4()}\nSELECT '[1,2]'::vector <-> '[1,3]' = 2;\n")
    failed = host.pgbake(project, "check", "smoke/pgvector", check=False)
    assert failed.returncode == 1 and "1 of 1 check failed: smoke/pgvector" in failed.stderr


def test_what_it_pushed_is_pulled_into_it(host: NixHost, project: TestProject, bundle: Bundle, tmp_path: Path) -> None:
    """By root, without a daemon; the signatures come along."""
    goal = bundle.by_name()["numeral"]
    out = goal.outputs["out"].path
    before = host.oracle.run("nix-store", "-q", "--hash", out).stdout
    cache, key = (tmp_path / "cache").as_uri(), SecretKey("engine-1", bytes(range(32)))
    secret = {"PGBAKE_SECRET_KEY": key.export()}
    host.pgbake(project, "push", "--unchecked", "--to", cache, out, environment=secret)
    forget(host.oracle, *map(str, goal.output_paths.values()))
    manifest = project.directory / "pgbake.toml"
    manifest.write_text(f'{manifest.read_text()}\n[trust]\nkeys = ["{key.public}"]\nstatements = []\n')
    host.pgbake(project, "pull", "--from", cache, "--no-link", out)
    assert host.oracle.run("nix-store", "-q", "--hash", out).stdout == before
    trusting = ("--option", "trusted-public-keys", str(key.public))
    host.oracle.run("nix", "store", "verify", "--no-contents", *trusting, out)


def test_a_pull_that_breaks_leaves_nothing(host: NixHost, project: TestProject, bundle: Bundle, tmp_path: Path) -> None:
    goal = bundle.by_name()["numeral"]
    out = goal.output_paths["out"]
    cache = tmp_path / "cache"
    host.pgbake(project, "push", "--unchecked", "--to", cache.as_uri(), str(out))
    (narinfo,) = cache.glob(f"{out.basename[:32]}.narinfo")
    (name,) = re.findall(r"^URL: (.*)$", narinfo.read_text(), re.MULTILINE)
    nar = cache / name
    nar.write_bytes(nar.read_bytes()[:-40])
    forget(host.oracle, *map(str, goal.output_paths.values()))
    args = ("pull", "--from", cache.as_uri(), "--no-link", "--no-check-sigs", str(out))
    done = host.pgbake(project, *args, check=False, environment={"TMPDIR": str(tmp_path)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not host.oracle.on_disk(str(out)).exists() and not list(tmp_path.glob("pgbake-*"))


def test_without_it_nothing_of_it_is_needed(apart: TestProject, bundle: Bundle, tmp_path: Path) -> None:
    """The local engine starts no program of Nix's, and looks for no daemon."""
    uses = apart.directory / "tests/uses"
    uses.mkdir(parents=True)
    (uses / "numeral.sql").write_text(f"-- {uuid4()}\nSELECT 'one'::numeral + 'one'::numeral = 'two'::numeral;\n")
    trace = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve,connect", "-o", trace, sys.executable, "-m", "pgbake",
         "-C", apart.directory, "check", "smoke/numeral"],
        env=apart.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = trace.read_text()
    assert "execve(" in calls and not re.search(r'execve\("[^"]*/nix(-[a-z]+)?"|daemon-socket', calls)
