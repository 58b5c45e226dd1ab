"""Packages are installed by real apt on real trees of Debian, used, upgraded and removed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgbake.checks.harness.smoke import header
from pgbake.checks.uses import Uses
from pgbake.recipes.recipe import SHIPPED
from tests import cache
from tests.aptmachines import Machine, machine_tree
from tests.cache import scratch_directory
from tests.installs import write_other_major
from tests.integration.inputs.repository import Keys
from tests.lintian import lintian
from tests.projects import TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install packages"),
]

#: What of the example is built from source and is no part of contrib.
EXTENSIONS = {
    "extra_window_functions", "first_last_agg", "numeral", "pg_similarity", "pgaudit", "pglogical", "pgpcre",
    "pgvector", "plsh", "preprepare", "prioritize",
}  # fmt: skip
_PRELOAD = "shared_preload_libraries = 'pg_stat_statements,pgaudit,pglogical,pre_prepare'\nwal_level = logical\n"


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    # gpg's agent has a socket there, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="keys-") as directory:
        made = Keys.make(Path(directory))
        yield made
        made.close()


@dataclasses.dataclass(frozen=True)
class Packed:
    """A repository with the packages of the example, and what makes it."""

    project: TestProject
    directory: Path
    environment: Mapping[str, str]

    def deb(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``pgbake deb`` for the repository."""
        words = ("deb", "--unchecked", "--repo", str(self.directory), "--sign", "archive")
        return self.project.pgbake(*words, *args, environment=self.environment)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on a real file system, which overlays want."""
    with scratch_directory("debs") as directory:
        yield directory


@pytest.fixture
def packed(example: TestProject, keys: Keys, scratch: Path) -> Packed:
    return Packed(example, scratch / "repo", {"GNUPGHOME": str(keys.home)})


def use(machine: Machine, names: set[str], sql: str, start: str, stop: str) -> None:
    """Create and use extensions of a server on a machine, each in a database of its own, as the catalogue says.

    :param sql: how psql is called there.
    """
    uses = Uses(15)
    script = f"set -u\n{start}\nbin=/usr/lib/postgresql/15/bin; export BIN=$bin; failed=0\n"
    script += "install -d -m 0777 /tmp/use\n"
    for name in sorted(names):
        text = uses.script(name) or ""
        told = header(text, "create")
        wanted = (
            [word.strip() for word in told.split(",") if word.strip()] if told is not None else [_SQL.get(name, name)]
        )
        create = "".join(f'CREATE EXTENSION "{word}" CASCADE;' for word in wanted)
        script += f"""
            {sql} -d postgres -c 'CREATE DATABASE "use_{name}" TEMPLATE template0' || failed=1
            {sql} -d use_{name} -c '{create}' || failed=1
            {sql} -d use_{name} -v dir=/tmp/use -v major=15 -f /mnt/uses/{name}.sql > /tmp/answers || failed=1
            if grep -qvx t /tmp/answers || ! [ -s /tmp/answers ]; then echo "{name}:"; cat /tmp/answers; failed=1; fi
        """
    script += f"\n{stop}\nexit $failed\n"
    machine.run(f"set +e\n{script}")


#: SQL names that are not the packages'.
_SQL = {"pgvector": "vector", "preprepare": "pre_prepare"}


def test_an_extension_is_installed_and_used_and_removed(packed: Packed, scratch: Path) -> None:
    """The heart of it, for Debian's own PostgreSQL."""
    packed.deb("--only", "pgvector", "--only", "pgpcre")
    tree = machine_tree(("libpcre3", "postgresql-15"))
    machine = Machine(tree, scratch / "machine", {"/mnt/repo": packed.directory, "/mnt/uses": SHIPPED / "uses"})
    machine.apt()
    before = machine.files()
    machine.run("apt-get -qq install -y postgresql-15-pgvector postgresql-15-pgpcre")
    use(machine, {"pgpcre", "pgvector"}, _AS_POSTGRES, "pg_ctlcluster 15 main start", "pg_ctlcluster 15 main stop")
    machine.run("apt-get -qq purge -y postgresql-15-pgvector postgresql-15-pgpcre")
    assert _apart_from_data(machine.files()) == _apart_from_data(before)


_AS_POSTGRES = "runuser -u postgres -- env BIN=$bin psql -XAtq -v ON_ERROR_STOP=1"


def _apart_from_data(files: set[str]) -> set[str]:
    return {line for line in files if not line.startswith(("/var/lib/postgresql/", "/var/log/postgresql/"))}


def test_two_runs_give_the_same_bytes(example: TestProject, tmp_path: Path) -> None:
    found = []
    for name, umask in (("a", 0o022), ("b", 0o077)):
        before = os.umask(umask)
        try:
            example.pgbake(
                "deb", "--unchecked", "--only", "pgaudit", "--only", "programs", "--out", str(tmp_path / name)
            )
        finally:
            os.umask(before)
        files = sorted((tmp_path / name).iterdir())
        found.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_a_name_that_is_none_is_told(example: TestProject, tmp_path: Path) -> None:
    refused = example.pgbake("deb", "--only", "pg_stat_statements", "--out", str(tmp_path / "x"), check=False)
    assert refused.returncode == 2
    assert "it is part of another package" in refused.stderr and "there are: bundle, programs," in refused.stderr
    refused = example.pgbake("deb", "--unchecked", "--repo", str(tmp_path / "r"), "--sign", "nobody", check=False)
    assert refused.returncode == 1 and "gpg --list-secret-keys" in refused.stderr
    assert not (tmp_path / "r").exists()


def test_nothing_is_made_by_a_dry_run(example: TestProject, tmp_path: Path) -> None:
    answer = example.json("deb", "--dry-run", "--out", str(tmp_path / "x"))
    assert {package["key"] for package in answer["packages"]} == {"bundle", "programs", *EXTENSIONS}
    assert not (tmp_path / "x").exists()


@pytest.mark.full
def test_all_extensions_live_on_debians_postgresql(packed: Packed, scratch: Path) -> None:
    packed.deb(*(word for name in sorted(EXTENSIONS) for word in ("--only", name)))
    names = sorted(file.name for file in (packed.directory / "pool/main").iterdir())
    assert len(names) == len(EXTENSIONS)
    debs = sorted((packed.directory / "pool").rglob("*.deb"))
    flat = scratch / "flat"
    flat.mkdir()
    for deb in debs:
        shutil.copy(deb, flat)
    told = lintian(sorted(flat.iterdir()))
    assert told and not [line for line in told if line.startswith("E: ")]

    tree = machine_tree(("libpcre3", "postgresql-15"))
    machine = Machine(tree, scratch / "machine", {"/mnt/repo": packed.directory, "/mnt/uses": SHIPPED / "uses"})
    machine.apt()
    before = machine.files()
    machine.run(f"apt-get -qq install -y {' '.join(names)}")
    machine.run(f"cat > /etc/postgresql/15/main/conf.d/use.conf <<'END'\n{_PRELOAD}END\n")
    # A use reads the log, which it looks for in the data directory.
    link = "ln -s /var/log/postgresql/postgresql-15-main.log /var/lib/postgresql/15/main/server.log"
    start = f"{link}; pg_ctlcluster 15 main start || cat /var/log/postgresql/*.log"
    stop = "pg_ctlcluster 15 main stop"
    use(machine, EXTENSIONS, _AS_POSTGRES, start, stop)
    machine.run("rm /etc/postgresql/15/main/conf.d/use.conf")

    # The next version: the same files by another maintainer are other packages.
    packed.deb("--only", "pgvector", "--maintainer", "Another <a@example.org>")
    assert len(list((packed.directory / "pool/main/postgresql-15-pgvector").iterdir())) == 2
    machine.run("apt-get -qq update; apt-get -qq upgrade -y")
    assert machine.run("dpkg-query -W -f '${Version}' postgresql-15-pgvector") == "0.8.0-1+pgbake12.2"
    machine.run(f"apt-get -qq purge -y {' '.join(names)}")
    assert _apart_from_data(machine.files()) == _apart_from_data(before)

    packed.deb("--only", "pgvector", "--maintainer", "Another <a@example.org>", "--prune")
    assert len(list((packed.directory / "pool/main/postgresql-15-pgvector").iterdir())) == 1


@pytest.mark.full
def test_a_bundle_lives_on_a_machine_without_postgresql(packed: Packed, scratch: Path) -> None:
    packed.deb("--only", "bundle", "--only", "programs")
    (deb,) = (packed.directory / "pool/main/pgbake-postgresql-15").iterdir()
    told = lintian([deb])
    assert told and not [line for line in told if line.startswith("E: ")]

    tree = machine_tree(("systemd", "systemd-sysv"))
    machine = Machine(tree, scratch / "machine", {"/mnt/repo": packed.directory, "/mnt/uses": SHIPPED / "uses"})
    machine.apt()
    before = machine.files()
    machine.run("apt-get -qq install -y pgbake-postgresql-15")
    assert machine.run("grep -rl /nix/store /usr/lib/pgbake /usr/lib/systemd || :") == ""
    machine.run("systemd-analyze verify --man=no /lib/systemd/system/pgbake-postgresql-15@.service")
    user = "runuser -u postgres --"
    machine.run(f"{user} /usr/lib/pgbake/postgresql-15/lib/pgbake/make-cluster main --no-sync")
    control = f"{user} /usr/lib/postgresql/15/bin/pg_ctl -D /var/lib/postgresql/15/main"
    start = (
        "systemd-tmpfiles --create pgbake-postgresql-15.conf\n"
        f"{control} -l /var/lib/postgresql/15/main/server.log -w start "
        "-o '-c config_file=/etc/postgresql/15/main/postgresql.conf' > /tmp/started"
    )
    stop = f"{control} -m fast -w stop > /tmp/stopped"
    use(machine, EXTENSIONS, _AS_POSTGRES, start, stop)

    # The next version under the same data.
    packed.deb("--only", "bundle", "--maintainer", "Another <a@example.org>")
    machine.run("apt-get -qq update; apt-get -qq upgrade -y")
    assert machine.run("dpkg-query -W -f '${Version}' pgbake-postgresql-15") == "15.18-1+pgbake12.2"
    count = f"{start}\n{_AS_POSTGRES} -d use_pgvector -c 'SELECT count(*) FROM pg_extension'\n{stop}"
    assert machine.run(f"bin=\n{count}") == "2\n"

    machine.run("apt-get -qq purge -y 'pgbake-*'")
    assert machine.run("ls /var/lib/postgresql/15 /etc/postgresql/15").split() == [
        "/etc/postgresql/15:", "main", "/var/lib/postgresql/15:", "main",
    ]  # fmt: skip
    machine.run("rm -r /var/lib/postgresql /etc/postgresql")
    assert _apart_from_data(machine.files()) == _apart_from_data(before)


def test_a_bundle_whose_checks_have_not_passed_is_refused(tmp_path: Path, scratch: Path) -> None:
    project = TestProject.copy(tmp_path / "project", tmp_path / "home")
    project.edit('name = "example"', f'name = "gate-{uuid.uuid4().hex[:8]}"')
    project.pgbake("build")
    refused = project.pgbake("deb", "--only", "programs", "--out", str(scratch / "debs"), check=False)
    assert refused.returncode == 1, refused.stderr
    assert "is not packaged: " in refused.stderr and "--unchecked" in refused.stderr
    assert not (scratch / "debs").exists()
    project.pgbake("deb", "--only", "programs", "--out", str(scratch / "debs"), "--unchecked")
    assert list((scratch / "debs").glob("pgbake-postgresql-15-programs_*.deb"))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("major", [17, 18])
def test_packages_of_other_majors(major: int, tmp_path: Path, scratch: Path) -> None:
    """The whole bundle of 17 and 18, on a tree without PostgreSQL: a server from the packages answers."""
    project = TestProject(tmp_path / "project", cache.test_cache() / "store", tmp_path / "home")
    write_other_major(project.directory, major)
    project.pgbake("lock")
    project.pgbake("build")
    project.pgbake("deb", "--only", "bundle", "--only", "programs", "--out", str(scratch / "debs"), "--unchecked")
    machine = Machine(machine_tree(("systemd", "systemd-sysv")), scratch / "machine", {"/mnt/debs": scratch / "debs"})
    answer = machine.run(f"""
        apt-get -qq install -y /mnt/debs/*.deb > /dev/null
        su postgres -c '/usr/lib/pgbake/postgresql-{major}/lib/pgbake/make-cluster main' > /dev/null
        systemd-tmpfiles --create pgbake-postgresql-{major}.conf
        su postgres -c '/usr/lib/postgresql/{major}/bin/pg_ctl start -s -w -D /var/lib/postgresql/{major}/main \\
          -l /tmp/log -o "-c config_file=/etc/postgresql/{major}/main/postgresql.conf"'
        su postgres -c "psql -XAtqc 'SHOW server_version' postgres"
        su postgres -c "psql -XAtqc 'CREATE EXTENSION numeral' postgres"
        su postgres -c '/usr/lib/postgresql/{major}/bin/pg_ctl stop -s -w -D /var/lib/postgresql/{major}/main'
    """)
    assert answer.splitlines()[0].startswith(f"{major}")
