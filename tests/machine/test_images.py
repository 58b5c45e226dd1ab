"""Images of machines: made of the example's bundle, twice to the same bytes, held against their contract, booted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pgbake.formats.system import host_system
from tests.cache import scratch_directory
from tests.disks import SmallDisk
from tests.projects import TestProject

pytestmark = [pytest.mark.integration, pytest.mark.full]


#: Others may be at work on the machine, and boots are slow then.
PATIENCE = ("--timeout", "300")
MIGRATIONS = {
    "20250101120000_orders.sql": """-- migrate:up
CREATE EXTENSION vector;
CREATE TABLE orders (id bigint PRIMARY KEY, near vector(3), made timestamptz NOT NULL DEFAULT now());
SET search_path = nowhere;

-- migrate:down
DROP TABLE orders;
""",
    "20250102120000_index.sql": "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY place ON orders (made)",
}

#: Paths below /etc by which the conventional image and that of the bundle may differ.
DIFFERENCES = {
    "/etc/apt/apt.conf.d/02autoremove-postgresql",
    "/etc/group",
    "/etc/init.d/postgresql",
    "/etc/logrotate.d/pgbake-postgresql",
    "/etc/logrotate.d/postgresql-common",
    "/etc/postgresql-common/createcluster.conf",
    "/etc/postgresql-common/createcluster.conf.ucf-dist",
    "/etc/postgresql-common/root.crt",
    "/etc/postgresql-common/supported_versions",
    "/etc/postgresql-common/user_clusters",
    "/etc/postgresql/15/main/conf.d/00-pgbake.conf",
    "/etc/systemd/system/multi-user.target.wants/postgresql.service",
    "/etc/systemd/system/postgresql.service",
    "/etc/systemd/system/postgresql.service.wants/postgresql@15-main.service",
    "/etc/systemd/system/postgresql@15-main.service",
    "/etc/systemd/system/postgresql@15-main.service.d/first-start.conf",
}


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """The example, built, with what its images are made of pinned today."""
    top = tmp_path_factory.mktemp("images")
    made = TestProject.copy(top / "project", top / "home")
    made.pgbake("build")
    made.pgbake("image", "lock")
    (made.directory / "migrations").mkdir()
    for name, text in MIGRATIONS.items():
        (made.directory / "migrations" / name).write_text(text)
    return made


def test_an_image_from_manifest_to_booted_machine(project: TestProject) -> None:
    images = Path(project.environment()["XDG_CACHE_HOME"], "pgbake/images")
    foreseen = project.json("image", "stage2", "--unchecked", "--dry-run")
    assert not foreseen["kept"]
    made = project.json("image", "stage2", "--unchecked", "--disk", "raw", "--disk", "qcow2")
    tree, (raw, qcow2) = Path(made["tree"]), map(Path, made["disks"])
    first = {file.name: digest(file) for file in (raw, qcow2)}
    stage1 = project.json("image", "stage1")
    assert stage1["kept"]
    assert digest(Path(stage1["tar"])) == stage1["sha256"]

    # Both stages made anew, by other paths: the same bytes.
    with scratch_directory("images") as directory:
        for kept in (Path(stage1["tar"]).parent, tree.parent):
            kept.rename(directory / kept.name)
        again = project.json("image", "stage2", "--unchecked", "--disk", "raw", "--disk", "qcow2")
        assert again["key"] == made["key"]
        assert {Path(disk).name: digest(Path(disk)) for disk in again["disks"]} == first

    assert project.json("image", "check", "--unchecked")["deviations"] == []
    proofs = project.json("image", "test", "--unchecked", *PATIENCE)["proofs"]
    assert [(proof["name"], proof["found"]) for proof in proofs] == [
        ("boot", []), ("contract", []), ("units", []), ("ports", []), ("server 15/main", []), ("migrations", []),
    ]  # fmt: skip
    assert project.json("image", "check", "--unchecked")["deviations"] == []  # the boot has left no trace
    assert not list(images.glob("*.new"))
    assert not list(tree.parent.glob("boot-*"))

    # What somebody does to the tree is told by both, all at once.
    (tree / "etc/systemd/system/multi-user.target.wants/early.service").symlink_to("/lib/systemd/system/early.service")
    with (tree / "etc/passwd").open("a") as file:
        file.write("mallory:x:0:0::/root:/bin/bash\n")
    group = tree / "etc/group"
    group.write_text(re.sub(r"^adm:.*:", r"\g<0>postgres", group.read_text(), flags=re.MULTILINE))
    (tree / "etc/postgresql/15/main/conf.d/00-pgbake.conf").unlink()
    (tree / "etc/postgresql/15/main/conf.d/00-pgbake.conf").symlink_to("/nowhere")
    (tree / "etc/postgresql/15/main/pg_hba.conf").chmod(0o644)
    (tree / "etc/postgresql/15/main/unread.conf").write_text("work_mem = '1GB'\n")
    (tree / "etc/ssh/ssh_host_ed25519_key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with (tree / "usr/share/pgbake/migrations/20250101120000_orders.sql").open("a") as file:
        file.write("DROP TABLE orders;\n")
    done = project.pgbake("image", "check", "--unchecked", "--json", check=False)
    assert done.returncode == 1
    assert {each["what"] for each in json.loads(done.stdout)["deviations"]} == {
        "/etc/systemd/system/multi-user.target.wants/early.service", "user mallory", "group adm",
        "/etc/postgresql/15/main/conf.d/00-pgbake.conf", "/etc/postgresql/15/main/pg_hba.conf",
        "/etc/postgresql/15/main/unread.conf", "/etc/ssh/ssh_host_ed25519_key",
        "/usr/share/pgbake/migrations/20250101120000_orders.sql",
    }  # fmt: skip
    done = project.pgbake("image", "test", "--unchecked", *PATIENCE, "--json", check=False)
    assert done.returncode == 1
    assert not next(proof for proof in json.loads(done.stdout)["proofs"] if proof["name"] == "contract")["passed"]
    shutil.rmtree(tree.parent)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [(), ("--flavour", "deb", "--profile", "aws")], ids=["bundle", "debian-in-aws"])
def test_a_disk_boots_serves_and_loses_nothing(project: TestProject, kind: tuple[str, ...]) -> None:
    made = project.json("image", "stage2", "--unchecked", *kind, "--disk", "raw")
    (disk,) = map(Path, made["disks"])
    before = digest(disk)
    proofs = project.json("image", "test", "--unchecked", *kind, "--boot", "qemu", "--timeout", "900")["proofs"]
    assert {proof["boot"] for proof in proofs} == {"qemu"}
    assert [(proof["name"], proof["found"]) for proof in proofs] == [
        (name, []) for name in (
            "boot by UEFI, with a cloud", "units", "ports", "server 15/main", "migrations", "growth",
            "SQL from outside", "boot by BIOS, after a power failure", "power failure", "restart", "contract",
            "boot by its kernel, without a cloud", "growth without a cloud",
        )
    ]  # fmt: skip
    assert digest(disk) == before
    assert not list(disk.parent.glob("boot-*"))


def test_own_tests_are_run_and_told_all_at_once(project: TestProject) -> None:
    tests = project.directory / "tests/image"
    tests.mkdir(parents=True)
    (tests / "order.sql").write_text(
        "INSERT INTO orders (id) VALUES (1);\nDO $$ BEGIN ASSERT (SELECT count(*) FROM orders) = 1; END $$;\n"
    )
    (tests / "wrong.sql").write_text("SELECT 1;\nSELECT * FROM nowhere;\n")
    (tests / "tap.sql").write_text("SELECT '1..2';\nSELECT 'ok 1 - one';\nSELECT 'not ok 2 - two';\n")
    (tests / "printed.sql").write_text("SELECT 1 AS one;\nSELECT 1/0;\n")
    (tests / "printed.out").write_text(
        "SELECT 1 AS one;\n one \n-----\n   1\n(1 row)\n\nSELECT 1/0;\nERROR:  division by zero\n"
    )
    (tests / "test_machine.py").write_text(
        "def test_server(host):\n"
        "    assert host.service('postgresql@15-main').is_running\n"
        "    assert host.socket('tcp://127.0.0.1:5432').is_listening\n\n"
        "def test_wrong(host):\n"
        "    assert host.user('postgres').shell == '/bin/false'\n"
    )
    done = project.pgbake("image", "test", "--unchecked", *PATIENCE, "--json", check=False)
    shutil.rmtree(tests)
    assert done.returncode == 1
    found = {proof["name"]: proof["found"] for proof in json.loads(done.stdout)["proofs"]}
    own = {name.removeprefix("test "): found[name] for name in found if name.startswith("test ")}
    assert own.keys() == {
        "order.sql", "wrong.sql", "tap.sql", "printed.sql", "test_machine.test_server", "test_machine.test_wrong",
    }  # fmt: skip
    assert [name for name in own if not own[name]] == ["order.sql", "printed.sql", "test_machine.test_server"]
    assert 'relation "nowhere" does not exist' in own["wrong.sql"][0]
    assert own["tap.sql"] == ["not ok 2 two"]
    assert any("/bin/bash" in line for line in own["test_machine.test_wrong"])


def test_the_chain_in_one_command_goes_on_where_it_stopped(project: TestProject) -> None:
    project.pgbake("image", "stage2", "--unchecked")
    plan = {step["name"]: step["kept"] for step in project.json("image", "build", "--unchecked", "--dry-run")["steps"]}
    assert plan["lock"] and plan["stage1"] and plan["stage2"] and not plan["check"]
    made = project.json("image", "build", "--unchecked", *PATIENCE)
    assert Path(made["disks"][0]).name == "disk.raw" and Path(made["disks"][0]).is_file()
    again = project.json("image", "build", "--unchecked", *PATIENCE)
    assert {step["name"]: step["kept"] for step in again["steps"]} == {
        "lock": True, "stage1": True, "stage2": True, "disk raw": True, "check": False, "test nspawn": True,
    }  # fmt: skip
    planted = Path(made["tree"], "etc/planted")
    planted.touch()
    done = project.pgbake("image", "build", "--unchecked", *PATIENCE, check=False)
    planted.unlink()
    assert done.returncode == 1
    assert "error: check: 1 deviations from the contract" in done.stderr and "/etc/planted: a file" in done.stderr


@pytest.mark.timeout(3600)
def test_the_conventional_image_passes_the_same_tests(project: TestProject) -> None:
    options = ("--unchecked", "--flavour", "deb")
    made = project.json("image", "stage2", *options)
    assert project.json("image", "check", *options)["deviations"] == []
    proofs = project.json("image", "test", *options, *PATIENCE)["proofs"]
    assert [(proof["name"], proof["found"]) for proof in proofs] == [
        ("boot", []), ("contract", []), ("units", []), ("ports", []), ("server 15/main", []), ("migrations", []),
    ]  # fmt: skip
    packages = Path(made["tree"]).with_name("packages").read_text()
    assert "\npostgresql-15 " in packages and "\npostgresql-15-pgvector " in packages
    assert not (Path(made["tree"]) / "nix").exists()

    # What differs is how PostgreSQL is installed and started, and whom its package lets read keys.
    bundle = project.json("image", "stage2", "--unchecked")["tree"]
    done = project.pgbake("config", "diff", bundle, made["tree"], "--json", check=False)
    differences = {each["path"]: each["lines"] for each in json.loads(done.stdout)["differences"]}
    assert differences.keys() == DIFFERENCES
    ids = re.compile(r":x?:\d+:")
    moved = {ids.sub(":", line) for line in differences["/etc/group"] if line[0] in "+-"}
    other = {"+": "-", "-": "+"}
    assert {line for line in moved if other[line[0]] + line[1:] not in moved} == {"+ssl-cert:postgres"}


# --- faults: each stops at its step, and leaves nothing half-made -------------------------------


def test_a_cache_that_is_down_or_unsigned_stops_stage_2(project: TestProject, tmp_path: Path) -> None:
    images = Path(project.environment()["XDG_CACHE_HOME"], "pgbake/images")
    before = sorted(images.glob("stage2-*/stage2.json"))
    other = TestProject.copy(tmp_path / "other", project.home)
    shutil.copy(project.directory / "pgbake-image.lock", other.directory)
    (other.directory / "migrations").mkdir()  # none: another stage 2
    done = other.pgbake("image", "build", "--unchecked", "--from", "http://127.0.0.1:9", check=False)
    assert done.returncode != 0 and "error: stage2: " in done.stderr and "127.0.0.1:9" in done.stderr
    bundle = str(other.project.bundle(host_system()).path)
    cache = f"file://{tmp_path}/cache"
    other.pgbake("push", bundle, "--to", cache, "--unchecked")
    done = other.pgbake("image", "build", "--from", cache, check=False)
    assert done.returncode != 0 and "error: stage2: " in done.stderr and "sign" in done.stderr
    assert sorted(images.glob("stage2-*/stage2.json")) == before
    assert not list(images.glob("*.new"))


def test_a_server_that_does_not_come_up_is_told_with_its_log(project: TestProject, tmp_path: Path) -> None:
    other = TestProject.copy(tmp_path / "other", project.home)
    shutil.copy(project.directory / "pgbake-image.lock", other.directory)
    other.edit("[platform]\n", '[settings]\nlog_min_messages = "nonsense"\n\n[platform]\n')
    shutil.copytree(project.directory / "migrations", other.directory / "migrations")
    done = other.pgbake("image", "stage2", "--unchecked", check=False)  # seen before any boot
    assert done.returncode == 1
    assert (
        "its server does not start" in done.stderr and 'invalid value for parameter "log_min_messages"' in done.stderr
    )
    shutil.rmtree(other.directory / "migrations")
    done = other.pgbake("image", "test", "--unchecked", *PATIENCE, check=False)
    assert done.returncode == 1
    assert "postgresql@15-main.service has failed" in done.stdout and "nobody listens on port 5432/tcp" in done.stdout


def test_a_boot_that_hangs_is_stopped_and_its_console_shown(project: TestProject) -> None:
    tree = Path(project.json("image", "stage2", "--unchecked")["tree"])
    unit = tree / "etc/systemd/system/hang.service"
    link = unit.with_name("multi-user.target.wants") / unit.name
    unit.write_text("[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n")
    link.symlink_to("../hang.service")
    done = project.pgbake("image", "test", "--unchecked", "--timeout", "40", check=False)
    unit.unlink()
    link.unlink()
    assert done.returncode == 1
    assert "the machine did not come up in 40 s: starting" in done.stderr and "hang.service" in done.stderr
    assert not list(tree.parent.glob("boot-*"))


def test_a_full_disk_stops_the_stage_and_the_same_command_goes_on(project: TestProject) -> None:
    with scratch_directory("images-full") as directory:
        disk = SmallDisk(directory / "disk")
        try:
            small = TestProject(project.directory, project.store, project.home, disk.place)
            kept = Path(project.json("image", "stage1")["tar"]).parent
            shutil.copytree(kept, disk.place / "pgbake/images" / kept.name)
            workshop = sorted(kept.parent.glob("workshop-*"), key=lambda each: each.stat().st_mtime)
            for each in workshop:
                if each.is_dir():
                    subprocess.run(["cp", "-a", each, disk.place / "pgbake/images"], check=True)
            disk.resize(100 << 20)
            done = small.pgbake("image", "stage2", "--unchecked", check=False)
            assert done.returncode == 1
            assert "No space left on device" in done.stderr and "free disk space" in done.stderr
            assert not list((disk.place / "pgbake/images").glob("stage2-*/"))
            disk.resize(4 << 30)
            assert Path(small.json("image", "stage2", "--unchecked")["tree"]).is_dir()
        finally:
            disk.close()


def test_a_migration_that_fails_stops_at_stage_2(project: TestProject) -> None:
    other = TestProject.copy(project.directory.parent / "other", project.home)
    shutil.copy(project.directory / "pgbake-image.lock", other.directory)
    shutil.copytree(project.directory / "migrations", other.directory / "migrations")
    images = Path(other.environment()["XDG_CACHE_HOME"], "pgbake/images")
    wrong = other.directory / "migrations/20250103120000_wrong.sql"
    wrong.write_text("-- migrate:up\nSELECT 1;\nALTER TABLE orders\n  ADD COLUMN price money NOT NUL;\n")
    done = other.pgbake("image", "stage2", "--unchecked", check=False)
    assert done.returncode == 1
    assert "20250103120000_wrong.sql fails, in the statement that ends in line 4" in done.stderr
    assert 'syntax error at or near "NUL"' in done.stderr and "ALTER TABLE orders" in done.stderr
    assert not list(images.glob("*.new"))
    assert "wrong" not in (other.directory / "migrations/applied.sha256").read_text()

    # Mended, it goes on; then it is never to change.
    wrong.write_text("-- migrate:up\nALTER TABLE orders ADD COLUMN price money;\n")
    other.pgbake("image", "stage2", "--unchecked")
    wrong.write_text("-- migrate:up\nALTER TABLE orders ADD COLUMN price numeric;\n")
    done = other.pgbake("image", "stage2", "--unchecked", check=False)
    assert done.returncode == 1 and "20250103120000_wrong.sql: changed" in done.stderr
    wrong.write_text("-- migrate:up\nALTER TABLE orders ADD COLUMN price money;\n")
    done = other.pgbake("image", "stage2", "--unchecked", "--replay", check=False)
    assert done.returncode == 1 and "20250101120000_orders.sql cannot be applied a second time" in done.stderr


def test_what_does_not_fit_or_is_not_there_is_one_error(project: TestProject) -> None:
    small = TestProject.copy(project.directory.parent / "small", project.home)
    small.edit("[platform]\n", '[image]\nsize = "300MB"\n\n[platform]\n')
    shutil.copy(project.directory / "pgbake-image.lock", small.directory)
    done = small.pgbake("image", "stage2", "--unchecked", "--disk", "raw", check=False)
    assert done.returncode == 2 and "does not fit into a disk of" in done.stderr and "[image] size" in done.stderr
    small.edit('size = "300MB"\n', 'packages = ["htop"]\n')
    done = small.pgbake("image", "stage1", check=False)
    assert done.returncode != 0 and "does not fit the manifest any more" in done.stderr
    assert "pgbake image lock" in done.stderr
