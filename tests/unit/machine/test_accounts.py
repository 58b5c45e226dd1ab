"""Accounts by their declared numbers, unless a machine has given these to somebody else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgbake.machine.accounts import account_lines, group_id, make_accounts, user_id
from pgbake.machine.definition import GroupRow, UserRow, definition

GROUPS = (GroupRow("keeper", 950), GroupRow("readers", 951))
USERS = (UserRow("keeper", 950, "keeper", "Keeper", "/nonexistent", "/usr/sbin/nologin", ("readers",)),)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="accounts are root's to make")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


@needs_root
def test_numbers_are_the_declared_ones(root: Path) -> None:
    assert make_accounts(root, GROUPS, USERS) == (["keeper", "readers"], ["keeper"])
    assert (user_id(root, "keeper"), group_id(root, "keeper")) == (950, 950)
    assert "readers:x:951:keeper\n" in (root / "etc/group").read_text()
    assert make_accounts(root, GROUPS, USERS) == ([], [])


@needs_root
def test_a_number_that_is_taken_is_left_to_its_owner(root: Path) -> None:
    with (root / "etc/group").open("a") as file:
        file.write("journal:x:950:\n")
    make_accounts(root, GROUPS, USERS)
    assert group_id(root, "journal") == 950
    assert group_id(root, "keeper") not in (None, 950)
    assert user_id(root, "keeper") == 950


@needs_root
def test_an_account_that_is_there_keeps_its_number(root: Path) -> None:
    with (root / "etc/group").open("a") as file:
        file.write("keeper:x:120:\n")
    with (root / "etc/passwd").open("a") as file:
        file.write("keeper:x:107:120::/:/bin/sh\n")
    assert make_accounts(root, GROUPS[:1], USERS) == ([], [])
    assert (user_id(root, "keeper"), group_id(root, "keeper")) == (107, 120)


def test_lines_for_a_tree_that_has_no_accounts_yet() -> None:
    assert account_lines(GROUPS, USERS) == {
        "passwd": "keeper:*:950:950:Keeper:/nonexistent:/usr/sbin/nologin\n",
        "group": "keeper:*:950:\nreaders:*:951:\n",
    }


def test_numbers_are_given_once() -> None:
    rows = definition()
    for kind in (rows.group, rows.user):
        assert len({row.id for row in kind}) == len({row.name for row in kind}) == len(kind)


@needs_root
def test_what_a_killed_tool_has_left_goes(root: Path) -> None:
    dead, alive = root / "etc/passwd.4194305", root / f"etc/group.{os.getpid()}"  # no process has the first number
    own = root / "etc/passwd.old"
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        unreaped = root / f"etc/shadow.{process.pid}"
        for file in (dead, alive, own, unreaped):
            file.write_text("")
        make_accounts(root, GROUPS, USERS)
    assert not dead.exists() and not unreaped.exists() and alive.exists() and own.exists()
