"""What a tree must be, and that every way in which it is not is told at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgbake.image.contract import deviations, drift, recall, remember
from pgbake.image.tree import leftovers, tidy
from pgbake.machine.apply import Machine
from pgbake.machine.definition import Rendered, render
from pgbake.machine.image import MachineImage

_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of a machine have many owners, which only root gives")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree as stage 1 leaves one, in small."""
    root = tmp_path / "root"
    for directory in (
        "etc/ssh",
        "etc/systemd/system/multi-user.target.wants",
        "usr/bin",
        "var/log",
        "root",
        "tmp",
        "run",
    ):
        (root / directory).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\nsudo:x:27:\n")
    (root / "etc/shadow").write_text("root:*:1:::::::\nsshd:!:1:::::::\n")
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/machine-id").touch()
    (root / "usr/bin/tool").write_bytes(b"\x7fELF")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "usr/bin/alias").symlink_to("tool")
    remember(root, tmp_path / "contents.json")
    return root


def told(root: Path, wanted: Rendered | None = None) -> dict[str, str]:
    memory = recall(root.parent / "contents.json")
    return {each.what: each.found for each in deviations(root, memory, wanted or Rendered())}


def test_a_tree_that_is_as_it_was(root: Path) -> None:
    assert told(root) == {}
    assert list(leftovers(root)) == []


def test_all_deviations_are_told_at_once(root: Path) -> None:
    with (root / "etc/passwd").open("a") as file:
        file.write("mallory:x:0:0::/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\nsudo:x:27:sshd\n")
    (root / "etc/shadow").write_text("root:$y$secret:1:::::::\nsshd:!:1:::::::\n")
    (root / "etc/motd").write_text("changed\n")
    (root / "usr/bin/tool").chmod(0o4755)
    (root / "usr/bin/alias").unlink()
    (root / "usr/bin/alias").symlink_to("/tmp/other")
    (root / "etc/systemd/system/multi-user.target.wants/early.service").symlink_to("/lib/systemd/system/early.service")
    (root / "etc/ssh/ssh_host_rsa_key").write_text(_KEY)
    os.chown(root / "root", 100, 100)
    (root / "tmp").rmdir()
    assert told(root) == {
        "user mallory": "nobody has declared it",
        "group sudo": "has members sshd, and not none",
        "user root": "has a password",
        "/etc/motd": "changed",
        "/usr/bin/tool": "has mode 4755, and not 0755",
        "/usr/bin/alias": "leads to /tmp/other, and not to tool",
        "/etc/systemd/system/multi-user.target.wants/early.service": "a link that nobody has declared",
        "/etc/ssh/ssh_host_rsa_key": "a file that nobody has declared",
        "/root": "belongs to 100:100, and not to 0:0",
    }


def test_what_is_gone_is_missing(root: Path) -> None:
    (root / "etc/motd").unlink()
    (root / "usr/bin/tool").unlink()
    (root / "usr/bin/tool").mkdir()
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    assert told(root) == {
        "/etc/motd": "missing", "/usr/bin/tool": "a directory, and not a file", "group sudo": "missing",
    }  # fmt: skip


def make(root: Path, wanted: Rendered) -> None:
    """Make what a tree with the account postgres is to have, and its group."""
    with (root / "etc/group").open("a") as file:
        file.write("postgres:x:112:\n")
    machine = Machine(root, root / "nix/record.json")
    for part in wanted.parts:
        if not part.runtime:
            machine.make(part)


def test_what_is_installed_is_part_of_the_contract(root: Path) -> None:
    wanted = render([15], [], 15)
    missing = told(root, wanted)
    assert missing["user postgres"] == missing["/usr/bin/psql"] == "missing"
    with (root / "etc/passwd").open("a") as file:
        file.write("postgres:x:107:112:PostgreSQL administrator:/var/lib/postgresql:/bin/bash\n")
    make(root, wanted)
    assert told(root, wanted) == {}
    (root / "usr/bin/psql").unlink()
    (root / "var/log/postgresql").chmod(0o777)
    (root / "etc/logrotate.d/pgbake-postgresql").write_text("")
    assert told(root, wanted) == {
        "/usr/bin/psql": "missing",
        "/var/log/postgresql": "has mode 0777, and not 1775",
        "/etc/logrotate.d/pgbake-postgresql": "changed",
    }


def test_what_a_boot_makes_is_no_deviation_of_a_booted_machine(root: Path) -> None:
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/ssh/ssh_host_rsa_key").write_text(_KEY)
    (root / "var/log/syslog").write_text("booted\n")
    memory = recall(root.parent / "contents.json")
    assert deviations(root, memory, Rendered(), booted=True) == []
    (root / "usr/bin/new").touch()
    assert [each.what for each in deviations(root, memory, Rendered(), booted=True)] == ["/usr/bin/new"]


def test_what_was_never_booted_has_no_identity(root: Path) -> None:
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/ssh/ssh_host_ed25519_key").write_text(_KEY)
    (root / "root/.bash_history").write_text("ls\n")
    (root / "root/id").write_text(_KEY)
    (root / "var/log/syslog").write_text("booted\n")
    (root / "var/log/README").write_text("what this is\n")
    (root / "etc/shadow").write_text("root:$y$secret:1:::::::\n")
    found = [line.partition(":")[0] for line in leftovers(root)]
    assert sorted(set(found)) == [
        "/etc/machine-id", "/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/root/.bash_history", "/root/id",
        "/var/log/syslog",
    ]  # fmt: skip
    tidy(root)
    assert sorted({line.partition(":")[0] for line in leftovers(root)}) == ["/etc/shadow", "/root/id"]
    assert (root / "var/log/README").exists()


def test_an_images_own_files_are_rendered_whole() -> None:
    parts = {part.path: part for part in MachineImage().rendered.parts}
    assert {"/etc/hosts", "/etc/fstab", "/boot/grub/grub.cfg"} <= set(parts)
    presets = parts.pop("/etc/systemd/system-preset/00-pgbake.preset").content.decode().splitlines()
    assert {
        "enable ssh.service",
        "disable systemd-networkd-wait-online.service",
        "enable postgresql@*-*.service",
    } < set(presets)
    assert presets[-1] == "disable *"
    assert all(b"@" not in part.content for part in parts.values())


def test_drift_tells_of_what_is_declared_and_of_nothing_else(root: Path) -> None:
    wanted = render([15], [], 15)
    with (root / "etc/passwd").open("a") as file:
        file.write("postgres:x:107:112:PostgreSQL administrator:/home/postgres:/bin/bash\n")
    make(root, wanted)
    (root / "etc/motd").write_text("changed\n")
    (root / "usr/bin/psql").unlink()
    (root / "etc/logrotate.d/pgbake-postgresql").write_text("")
    assert {each.what: each.found for each in drift(root, wanted)} == {
        "/etc/logrotate.d/pgbake-postgresql": "changed",
        "/usr/bin/psql": "missing",
        "user postgres": "has home /home/postgres, and not /var/lib/postgresql",
    }
