"""What an image must prove: that its tree is what was declared, and that a machine booted from it serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgbake.errors import PgbakeError
from pgbake.events import silent
from pgbake.image.boot import Booted
from pgbake.image.contract import Deviation, Memory, deviations
from pgbake.image.migrations import Migration, migration_parts
from pgbake.install.installation import Installation
from pgbake.machine.definition import Cluster, Part, Rendered, render_image
from pgbake.store.local import LocalStore


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried, and what came of it.

    :param found: empty where all is well.
    """

    name: str
    found: tuple[str, ...] = ()


def wanted_of(root: Path) -> tuple[Rendered, tuple[Cluster, ...]]:
    """Return what the machine definition says of the bundles that are installed in a tree, and the clusters."""
    with LocalStore(root) as store:
        installation = Installation(store, silent)
        rendered, clusters, _ = installation.wanted()
    return rendered, clusters


def check_tree(root: Path, memory: Memory, added: Sequence[Part] = ()) -> list[Deviation]:
    """Hold a tree that was never booted against its contract.

    :param memory: what stage 1 had.
    :param added: what the image has beside.
    """
    rendered, _ = wanted_of(root)
    return deviations(root, memory, rendered, (*render_image(), *added))


def check_machine(
    machine: Booted,
    memory: Memory,
    wanted: Rendered,
    clusters: tuple[Cluster, ...],
    migrations: Sequence[Migration] = (),
) -> Iterator[Proof]:
    """Try a booted machine: its files and accounts, units, ports, and what its servers answer."""
    added = (*render_image(), *migration_parts(migrations))
    found = deviations(machine.root, memory, wanted, added, booted=True)
    yield Proof("contract", tuple(f"{each.what}: {each.found}" for each in found))
    failed = machine.run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", check=False).stdout
    yield Proof("units", tuple(f"{line.split()[0]} has failed" for line in failed.splitlines() if line.strip()))
    ports = {_port(line) for line in machine.run("ss", "-Hltn").stdout.splitlines()}
    expected = {22, *(cluster.port for cluster in clusters)}
    known = {53, 5355}  # the resolver's own, on this machine's addresses
    yield Proof(
        "ports",
        (
            *(f"nobody listens on port {port}" for port in sorted(expected - ports)),
            *(f"somebody listens on port {port}, which is not declared" for port in sorted(ports - expected - known)),
        ),
    )
    for cluster in clusters:
        yield Proof(f"server {cluster.label}", tuple(_ask(machine, cluster)))
    if migrations:
        yield Proof("migrations", tuple(_ask_migrations(machine, migrations)))


def _port(line: str) -> int:
    return int(line.split()[3].rpartition(":")[2])


def _ask_migrations(machine: Booted, migrations: Sequence[Migration]) -> Iterator[str]:
    """Yield which migrations a server has not applied, and which it has beside."""
    try:
        there = machine.sql("SELECT version FROM public.schema_migrations").split()
    except PgbakeError as error:
        yield f"{error.message}: {error.detail or ''}".strip()
        return
    yield from (f"{each.name} is not applied" for each in migrations if each.version not in there)
    yield from (f"{each} is applied, and not of the image" for each in {*there} - {m.version for m in migrations})


def _ask(machine: Booted, cluster: Cluster) -> Iterator[str]:
    """Yield what a server says that it should not say."""
    try:
        version = machine.sql("SHOW server_version")
        if version.partition(".")[0] != str(cluster.major):
            yield f"the server is {version}, and not {cluster.major}"
        for question, answer in (
            ("SHOW data_checksums", "on"),
            ("SELECT count(*) FROM pg_settings WHERE pending_restart", "0"),
            ("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL", "0"),
            ("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL", "0"),
        ):
            if (said := machine.sql(question)) != answer:
                yield f"{question}: {said}, and not {answer}"
        for name in machine.sql("SELECT name FROM pg_available_extensions ORDER BY 1").splitlines():
            tried = machine.run(
                "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", "postgres",
                "-c", f'BEGIN; CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE; ROLLBACK', user="postgres", check=False,
            )  # fmt: skip
            if tried.status != 0:
                yield f'CREATE EXTENSION "{name}": {tried.stderr.strip().splitlines()[0]}'
    except PgbakeError as error:
        yield f"{error.message}: {error.detail or ''}".strip()
