"""`pgbake build --rebuild`: a second build elsewhere gives the same bits, or what differs is told with its cause."""

from __future__ import annotations

import pytest

from pgbake.build.engine import BuildOptions
from pgbake.build.plan import make_plan
from pgbake.build.provide import Provider
from pgbake.build.realise import realise
from pgbake.build.rebuild import Comparison, elsewhere_package, rebuild
from pgbake.events import silent
from pgbake.formats.derivation import Derivation
from pgbake.formats.system import host_system
from pgbake.recipes.lowering import Graph, Lowering
from pgbake.recipes.recipe import SHIPPED
from pgbake.store.local import LocalStore
from tests import cache
from tests.projects import TestProject

pytestmark = pytest.mark.integration


class Twice:
    """Builds scripts twice in a copy of the shared store."""

    def __init__(self, project: TestProject, store: LocalStore) -> None:
        self.project = project.project
        self.store = store
        self.provider = Provider(
            store, self.project.catalogue, lambda: self.project.mirrors, cache.test_cache() / "pgbake/downloads", silent
        )
        self.lowering = Lowering(self.project.catalogue, self.project.lock, host_system(), 15)
        self.elsewhere = elsewhere_package(self.lowering)
        self.make(self.lowering.graph, self.elsewhere)
        self.root = next(iter(self.elsewhere.input_srcs))

    def make(self, graph: Graph, derivation: Derivation) -> None:
        realise(make_plan(graph, [derivation.path], self.store), self.store, self.provider, silent)

    def build(self, script: str, options: BuildOptions | None = None) -> Comparison:
        """Build a script with one output twice."""
        graph = Graph()
        derivation = graph.add("twice", host_system(), self.root, script, env={"pname": "twice"})
        graph.inputs |= self.lowering.graph.inputs
        self.make(graph, derivation)
        (comparison,) = rebuild(graph, [derivation], self.elsewhere, self.store, self.provider, silent, options=options)
        return comparison

    def causes(self, script: str) -> dict[str, tuple[str, str]]:
        """Build a script twice; return of each differing file what differs, and the cause."""
        return {d.file: (d.what, d.cause) for d in self.build(script).differences}


@pytest.fixture
def twice(apart: TestProject, store: LocalStore) -> Twice:
    return Twice(apart, LocalStore(apart.store))


def test_what_varies_is_seen_and_told(twice: Twice) -> None:
    """Each file lets in one thing; each is found, with its cause."""
    script = """
        sleep 1.1  # so that the two builds share no second
        mkdir -p $out/many; cd $out
        date > date
        date +%s > seconds
        date +%z > zone
        echo "built at $(date +'%B %-d, %Y')" > day
        perl -e 'print pack("V", time)' > binary
        python3 -c 'import time; print(time.gmtime().tm_year)' > year
        uname -n > host
        uname -r > kernel
        id -u > uid
        nproc > cores
        echo $NIX_BUILD_CORES > jobs
        umask > umask
        (umask 022; for i in $(seq 40); do echo $i > many/$i; done; ls -U many > order)
        echo same > stamped; gzip stamped; perl -e 'print time' | gzip -n > plain.gz
        tar -cf archive.tar -C many 1
        echo $RANDOM$RANDOM$RANDOM > random
        touch "made-$(uname -n)"
        ln -s "$(uname -r)" link
        printf '#!/bin/sh\\n' > program; [ "$(umask)" = 0022 ] && chmod +x program
        printf '#include <stdio.h>\\nint main(void){puts("%s");return 0;}\\n' "$(uname -r)" > /build/p.c
        gcc -o compiled /build/p.c
        echo always > same
    """
    causes = twice.causes(script)
    assert "same" not in causes and not any(file.startswith("many/") for file in causes)
    expected = {
        "seconds": "the time of the build",
        "zone": "the time zone",
        "day": "the time of the build",
        "binary": "the time of the build",
        "host": "the host name",
        "kernel": "the kernel's release",
        "uid": "the uid",
        "order": "the order of a directory's entries",
        "stamped.gz": "the time in the header of gzip",
        "plain.gz": "compressed; in it: the time of the build",
        "archive.tar": "the time stamp of a file",
        "random": "shows none of the surroundings",
        "cores": "shows none of the surroundings",
        "jobs": "shows none of the surroundings",
        "umask": "shows none of the surroundings",
        "compiled": "the kernel's release; sections ",
    }
    for file, cause in expected.items():
        assert causes[file][0] == "contents" and cause in causes[file][1], (file, causes.get(file))
    assert "date" in causes and "year" in causes
    assert causes["made-localhost"] == ("first only", "see the others")
    assert causes["made-elsewhere"] == ("second only", "the host name, in its name")
    assert causes["link"][0] == "target" and "4.19.0-elsewhere" in causes["link"][1]
    assert causes["program"] == ("executable", "the umask of the build")


def test_what_keeps_to_itself_comes_out_the_same(twice: Twice) -> None:
    comparison = twice.build(
        """
        mkdir -p $out; cd $out
        printf '#include <stdio.h>\\nint main(void){puts(__DATE__);return 0;}\\n' > /build/p.c
        SOURCE_DATE_EPOCH=1 gcc -o program /build/p.c
        touch a b c; chmod 600 a
        tar --sort=name --mtime=@1 --owner=0 --group=0 --mode=go= -cf archive.tar a b c
        """
    )
    assert comparison.same and comparison.differences == () and comparison.path in twice.store.valid([comparison.path])


def test_a_second_build_that_differs_is_kept_and_the_store_stays(twice: Twice) -> None:
    comparison = twice.build("uname -n > $out", BuildOptions(keep_failed=True))
    assert not comparison.same and comparison.kept
    assert twice.store.physical(comparison.path).read_text() == "localhost\n"
    assert twice.store.info(comparison.path).nar_sha256 == comparison.first
    assert (comparison.kept / "store" / comparison.path.basename).read_text() == "elsewhere\n"
    (difference,) = comparison.differences
    assert (difference.file, difference.what) == ("", "contents") and "the host name" in difference.cause


def test_packages_and_the_bundle_by_the_command(apart: TestProject) -> None:
    names = ["pgvector", "support", "locales", "bundle"]
    answer = apart.json("build", "--rebuild", *names)
    assert answer["same"] and [output["package"] for output in answer["outputs"]] == names
    assert all(len(set(output["nar-hashes"])) == 1 for output in answer["outputs"])


def test_a_package_that_differs_by_the_command(apart: TestProject) -> None:
    (apart.directory / "recipes").mkdir()
    shipped = (SHIPPED / "recipes/numeral.toml").read_text()
    (apart.directory / "recipes/numeral.toml").write_text(
        shipped + "make = ['COPT=-g -Wl,--build-id=0x$(shell date +%s)00']\n"
    )
    failed = apart.pgbake("build", "--rebuild", "numeral", check=False)
    assert failed.returncode == 1
    assert "numeral!out  DIFFERS" in failed.stdout
    assert "usr/lib/postgresql/15/lib/numeral.so: contents:" in failed.stdout
    assert ".note.gnu.build-id" in failed.stdout
    assert "error: 1 of 1 outputs came out with other bits: of numeral" in failed.stderr


@pytest.mark.full
def test_every_package_comes_out_the_same(example: TestProject) -> None:
    answer = example.json("build", "--rebuild")
    assert answer["same"]
    packages = [output["package"] for output in answer["outputs"]]
    assert set(packages) == set(example.project.bundle(host_system()).by_name())
    assert packages.count("postgresql") == 7 and len(packages) > 20
