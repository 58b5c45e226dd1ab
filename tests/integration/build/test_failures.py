"""What a user meets when a build fails: what is said, what is kept, and how to get into it."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest

from pgbake.build.engine import BuildOptions
from pgbake.errors import BuildError
from pgbake.recipes.recipe import SHIPPED
from tests.integration.build.workshop import Workshop
from tests.projects import TestProject

pytestmark = pytest.mark.integration


def change_numeral(project: TestProject, make: str) -> None:
    """Give the project a recipe of its own for the small extension numeral, with words for its make."""
    (project.directory / "recipes").mkdir()
    shipped = (SHIPPED / "recipes/numeral.toml").read_text()
    (project.directory / "recipes/numeral.toml").write_text(f"{shipped}make = ['{make}']\n")


def test_a_failed_build_is_kept_and_can_be_entered(apart: TestProject) -> None:
    project = apart
    change_numeral(project, "COPT=-include /usr/include/no-such-header.h")
    failed = project.pgbake("build", "--keep-failed", "numeral", check=False)
    assert failed.returncode == 1
    assert "fatal error: /usr/include/no-such-header.h: No such file or directory" in failed.stderr
    assert "failed to build in phase build" in failed.stderr
    assert "enter it: pgbake enter numeral" in failed.stderr
    assert "error: " in failed.stderr and "Traceback" not in failed.stderr

    def enter(*program: str) -> str:
        return project.pgbake("enter", "numeral", *program).stdout

    assert "numeral.c" in enter("ls", "source")
    assert enter("id", "-u").strip() == "1000" and enter("pwd").strip() == "/build"
    assert "No such file" in enter("bash", "-c", 'cat "$out" 2>&1; true')
    # The directory stays, and the build can be tried by hand: here with the header it wants.
    enter("bash", "-c", "touch source/fix.h")
    assert "fix.h" in enter("ls", "source")
    enter("bash", "-euo", "pipefail", "-c", 'makeFlags="COPT=" ; rm -r source postgresql; eval "$script"')
    assert "usr" in enter("bash", "-c", "ls $out")
    assert [item["name"] for item in project.json("plan", "numeral")["build"]] == ["postgresql-15-numeral-1.3"]


def test_a_shell_in_a_kept_directory(apart: TestProject) -> None:
    project = apart
    change_numeral(project, "COPT=-include /no.h")
    project.pgbake("build", "--keep-failed", "numeral", check=False)
    pid, terminal = pty.fork()
    if pid == 0:
        argv = [sys.executable, "-m", "pgbake", "-C", str(project.directory), "enter", "numeral"]
        os.execve(argv[0], argv, {**project.environment(), "TERM": "xterm"})
    os.write(terminal, b"echo here: $(pwd) $pname $TERM\nexit\n")
    screen = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # its other end is closed
            break
        if not piece:
            break
        screen += piece
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert status == 0 and b"here: /build numeral xterm" in screen, screen
    assert b"leave with exit" in screen


def test_without_keep_nothing_is_left_and_it_says_how(apart: TestProject) -> None:
    project = apart
    change_numeral(project, "COPT=-include /no.h")
    failed = project.pgbake("build", "numeral", check=False)
    assert "pgbake build --keep-failed" in failed.stderr
    assert not list((project.store / "nix/var/pgbake").glob("failed/*"))
    entered = project.pgbake("enter", "numeral", "true", check=False)
    assert entered.returncode == 1
    assert "nothing is kept of a failed build" in entered.stderr
    assert "hint: `pgbake build --keep-failed numeral`" in entered.stderr


def test_a_hanging_build_is_stopped(apart: TestProject) -> None:
    project = apart
    change_numeral(project, "COPT=$(shell sleep 4711)")
    begin = time.monotonic()
    failed = project.pgbake("build", "--max-silent-time", "5", "numeral", check=False)
    assert time.monotonic() - begin < 60
    assert failed.returncode == 1
    assert "it printed nothing for 5 s and was stopped; still running: sleep 4711" in failed.stderr


def test_a_build_that_prints_is_not_stopped(workshop: Workshop) -> None:
    derivation = workshop.derivation("for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done; : > $out")
    begin = time.monotonic()
    workshop.build(derivation, BuildOptions(max_silent=1.2))
    assert time.monotonic() - begin > 2.2


def test_a_build_that_tries_the_network_is_told_so(workshop: Workshop) -> None:
    derivation = workshop.derivation("exec 3<> /dev/tcp/files.example.org/80")
    with pytest.raises(BuildError) as caught:
        workshop.build(derivation)
    assert caught.value.hint and "it tried to reach files.example.org, and builds have no network" in caught.value.hint


def test_a_first_error_far_from_the_end_is_shown(workshop: Workshop) -> None:
    derivation = workshop.derivation(
        """
        echo "thing.c:3:9: error: expected ';' before 'return'"
        echo "    3 |     int x"
        echo "      |          ^"
        for i in $(seq 200); do echo "cc -c other$i.c"; done
        echo "make: *** [Makefile:9: all] Error 2"
        exit 2
        """
    )
    with pytest.raises(BuildError) as caught:
        workshop.build(derivation)
    assert caught.value.detail
    lines = caught.value.detail.splitlines()
    assert lines[:4] == [
        "thing.c:3:9: error: expected ';' before 'return'", "    3 |     int x", "      |          ^", "...",
    ]  # fmt: skip
    assert lines[-1] == "make: *** [Makefile:9: all] Error 2" and len(lines) < 40


def test_a_kept_directory_replaces_the_one_before(workshop: Workshop) -> None:
    derivation = workshop.derivation("echo $RANDOM > /build/left; exit 1")
    kept = workshop.store.failed_build(derivation.path)
    seen: list[Path] = []
    for _ in range(2):
        with pytest.raises(BuildError):
            workshop.build(derivation, BuildOptions(keep_failed=True))
        assert (kept / "build/left").read_text().strip().isdigit()
        seen += list(kept.parent.iterdir())
    assert seen == [kept, kept]
    assert not list(workshop.store.store_dir.glob("*.chroot"))
