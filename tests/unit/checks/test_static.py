"""The checks that start no server, on small bundles: closure, size and licences, each with faults planted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pgbake.checks.harness import closure, licence, size
from pgbake.checks.harness.report import Report, Result
from pgbake.checks.harness.server import Session
from pgbake.store.tree import hash_tree

LIBRARIES = "lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"


class Bundled:
    """A bundle of one program, one module and one runtime package."""

    def __init__(self, directory: Path) -> None:
        self.top = directory / "bundle"
        self.package = directory / "00000000000000000000000000000000-postgresql-15-thing-1"
        self.runtime = directory / "00000000000000000000000000000000-libnice-1"
        self.receipt: dict[str, Any] = {
            "postgresql": {"version": "15.1", "major": 15},
            "packages": [
                {
                    "name": "thing",
                    "version": "1",
                    "licence": "PostgreSQL",
                    "origin": "source",
                    "path": str(self.package),
                }
            ],
            "runtime": [
                {"name": "libnice", "version": "1", "path": str(self.runtime), "licence": "share/doc/libnice/copyright"}
            ],
        }
        self.library(self.runtime / f"usr/{LIBRARIES}/libnice.so.1")
        self.write(self.runtime / "usr/share/doc/libnice/copyright", "Files: *\nLicense: Expat\n")
        self.library(
            self.package / "usr/lib/postgresql/15/lib/thing.so", self.runtime / f"usr/{LIBRARIES}/libnice.so.1"
        )
        self.write(self.package / "usr/share/doc/postgresql-15-thing/LICENSE", "Do what you like.\n")
        for link, target in {
            f"{LIBRARIES}/libnice.so.1": self.runtime / f"usr/{LIBRARIES}/libnice.so.1",
            "lib/postgresql/15/lib/thing.so": self.package / "usr/lib/postgresql/15/lib/thing.so",
            "share/doc/libnice": self.runtime / "usr/share/doc/libnice",
            "share/doc/postgresql-15-thing": self.package / "usr/share/doc/postgresql-15-thing",
        }.items():
            self.link(link, target)
        program = self.top / "lib/postgresql/15/bin/postgres"
        program.parent.mkdir(parents=True)
        rpath = f"$ORIGIN/../lib:$ORIGIN/../../../../{LIBRARIES}"
        self._compile(program, "int main(void) { return 0; }", "-Wl,--disable-new-dtags", f"-Wl,-rpath,{rpath}")
        self.link("bin/postgres", Path("../lib/postgresql/15/bin/postgres"))

    def library(self, file: Path, *needs: Path, runpath: str = "") -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        options = [f"-Wl,-rpath,{runpath}", "-Wl,--enable-new-dtags"] if runpath else []
        self._compile(
            file, "int f(void) { return 1; }", "-shared", "-fPIC", f"-Wl,-soname,{file.name}", "-Wl,--no-as-needed",
            *map(str, needs), *options,
        )  # fmt: skip

    @staticmethod
    def _compile(file: Path, source: str, *options: str) -> None:
        subprocess.run(["gcc", "-x", "c", "-", "-x", "none", *options, "-o", file], input=source.encode(), check=True)

    @staticmethod
    def write(file: Path, text: str) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def link(self, name: str, target: Path) -> None:
        (self.top / name).parent.mkdir(parents=True, exist_ok=True)
        (self.top / name).symlink_to(target)

    def check(self, kind: Any, **spec: Any) -> dict[str, Result]:
        """Perform a check; return its results by name."""
        (self.top / "receipt.json").write_text(json.dumps(self.receipt))
        self.report = Report()
        kind.check(Session(self.top, spec, self.report, self.top.parent / "servers"))
        return {result.name: result for result in self.report.results}

    def closure(self, **known: str) -> set[str]:
        """Return the reasons of what fails."""
        results = self.check(closure, loader=LOADER, known=known)
        return {result.reason for result in results.values() if result.outcome == "failed"}


@pytest.fixture
def bundled(tmp_path: Path) -> Bundled:
    return Bundled(tmp_path)


def test_a_closed_bundle_passes(bundled: Bundled) -> None:
    assert bundled.closure() == set()


def test_a_library_that_is_nowhere(bundled: Bundled) -> None:
    (bundled.top / f"{LIBRARIES}/libnice.so.1").unlink()
    (reason,) = bundled.closure()
    assert reason == "1 are not, as the loader would look for them: lib/postgresql/15/lib/thing.so needs libnice.so.1"


def test_a_runpath_hides_the_programs_rpath(bundled: Bundled) -> None:
    nice = bundled.runtime / f"usr/{LIBRARIES}/libnice.so.1"
    bundled.library(bundled.package / "usr/lib/postgresql/15/lib/thing.so", nice, runpath="$ORIGIN/own")
    (reason,) = bundled.closure()
    assert "thing.so needs libnice.so.1" in reason
    bundled.link("lib/postgresql/15/lib/own/libnice.so.1", nice)
    assert bundled.closure() == set()


def test_a_program_that_was_not_patched(bundled: Bundled) -> None:
    Bundled._compile(bundled.top / "bin/tool", "int main(void) { return 0; }")
    (reason,) = bundled.closure()
    assert "bin/tool is a program without the bundle's DT_RPATH" in reason


def test_links_that_lead_nowhere_or_out_of_it(bundled: Bundled) -> None:
    bundled.link("share/gone", Path("../nowhere"))
    bundled.link("share/out", Path("/etc/passwd"))
    bundled.link("share/zone", Path("/etc/localtime"))  # the machine's own, and meant to be
    bundled.link("share/loop", Path())
    (reason,) = bundled.closure()
    assert reason == "2 lead to nothing: share/gone -> ../nowhere"
    (reason,) = bundled.closure(**{"share/gone -> *": "it is so"})
    assert reason == "1 lead to nothing: share/out -> /etc/passwd, which is outside"
    assert any(result.reason == "known: it is so" for result in bundled.report.results)


@pytest.mark.parametrize(
    "text",
    [
        "/build/source/thing.c",
        "x=/build/image/usr",
        "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-build-root-bookworm-c/x",
    ],
)
def test_a_mark_of_the_build(bundled: Bundled, text: str) -> None:
    bundled.write(bundled.package / "usr/share/thing.txt", "x" * 5000 + text)
    (reason,) = bundled.closure()
    assert reason.startswith("1 files hold a name of the build's: ") and "usr/share/thing.txt: /" in reason


def test_what_pg_config_tells_of_its_options_is_no_mark(bundled: Bundled) -> None:
    text = (
        "CFLAGS = -O2 -ffile-prefix-map=/build/source=.\nabs_top_srcdir = /build/source\n/usr/build/source\n/build/x\n"
    )
    bundled.write(bundled.package / "usr/share/Makefile.global", text.replace("/usr/build/source\n", ""))
    assert bundled.closure() == set()


def test_modes(bundled: Bundled) -> None:
    bundled.write(bundled.package / "usr/share/open", "").chmod(0o666)
    bundled.write(bundled.package / "usr/share/su", "").chmod(0o4755)
    (reason,) = bundled.closure()
    assert reason.startswith("2 have other modes: ") and "share/open: -rw-rw-rw-" in reason


# --- size ----------------------------------------------------------------------------------------------


def test_sizes_are_the_stores(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "directory/empty").mkdir(parents=True)
    (top / "program").write_bytes(b"12345678")
    (top / "program").chmod(0o555)
    (top / "file").write_bytes(b"123456789")
    (top / "nothing").touch()
    (top / "directory/link").symlink_to("../file")
    for path in (top, top / "file", top / "program", top / "nothing"):
        assert size.nar_size(path) == hash_tree(path).size, path


def test_the_closure_is_what_refers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "_STORE", tmp_path)
    names = [f"{letter * 32}-{letter}" for letter in "abcd"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / names[0] / "link").symlink_to(f"/nix/store/{names[1]}/x")
    (tmp_path / names[1] / "text").write_text(f"of /nix/store/{names[2]}/bin and /nix/store/{'e' * 32}-gone")
    assert {path.name for path in size.closure(tmp_path / names[0])} == set(names[:3])


def test_a_budget(bundled: Bundled) -> None:
    results = bundled.check(size, budget=None)
    assert results["within the budget"].outcome == "skipped"
    total = int(bundled.report.files["sizes.txt"].split()[0])
    assert total > 15000
    assert bundled.check(size, budget=total)["within the budget"].outcome == "passed"
    (result,) = bundled.check(size, budget=total - 1).values()
    assert result.outcome == "failed" and "of max_closure" in result.reason


# --- licences ------------------------------------------------------------------------------------------


def test_licences_are_there(bundled: Bundled) -> None:
    results = bundled.check(licence, forbid=["AGPL-*"], known={})
    assert {result.outcome for result in results.values()} == {"passed"}
    assert bundled.report.files["licences.txt"] == (
        "libnice 1: MIT: share/doc/libnice/copyright\n"
        "thing 1: PostgreSQL: share/doc/postgresql-15-thing/LICENSE\n"
    )  # fmt: skip


def test_a_licence_that_is_forbidden(bundled: Bundled) -> None:
    bundled.receipt["packages"][0]["licence"] = "MIT OR (AGPL-3.0-only AND PostgreSQL)"
    result = bundled.check(licence, forbid=["GPL-*", "AGPL-*"], known={})["thing 1"]
    assert result.outcome == "failed" and "which the manifest forbids (AGPL-*)" in result.reason


def test_a_licence_that_is_missing(bundled: Bundled) -> None:
    (bundled.package / "usr/share/doc/postgresql-15-thing/LICENSE").write_text(" \n")
    (bundled.top / "share/doc/libnice").unlink()
    results = bundled.check(licence, forbid=[], known={})
    assert results["thing 1"].reason == "its licence, PostgreSQL, is nowhere in the bundle"
    assert results["runtime packages"].reason.startswith("1 have no copyright file in the bundle: libnice 1")
    results = bundled.check(licence, forbid=[], known={"thing": "it is in the README"})
    assert results["thing 1"] == Result("thing 1", "skipped", "known to have no file: it is in the README")


def test_a_debs_documents_are_found_by_debians_name() -> None:
    source = {"name": "pool/main/h/hll/postgresql-15-hll_2.17-1_amd64.deb"}
    package = {"name": "hll", "origin": "deb", "source": source}
    assert licence.documents(package, 15) == ["postgresql-15-hll"]
