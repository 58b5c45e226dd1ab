"""The engine ``nix``: a real Nix at ``/nix`` builds what pgbake asks for, and pgbake writes nothing there by itself."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.store.local import LocalStore
from tests.integration.build.test_failures import change_numeral
from tests.nixhost import NixHost, forget
from tests.oracle import Oracle
from tests.projects import TestProject

pytestmark = pytest.mark.integration


@pytest.fixture
def host(nix: Oracle, tmp_path: Path) -> NixHost:
    return NixHost(nix, tmp_path)


def test_what_is_built_is_what_the_local_engine_builds(
    host: NixHost, project: TestProject, bundle: Bundle, store: LocalStore
) -> None:
    goals = [bundle.by_name()[name] for name in ("pgvector", "bundle")]
    forget(host.oracle, *(goal.outputs["out"].path for goal in goals))
    done = host.pgbake(project, "build")
    assert done.stdout.strip() == str(bundle.path)
    assert "building postgresql-15-pgvector" in done.stderr and "built postgresql-15-pgvector" in done.stderr
    for goal in goals:
        path = goal.output_paths["out"]
        known = host.oracle.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
        assert known == f"sha256:{base32.encode(store.info(path).nar_sha256)}"
    # What ./result points at is a root of Nix's.
    dead = host.oracle.run("nix-store", "--gc", "--print-dead", binds=[project.directory]).stdout.decode().split()
    assert str(bundle.path) not in dead
    assert host.pgbake(project, "build").stderr == ""


def test_checks_run_in_it(host: NixHost, project: TestProject) -> None:
    uses = project.directory / "tests/uses"
    uses.mkdir(parents=True)
    # A text that no run before has had, for the copied store keeps results.
    (uses / "pgvector.sql").write_text(f"-- {uuid4()}\nSELECT '[1,2]'::vector <-> '[1,3]' = 1;\n")
    (outcome,) = json.loads(host.pgbake(project, "check", "smoke/pgvector", "--json").stdout)
    assert outcome["state"] == "passed" and outcome["tests"]


def test_a_build_that_fails_tells_its_phase_and_its_end(host: NixHost, project: TestProject) -> None:
    change_numeral(project, "COPT=-include /usr/include/no-such-header.h")
    failed = host.pgbake(project, "build", "numeral", check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "fatal error: /usr/include/no-such-header.h: No such file or directory" in failed.stderr
    assert "error: postgresql-15-numeral-1.3 failed to build in phase build: " in failed.stderr
    assert "hint: the whole log: pgbake log numeral" in failed.stderr
    assert "no-such-header.h" in host.pgbake(project, "log", "numeral").stdout


def test_what_is_nixs_to_do_is_refused(host: NixHost, project: TestProject) -> None:
    for args in (["gc"], ["repair"], ["optimise"], ["sign", "--dry-run"]):
        done = host.pgbake(project, *args, check=False)
        assert done.returncode == 1 and "belongs to Nix" in done.stderr and "nix-store --gc" in done.stderr, args
    assert "engine: nix" in host.pgbake(project, "doctor", "--offline", check=False).stdout
