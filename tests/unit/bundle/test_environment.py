"""The table that libpgbake-env.so is compiled with."""

from __future__ import annotations

import pytest

from pgbake.bundle.environment import Row, debian_rows, perl_dirs, table_header
from pgbake.errors import ManifestError


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
        'const char library_directory[] = "lib/aarch64-linux-gnu";\n'
        'const char machines_gconv[] = "/usr/lib/aarch64-linux-gnu/gconv";\n'
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
    paths = {row.variable: row.paths for row in debian_rows("aarch64-linux-gnu")}
    assert paths["GCONV_PATH"] == ("lib/aarch64-linux-gnu/gconv",)
    assert not any("x86_64" in path for row in paths.values() for path in row)
    assert not any("x86_64" in path for path in perl_dirs("aarch64-linux-gnu", "5.36"))
