"""The merge, run on small packages made with the machine's compiler: what it links, copies and refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle import merge_program
from pgbake.bundle.merge_program import Merge, read_control, read_elf

TRIPLET = "x86_64-linux-gnu"


class Packages:
    """Small packages in Debian's layout, and a specification that names them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.packages: list[dict[str, Any]] = []
        self.runtime: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = [{"match": "tzdata", "needs": [], "always": True}]
        self.write(self.add_runtime("tzdata"), "usr/share/zoneinfo/UTC", "TZif")
        libc = self.add_runtime("libc6")
        (libc / f"usr/lib/{TRIPLET}").mkdir(parents=True)
        for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
            shutil.copy(f"/lib/{TRIPLET}/{name}", libc / f"usr/lib/{TRIPLET}")

    def add(self, name: str) -> Path:
        top = self.directory / name
        (top / "usr").mkdir(parents=True)
        self.packages.append({"name": name, "version": "1", "path": str(top), "receipt": False})
        return top

    def add_runtime(self, name: str) -> Path:
        top = self.directory / name
        (top / "usr").mkdir(parents=True)
        self.runtime.append({"name": name, "version": "1", "path": str(top), "sha256": "0" * 64})
        return top

    def write(self, top: Path, file: str, text: str) -> Path:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def library(self, top: Path, name: str, *link: str, source: str = "int f(void) { return 1; }") -> Path:
        return self._compile(top, f"usr/lib/{TRIPLET}/{name}", source, "-shared", "-fPIC", f"-Wl,-soname,{name}", *link)

    def program(self, top: Path, name: str, *link: str) -> Path:
        return self._compile(top, f"usr/lib/postgresql/15/bin/{name}", "int main(void) { return 0; }", *link)

    def _compile(self, top: Path, file: str, source: str, *options: str) -> Path:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", "-x", "c", "-", "-x", "none", "-o", str(path), "-Wl,--no-as-needed", *options],
            input=source.encode(), check=True, cwd=path.parent,
        )  # fmt: skip
        return path

    def merge(self) -> Merge:
        spec = {
            "name": "test", "system": "x86_64-linux", "triplet": TRIPLET, "loader": "ld-linux-x86-64.so.2", "major": 15,
            "packages": self.packages, "runtime": self.runtime, "rules": self.rules,
        }  # fmt: skip
        return Merge(json.loads(json.dumps(spec)), str(self.directory / "out"))


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def refusal(packages: Packages, capsys: pytest.CaptureFixture[str]) -> str:
    merge = packages.merge()
    with pytest.raises(SystemExit):
        merge.choose_runtime()
        merge.check_versions()
        merge.link()
    return capsys.readouterr().err


def test_a_file_of_two_packages_is_refused_with_both_names(
    packages: Packages, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        packages.write(packages.add(name), "usr/share/postgresql/15/extension/same.sql", name)
    assert "one 1 and two 1 both bring usr/share/postgresql/15/extension/same.sql" in refusal(packages, capsys)


def test_a_library_that_nobody_brings_is_refused_with_who_needs_it(
    packages: Packages, capsys: pytest.CaptureFixture[str]
) -> None:
    top = packages.add("server")
    stray = packages.library(packages.directory / "elsewhere", "libstray.so.1")
    packages.program(top, "tool", str(stray))
    error = refusal(packages, capsys)
    assert "server 1: lib/postgresql/15/bin/tool needs libstray.so.1" in error and "`runtime` in the recipe" in error


def test_a_runpath_that_hides_our_libraries_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    top = packages.add("server")
    wanted = packages.library(packages.add_runtime("libwanted1"), "libwanted.so.1")
    packages.library(top, "libhiding.so.1", str(wanted), "-Wl,--enable-new-dtags,-rpath,/opt/lib")
    error = refusal(packages, capsys)
    assert "libhiding.so.1 has DT_RUNPATH /opt/lib, which hides" in error and "libwanted.so.1" in error


def test_a_runpath_that_finds_its_neighbours_is_fine(packages: Packages) -> None:
    top = packages.add_runtime("libpair1")
    first = packages.library(top, "libfirst.so.1")
    packages.library(top, "libsecond.so.1", str(first), "-Wl,--enable-new-dtags,-rpath,$ORIGIN")
    packages.program(packages.add("server"), "tool", str(top / f"usr/lib/{TRIPLET}/libsecond.so.1"), str(first))
    merge = packages.merge()
    merge.choose_runtime()
    merge.check_versions()
    assert "libpair1" in merge.runtime


def test_a_version_that_is_not_defined_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    script = packages.write(packages.directory, "versions", "V_2 { global: f; local: *; };\n")
    runtime = packages.add_runtime("libversioned1")
    library = packages.library(runtime, "libversioned.so.1", f"-Wl,--version-script={script}")
    module = packages.library(
        packages.add("server"), "libuser.so.1", str(library), source="int f(void); int g(void) { return f(); }"
    )
    assert "V_2" in str(read_elf(str(module)))
    script.write_text("V_1 { global: f; local: *; };\n")
    packages.library(runtime, "libversioned.so.1", f"-Wl,--version-script={script}")
    error = refusal(packages, capsys)
    assert "libuser.so.1 wants version V_2 of libversioned.so.1, which is not defined there" in error


def test_only_what_is_needed_is_taken_and_what_it_needs_follows(packages: Packages) -> None:
    base = packages.library(packages.add_runtime("libbase1"), "libbase.so.1")
    over = packages.library(packages.add_runtime("libover1"), "libover.so.1", str(base))
    packages.library(packages.add_runtime("libidle1"), "libidle.so.1")
    data = packages.write(packages.add_runtime("over-data"), "usr/share/over/data", "data")
    packages.rules.append({"match": "libover*", "needs": ["over-data"], "always": False})
    licence = packages.add_runtime("liblicence1")
    (licence / "usr/share/doc").mkdir(parents=True)
    packages.program(packages.add("server"), "tool", str(over), str(base))
    merge = packages.merge()
    merge.choose_runtime()
    assert set(merge.runtime) == {"libc6", "tzdata", "libbase1", "libover1", "over-data"}
    merge.link()
    out = packages.directory / "out"
    assert (out / "share/over").is_symlink() and (out / "share/over/data").read_text() == data.read_text()
    assert (out / f"lib/{TRIPLET}/libover.so.1").readlink() == over
    assert (out / "share/postgresql/15/timezone/UTC").read_text() == "TZif"


def test_programs_are_copies_and_links_to_them_stay_relative(packages: Packages) -> None:
    top = packages.add("server")
    tool = packages.program(top, "tool")
    tool.with_name("alias").symlink_to("tool")
    driver = packages._compile(top, "usr/lib/postgresql/15/lib/pgxs/driver", "int main(void) { return 0; }")
    packages.write(top, "usr/lib/postgresql/15/lib/pgxs/file", "x")
    packages.write(top, "usr/share/postgresql/15/errcodes.txt", "x")
    licence = top / "usr/share/doc/server"
    licence.parent.mkdir(parents=True)
    licence.symlink_to("server-common")
    merge = packages.merge()
    merge.choose_runtime()
    merge.link()
    out = packages.directory / "out"
    binaries = out / "lib/postgresql/15/bin"
    assert not (binaries / "tool").is_symlink() and (binaries / "alias").readlink() == Path("tool")
    assert (out / "bin/tool").resolve() == binaries / "tool"
    copy = out / "lib/postgresql/15/lib/pgxs/driver"
    assert not copy.is_symlink() and copy.read_bytes() == driver.read_bytes()
    assert copy.with_name("file").is_symlink()
    assert (out / "share/doc/server").readlink() == Path("server-common")
    assert sorted(merge.programs) == ["lib/postgresql/15/bin/tool", "lib/postgresql/15/lib/pgxs/driver"]
    merge.patch()
    for program, up in (
        ("lib/postgresql/15/bin/tool", "/../../../.."),
        ("lib/postgresql/15/lib/pgxs/driver", "/../../../../.."),
    ):
        elf = read_elf(str(out / program))
        assert elf and elf.needed[0] == "libpgbake-env.so" and not elf.runpath
        assert elf.rpath == f"$ORIGIN{up}/lib/postgresql/15/lib:$ORIGIN{up}/lib/{TRIPLET}"


def test_an_extension_that_cannot_be_created_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    top = packages.add("rational")
    directory = "usr/share/postgresql/15/extension"
    packages.write(top, f"{directory}/rational.control", "default_version = '1.2'\n")
    packages.write(top, f"{directory}/rational--1.0.sql", "")
    with pytest.raises(SystemExit):
        packages.merge().check_extensions()
    error = capsys.readouterr().err
    assert "its extension rational has no script for its default version 1.2" in error and "rational--1.0.sql" in error
    packages.write(top, f"{directory}/rational--1.0--1.1.sql", "")
    packages.write(top, f"{directory}/rational--1.1--1.2.sql", "")
    packages.merge().check_extensions()


def test_control_files_are_read_as_postgresql_reads_them(tmp_path: Path) -> None:
    control = tmp_path / "x.control"
    control.write_text("# a comment\ncomment = 'it''s here' # more\ndefault_version = 1.0 # bare\nTrusted=true\n\n")
    assert read_control(str(control)) == {"comment": "it's here", "default_version": "1.0", "trusted": "true"}


def test_the_program_stands_alone(tmp_path: Path) -> None:
    """It is handed to a derivation as text, where there is no pgbake."""
    source = Path(merge_program.__file__).read_text()
    assert "import pgbake" not in source and "from pgbake" not in source
    done = subprocess.run(
        [sys.executable, "-I", "-c", source], env={"spec": "{}", "out": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "KeyError" in done.stderr  # an empty specification, and not a missing module
