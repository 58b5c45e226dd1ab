"""What `pgbake builders check` says of builders in good order, and of others; and what a build says of these."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbake.builders import Builder
from pgbake.bundle.merge import Bundle
from tests.farm import Farm, Host, farm_tree, unavailable
from tests.integration.conftest import nix_on_copy
from tests.namespaces import without_user_namespaces
from tests.nixhost import NixHost, forget
from tests.projects import TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(unavailable() is not None, reason=f"no build farm: {unavailable()}"),
]

_OLD = """mkdir -p /root/bin
printf '#!/bin/sh\\necho "nix-store (Nix) 2.3.16"\\n' > /root/bin/nix-store
chmod 755 /root/bin/nix-store"""


@pytest.fixture(scope="module")
def farm(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Hosts in good order, without a sandbox, without user namespaces, and with a Nix that is too old."""
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        farm.add()
        farm.add("sandbox = false")
        farm.add("sandbox = false", around=without_user_namespaces([]))
        farm.add(prepare=_OLD)
        yield farm


@pytest.fixture(scope="module")
def host(example: TestProject, farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NixHost]:
    with nix_on_copy(example, farm_tree("bookworm")) as oracle:
        yield NixHost(oracle, tmp_path_factory.mktemp("host"), farm=farm)


def builder(farm: Farm, host: Host, user: str = "root", **others: Any) -> Builder:
    fields = {"key": str(farm.key), "host_key": host.host_key, **others}
    return Builder(f"ssh://{user}@{host.address}", **fields)


def check(host: NixHost, project: TestProject, builder: Builder) -> dict[str, tuple[str, str, str]]:
    done = host.pgbake(project, "--builders", builder.line, "builders", "check", "--json", check=False)
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    return {
        finding["name"]: (finding["state"], finding["found"], finding["hint"] or "")
        for finding in told["findings"]
        if finding["group"] == builder.url
    }


def test_one_in_good_order(host: NixHost, farm: Farm, project: TestProject) -> None:
    found = check(host, project, builder(farm, farm.hosts[0]))
    assert {name: state for name, (state, _, _) in found.items()} == {
        "ssh": "ok", "Nix": "ok", "sandbox": "ok", "user namespaces": "ok", "trust": "ok", "systems": "ok",
        "ssh keep-alive": "warning",
    }  # fmt: skip
    alive = {"NIX_SSHOPTS": "-oServerAliveInterval=15"}
    done = host.pgbake(project, "--builders", builder(farm, farm.hosts[0]).line, "builders", "check", environment=alive)
    assert done.stdout.endswith("\nthey can build\n")


def test_one_without_a_sandbox_and_a_user_who_is_not_trusted(host: NixHost, farm: Farm, project: TestProject) -> None:
    found = check(host, project, builder(farm, farm.hosts[1], "nix"))
    state, what, hint = found["sandbox"]
    assert state == "warning" and what.startswith("off: ") and "sandbox = true" in hint
    state, what, hint = found["trust"]
    assert state == "problem" and what.startswith("nix is no trusted user there") and "trusted-users = root nix" in hint


def test_one_without_user_namespaces(host: NixHost, farm: Farm, project: TestProject) -> None:
    state, what, hint = check(host, project, builder(farm, farm.hosts[2]))["user namespaces"]
    assert (state, what) == ("problem", "forbidden: user.max_user_namespaces is 0")
    assert "sysctl -w user.max_user_namespaces=65536" in hint


def test_one_with_an_old_nix(host: NixHost, farm: Farm, project: TestProject) -> None:
    state, what, hint = check(host, project, builder(farm, farm.hosts[3]))["Nix"]
    assert (state, what) == ("problem", "2.3.16 is too old") and "install Nix 2.4 or later" in hint


@pytest.fixture
def unknown_key(tmp_path: Path) -> Path:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key


def test_ssh_that_refuses(host: NixHost, farm: Farm, project: TestProject, unknown_key: Path) -> None:
    one = farm.hosts[0]
    state, what, hint = check(host, project, builder(farm, one, key=str(unknown_key)))["ssh"]
    assert state == "problem" and what.startswith("refused: ") and "Permission denied" in what
    assert f"put {unknown_key}.pub into ~/.ssh/authorized_keys of root@{one.address}" in hint
    state, what, _ = check(host, project, builder(farm, one, host_key=farm.hosts[1].host_key))["ssh"]
    assert (state, what) == ("problem", "it has another host key than the one that is named")
    away = Builder("ssh://root@10.97.250.2", key=str(farm.key))
    state, what, hint = check(host, project, away)["ssh"]
    assert state == "problem" and what.startswith("not reached: ") and "is it up" in hint


def build(host: NixHost, project: TestProject, bundle: Bundle, builder: Builder) -> list[str]:
    """Build on one builder and nowhere else, which fails; return the last two lines."""
    forget(host.oracle, *map(str, bundle.by_name()["numeral"].output_paths.values()))
    manifest = project.directory / "pgbake.toml"
    manifest.write_text(f"{manifest.read_text()}\n[builders]\nlocal-jobs = 0\n[[builders.machine]]\nurl = "
                        f'"{builder.url}"\nkey = "{builder.key}"\nhost-key = "{builder.host_key}"\n')  # fmt: skip
    done = host.pgbake(project, "build", "numeral", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr.splitlines()[-2:]


def test_a_build_without_user_namespaces(host: NixHost, farm: Farm, project: TestProject, bundle: Bundle) -> None:
    error, hint = build(host, project, bundle, builder(farm, farm.hosts[2]))
    assert "postgresql-15-numeral-1.3 failed to build in phase start: the machine that built it forbids user" in error
    assert hint == "hint: `pgbake builders check` says which, and what to do there"


def test_a_build_where_ssh_refuses(
    host: NixHost, farm: Farm, project: TestProject, bundle: Bundle, unknown_key: Path
) -> None:
    for name in ("unknown", "unknown.pub"):
        shutil.copy(unknown_key.with_suffix(".pub" if name.endswith(".pub") else ""), farm.directory / name)
    refusing = builder(farm, farm.hosts[0], key=str(farm.directory / "unknown"))
    error, hint = build(host, project, bundle, refusing)
    assert error.startswith(f"error: no builder could be reached; ssh://root@{farm.hosts[0].address}: ")
    assert "Permission denied" in error
    assert hint == "hint: `pgbake builders check` asks each of them, and says what to do"


def test_a_build_that_the_builder_does_not_trust(
    host: NixHost, farm: Farm, project: TestProject, bundle: Bundle
) -> None:
    error, hint = build(host, project, bundle, builder(farm, farm.hosts[1], "nix"))
    why = "its user is not trusted there to bring inputs that nobody has signed"
    assert error == f"error: no builder is left; ssh://nix@{farm.hosts[1].address}: {why}"
    assert hint == "hint: `pgbake builders check` asks each of them, and says what to do"
