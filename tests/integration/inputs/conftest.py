from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.errors import HostError, InputError
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.mirrors import host_mirrors
from tests.integration.inputs.repository import Keys, Repository


def missing(what: str) -> None:
    """Skip, but not where all has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    for program in ("apt-get", "dpkg-deb", "gpg"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    made = Keys.make(tmp_path_factory.mktemp("keys"))
    yield made
    made.close()


@pytest.fixture
def repository(tmp_path: Path, keys: Keys) -> Repository:
    """A repository with a few packages, not yet published."""
    repository = Repository(tmp_path / "archive", keys)
    repository.add("app", "1:2.0~rc1+dfsg-1+b2", Depends="libdep1 (>= 1), virtual-thing", Recommends="unwanted")
    repository.add("libdep1")
    repository.add("provider", Provides="virtual-thing")
    repository.add("unwanted")
    repository.add("base", Essential="yes")
    repository.add("left", Conflicts="right")
    repository.add("right")
    return repository


@pytest.fixture(scope="session")
def apt_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apt")


@pytest.fixture(scope="session", params=["amd64", "arm64"])
def debian(request: pytest.FixtureRequest, apt_cache: Path) -> AptRoot:
    """Debian's own bookworm, from the mirrors of this machine."""
    try:
        root = AptRoot(apt_cache, (Suite("bookworm"),), request.param, host_mirrors("bookworm"))
        root.update()
    except (HostError, InputError) as error:
        missing(f"no mirror of Debian can be reached: {error} {error.detail or ''}")
    return root
