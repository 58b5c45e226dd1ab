from __future__ import annotations

import subprocess

from pgbake.debs.conventions import conventions, program_links
from pgbake.machine.definition import Cluster, render


def test_nothing_is_left_to_fill_in() -> None:
    own = conventions(17, "C.UTF-8", "")
    for path, (content, _) in own.files.items():
        text = content.decode()
        assert not any(f"@{word}@" in text for word in ("major", "locale", "prefix")), path
        assert "/nix" not in text
    assert "/usr/lib/sysusers.d/pgbake-postgresql-17.conf" in own.files


def test_a_package_and_a_machine_are_told_by_one_table() -> None:
    """What a package and an installed machine both have is the same, in the same words."""
    own = conventions(15, "C.UTF-8", "")
    machine = {part.path: part for part in render([15], [Cluster(15, "main", 5432)], 15).parts}
    assert program_links(15) == {
        path: part.target for path, part in machine.items() if path.startswith("/usr/bin/") and part.kind == "link"
    }
    assert own.links.keys() <= machine.keys()
    accounts = machine["/etc/sysusers.d/pgbake-postgresql.conf"].content
    assert own.files["/usr/lib/sysusers.d/pgbake-postgresql-15.conf"][0] == accounts
    for line in own.files["/usr/lib/tmpfiles.d/pgbake-postgresql-15.conf"][0].decode().splitlines():
        _, path, mode, owner, group, _ = line.split()
        part = machine[path]
        assert (f"{part.mode:04o}", part.owner, part.group) == (mode, owner, group)
    ours = own.files["/lib/systemd/system/pgbake-postgresql-15@.service"][0].decode().replace("%i", "main").splitlines()
    theirs = machine["/etc/systemd/system/postgresql@15-main.service"].content.decode()
    said = theirs.partition("[Service]\n")[2].partition("\n[Install]")[0].splitlines()
    assert len(said) > 20 and set(said) <= set(ours)


def test_scripts_are_scripts() -> None:
    own = conventions(15, "C.UTF-8", "")
    made = own.files["/usr/lib/pgbake/postgresql-15/lib/pgbake/make-cluster"][0].decode()
    for text in (*own.scripts.values(), made):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_links_lead_into_the_package() -> None:
    assert conventions(15, "C", "").links["/usr/lib/postgresql/15"] == (
        "/usr/lib/pgbake/postgresql-15/lib/postgresql/15"
    )
    assert program_links(15)["/usr/bin/psql"] == "/usr/lib/postgresql/15/bin/psql"
