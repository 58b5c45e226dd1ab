"""What an image must prove: that its tree is what was declared, and that a machine booted from it serves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgbake.errors import PgbakeError
from pgbake.events import silent
from pgbake.image.boot import Booted, Machine
from pgbake.image.contract import Deviation, deviations
from pgbake.image.migrations import Migration, migration_parts
from pgbake.image.stage1 import Stage1
from pgbake.install.installation import Installation
from pgbake.machine.definition import Cluster, Part, Port, Rendered, Unit, fill, is_loopback
from pgbake.machine.services import Chosen
from pgbake.store.local import LocalStore

#: What psql says of an error in a script from its standard input: the line, and the message.
_ERROR = re.compile(r"^psql:<stdin>:(\d+): (?:ERROR|FATAL): +(.*)$", re.MULTILINE)
#: Services are asked for some time: some begin to answer after they have started.
_ASK = 'for try in $(seq 40); do said=$(sh -c "$1" 2>&1) && exit 0; sleep 0.5; done; echo "$said"; exit 1'


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried, and what came of it.

    :param found: what is wrong; empty where all is well.
    :param note: what else is worth telling.
    """

    name: str
    found: tuple[str, ...] = ()
    note: str = ""


def wanted_of(root: Path) -> tuple[Rendered, tuple[Cluster, ...]]:
    """Return what the machine definition says of the bundles that are installed in a tree, and the clusters."""
    with LocalStore(root) as store:
        installation = Installation(store, silent)
        rendered, clusters, _ = installation.wanted()
    return rendered, clusters


def check_tree(root: Path, stage1: Stage1, wanted: Rendered, added: Sequence[Part] = ()) -> list[Deviation]:
    """Hold a tree that was never booted against its contract.

    :param stage1: what it was made of.
    :param wanted: what the machine definition says of its PostgreSQL.
    :param added: what the image has beside.
    """
    return deviations(root, stage1.memory, wanted, (*stage1.rendered.parts, *added))


def check_machine(
    machine: Booted,
    stage1: Stage1,
    wanted: Rendered,
    clusters: tuple[Cluster, ...],
    migrations: Sequence[Migration] = (),
) -> Iterator[Proof]:
    """Try a booted machine: its files and accounts, and all of :func:`check_running`."""
    added = (*stage1.rendered.parts, *migration_parts(migrations))
    found = deviations(machine.root, stage1.memory, wanted, added, booted=True)
    yield Proof("contract", tuple(f"{each.what}: {each.found}" for each in found))
    yield from check_running(machine, stage1, wanted, clusters, migrations)


def check_running(
    machine: Machine,
    stage1: Stage1,
    wanted: Rendered,
    clusters: tuple[Cluster, ...],
    migrations: Sequence[Migration] = (),
) -> Iterator[Proof]:
    """Try what a machine does: its units, ports, and what its servers answer."""
    image = stage1.rendered
    yield Proof("units", tuple(_units(machine, (*wanted.units, *image.units))))
    yield Proof("ports", tuple(_ports(machine, (*wanted.ports, *image.ports))))
    for cluster in clusters:
        yield Proof(f"server {cluster.label}", tuple(_ask(machine, cluster)))
    if migrations:
        yield Proof("migrations", tuple(_ask_migrations(machine, migrations)))
    for service in stage1.image.services:
        yield Proof(f"service {service.name}", tuple(_health(machine, service)))


def _health(machine: Machine, service: Chosen) -> Iterator[str]:
    """Yield what a service's own line of sh says, where it says in no try of some that it works."""
    done = machine.run("sh", "-c", _ASK, "sh", fill(service.service.health, service.values), check=False)
    if done.status != 0:
        yield from done.stdout.split("\n") if done.stdout.strip() else ["it does not work, and says nothing"]


#: What a unit has said at last; PostgreSQL says it in a file of its own.
_LAST_WORDS = """
journalctl --boot --quiet --output=cat --lines=6 --unit="$1"
case $1 in postgresql@*) tail -qn 6 /var/log/postgresql/*.log;; esac
"""


def _units(machine: Machine, units: Iterable[Unit]) -> Iterator[str]:
    """Yield what is wrong with units: those that failed, and whose state is another than declared."""
    failed = machine.run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", check=False).stdout
    for name in (line.split()[0] for line in failed.splitlines() if line.strip()):
        yield f"{name} has failed"
        told = machine.run("sh", "-c", _LAST_WORDS, "sh", name, check=False).stdout
        yield from (f"  {line}" for line in told.splitlines())
    declared = sorted(set(units))
    script = 'for unit; do echo "$unit $(systemctl is-enabled "$unit" 2> /dev/null)"; done'
    told = machine.run("sh", "-c", script, "sh", *(unit.name for unit in declared)).stdout
    states = dict(line.split(" ", 1) for line in told.splitlines())
    for unit in declared:
        if (state := states[unit.name].strip() or "not there") != unit.state:
            yield f"{unit.name} is {state}, and not {unit.state}"


def _ports(machine: Machine, ports: Iterable[Port]) -> Iterator[str]:
    """Yield who listens and is not declared, or listens wider than declared; and who does not listen."""
    expected: dict[tuple[str, int], list[Port]] = {}
    for port in ports:
        expected.setdefault((port.protocol, port.number), []).append(port)
    found: dict[tuple[str, int], bool] = {}
    for line in machine.run("ss", "-Hlntu").stdout.splitlines():
        protocol, _, _, _, local = line.split()[:5]
        address, _, number = local.rpartition(":")
        key = (protocol, int(number))
        found[key] = found.get(key, False) or not is_loopback(address.partition("%")[0])
    for key in sorted({*expected, *found}):
        declared, name = expected.get(key, []), f"port {key[1]}/{key[0]}"
        if key not in found:
            yield from (f"nobody listens on {name}: {port.unit}" for port in declared if not port.optional)
        elif not declared:
            yield f"somebody listens on {name}, which is not declared"
        elif found[key] and not any(port.is_open for port in declared):
            yield f"{declared[0].unit} listens on {name} for other machines, and not on {declared[0].address} only"


def _ask_migrations(machine: Machine, migrations: Sequence[Migration]) -> Iterator[str]:
    """Yield which migrations a server has not applied, and which it has beside."""
    try:
        there = machine.sql("SELECT version FROM public.schema_migrations").split()
    except PgbakeError as error:
        yield f"{error.message}: {error.detail or ''}".strip()
        return
    yield from (f"{each.name} is not applied" for each in migrations if each.version not in there)
    yield from (f"{each} is applied, and not of the image" for each in {*there} - {m.version for m in migrations})


def _ask(machine: Machine, cluster: Cluster) -> Iterator[str]:
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
        names = machine.sql("SELECT name FROM pg_available_extensions ORDER BY 1").splitlines()
        script = "".join(f'BEGIN; CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE; ROLLBACK;\n' for name in names)
        words = ["psql", "-XAtqw", "-d", "postgres", "-f", "-"]
        told = machine.run(*words, user="postgres", stdin=script.encode()).stderr
        for line, error in _ERROR.findall(told):
            yield f'CREATE EXTENSION "{names[int(line) - 1]}": {error}'
    except PgbakeError as error:
        yield f"{error.message}: {error.detail or ''}".strip()
