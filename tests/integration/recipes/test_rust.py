"""An extension in Rust, from its Cargo.lock to queries: the example's foreign data wrapper on a live server."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cache import test_cache as shared_cache
from tests.projects import EXAMPLE, TestProject

# Where nothing of it is built yet, PostgreSQL, cargo-pgrx and some hundred crates are compiled before the first test.
pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(3600)]

CSV = 'id,name,born,note\n1,Ada,1815-12-10,"{""a"": [1, 2]}"\n2,"Grace, Hopper",1906-12-09,\n'
JSON_LINES = '{"kind": "login", "size": 1.10, "tags": ["a", "b"]}\n\n{"kind": {"nested": true}, "size": null}\n'


@dataclass(frozen=True)
class Running:
    """The example's server, and the directory of the files that its tables are over."""

    project: TestProject
    data: Path
    files: Path

    def psql(self, *statements: str) -> str:
        """Perform statements; give what they return."""
        done = self.attempt(*statements)
        assert done[0] == 0, done[2]
        return done[1].strip()

    def attempt(self, *statements: str) -> tuple[int, str, str]:
        words = [word for statement in statements for word in ("-c", statement)]
        arguments = ("--data", str(self.data), "-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
        done = self.project.pgbake("psql", *arguments, *words, check=False)
        return done.returncode, done.stdout, done.stderr

    def error(self, statement: str) -> str:
        status, _, said = self.attempt(statement)
        assert status != 0
        return said


@pytest.fixture(scope="module")
def rust(tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """The example in Rust, locked and built: trixie moves on, so its lock is made on the spot."""
    base = tmp_path_factory.mktemp("rust")
    base.chmod(0o755)
    base.parent.chmod(0o755)
    shutil.copytree(EXAMPLE / "rust", base / "project")
    project = TestProject(base / "project", shared_cache() / "store", base / "home")
    project.pgbake("lock")
    project.pgbake("build")
    return project


@pytest.fixture(scope="module")
def server(rust: TestProject) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="pgbake-rust-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        running = Running(rust, directory / "data", directory)
        rust.pgbake("up", "--data", str(running.data))
        try:
            running.psql(
                "CREATE EXTENSION recordfile",
                f"CREATE SERVER files FOREIGN DATA WRAPPER recordfile OPTIONS (directory '{directory}')",
            )
            yield running
        finally:
            rust.pgbake("down", "--data", str(running.data), check=False)


def test_the_lock_pins_every_crate_and_nothing_moves_by_itself(rust: TestProject) -> None:
    sources = json.loads((rust.directory / "pgbake.lock").read_text())["sources"]
    named = (rust.directory / "recordfile/Cargo.lock").read_text()
    assert "://" not in named
    assert len(sources["recordfile"]["crates"]) == named.count("\nchecksum = ")
    (pgrx,) = [version for name, version, *_ in sources["recordfile"]["crates"] if name == "pgrx"]
    assert sources[f"cargo-pgrx@{pgrx}"]["crates"]
    assert "nothing moved" in rust.pgbake("lock").stdout
    assert "fits" in rust.pgbake("lock", "--check").stdout


def test_neither_the_tool_nor_rust_is_in_the_bundle(rust: TestProject) -> None:
    paths = [path["path"] for path in rust.json("size")["paths"]]
    assert [path for path in paths if "recordfile" in path]
    assert not [path for path in paths if "cargo" in path or "rust" in path or ".crate" in path]


def test_a_csv_file(server: Running) -> None:
    (server.files / "people.csv").write_text(CSV)
    server.psql(
        "CREATE FOREIGN TABLE people (note jsonb, born date, name text, id bigint)"
        " SERVER files OPTIONS (path 'people.csv')"
    )
    assert server.psql("SELECT id, name, born, note -> 'a' -> 1 FROM people ORDER BY id") == (
        "1|Ada|1815-12-10|2\n2|Grace, Hopper|1906-12-09|"
    )
    assert server.psql("SELECT a.name FROM people a, people b WHERE a.born > b.born") == "Grace, Hopper"


def test_only_the_columns_that_a_query_needs_are_decoded(server: Running) -> None:
    (server.files / "mixed.csv").write_text("id,name\n1,one\n2,two\n")
    server.psql("CREATE FOREIGN TABLE mixed (id bigint, name integer) SERVER files OPTIONS (path 'mixed.csv')")
    assert server.psql("SELECT sum(id) FROM mixed") == "3"
    assert "'one' is no value for the column \"name\"" in server.error("SELECT name FROM mixed")


def test_json_lines(server: Running) -> None:
    (server.files / "events.jsonl").write_text(JSON_LINES)
    server.psql(
        "CREATE FOREIGN TABLE events (kind text, size double precision, tags json)"
        " SERVER files OPTIONS (path 'events.jsonl')"
    )
    assert server.psql("SELECT kind, size, tags -> 0 FROM events") == 'login|1.1|"a"\n{"nested": true}||'


def test_errors_tell_the_place_and_have_their_code(server: Running) -> None:
    (server.files / "broken.jsonl").write_text('{"id": 1}\n[2]\n')
    server.psql("CREATE FOREIGN TABLE broken (id integer) SERVER files OPTIONS (path 'broken.jsonl')")
    said = server.error("SELECT * FROM broken")
    assert "22P04: broken.jsonl, line 2: no JSON object" in said
    server.psql("CREATE FOREIGN TABLE absent (id integer) SERVER files OPTIONS (path 'absent.csv')")
    assert "58P01: cannot open absent.csv" in server.error("SELECT * FROM absent")
    said = server.error("CREATE FOREIGN TABLE t (id integer) SERVER files OPTIONS (path 'x', colour 'red')")
    assert 'HV00D: there is no option "colour" here' in said and "Options are: path" in said
    assert server.psql("SELECT 1") == "1"


def test_it_is_reproducible(rust: TestProject) -> None:
    done = rust.pgbake("build", "--rebuild", "recordfile", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
