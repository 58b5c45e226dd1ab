"""Nix as the engine with remote builders: two hosts of their own, one of which is cut off in the middle."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.derivation import Derivation
from pgbake.store.local import LocalStore
from tests.farm import Farm, Host, farm_tree, unavailable
from tests.integration.conftest import nix_on_copy
from tests.nixhost import NixHost, forget
from tests.oracle import Oracle
from tests.projects import TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(unavailable() is not None, reason=f"no build farm: {unavailable()}"),
]


@pytest.fixture
def farm(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        yield farm


@pytest.fixture
def nix(example: TestProject) -> Iterator[Oracle]:
    """Nix with an ssh beside it."""
    with nix_on_copy(example, farm_tree("bookworm")) as oracle:
        yield oracle


@pytest.fixture
def host(nix: Oracle, farm: Farm, tmp_path: Path) -> NixHost:
    return NixHost(nix, tmp_path, farm=farm)


class Watched:
    """A build that is under way, and where each part of it runs."""

    def __init__(self, host: NixHost, project: TestProject, *args: str) -> None:
        self.where: dict[str, set[str]] = defaultdict(set)
        self.lost: list[str] = []
        self._process = host.start(project, "--progress", "json", "build", "--engine", "nix", *args)
        #: What it said that is no event.
        self.said = ""

    def watch(self) -> Iterator[tuple[str, str]]:
        """Yield where each build begins: the host's URL ("" for this machine), and the derivation's name."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not line.startswith("{"):
                self.said += line
                continue
            event = json.loads(line)
            if event["event"] == "Notice" and "was lost" in event["text"]:
                self.lost.append(event["text"])
            if event["event"] == "Started" and event["kind"] == "build":
                name, _, where = event["title"].partition(" on ")
                self.where[where].add(name)
                yield where, name

    def end(self) -> str:
        """Wait for its end, and return its answer."""
        assert self._process.stdout is not None
        answer = self._process.stdout.read()
        assert self._process.wait() == 0, self.said
        return answer


def assert_alike(nix: Oracle, store: LocalStore, derivations: Iterable[Derivation]) -> None:
    """All outputs are what the local engine has built."""
    for derivation in derivations:
        for path in derivation.output_paths.values():
            known = nix.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
            assert known == f"sha256:{base32.encode(store.info(path).nar_sha256)}", path.name


def cut_off(farm: Farm, host: Host, way: str) -> None:
    if way == "cable":
        farm.cut(host)
    else:
        host.off()


@pytest.mark.parametrize("way", ["cable", pytest.param("power", marks=pytest.mark.full)])
def test_a_builder_is_lost_in_the_middle(
    farm: Farm, host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore, way: str
) -> None:
    names = ("numeral", "plsh", "preprepare", "prioritize")
    goals = [bundle.by_name()[name] for name in names]
    forget(host.oracle, *(str(path) for goal in goals for path in goal.output_paths.values()))
    hosts = [farm.add(), farm.add("sandbox = false")]
    checked = json.loads(host.pgbake(project, "--builders", farm.machines(), "builders", "check", "--json").stdout)
    assert checked["ok"], checked
    build = Watched(host, project, *names, "--builders", farm.machines())
    cut = False
    for where, _name in build.watch():
        if where == hosts[0].url and not cut:
            # It has but the inputs' first part by then.
            threading.Timer(1, cut_off, [farm, hosts[0], way]).start()
            cut = True
    assert build.end().split() == [goal.outputs["out"].path for goal in goals]
    assert cut and len(build.lost) == 1 and hosts[0].url in build.lost[0]
    assert build.where[hosts[1].url]
    assert_alike(host.oracle, store, goals)


@pytest.mark.full
@pytest.mark.timeout(2400)
def test_the_bundle_is_built_by_two_hosts_and_one_is_cut_off(
    farm: Farm, host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore
) -> None:
    """PostgreSQL, its extensions and the bundle; this machine itself builds nothing."""
    derivations = list(bundle.by_name().values())
    forget(host.oracle, *(str(path) for one in derivations for path in one.output_paths.values()))
    hosts = [farm.add(), farm.add()]
    manifest = project.directory / "pgbake.toml"
    manifest.write_text(f"{manifest.read_text()}\n[builders]\nlocal-jobs = 0\n{_tables(farm)}")
    build = Watched(host, project)
    cut: Host | None = None
    for where, name in build.watch():
        # Once both have built extensions, the one that has just begun another is cut off.
        if cut is None and all(len(build.where[one.url] - {_postgresql(bundle)}) >= 2 for one in hosts):
            cut = next(one for one in hosts if one.url == where)
            last = name
            farm.cut(cut)
    assert build.end().strip() == str(bundle.path)
    assert cut is not None and len(build.lost) == 1 and cut.url in build.lost[0] and last in build.lost[0]
    assert not build.where[""]
    assert set().union(*build.where.values()) == {one.name for one in derivations}
    assert_alike(host.oracle, store, derivations)


def _postgresql(bundle: Bundle) -> str:
    return bundle.by_name()["postgresql"].name


def _tables(farm: Farm) -> str:
    return "".join(
        f'[[builders.machine]]\nurl = "{host.url}"\nkey = "{farm.key}"\nhost-key = "{host.host_key}"\n'
        for host in farm.hosts
    )
