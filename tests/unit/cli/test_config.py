"""The configuration of machines as commands show and compare it; nothing of it is built for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TestProject

SERVICES = '[services.nftables]\n[services.pgbouncer]\nport = 6543\nlisten = "*"\n\n[platform]\n'


@pytest.fixture
def project(tmp_path: Path) -> TestProject:
    """The example with services, and nothing built."""
    made = TestProject.copy(tmp_path / "project", tmp_path / "home")
    made.edit("[platform]\n", SERVICES)
    return made


def by_path(rendered: Any) -> dict[str, Any]:
    return {part["path"]: part for part in rendered["parts"]}


def test_a_target_is_rendered(project: TestProject) -> None:
    image, machine = project.json("config", "render"), project.json("config", "render", "machine")
    assert "tcp dport 6543 accept" in by_path(image)["/etc/nftables.conf"]["content"]
    assert by_path(machine)["/etc/postgresql/15/main/postgresql.conf"]["owner"] == "postgres"
    assert set(by_path(machine)) < set(by_path(image))
    assert {"number": 6543, "protocol": "tcp", "address": "*", "unit": "pgbouncer.service"} in image["ports"]
    assert {"name": "pgbouncer.service", "state": "enabled"} in image["units"]
    assert all(part["kind"] != "file" for part in project.json("config", "render", "container")["parts"])
    text = project.pgbake("config", "render", "--path", "/etc/nftables.*").stdout
    assert text.startswith("==> /etc/nftables.conf 0755 root:root\n") and "policy drop" in text


def test_what_is_written_is_what_is_rendered(project: TestProject, tmp_path: Path) -> None:
    told = project.json("config", "render", "image:aws", "--to", str(tmp_path / "out"))
    for path, part in by_path(told).items():
        place = tmp_path / "out" / path.lstrip("/")
        if part["kind"] == "file":
            assert place.read_text() == part["content"]
            assert f"{place.stat().st_mode & 0o7777:04o}" == part["mode"]
        elif part["kind"] == "link":
            assert str(place.readlink()) == part["target"]
    assert project.json("config", "diff", "image:aws", f"{tmp_path}/out")["differences"] == []
    (tmp_path / "out/etc/nftables.conf").write_text("flush ruleset\n")
    (tmp_path / "out/etc/hosts").unlink()
    done = project.pgbake("config", "diff", "image:aws", f"{tmp_path}/out", "--json", check=False)
    assert done.returncode == 1
    assert [each["path"] for each in json.loads(done.stdout)["differences"]] == ["/etc/hosts", "/etc/nftables.conf"]


def test_targets_are_compared(project: TestProject) -> None:
    done = project.pgbake("config", "diff", "image", "image:aws", check=False)
    assert done.returncode == 1
    assert "/boot/grub/grub.cfg\n" in done.stdout and "+linux /vmlinuz" in done.stdout
    assert project.pgbake("config", "diff", "image", "image").stdout == ""


@pytest.mark.parametrize(
    ("edit", "words", "problem"),
    [
        ("port = 6543", ("render",), 'prot: "prot" is no value of the service pgbouncer'),
        ("", ("render", "imag"), 'there is no target "imag"'),
        ("", ("render", "--profile", "asw"), 'there is no profile "asw"'),
        ("", ("diff", "image", "nowhere"), 'there is no target "nowhere"'),
    ],
)
def test_what_cannot_be_is_one_error(project: TestProject, edit: str, words: tuple[str, ...], problem: str) -> None:
    if edit:
        project.edit(edit, edit.replace("port", "prot"))
    done = project.pgbake("config", *words, check=False)
    assert done.returncode == 2
    assert problem in done.stderr and done.stderr.count("error: ") == 1 and "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_and_a_tree_at_once_is_a_wrong_command(project: TestProject) -> None:
    done = project.pgbake("config", "drift", "--host", "--root", "/", check=False)
    assert done.returncode == 2 and "--host and --root exclude one another" in done.stderr
    assert "pgbake config drift" in done.stderr and "--help" in done.stderr


def test_a_tree_without_an_installation_is_said(project: TestProject, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    done = project.pgbake("config", "drift", "--root", str(tmp_path / "root"), check=False)
    assert done.returncode == 1 and "pgbake has installed no PostgreSQL below" in done.stderr
    assert not any((tmp_path / "root").iterdir())
