"""Root's builds where user namespaces are forbidden: in plain namespaces, as the build's own uid, to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pgbake.build.sandbox import Sandbox, require_sandbox
from pgbake.store.local import LocalStore
from tests.integration.build.workshop import Workshop
from tests.namespaces import without_user_namespaces
from tests.projects import REPOSITORY, TestProject

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces where user namespaces are forbidden"),
]


def run(project: TestProject, *args: str) -> str:
    """Run pgbake in a project, where no user namespace can be made."""
    done = subprocess.run(
        without_user_namespaces([sys.executable, "-m", "pgbake", "-C", str(project.directory), *args]),
        cwd=REPOSITORY, env=project.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_machine_for_this_test_forbids_user_namespaces() -> None:
    refused = subprocess.run(
        without_user_namespaces(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"]),
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0 and "Creating new namespace failed" in refused.stderr
    assert require_sandbox(872415232) == Sandbox(872415232)


def test_an_extension_and_the_merge_come_out_the_same(apart: TestProject, store: LocalStore) -> None:
    derivations = apart.project.bundle(apart.project.system(None)).by_name()
    with LocalStore(apart.store) as copy:
        for name in ("bundle", "pgvector"):
            path = derivations[name].output_paths["out"]
            for referrer in (*copy.database.referrers(path), path):
                copy.database.invalidate(referrer)
    run(apart, "build", "--no-link")
    with LocalStore(apart.store) as copy:
        for name in ("bundle", "pgvector"):
            path = derivations[name].output_paths["out"]
            assert copy.info(path).nar_sha256 == store.info(path).nar_sha256


_BUILD = """
import sys
from pathlib import Path
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from tests.integration.build.workshop import Workshop
print(Workshop(LocalStore(Path(sys.argv[1])), StorePath.parse(sys.argv[2])).run(sys.argv[3]))
"""

_SCRIPT = """
{
  echo "uid $(id -u)"
  echo "groups $(id -G)"
  while read -r line; do case $line in CapEff*|NoNewPrivs*) echo $line;; esac; done < /proc/self/status
  echo "host $(uname -n)"
  echo "interfaces $(tail -n +3 /proc/net/dev | wc -l)"
  : > /tmp/x; : > /dev/shm/x; : > /build/x
  echo "signal $(kill -0 1 2>&1 || true)"
  echo "root $( (: > /usr/x) 2>&1 || true)"
  echo "processes $(ls -d /proc/[0-9]* | wc -l)"
} > $out
"""


def test_the_build_has_no_rights_and_no_uid_of_a_user(workshop: Workshop) -> None:
    done = subprocess.run(
        without_user_namespaces(
            [sys.executable, "-c", _BUILD, str(workshop.store.root), str(workshop.root), _SCRIPT]
        ),
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line)
    assert int(seen["uid"]) >= 872415232 and seen["groups"] == seen["uid"]
    assert seen["CapEff:"] == "0" * 16 and seen["NoNewPrivs:"] == "1"
    assert seen["host"] == "localhost" and seen["interfaces"] == "1"
    assert "Operation not permitted" in seen["signal"] and "Read-only file system" in seen["root"]
    assert int(seen["processes"]) < 8
