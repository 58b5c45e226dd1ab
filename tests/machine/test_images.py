"""Images of machines: made of the example's bundle, twice to the same bytes, held against their contract, booted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cache import scratch_directory
from tests.emulator import Firmware, boot_until
from tests.projects import TestProject

pytestmark = [pytest.mark.integration, pytest.mark.full]


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
    proofs = project.json("image", "test", "--unchecked")["proofs"]
    assert [(proof["name"], proof["found"]) for proof in proofs] == [
        ("contract", []), ("units", []), ("ports", []), ("server 15/main", []), ("migrations", []),
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
    done = project.pgbake("image", "test", "--unchecked", "--json", check=False)
    assert done.returncode == 1
    assert not next(proof for proof in json.loads(done.stdout)["proofs"] if proof["name"] == "contract")["passed"]
    shutil.rmtree(tree.parent)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_disk_boots_and_its_server_answers(project: TestProject, firmware: Firmware) -> None:
    made = project.json("image", "stage2", "--unchecked", "--disk", "qcow2")
    (disk,) = map(Path, made["disks"])
    before = digest(disk)
    ask = "SELECT 'answer ' || 6 * 7 || ' of ' || count(*) FROM pg_available_extensions"
    script = f"""
        until pg_isready -q -h /run/postgresql; do sleep 1; done
        psql -XAtqw -d postgres -c "{ask}"
        psql -XAtqw -d postgres -c "CREATE EXTENSION vector; SELECT 'distance ' || ('[3]'::vector <-> '[1]'::vector)"
    """
    user_data = "#cloud-config\n" + json.dumps(
        {
            "write_files": [{"path": "/run/ask", "content": script, "permissions": "0755"}],
            "runcmd": [["sh", "-c", "su postgres -c 'sh /run/ask' > /dev/console 2>&1; df / > /dev/console"]],
        }
    )
    with scratch_directory("emulator") as directory:
        said = boot_until(disk, firmware, user_data, "distance 2", directory, limit=900)
    assert "answer 42 of " in said
    assert digest(disk) == before


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
