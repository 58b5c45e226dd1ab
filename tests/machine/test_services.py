"""Services of images: each planted fault is found by the program that reads the file; a machine with all works."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from pgbake.bundle.receipt import read_receipt
from pgbake.events import silent
from pgbake.formats.system import host_system
from pgbake.image.boot import Booted, booted
from pgbake.image.configuration import check_files, check_server, trial
from pgbake.image.lock import IMAGE_LOCK_NAME, ImageLock, load_image_lock, pins_of
from pgbake.image.stage1 import Stage1
from pgbake.image.workshop import open_workshop
from pgbake.install.profiles import settings_text
from pgbake.machine.definition import Cluster, Part
from pgbake.machine.image import MachineImage
from tests.cache import scratch_directory
from tests.projects import TestProject

pytestmark = [pytest.mark.integration, pytest.mark.full]

MANIFEST = """\
[settings]
listen_addresses = "*"
work_mem = "8MB"

[services.fail2ban]
retries = 3
[services.nftables]
[services.nginx]
upstream = "http://127.0.0.1:9187"
[services.pgbackrest]
[services.pgbouncer]
port = 6543
[services.prometheus-postgres-exporter]
[services.rsyslog]
target = "127.0.0.1"

[services.answer]
url = "file://{program}"
sha256 = "{sha256}"
exec = "/etc/answer.conf"
files = {{ "/etc/answer.conf" = "answer.conf" }}
ports = [{{ number = 3000 }}]
check = 'grep -q "^answer=" "$1"'

[platform]
"""
#: A program that no package brings: it answers each connection with a line of its file.
PROGRAM = """\
#!/usr/bin/python3
import socket, sys
server = socket.create_server(("127.0.0.1", 3000))
while True:
    with server.accept()[0] as client:
        client.sendall(open(sys.argv[1], "rb").read())
"""
#: Says who logs in, as PostgreSQL's protocol has it, and is refused.
LOG_IN = """\
import socket, struct
words = b"user\\0app\\0database\\0postgres\\0\\0"
with socket.create_connection(("192.0.2.1", 5432), 5) as server:
    server.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
    server.settimeout(5)
    server.recv(1000)
"""
#: Of each file: what is added to it, who finds it, and a word of what he says.
FAULTS = {
    "/etc/ssh/sshd_config.d/10-pgbake.conf": ("PasswordAuthentcation no\n", "sshd", "PasswordAuthentcation"),
    "/etc/systemd/system/pgbackrest-stanza.service": ("[Service]\nExecStrat=/bin/true\n", "systemd", "ExecStrat"),
    "/etc/systemd/system/pgbackrest-backup.timer": ("[Timer]\nOnCalendar=dayly\n", "systemd", "dayly"),
    "/etc/systemd/system/pgbouncer.service.d/pgbake.conf": ("[Unit]\nAftre=x.service\n", "systemd", "Aftre"),
    "/etc/sysctl.d/60-pgbake.conf": ("vm.swapiness = 10\n", "sysctl", "swapiness"),
    "/etc/logrotate.d/pgbake-postgresql": ("/var/log/x {\n\tweekley\n}\n", "logrotate", "weekley"),
    "/etc/fail2ban/jail.d/pgbake.local": ("\n[other]\nenabled = true\nfilter = nosuch\n", "fail2ban", "nosuch"),
    "/etc/nftables.conf": ("table inet x { chain y { udp dprot 1 accept } }\n", "nft", "dprot"),
    "/etc/nginx/nginx.conf": ("servr_tokens off;\n", "nginx", "servr_tokens"),
    "/etc/pgbackrest.conf": ("pg1-prot=1\n", "pgbackrest", "pg1-prot"),
    "/etc/pgbouncer/pgbouncer.ini": ("pool_mod = session\n", "pgbouncer", "pool_mod"),
    "/etc/default/prometheus-postgres-exporter": ('ARGS="--web.listen=x"\n', "exporter", "--web.listen"),
    "/etc/rsyslog.conf": ('action(type="omfwdd")\n', "rsyslog", "omfwdd"),
    "/etc/hosts": ("@nobody-says@\n", "values", "@nobody-says@"),
    "/etc/postgresql/15/main/postgresql.conf": ("wrok_mem = '1MB'\n", "postgresql", "wrok_mem"),
    "/etc/postgresql/15/main/conf.d/20-services.conf": ("nosuch.thing = '1'\n", "postgresql", "nosuch.thing"),
    "/etc/postgresql/15/main/conf.d/30-manifest.conf": ("include_if_exists 'no.conf'\n", "postgresql", "no.conf"),
    "/etc/postgresql/15/main/pg_hba.conf": ("local all all peeer\n", "postgresql", "peeer"),
    "/etc/postgresql/15/main/pg_ident.conf": ("m /( x\n", "postgresql", "parentheses"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """The example, built, with all services, and what its images are made of pinned today."""
    import hashlib

    top = tmp_path_factory.mktemp("services")
    made = TestProject.copy(top / "project", top / "home")
    program = top / "answer"
    program.write_text(PROGRAM)
    digest = hashlib.sha256(PROGRAM.encode()).hexdigest()
    made.edit("[platform]\n", MANIFEST.format(program=program, sha256=digest))
    (made.directory / "answer.conf").write_text("answer=@postgresql-major@\n")
    made.pgbake("build")
    made.pgbake("image", "lock")
    return made


def image_of(project: TestProject) -> MachineImage:
    manifest = project.project.manifest
    file = project.project.manifest_file
    return MachineImage.of(manifest.services, None, manifest.server_settings, Cluster(15, "main", 5432), file)


def lock_of(project: TestProject) -> ImageLock:
    return load_image_lock(project.directory / IMAGE_LOCK_NAME, project.project.manifest, image_of(project))


def images_of(project: TestProject) -> Path:
    return Path(project.environment()["XDG_CACHE_HOME"], "pgbake/images")


def test_each_file_is_right_and_each_fault_is_found_by_the_program_that_reads_it(project: TestProject) -> None:
    told = project.json("config", "check")
    assert {each["name"]: each["said"] for each in told["checks"]} == {each["name"]: [] for each in told["checks"]}
    assert {fault[1] for fault in FAULTS.values()} - {"values", "logrotate"} <= {
        each["name"] for each in told["checks"]
    }

    image = image_of(project)
    bundle = project.project.bundle(host_system()).path
    current = "/nix/var/pgbake/profiles/15/current"
    settings = settings_text(read_receipt(project.store / str(bundle).lstrip("/")))
    installed = [
        Part("link", f"{current}/server", target=str(bundle)),
        Part("file", f"{current}/settings.conf", 0o644, content=settings.encode()),
    ]
    images = images_of(project)
    stage = Stage1.of(images, lock_of(project), host_system(), image)
    for path, (fault, name, word) in FAULTS.items():
        parts = tuple(
            # postgresql-common's rules for logs stand in for ours in this image
            dataclasses.replace(part, content=part.content + fault.encode(), unless=()) if part.path == path else part
            for part in image.machine.parts
        )
        assert parts != image.machine.parts, path
        asked = [check for check in image.checks if any(fnmatchcase(path, pattern) for pattern in check.files)]
        with trial(
            images / f"programs-{stage.packages}/root", dataclasses.replace(image.machine, parts=parts), installed,
            images, project.store / "nix/store",
        ) as where:  # fmt: skip
            findings = [*check_files(where, asked)]
            if path.startswith("/etc/postgresql/"):
                findings.append(check_server(where, image.cluster))
        said = {finding.check: "\n".join(finding.said) for finding in findings if finding.said}
        assert set(said) == {name}, path
        assert word in said[name], path


@pytest.fixture(scope="module")
def machine(project: TestProject) -> Iterator[Booted]:
    """The machine with all services, booted."""
    tree = Path(project.json("image", "stage2", "--unchecked")["tree"])
    assert project.json("image", "check", "--unchecked")["deviations"] == []
    images = images_of(project)
    pins = pins_of(lock_of(project), host_system()).workshop
    workshop = open_workshop(images, pins, project.project.mirrors, images.parent / "downloads", silent)
    with booted(workshop, tree, 300) as running:
        yield running


def eventually(machine: Booted, *argv: str, word: str = "", limit: float = 60) -> str:
    """Run a program in the machine until it ends well and says a word; return all that it says."""
    end = time.monotonic() + limit
    while True:
        done = machine.run(*argv, check=False)
        if (done.status == 0 and word in done.stdout) or time.monotonic() > end:
            assert done.status == 0 and word in done.stdout, (argv, done)
            return done.stdout
        time.sleep(0.5)


@contextmanager
def overlaid(tree: Path) -> Iterator[Path]:
    """Give a throwaway overlay of a tree."""
    with scratch_directory("overlay") as directory:
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        layers = f"lowerdir={tree},upperdir={directory}/upper,workdir={directory}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, directory / "root"], check=True)
        try:
            yield directory / "root"
        finally:
            subprocess.run(["umount", directory / "root"], check=True)


@contextmanager
def outside(machine: Booted) -> Iterator[list[str]]:
    """Give another machine at the other end of a cable, 192.0.2.2, as the beginning of a command line in it."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline()  # it is a machine of its own now
            inside, there = (["nsenter", "-t", str(pid), "-n"] for pid in (machine.init, other.pid))
            peer = ["peer", "name", "cable1", "netns", str(other.pid)]
            for command in (
                [*inside, "ip", "link", "add", "cable0", "type", "veth", *peer],
                [*inside, "ip", "address", "add", "192.0.2.1/24", "dev", "cable0"],
                [*inside, "ip", "link", "set", "cable0", "up"],
                [*there, "ip", "address", "add", "192.0.2.2/24", "dev", "cable1"],
                [*there, "ip", "link", "set", "cable1", "up"],
            ):
                subprocess.run(command, check=True)
            yield there
        finally:
            other.kill()


def reaches(there: list[str], port: int) -> bool:
    """Whether a connection to the machine is made within two seconds; retried, since a new cable takes a moment."""
    script = f"exec 3<>/dev/tcp/192.0.2.1/{port}"
    return any(
        subprocess.run([*there, "timeout", "2", "bash", "-c", script], stderr=subprocess.DEVNULL).returncode == 0
        for _ in range(3)
    )


def test_drift_of_a_tree_is_told(project: TestProject) -> None:
    tree = Path(project.json("image", "stage2", "--unchecked")["tree"])
    with overlaid(tree) as root:
        assert project.json("config", "drift", "--root", str(root))["deviations"] == []
        assert project.pgbake("config", "diff", str(tree), str(root)).returncode == 0
        (root / "etc/nftables.conf").write_text("flush ruleset\n")
        (root / "etc/systemd/system/multi-user.target.wants/pgbouncer.service").unlink()
        (root / "var/lib/pgbackrest").chmod(0o777)
        (root / "etc/beside").touch()
        done = project.pgbake("config", "drift", "--root", str(root), "--json", check=False)
        assert done.returncode == 1
        assert {each["what"]: each["found"] for each in json.loads(done.stdout)["deviations"]} == {
            "/etc/nftables.conf": "changed",
            "/var/lib/pgbackrest": "has mode 0777, and not 0750",
            "pgbouncer.service": "is disabled, and not enabled",
        }
        done = project.pgbake("config", "diff", str(tree), str(root), "--json", check=False)
        assert [each["path"] for each in json.loads(done.stdout)["differences"]] == [
            "/etc/beside", "/etc/nftables.conf", "/etc/systemd/system/multi-user.target.wants/pgbouncer.service",
        ]  # fmt: skip


def test_all_that_is_declared_holds(project: TestProject) -> None:
    done = project.pgbake("image", "test", "--unchecked", "--timeout", "300", "--json", check=False)
    found = {proof["name"]: proof["found"] for proof in json.loads(done.stdout)["proofs"]}
    assert {name: [] for name in found} == found
    assert {f"service {name}" for name in project.project.manifest.services} <= set(found)


def test_a_pool_serves_whom_postgresql_knows(machine: Booted) -> None:
    machine.sql("CREATE ROLE app LOGIN PASSWORD 'right'")
    ask = "postgresql://app:{}@127.0.0.1:6543/postgres"
    assert machine.run("psql", "-XAtc", "SELECT current_user", ask.format("right")).stdout == "app\n"
    refused = machine.run("psql", "-XAtc", "SELECT 1", ask.format("wrong"), check=False)
    assert refused.status != 0 and "authentication failed" in refused.stderr


def test_figures_are_those_of_this_server(machine: Booted) -> None:
    script = 'exec 3<>/dev/tcp/127.0.0.1/80; printf "GET /metrics HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
    said = eventually(machine, "timeout", "10", "bash", "-c", script, word="\npg_up 1\n")  # through nginx
    assert "pg_settings_work_mem_bytes" in said and "8.388608e+06" in said


def test_a_backup_is_made_and_restored(machine: Booted) -> None:
    machine.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    machine.run("systemctl", "start", "pgbackrest-backup")
    machine.sql("CREATE TABLE later AS SELECT 1 AS n; SELECT pg_switch_wal()")
    machine.run("systemctl", "stop", "postgresql@15-main")
    machine.run("sh", "-c", "rm -rf /var/lib/postgresql/15/main/*")
    machine.run("pgbackrest", "--stanza=main", "restore", user="postgres")
    machine.run("systemctl", "start", "postgresql@15-main")
    eventually(machine, "pg_isready", "-q")
    assert machine.sql("SELECT sum(n) FROM kept") == "500500"
    eventually(machine, "runuser", "-u", "postgres", "--", "psql", "-XAtc", "SELECT n FROM later", "postgres", word="1")


def test_a_program_that_no_package_brings_runs_as_nobody_else(machine: Booted) -> None:
    said = machine.run("timeout", "10", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/3000; cat <&3").stdout
    assert said == "answer=15\n"
    shown = machine.run("systemctl", "show", "-P", "User", "-P", "ProtectSystem", "answer.service").stdout.split()
    assert shown == ["answer", "strict"]


def test_logs_arrive_elsewhere(machine: Booted) -> None:
    take = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 514))
server.settimeout(60)
client = server.accept()[0]
client.settimeout(60)
said = b""
while b"a word to send" not in said:
    said += client.recv(65536)
print("arrived")
"""
    with subprocess.Popen(
        ["nsenter", "-t", str(machine.init), "-m", "-n", "-p", "-r", "python3", "-c", take], stdout=subprocess.PIPE
    ) as taking:
        deadline = time.monotonic() + 60
        while taking.poll() is None and time.monotonic() < deadline:
            machine.run("logger", "a word to send")
            time.sleep(1)
        assert taking.stdout is not None and taking.stdout.read() == b"arrived\n"


def test_the_firewall_keeps_out_what_is_not_open_and_a_brute_force_is_banned(machine: Booted) -> None:
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 7777)); print(flush=True); time.sleep(300)"
    listener = ["nsenter", "-t", str(machine.init), "-m", "-n", "-p", "-r", "python3", "-c", listen]
    with (
        outside(machine) as there,
        subprocess.Popen(listener, stdout=subprocess.PIPE) as open_,
    ):
        try:
            assert open_.stdout is not None and open_.stdout.readline()
            assert reaches(there, 80) and reaches(there, 22) and reaches(there, 5432)
            assert not reaches(there, 7777)  # somebody listens
            machine.run("bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/7777")
            for _ in range(5):
                subprocess.run([*there, sys.executable, "-c", LOG_IN], check=False)
            eventually(machine, "fail2ban-client", "status", "postgresql", word="192.0.2.2")
            # It tells of a ban before it has made the first one's table.
            end = time.monotonic() + 30
            while reaches(there, 5432):
                assert time.monotonic() < end
            machine.run("fail2ban-client", "set", "postgresql", "unbanip", "192.0.2.2")
            assert reaches(there, 5432)
        finally:
            open_.kill()
