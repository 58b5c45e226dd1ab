"""Extensions built from source: a bundle with PostGIS and others, what it holds, and what it is to SQL.

What is compared with Debian's packages has the same upstream version there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.bundle.merge_program import Elf, files_below, read_elf
from pgbake.formats.system import host_system
from pgbake.store.local import LocalStore
from tests.projects import TestProject

pytestmark = [pytest.mark.integration, pytest.mark.full]

EXTENSIONS = (
    "postgis", "postgis_topology", "postgis_tiger_geocoder", "address_standardizer", "postgis_sfcgal", "postgis_raster",
    "timescaledb", "pg_partman", "pg_repack",
)  # fmt: skip

#: Each of these is created, with what it needs, and asked something that only works when its library does.
QUERIES = {
    "postgis": ("SELECT round(ST_Area(ST_Buffer('POINT(0 0)'::geometry, 1, 1)))", "2"),
    "postgis_topology": ("SELECT topology.CreateTopology('streets', 4326) > 0", "t"),
    "postgis_tiger_geocoder": ("SELECT (normalize_address('1 Devonshire Place, Boston, MA 02109')).zip", "02109"),
    "address_standardizer": ("SELECT (parse_address('1 Devonshire Place, Boston, MA 02109')).state", "MA"),
    "postgis_sfcgal": ("SELECT ST_Volume(ST_Extrude(ST_GeomFromText('POLYGON((0 0,0 1,1 1,1 0,0 0))'), 0, 0, 2))", "2"),
    "postgis_raster": ("SELECT ST_Width(ST_MakeEmptyRaster(3, 4, 0, 0, 1))", "3"),
    "pg_partman": ("SELECT count(*) > 0 FROM pg_proc WHERE proname = 'create_parent'", "t"),
    "pg_repack": ("SELECT repack.version() LIKE 'pg_repack 1.%'", "t"),
}

SETTINGS = '\n[platform]\nsuite = "bookworm"\nsecurity = false\nupdates = false\n'


def server_project(base: TestProject, directory: Path, text: str) -> TestProject:
    """Make a project of this manifest beside the example, with its store, and build it."""
    project = TestProject.copy(directory, base.home)
    (directory / "pgbake.lock").unlink()
    (directory / "pgbake.toml").write_text(text)
    project.pgbake("lock")
    project.pgbake("build")
    return project


def manifest(name: str, extensions: tuple[str, ...], further: str = "") -> str:
    return f'name = "{name}"\npostgresql = 15\nextensions = {json.dumps(extensions)}\n{SETTINGS}{further}'


@pytest.fixture(scope="module")
def rich(example: TestProject, tmp_path_factory: pytest.TempPathFactory) -> TestProject:
    """A bundle with PostGIS and others, all built from source."""
    return server_project(example, tmp_path_factory.mktemp("rich") / "project", manifest("rich", EXTENSIONS))


@pytest.fixture
def data() -> Iterator[Path]:
    """A place for data directories that the server's user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="pgbake-data-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


class Server:
    """A running server of a project."""

    def __init__(self, project: TestProject, data: Path) -> None:
        self.project, self.data = project, data
        project.pgbake("up", "--data", str(data))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.project.pgbake("down", "--data", str(self.data))

    def sql(self, statement: str) -> str:
        done = self.project.pgbake("psql", "--data", str(self.data), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement)
        return done.stdout.strip()


def test_all_of_them_work(rich: TestProject, data: Path) -> None:
    with Server(rich, data / "one") as server:
        assert server.sql("SHOW shared_preload_libraries") == "timescaledb,pg_partman_bgw"
        for extension, (query, answer) in QUERIES.items():
            server.sql(f"CREATE EXTENSION IF NOT EXISTS {extension} CASCADE")
            assert server.sql(query) == answer, extension
        # A transformation reads proj.db, a time bucket the loader of timescaledb's own library.
        assert server.sql("SELECT round(ST_X(ST_Transform('SRID=4326;POINT(10 50)'::geometry, 3857)))") == "1113195"
        server.sql("CREATE EXTENSION timescaledb")
        server.sql("ALTER SYSTEM SET timezone = 'UTC'")
        server.sql("SELECT pg_reload_conf()")
        server.sql("CREATE TABLE m (at timestamptz NOT NULL, v float)")
        server.sql("SELECT create_hypertable('m', 'at', chunk_time_interval => interval '1 day')")
        hours = "SELECT '2024-01-01Z'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 71) n"
        server.sql(f"INSERT INTO m {hours}")
        assert server.sql("SELECT count(*) FROM show_chunks('m')") == "3"
        assert server.sql("SELECT count(*) FROM (SELECT time_bucket('1 day', at) FROM m GROUP BY 1) t") == "3"
    assert "terminated by signal" not in (data / "one/server.log").read_text()  # at the end of a session, neither


def test_every_library_is_there_and_no_file_knows_its_build(rich: TestProject) -> None:
    """Of all files of the closure: what an ELF file needs lies where the loader looks; none names its build root."""
    bundle = rich.project.bundle(host_system())
    roots = [item.path for item in bundle.graph.inputs.values() if item.kind == "root"]
    marks = [b"/build/source", b"/build/image", b"/build/cmake", *(str(path).encode() for path in roots)]
    missing, marked = [], []
    with LocalStore(rich.store) as store:
        closure = store.closure([bundle.path])
        assert not set(closure) & set(roots)
        top = store.physical(bundle.path)
        triplet = host_system().triplet
        found = {
            name
            for place in (f"lib/{triplet}", "lib", "lib/postgresql/15/lib")
            for name in (file.name for file in (top / place).iterdir())
        }
        elves = 0
        for path in closure:
            for file in files_below(str(store.physical(path))):
                full = store.physical(path) / file
                if full.is_symlink() or not full.is_file():
                    continue
                content = full.read_bytes()
                # What PostgreSQL was compiled with is told, this option among it, which keeps the directory out; and
                # its makefiles say where they were, which PGXS does not use.
                for told in (
                    b"-ffile-prefix-map=/build/source=.",
                    b"abs_top_builddir = /build/source\n",
                    b"abs_top_srcdir = /build/source\n",
                ):
                    content = content.replace(told, b"")
                marked += [f"{path}/{file}: {mark.decode()}" for mark in marks if mark in content]
                elf: Elf | None = read_elf(str(full)) if content.startswith(b"\x7fELF") else None
                if elf:
                    elves += 1
                    beside = {other.name for other in full.parent.iterdir()} if elf.runpath or elf.rpath else set()
                    missing += [f"{path}/{file}: {name}" for name in elf.needed if name not in found | beside]
    assert elves > 700
    assert not missing
    assert not marked


def test_their_suites_pass(rich: TestProject) -> None:
    """Those with runners of their own; what fails and is known to fail is told as skipped."""
    names = ("regress/postgis", "regress/timescaledb", "isolation/timescaledb")
    found = {
        check["name"]: {test["test"]: test["outcome"] for test in check["tests"]}
        for check in rich.json("check", *names)
    }
    parts = {name.partition("/")[0] for name in found["regress/postgis"]}
    assert parts == {"regress", "topology", "raster", "sfcgal", "address_standardizer"}
    assert set(found["regress/postgis"].values()) == {"passed"}
    assert len(found["regress/postgis"]) > 300
    skipped = [name for name, outcome in found["regress/timescaledb"].items() if outcome == "skipped"]
    assert skipped == ["append-15"]
    assert len(found["regress/timescaledb"]) > 70
    assert set(found["isolation/timescaledb"].values()) == {"passed"}


@pytest.mark.parametrize("extension", ["postgis", "pgaudit", "pgpcre", "numeral"])
def test_it_is_to_sql_what_debians_package_is(example: TestProject, extension: str, tmp_path: Path, data: Path) -> None:
    """All objects of an extension, with what functions promise, are the same by either origin.

    But for when it was built, which PostGIS tells.
    """
    members = f"""
        SELECT pg_describe_object(d.classid, d.objid, 0), format_type(p.prorettype, NULL), p.provolatile, p.proisstrict,
               p.proparallel, p.prokind, p.prosecdef,
               regexp_replace(p.prosrc, '[0-9]+-[0-9]+-[0-9]+ [0-9]+:[0-9]+:[0-9]+', 'BUILT')
        FROM pg_depend d LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = '{extension}')
        ORDER BY 1"""
    seen = {}
    for origin in ("source", "deb"):
        word = f'\n[extension.{extension}]\norigin = "{origin}"\n'
        project = server_project(example, tmp_path / origin, manifest(f"{extension}-{origin}", (extension,), word))
        with Server(project, data / origin) as server:
            server.sql(f"CREATE EXTENSION {extension} CASCADE")
            seen[origin] = server.sql(members).splitlines()
    assert len(seen["source"]) > 2
    assert seen["source"] == seen["deb"]


def test_all_majors_share_one_runtime(example: TestProject, tmp_path: Path) -> None:
    """On one platform libc, ICU and so all collations are the same files for each major version."""
    receipts = {}
    for major in (15, 17, 18):
        text = manifest("shared", ()).replace("postgresql = 15", f"postgresql = {major}")
        directory = tmp_path / str(major)
        project = TestProject.copy(directory, example.home)
        (directory / "pgbake.lock").unlink()
        (directory / "pgbake.toml").write_text(text)
        project.pgbake("lock")
        done = project.pgbake("build", check=False)
        if "404 Not Found" in done.stderr:
            continue  # this mirror lists a source that it does not have
        assert done.returncode == 0, done.stderr
        bundle = project.project.bundle(host_system())
        receipts[major] = json.loads((project.store / str(bundle.path).lstrip("/") / "receipt.json").read_text())
    assert len(receipts) > 1
    assert len({json.dumps(receipt["collations"], sort_keys=True) for receipt in receipts.values()}) == 1
    runtimes = [{entry["name"]: entry["path"] for entry in receipt["runtime"]} for receipt in receipts.values()]
    for name in ("libc6", "libicu72", "libssl3", "tzdata"):
        assert len({runtime[name] for runtime in runtimes}) == 1, name
