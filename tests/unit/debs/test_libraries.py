from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pgbake.debs.libraries import Resolver, newest_version, parse_shlibs, parse_symbols, read_uses
from pgbake.errors import InputError

SYMBOLS = """\
libssl.so.3 libssl3 #MINVER#
| libssl3-abi-2
* Build-Depends-Package: libssl-dev
 SSL_new@OPENSSL_3.0.0 3.0.0
 SSL_odd@OPENSSL_3.0.0 3.0.1 1
 (symver)OPENSSL_3.0.9 3.0.9
 (regex)"^SSL_r.*@OPENSSL_3.0.0$" 3.0.7
libplain.so.1 libplain1 #MINVER#
 plain@Base 0
"""


def test_symbols_are_parsed() -> None:
    libraries = parse_symbols(SYMBOLS)
    ssl = libraries["libssl.so.3"]
    assert ssl.templates == ["libssl3 #MINVER#", "libssl3-abi-2"]
    assert ssl.find("SSL_new@OPENSSL_3.0.0") == ("3.0.0", 0)
    assert ssl.find("SSL_odd@OPENSSL_3.0.0") == ("3.0.1", 1)
    assert ssl.find("whatever@OPENSSL_3.0.9") == ("3.0.9", 0)
    assert ssl.find("SSL_read@OPENSSL_3.0.0") == ("3.0.7", 0)
    assert ssl.find("nothing@Base") is None
    assert libraries["libplain.so.1"].symbols == {"plain@Base": ("0", 0)}


def test_shlibs_are_parsed() -> None:
    found = parse_shlibs("libtcl 8.6 libtcl8.6 (>= 8.6.0)\nudeb: libtcl 8.6 libtcl-udeb\n\n# no\n")
    assert found["libtcl.so.8.6"] == found["libtcl-8.6.so"] == "libtcl8.6 (>= 8.6.0)"


def test_the_newest_version_wins() -> None:
    assert newest_version(["2.4", "2.14", "0", ""]) == "2.14"
    assert newest_version(["0"]) == ""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that needs the mathematical library and a symbol of the server's."""
    source = tmp_path / "m.c"
    source.write_text(
        "#include <math.h>\n#include <string.h>\nextern int server(void);\n"
        "double f(double x, char *a, const char *b, int n) { memcpy(a, b, n); return pow(x, server()); }\n"
    )
    file = tmp_path / "m.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", file, source, "-Wl,--no-as-needed", "-lm"], check=True)
    return file


def test_what_a_module_uses_is_read(module: Path) -> None:
    uses = read_uses(module)
    assert uses is not None
    assert uses.needed == ("libm.so.6", "libc.so.6")
    assert "server@Base" in uses.symbols
    assert any(symbol.startswith("pow@GLIBC_") for symbol in uses.symbols)
    assert read_uses(module.with_suffix(".c")) is None


def test_dependencies_are_those_of_dpkg_shlibdeps(module: Path, tmp_path: Path) -> None:
    """Held against the real one, by what this machine's packages tell."""
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/control").write_text("Source: a\n\nPackage: a\nArchitecture: any\n")
    real = subprocess.run(
        ["dpkg-shlibdeps", "-O", "--ignore-missing-info", module],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (symbols,) = Path("/var/lib/dpkg/info").glob("libc6:*.symbols")
    resolver = Resolver(15, lambda soname: "libc6", lambda package: {"symbols": symbols.read_text()})
    assert f"shlibs:Depends={', '.join(resolver.depends([module]))}" == real


def test_a_library_that_nobody_has_is_told(module: Path) -> None:
    with pytest.raises(InputError, match=r"m\.so needs libm\.so\.6"):
        Resolver(15, lambda soname: None, lambda package: {}).depends([module])
