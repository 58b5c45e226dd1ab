"""The table that libpgbake-env.so is compiled with, and the derivation that compiles it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgbake.bundle.environment import (
    LIBRARY,
    SOURCE_DIR,
    SOURCES,
    Row,
    debian_rows,
    environment_package,
    perl_dirs,
    table_header,
)
from pgbake.errors import ManifestError
from pgbake.formats.system import SYSTEMS
from pgbake.inputs.pins import Pin
from pgbake.lock import Lock, PlatformLock, Root, RuntimePin, SystemLock
from pgbake.recipes.lowering import Lowering, root_of
from pgbake.recipes.recipe import load_catalogue

AARCH64 = SYSTEMS["aarch64-linux"]


def test_table_of_a_bundle_with_languages() -> None:
    rows = [Row("LOCPATH", ("lib/locale",)), Row("A_B2", ("/etc/x", "share/x"), unless=("Y", "/z"), first=True)]
    assert table_header(
        rows,
        library_dir="lib/aarch64-linux-gnu",
        perl_dirs=("share/perl5", "share/perl/5.36"),
        python_dir="lib/python3.11",
        tcl_dir="share/tcltk/tcl8.6",
    ) == (
        "#ifdef TABLE_OF_VARIABLES\n"
        'static const char library_dir[] = "lib/aarch64-linux-gnu";\n'
        "static const struct row rows[] = {\n"
        '    {"LOCPATH", "lib/locale", "", false},\n'
        '    {"A_B2", "/etc/x:share/x", "Y:/z", true},\n'
        "    {NULL, NULL, NULL, false},\n"
        "};\n"
        "#endif\n"
        "#ifdef TABLE_OF_LANGUAGES\n"
        'static const char *const perl_dirs[] = {"share/perl5", "share/perl/5.36", NULL};\n'
        'static const char python_dir[] = "lib/python3.11";\n'
        'static const char tcl_dir[] = "share/tcltk/tcl8.6";\n'
        "#endif\n"
    )


def test_table_of_a_bundle_with_nothing() -> None:
    header = table_header([], library_dir="lib")
    assert "perl_dirs[] = {NULL};" in header
    assert 'python_dir[] = "";' in header
    assert 'tcl_dir[] = "";' in header


@pytest.mark.parametrize("word", ["", 'a"b', "a\\b", "a:b", "a b", "a\nb", "ä"])
def test_refuses_what_would_not_be_one_path_in_a_c_string(word: str) -> None:
    with pytest.raises(ManifestError, match="cannot be a variable or path") as caught:
        table_header([Row("X", ("share/x", word))], library_dir="lib")
    assert repr(word) in str(caught.value)
    with pytest.raises(ManifestError):
        table_header([Row(word, ("share/x",))], library_dir="lib")


def test_rows_name_the_directories_of_the_architecture() -> None:
    paths = {row.variable: row.paths for row in debian_rows(AARCH64.triplet)}
    assert paths["GCONV_PATH"] == ("lib/aarch64-linux-gnu/gconv",)
    assert not any("x86_64" in path for row in paths.values() for path in row)
    assert not any("x86_64" in path for path in perl_dirs(AARCH64.triplet, "5.36"))


def lowering_with(*runtime: str) -> Lowering:
    """Return a lowering under a lock of the runtime packages named."""
    pin = Pin(version="1", path="pool/x.deb", size=1, sha256="0" * 64)
    runtime_pin = RuntimePin(version="1", path="pool/x.deb", size=1, sha256="0" * 64, tree="1" * 64)
    catalogue = load_catalogue()
    name, wants = root_of(catalogue.postgresql, catalogue)
    system = SystemLock(
        build={"gcc": pin},
        roots={name: Root(tree="2" * 64, wants=wants, packages=("gcc",))},
        runtime=dict.fromkeys(runtime, runtime_pin),
        runtime_wants=runtime,
    )
    platform = PlatformLock(suite="bookworm", security=True, updates=True)
    return Lowering(catalogue, Lock(1, platform, {}, {"aarch64-linux": system}), AARCH64, 15)


def test_package_is_made_for_the_languages_of_the_runtime() -> None:
    runtime = ("libc6", "libperl5.40", "libpython3.13", "libpython3.13-stdlib", "libtcl8.6")
    table = environment_package(lowering_with(*runtime)).env["table_h"]
    assert '"lib/aarch64-linux-gnu/perl/5.40"' in table
    assert 'python_dir[] = "lib/python3.13";' in table
    assert 'tcl_dir[] = "share/tcltk/tcl8.6";' in table
    table = environment_package(lowering_with("libc6", "libpython3.13-stdlib")).env["table_h"]
    assert table.endswith(
        'perl_dirs[] = {NULL};\nstatic const char python_dir[] = "";\nstatic const char tcl_dir[] = "";\n#endif\n'
    )


def test_package_builds_the_same_library_each_time(tmp_path: Path) -> None:
    derivation = environment_package(lowering_with("libc6"))
    made = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", derivation.env["script"]],
            env={"PATH": os.environ["PATH"]} | derivation.env | {"out": str(tmp_path / place / "out")},
            cwd=tmp_path / place,
            check=True,
        )
        made.append((tmp_path / place / f"out/usr/lib/aarch64-linux-gnu/{LIBRARY}").read_bytes())
    assert made[0] == made[1]
    assert made[0].startswith(b"\x7fELF")


def test_sources_are_all_that_the_directory_holds() -> None:
    assert {file.name for file in SOURCE_DIR.iterdir()} == set(SOURCES)
