"""What a build's log tells about its failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.build.log import SHOWN_LINES, BuildLog
from pgbake.events import silent


def log_of(tmp_path: Path, *lines: str) -> BuildLog:
    log = BuildLog(tmp_path / "log.bz2", "task", silent)
    for line in lines:
        log.write(f"{line}\n".encode())
    log.close()
    return log


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("curl: (6) Could not resolve host: files.example.org", "files.example.org"),
        ("fatal: unable to access 'https://git.example.org/x/': Could not resolve host: git.example.org",
         "git.example.org"),
        ("wget: unable to resolve host address ‘files.example.org’", "files.example.org"),
        ("ssh: Could not resolve hostname git.example.org: Temporary failure in name resolution", "git.example.org"),
        ("urllib3.exceptions.MaxRetryError: HTTPSConnectionPool(host='py.example.org', port=443): Max retries",
         "py.example.org"),
        ("npm error request failed, reason: getaddrinfo EAI_AGAIN js.example.org", "js.example.org"),
        ("go: x: Get \"https://go.example.org/x\": dial tcp: lookup go.example.org on [::1]:53: refused",
         "go.example.org"),
        ("bash: line 1: files.example.org: Temporary failure in name resolution", "files.example.org"),
        ("curl: (7) Failed to connect to files.example.org port 443 after 0 ms", "files.example.org"),
        ("urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>", "the network"),
        ("connect: Network is unreachable", "the network"),
    ],
)  # fmt: skip
def test_who_was_sought_in_vain(tmp_path: Path, line: str, host: str) -> None:
    assert log_of(tmp_path, "one", line, "two").sought == [host]


def test_a_named_host_is_better_than_none_and_each_is_named_once(tmp_path: Path) -> None:
    line = "curl: (6) Could not resolve host: a.example.org"
    log = log_of(tmp_path, line, line, "Network is unreachable", "curl: (6) Could not resolve host: b.example.org")
    assert log.sought == ["a.example.org", "b.example.org"]
    assert log_of(tmp_path, "checking for getaddrinfo... yes", "-lresolv: name service").sought == []


def test_errors_in_the_tail_are_not_repeated(tmp_path: Path) -> None:
    log = log_of(tmp_path, *(f"line {n}" for n in range(100)), "x.c:1: error: no", "end")
    assert log.summary().splitlines() == [*(f"line {n}" for n in range(77, 100)), "x.c:1: error: no", "end"]
    assert len(log.summary().splitlines()) == SHOWN_LINES


@pytest.mark.parametrize(
    "line",
    [
        "src/a.c:10:2: error: unknown type name 'foo'", "a.c:1:10: fatal error: x.h: No such file or directory",
        "/usr/bin/ld: a.o: in function `f': a.c:(.text+0x1): undefined reference to `g'", "error[E0425]: cannot find",
        "make: *** No rule to make target 'x'.  Stop.", "configure: error: no acceptable C compiler found",
        "/bin/sh: 1: xsltproc: command not found", "/usr/bin/ld: cannot find -lproj: No such file or directory",
    ],
)  # fmt: skip
def test_lines_that_tell_the_error(tmp_path: Path, line: str) -> None:
    log = log_of(tmp_path, line, *(f"line {n}" for n in range(100)))
    assert log.summary().splitlines()[:2] == [line, "..."]


@pytest.mark.parametrize("line", ["checking for error_at_line... yes", "gcc -Werror=format -c errors.c", "0 errors"])
def test_lines_that_only_look_like_it(tmp_path: Path, line: str) -> None:
    log = log_of(tmp_path, line, *(f"line {n}" for n in range(100)))
    assert line not in log.summary()
