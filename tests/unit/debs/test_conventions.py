from __future__ import annotations

import subprocess

from pgbake.debs.conventions import conventions, program_links


def test_nothing_is_left_to_fill_in() -> None:
    own = conventions(17, "C.UTF-8", "")
    for path, (content, _) in own.files.items():
        text = content.decode()
        assert not any(f"@{word}@" in text for word in ("major", "locale", "prefix")), path
        assert "/nix" not in text
    assert "/usr/lib/sysusers.d/pgbake-postgresql-17.conf" in own.files


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
