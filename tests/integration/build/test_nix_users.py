"""Nix as the engine of an ordinary user, through its daemon: trusted by it, or not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats import base32
from pgbake.formats.keys import SecretKey
from pgbake.store.local import LocalStore
from tests.integration.conftest import nix_on_copy
from tests.nixhost import NixHost, forget
from tests.oracle import newer_nix
from tests.projects import TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users"),
]

UID = 4321
KEY = SecretKey("users-1", bytes(range(32)))

#: The Nix of bookworm does not say whom it trusts before it is asked for something; a newer one does.
SUITES = ["bookworm", "trixie"]


@dataclass(frozen=True)
class User:
    """An ordinary user of a machine where Nix's daemon runs."""

    host: NixHost
    project: TestProject

    def pgbake(self, *args: str, check: bool = True, **variables: str) -> Any:
        home = str(self.project.home)
        own = {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", "XDG_DATA_HOME": f"{home}/.local/share"}
        return self.host.pgbake(self.project, *args, check=check, user=UID, environment={**own, **variables})

    def trust(self, *keys: SecretKey) -> None:
        names = ", ".join(f'"{key.public}"' for key in keys)
        manifest = self.project.directory / "pgbake.toml"
        manifest.write_text(f"{manifest.read_text()}\n[trust]\nkeys = [{names}]\nstatements = []\n")


@pytest.fixture
def user(
    example: TestProject, nix_tree: Path, tmp_path: Path, request: pytest.FixtureRequest, suite: str, config: str
) -> Iterator[User]:
    """A user, with a project of their own, of a machine whose nix.conf has some lines."""
    tree = nix_tree if suite == "bookworm" else newer_nix(suite)
    with (
        tempfile.TemporaryDirectory(prefix="pgbake-user-") as directory,
        nix_on_copy(example, tree) as oracle,
    ):
        home = Path(directory)
        home.chmod(0o755)
        project = TestProject.copy(home / "project", home)
        for path in (home, project.directory, *project.directory.iterdir()):
            os.chown(path, UID, UID)
        host = NixHost(oracle, tmp_path, config)
        with host.daemon():
            yield User(host, project)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("config", ["", f"trusted-users = root {UID}"], ids=["not trusted", "trusted"])
def test_a_user_builds(user: User, bundle: Bundle, store: LocalStore) -> None:
    goals = [bundle.by_name()[name] for name in ("numeral", "bundle")]
    # An input goes as well: the user brings it again.
    (source,) = (path for path in goals[0].input_srcs if "orig.tar" in path.name)
    oracle = user.host.oracle
    gone = [*(path for goal in goals for path in goal.output_paths.values()), goals[0].path, source]
    forget(oracle, *map(str, gone))
    assert user.pgbake("build").stdout.strip() == str(bundle.path)
    for goal in goals:
        for path in goal.output_paths.values():
            known = oracle.run("nix-store", "-q", "--hash", str(path)).stdout.decode().strip()
            assert known == f"sha256:{base32.encode(store.info(path).nar_sha256)}"
    assert (user.project.directory / "result").readlink() == Path(str(bundle.path))
    dead = oracle.run("nix-store", "--gc", "--print-dead", binds=[user.project.directory]).stdout.decode().split()
    assert str(bundle.path) not in dead


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("config", [""])
def test_who_is_not_trusted_names_no_builders(user: User, bundle: Bundle) -> None:
    forget(user.host.oracle, *map(str, bundle.by_name()["numeral"].output_paths.values()))
    done = user.pgbake("build", "numeral", "--builders", "ssh://root@nowhere", check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-2:] == [
        "error: Nix's daemon does not let you choose builders: you are no trusted user",
        "hint: let trusted-users in nix.conf name you; or build on those that Nix itself has: --builders nix",
    ]
    assert not user.host.oracle.on_disk(bundle.by_name()["numeral"].outputs["out"].path).exists()
    user.pgbake("build", "numeral", "--builders", "nix")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("config", "accepted"),
    [("", False), (f"trusted-users = root {UID}", True), (f"trusted-public-keys = {KEY.public}", True)],
    ids=["nothing is trusted", "the user is trusted", "the key is trusted"],
)
def test_a_user_pulls_from_a_cache(
    user: User, example: TestProject, bundle: Bundle, store: LocalStore, tmp_path: Path, accepted: bool
) -> None:
    cache = Path(tempfile.mkdtemp(prefix="pgbake-cache-"))
    cache.chmod(0o755)
    goal = bundle.by_name()["numeral"]
    out = goal.output_paths["out"]
    example.pgbake(
        "push", "--unchecked", "--to", cache.as_uri(), str(out), environment={"PGBAKE_SECRET_KEY": KEY.export()}
    )
    forget(user.host.oracle, *map(str, goal.output_paths.values()))
    user.trust(KEY)
    done = user.pgbake("pull", "--from", cache.as_uri(), "--no-link", str(out), check=False)
    shutil.rmtree(cache)
    if not accepted:
        assert done.returncode == 1
        assert f"error: Nix does not take {out.name} into its store: " in done.stderr
        assert "hint: its nix.conf must name the cache's key among trusted-public-keys" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    known = user.host.oracle.run("nix-store", "-q", "--hash", str(out)).stdout.decode().strip()
    assert known == f"sha256:{base32.encode(store.info(out).nar_sha256)}"


@pytest.mark.parametrize("suite", ["bookworm"])
@pytest.mark.parametrize("config", ["", f"allowed-users = root\ntrusted-users = root {UID + 1}"])
def test_a_daemon_that_does_not_serve(user: User, config: str, bundle: Bundle) -> None:
    """It refuses this user; or it is dead, and its socket left behind."""
    forget(user.host.oracle, *map(str, bundle.by_name()["numeral"].output_paths.values()))
    if not config:
        user.host.kill_daemon()
    done = user.pgbake("build", "numeral", check=False)
    error, hint = done.stderr.splitlines()[-2:]
    assert done.returncode == 1
    if config:
        assert error.startswith("error: Nix's daemon refuses to work for this user: ")
        assert hint.startswith("hint: in its nix.conf, allowed-users must name you")
    else:
        assert error == "error: Nix's daemon does not answer at /nix/var/nix/daemon-socket/socket: Connection refused"
        assert hint == "hint: as root: systemctl start nix-daemon; or build without Nix: --engine local"
