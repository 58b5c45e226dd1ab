"""Bringing a tree to what is wanted, and back; what is somebody else's stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgbake.machine.apply import Machine, Plan, below
from pgbake.machine.definition import Part, Rendered

FILE = Part("file", "/etc/one/file", 0o644, content=b"ours\n")
LINK = Part("link", "/usr/bin/tool", target="/usr/lib/tool")
KEPT = Part("file", "/etc/one/kept", 0o644, content=b"default\n", keep=True)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to root")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A tree with root alone."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return Machine(root, tmp_path / "machine.json")


def bring(machine: Machine, *parts: Part) -> Plan:
    wanted = Rendered(parts=parts)
    plan = machine.plan(wanted)
    assert not plan.conflicts
    machine.apply(plan, wanted, (), None)
    return plan


def test_there_and_back(machine: Machine) -> None:
    before = sorted(machine.root.rglob("*"))
    bring(machine, FILE, LINK, KEPT)
    assert (machine.root / "etc/one/file").read_text() == "ours\n"
    assert bring(machine, FILE, LINK, KEPT).empty
    bring(machine)
    assert sorted(machine.root.rglob("*")) == before
    assert not machine.record_file.exists()


def test_what_was_changed_stays(machine: Machine) -> None:
    bring(machine, FILE, KEPT)
    (machine.root / "etc/one/kept").write_text("mine\n")
    bring(machine)
    assert (machine.root / "etc/one/kept").read_text() == "mine\n"
    assert not (machine.root / "etc/one/file").exists()
    assert "/etc/one/kept" in machine.record.kept
    bring(machine, KEPT)  # ours still, so in nobody's way
    assert (machine.root / "etc/one/kept").read_text() == "mine\n"


def test_what_is_in_the_way_is_a_conflict(machine: Machine) -> None:
    (machine.root / "usr/bin").mkdir(parents=True)
    (machine.root / "usr/bin/tool").write_text("somebody's")
    wanted = Rendered(parts=(LINK,))
    (conflict,) = machine.plan(wanted).conflicts
    assert conflict.path == "/usr/bin/tool" and not conflict.adoptable
    machine.apply(machine.plan(wanted, "divert"), wanted, (), None)
    assert (machine.root / "usr/bin/tool").is_symlink()
    bring(machine)
    assert (machine.root / "usr/bin/tool").read_text() == "somebody's"


def test_a_killed_run_is_known_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Machine, "_do", killed)
        bring(machine, FILE, LINK)
    again = Machine(machine.root, machine.record_file)
    bring(again, FILE, LINK)
    bring(again)
    assert not (machine.root / "etc/one").exists()


def test_links_of_a_tree_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    assert below(tmp_path, "/var/run/postgresql") == tmp_path / "run/postgresql"
