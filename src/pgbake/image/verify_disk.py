"""What a disk must prove: that machines boot from it by every way, serve, and lose nothing when they end, however."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgbake.errors import CommandError
from pgbake.image.contract import deviations
from pgbake.image.emulate import SQL_PORT, VISITOR, Emulated, Emulator
from pgbake.image.migrations import Migration, migration_parts
from pgbake.image.stage1 import Stage1
from pgbake.image.verify import Proof, check_running
from pgbake.machine.definition import Cluster, Rendered
from pgbake.run import run

#: How much larger the machine's disk is than the image's, and how much of that its file system must have gained.
GROWTH, _GAINED = 1 << 30, 900 << 20  # bytes
#: Seconds in which rows are written before the power fails.
_WRITING = 4
#: A role and a table of the test's own; the machine is thrown away.
_ROLE = "pgbake_verify"
_ENVIRONMENT = {"PATH": os.defpath}


def check_disk(
    emulator: Emulator,
    root: Path,
    stage1: Stage1,
    wanted: Rendered,
    clusters: tuple[Cluster, ...],
    migrations: Sequence[Migration],
    limit: float,
) -> Iterator[Proof]:
    """Boot a disk by UEFI, let the power fail while rows are written, boot it by BIOS, restart it, shut it down; then
    hold its files against the contract. At last boot a fresh one by its kernel alone, where no cloud is.

    The first cluster is asked from outside, by TCP.

    :param root: the tree that the disk was made of; its psql is the client.
    :param limit: seconds that each boot may take.
    :raises ServerError: a machine does not come up.
    """
    size = emulator.disk.stat().st_size + GROWTH
    emulator.lay_out(size)
    cluster = clusters[0]
    with emulator.booted("uefi", limit) as machine:
        cloud = machine.run("cloud-id", check=False).stdout.strip() or "none"
        strange = () if cloud == emulator.cloud.id else (f"cloud-init has found the cloud {cloud}",)
        yield Proof("boot by UEFI, with a cloud", strange, f"{machine.seconds:.0f} s, {emulator.accelerator}")
        yield from check_running(machine, stage1, wanted, clusters, migrations)
        yield Proof("growth", tuple(_small(machine, size)))
        client = Client(machine, root, cluster)
        found: list[str] = []
        with _told(found):
            client.open()
            answer = client.ask("SELECT 6 * 7")
            found += [] if answer == "42" else [f"the server answers {answer}"]
        yield Proof("SQL from outside", tuple(found))
        if found:
            return
        told = client.write_until_power_fails()
    with emulator.booted("bios", limit) as machine:
        yield Proof("boot by BIOS, after a power failure", note=f"{machine.seconds:.0f} s")
        client = Client(machine, root, cluster, client.password)
        found = []
        with _told(found):
            client.pass_firewall()
            found += _lost(client, told)
            found += _damaged(machine, cluster)
        yield Proof("power failure", tuple(found), f"{told} transactions were acknowledged before")
        machine.restart(limit)
        found = []
        with _told(found):
            client.pass_firewall()
            found += _lost(client, told)
        yield Proof("restart", tuple(found), f"{machine.seconds:.0f} s")
        machine.shut_down(limit)
    added = (*stage1.rendered.parts, *migration_parts(migrations))
    ours = {f"user {VISITOR}", f"group {VISITOR}"}
    left = deviations(emulator.read_root(), stage1.memory, wanted, added, booted=True)
    yield Proof("contract", tuple(f"{each.what}: {each.found}" for each in left if each.what not in ours))


def check_without_cloud(emulator: Emulator, limit: float) -> Iterator[Proof]:
    """Boot a disk by its kernel alone, without firmware and without a cloud: its file system must grow all the same.

    :raises ServerError: the machine does not come up.
    """
    size = emulator.disk.stat().st_size + GROWTH
    emulator.lay_out(size)
    with emulator.booted("kernel", limit, cloud=False) as machine:
        yield Proof("boot by its kernel, without a cloud", note=f"{machine.seconds:.0f} s")
        machine.shut_down(limit)
    grown = emulator.root_size()
    yield Proof("growth without a cloud", tuple(_too_small(grown, size)))


def _small(machine: Emulated, size: int) -> Iterator[str]:
    told = machine.run("df", "--output=size", "--block-size=1", "/").stdout.split()
    yield from _too_small(int(told[-1]), size)


def _too_small(found: int, size: int) -> Iterator[str]:
    """Yield a complaint where a file system has not grown; a tenth of a disk goes for its own tables."""
    if found < (size - GROWTH) * 0.9 + _GAINED:
        yield f"the root file system has {found >> 20} MiB on a disk of {size >> 20} MiB"


class Client:
    """A client of a machine's server, outside of that machine."""

    def __init__(self, machine: Emulated, root: Path, cluster: Cluster, password: str | None = None) -> None:
        self.machine = machine
        self.root = root
        self.cluster = cluster
        self.password = password or secrets.token_hex(16)

    def open(self) -> None:
        """Let the server answer outside, as its administrator would, to a role of the test's own."""
        conf = self.cluster.conf
        script = (
            f"echo \"listen_addresses = '*'\" >> {conf}/postgresql.conf && "
            f"echo 'host all {_ROLE} all scram-sha-256' >> {conf}/pg_hba.conf && "
            # The power fails soon, and these files are to outlive it.
            f"sync && systemctl restart {self.cluster.unit}"
        )
        self.machine.run("sh", "-c", script)
        self.pass_firewall()
        self.machine.sql(f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{self.password}'")
        self.machine.sql(f"CREATE DATABASE {_ROLE} OWNER {_ROLE}")

    def pass_firewall(self) -> None:
        """Let the machine's firewall, where it has one, pass the server's port until the machine is restarted."""
        rule = f"nft insert rule inet pgbake input tcp dport {self.cluster.port} accept"
        self.machine.run("sh", "-c", f"if nft list table inet pgbake > /dev/null 2>&1; then {rule}; fi")

    def _psql(self, *words: str) -> list[str]:
        address = f"host=127.0.0.1 port={SQL_PORT} user={_ROLE} dbname={_ROLE} password={self.password}"
        psql = f"/usr/lib/postgresql/{self.cluster.major}/bin/psql"
        program = [
            "bwrap", "--ro-bind", str(self.root), "/", "--dev", "/dev", "--proc", "/proc", "--die-with-parent", "--",
            psql, "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", address, *words,
        ]  # fmt: skip
        return self.machine.beside(program=program)

    def ask(self, statement: str) -> str:
        """Return what the server answers."""
        return run(self._psql("-c", statement), sandbox="bundle", env=_ENVIRONMENT).stdout.strip()

    def write_until_power_fails(self) -> int:
        """Write rows, each in a transaction, cut the machine's power meanwhile; return how many were acknowledged."""
        self.ask("CREATE TABLE written (n int PRIMARY KEY, filler text)")
        # \echo comes when the statement before it was acknowledged.
        script = "".join(
            f"INSERT INTO written VALUES ({n}, repeat('x', 1000));\n\\echo {n}\n" for n in range(1, 100_001)
        )
        writer = subprocess.Popen(
            self._psql("-f", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT, text=True,
        )  # fmt: skip
        try:
            begin = time.monotonic()
            assert writer.stdin is not None
            os.set_blocking(writer.stdin.fileno(), False)
            rest = script.encode()
            while time.monotonic() - begin < _WRITING:
                try:
                    rest = rest[os.write(writer.stdin.fileno(), rest[:65536]) :]
                except BlockingIOError:
                    time.sleep(0.05)
            self.machine.cut_power()
            told, _ = writer.communicate(timeout=60)
        finally:
            writer.kill()
        return int((told.split() or ["0"])[-1])


def _lost(client: Client, told: int) -> Iterator[str]:
    there = int(client.ask("SELECT count(*) FROM written WHERE n <= " + str(told)))
    if told == 0:
        yield "no transaction was acknowledged before the power failed"
    if there != told:
        yield f"{told - there} of {told} transactions that were acknowledged are lost"
    if (beyond := int(client.ask(f"SELECT count(*) FROM written WHERE n > {told}"))) > 1:
        yield f"{beyond} rows are there that nobody can have written"


def _damaged(machine: Emulated, cluster: Cluster) -> Iterator[str]:
    """Yield what is wrong with the pages of a cluster, whose server is stopped for that."""
    machine.run("systemctl", "stop", cluster.unit)
    program = f"/usr/lib/postgresql/{cluster.major}/bin/pg_checksums"
    done = machine.run(program, "--check", "-D", cluster.data, user="postgres", check=False)
    if done.status != 0:
        yield f"pg_checksums: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}"
    machine.run("systemctl", "start", cluster.unit)


@contextmanager
def _told(found: list[str]) -> Iterator[None]:
    """Tell a program that fails in the ``with`` block among what is wrong."""
    try:
        yield
    except CommandError as error:
        found.append(f"{error.message}: {error.detail or ''}".strip(": "))
