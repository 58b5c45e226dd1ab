"""Which bundles may be shown to a server that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.install.host import selinux_problem
from pgbake.install.servers import Runs, differences

OLD = Runs(15, "/pg-1", "/support", {"libssl3": "/ssl-1"}, {"postgresql": "15.1", "libssl3": "3.0.1"})


def runs(**changes: object) -> Runs:
    import msgspec

    return msgspec.structs.replace(OLD, **changes)


def test_new_packages_may_come_and_old_ones_go() -> None:
    assert differences(OLD, runs(runtime={"libssl3": "/ssl-1", "libpcre3": "/pcre"})) == []
    assert differences(OLD, runs(runtime={})) == []


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (runs(postgresql="/pg-2", versions={"postgresql": "15.2"}), "PostgreSQL 15.1 -> 15.2"),
        (runs(postgresql="/pg-2"), "PostgreSQL 15.1, built anew"),
        (runs(support="/other"), "pgbake's support library"),
        (runs(runtime={"libssl3": "/ssl-2"}, versions={"libssl3": "3.0.2"}), "runtime package libssl3 3.0.1 -> 3.0.2"),
    ],
)
def test_each_reason_is_named(new: Runs, reason: str) -> None:
    assert differences(OLD, new) == [reason]


def test_a_directory_is_named_after_what_it_runs() -> None:
    assert OLD.key == runs().key != runs(postgresql="/pg-2").key


def test_selinux_is_seen(tmp_path: Path) -> None:
    assert selinux_problem(tmp_path, tmp_path) is None
    (tmp_path / "enforce").write_text("1")
    (tmp_path / "nix").mkdir()
    problem = selinux_problem(tmp_path, tmp_path)
    assert problem is not None and "restorecon" in problem[1]
