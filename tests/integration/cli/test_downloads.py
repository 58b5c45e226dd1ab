"""Downloads that are cut short, on the way or on disk: resumed or fetched anew, and verified, by `pgbake build`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.lock import RuntimePin, load_lock
from pgbake.store.local import LocalStore, remove_tree
from tests.cache import test_cache as shared_cache
from tests.projects import TestProject
from tests.unit.inputs.servers import Server, serving

pytestmark = pytest.mark.integration

PACKAGE = "libreadline8"


@dataclass
class Fetching:
    """A bundle that lacks one package, which a mirror of our own has; and a cache of downloads of its own."""

    project: TestProject
    server: Server
    pin: RuntimePin
    path: StorePath
    content: bytes
    cache: Path

    @property
    def asked(self) -> str:
        return quote(self.pin.path)

    @property
    def download(self) -> Path:
        return self.cache / f"pgbake/downloads/{self.pin.sha256}-{self.pin.filename}"

    def build(self) -> str:
        """Delete the package from the store and build; it must come back whole. Return what was asked of the mirror."""
        with LocalStore(self.project.store) as store:
            remove_tree(store.physical(self.path))
            self.server.asked.clear()
            self.project.pgbake("build", "--no-link", environment=self.environment)
            assert store.valid([self.path]) == {self.path}
        assert self.download.read_bytes() == self.content
        assert not list(self.download.parent.glob("*.part"))
        assert {asked for asked, _ in self.server.asked} <= {self.asked}
        return " ".join(range or "all" for _, range in self.server.asked)

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.cache), "no_proxy": "127.0.0.1"}


@pytest.fixture
def fetching(apart: TestProject, tmp_path: Path) -> Iterator[Fetching]:
    apart.pgbake("build", "--no-link")
    pin = load_lock(apart.directory / "pgbake.lock").systems[host_system().name].runtime[PACKAGE]
    inputs = apart.project.bundle(host_system()).graph.inputs.values()
    path = next(item.path for item in inputs if (item.kind, item.name) == ("runtime", PACKAGE))
    content = (shared_cache() / f"pgbake/downloads/{pin.sha256}-{pin.filename}").read_bytes()
    with serving() as server:
        apart.edit("[platform]\n", f'[platform]\nmirrors = ["{server.url}"]\n')
        server.files[quote(pin.path)] = content
        yield Fetching(apart, server, pin, path, content, tmp_path / "cache")


def test_truncated_downloads(fetching: Fetching) -> None:
    half = len(fetching.content) // 2
    part = fetching.download.with_name(fetching.download.name + ".part")

    # The connection is cut, twice: what came is kept, and the rest is asked for.
    fetching.server.faults[fetching.asked] = ["cut", "cut"]
    three_quarters = half + (len(fetching.content) - half) // 2
    assert fetching.build() == f"all bytes={half}- bytes={three_quarters}-"

    # A run before this one was killed.
    fetching.download.unlink()
    part.write_bytes(fetching.content[:1000])
    assert fetching.build() == "bytes=1000-"

    # So it was, and the server knows no ranges.
    fetching.download.unlink()
    part.write_bytes(fetching.content[:1000])
    fetching.server.faults[fetching.asked] = ["whole"]
    assert fetching.build() == "bytes=1000-"

    # The finished file on disk was truncated later.
    fetching.download.write_bytes(fetching.content[:half])
    assert fetching.build() == "all"

    # Nothing is wrong: nothing is asked.
    assert fetching.build() == ""


def test_a_mirror_that_has_a_truncated_file(fetching: Fetching) -> None:
    fetching.server.files[fetching.asked] = fetching.content[:-1]
    with LocalStore(fetching.project.store) as store:
        lost = fetching.path
        remove_tree(store.physical(lost))
        done = fetching.project.pgbake("build", check=False, environment=fetching.environment)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"error: wrong content of {PACKAGE} {fetching.pin.version} from {fetching.server.url}/" in done.stderr
        assert f"expected sha256 {fetching.pin.sha256}, {fetching.pin.size} bytes" in done.stderr
        assert f"{fetching.pin.size - 1} bytes" in done.stderr and "hint: somebody changed the file" in done.stderr
        assert not store.valid([lost]) and not store.physical(lost).exists()
        assert not fetching.download.exists()
        # Whoever mends the mirror needs to do nothing here.
        fetching.server.files[fetching.asked] = fetching.content
        fetching.project.pgbake("build", "--no-link", environment=fetching.environment)
        assert store.valid([lost]) == {lost}
