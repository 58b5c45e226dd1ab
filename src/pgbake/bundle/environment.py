"""What ``libpgbake-env.so`` is compiled from: the variables of a bundle's own processes, and its languages.

The library (C, in ``pgbake/catalogue/env``) is the first NEEDED of each executable of a bundle. It finds the
bundle by the path that it was loaded from, sets the variables of :class:`Row` that the user has not set, and
withdraws them from everything that is started. The support package compiles it with a ``table.h``::

    #ifdef TABLE_OF_VARIABLES
    const char library_directory[] = "lib/x86_64-linux-gnu";
    const char machines_gconv[] = "/usr/lib/x86_64-linux-gnu/gconv";
    static const struct row rows[] = {
        {"LOCPATH", "lib/locale", "", false},      name, paths, unless, first
        {NULL, NULL, NULL, false},
    };
    #endif
    #ifdef TABLE_OF_LANGUAGES
    static const char *const perl_dirs[] = {"share/perl/5.36", NULL};
    static const char python_dir[] = "lib/python3.11";
    static const char tcl_dir[] = "";              "": the bundle has no such language
    #endif

Paths are relative to the bundle's root; one that begins with ``/`` is the machine's. Lists are joined by ``:``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pgbake.errors import ManifestError

#: The library's name, as DT_NEEDED has it.
LIBRARY = "libpgbake-env.so"

#: Where the library's C sources are, with their common header ``env.h``, and which are compiled.
SOURCE_DIR = Path(str(resources.files("pgbake"))) / "catalogue/env"
SOURCES = (
    "libpgbake-env.c", "process.c", "language.c", "connect.c", "accounts.c", "locales.c", "charsets.c", "modules.c",
    "trust.c", "kernel.c",
)  # fmt: skip

#: Options of the C compiler. Bound at once (``-z now``): nothing is left to resolve between a fork and an exec.
COMPILER_OPTIONS = (
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-z,relro,-z,now",
)  # fmt: skip

#: A directory that every bundle has (`pgbake.bundle.support`), with nothing in it that could be loaded.
_NO_PLUGINS = "lib/pgbake"

#: What goes into a C string as it is: no quote, backslash or separator.
_WORD = re.compile(r"[A-Za-z0-9_./+@,=~-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One variable.

    :param variable: its name.
    :param paths: the value, joined by ``:``; what does not exist when a program starts is left out.
    :param unless: names of variables that may be set and paths (``/...``) that may exist so that nothing is
        needed: then the variable is not set.
    :param first: the value is the first path that exists, not all of them.
    """

    variable: str
    paths: tuple[str, ...]
    unless: tuple[str, ...] = ()
    first: bool = False


def debian_rows(triplet: str) -> tuple[Row, ...]:
    """Return the variables of Debian's libraries, for a bundle that mirrors ``/usr``.

    A bundle may lack any of the paths: their variables are then not set.

    :param triplet: the multiarch triplet, such as ``x86_64-linux-gnu``.
    """
    lib = f"lib/{triplet}"
    return (
        # glibc then ignores the machine's locale-archive, which another glibc has written. "C" and "POSIX" are
        # built in, C.UTF-8 is not. Of directories in the machine's /usr/lib/locale see locales.c.
        Row("LOCPATH", ("lib/locale",)),
        # glibc then ignores its cache and reads gconv-modules; of the machine's modules see charsets.c.
        Row("GCONV_PATH", (f"{lib}/gconv",)),
        # Names of time zones: what TZ says, and Python. The machine's own zone is /etc/localtime, whole.
        Row("TZDIR", ("share/zoneinfo",)),
        Row("PYTHONTZPATH", ("share/zoneinfo",)),
        # Instead of the compiled-in file and directories: the machine's openssl.cnf is written for another OpenSSL
        # and may load engines and providers that are built for one.
        Row("OPENSSL_CONF", ("etc/ssl/openssl.cnf",)),
        Row("OPENSSL_MODULES", (f"{lib}/ossl-modules",)),
        Row("OPENSSL_ENGINES", (f"{lib}/engines-3", f"{lib}/engines-1.1"), first=True),
        # As for OpenSSL; this one is libldap's.
        Row("GNUTLS_SYSTEM_PRIORITY_FILE", ("etc/gnutls/config",)),
        Row("SASL_PATH", (f"{lib}/sasl2",)),
        # Debian's libldap looks at Debian's place only.
        Row("LDAPCONF", ("/etc/openldap/ldap.conf",), unless=("/etc/ldap/ldap.conf",)),
        # Plugins and data by which a machine would add to what the bundle has. A bundle without any names a
        # directory of its own that holds none.
        Row("LIBXSLT_PLUGINS_PATH", (f"{lib}/libxslt-plugins", _NO_PLUGINS), first=True),
        Row("GDAL_DRIVER_PATH", (f"{lib}/gdalplugins", _NO_PLUGINS), first=True),
        Row("ICU_TIMEZONE_FILES_DIR", ("share/zoneinfo-icu/44/le", _NO_PLUGINS), first=True),
        # Instead of the compiled-in directory. PROJ reads PROJ_DATA before the older PROJ_LIB, so that ours
        # would hide a user's.
        Row("PROJ_DATA", ("share/proj",), unless=("PROJ_LIB",)),
        Row("GDAL_DATA", ("share/gdal",)),
        # Plugins and data that are looked for in compiled-in directories only: codecs of GDAL's, authentication at
        # MySQL servers, and all of R, for plr.
        Row("LIBHEIF_PLUGIN_PATH", (f"{lib}/libheif/plugins", _NO_PLUGINS), first=True),
        Row("MARIADB_PLUGIN_DIR", (f"{lib}/libmariadb3/plugin", _NO_PLUGINS), first=True),
        Row("R_HOME", ("lib/R",)),
        Row("R_SHARE_DIR", ("share/R/share",)),
        # Whom to trust is the machine's decision where it has one. Debian's OpenSSL finds Debian's store by
        # itself; it does not know where other distributions keep theirs.
        Row(
            "SSL_CERT_FILE",
            (
                "/etc/ssl/certs/ca-certificates.crt",
                "/etc/pki/tls/certs/ca-bundle.crt",
                "/etc/ssl/ca-bundle.pem",
                "/etc/ssl/cert.pem",
                "etc/ssl/certs/ca-certificates.crt",
            ),
            unless=("SSL_CERT_DIR", "/usr/lib/ssl/cert.pem", "/usr/lib/ssl/certs/ca-certificates.crt"),
            first=True,
        ),
        # Searched before the compiled-in directories: the machine's are named too, since its administrator
        # may have described a terminal better than we do.
        Row(
            "TERMINFO_DIRS",
            ("/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "lib/terminfo", "share/terminfo"),
        ),
    )


def perl_dirs(triplet: str, version: str) -> tuple[str, ...]:
    """Return the directories for ``@INC`` in Debian's order; ``version`` as in ``5.36``."""
    lib = f"lib/{triplet}"
    return (
        f"{lib}/perl5/{version}", "share/perl5", f"{lib}/perl-base", f"{lib}/perl/{version}",
        f"share/perl/{version}",
    )  # fmt: skip


def table_header(
    rows: Iterable[Row],
    *,
    library_dir: str,
    perl_dirs: Sequence[str] = (),
    python_dir: str | None = None,
    tcl_dir: str | None = None,
) -> str:
    """Return the text of ``table.h`` (see the module).

    :param library_dir: where the bundle has the library, such as ``lib/x86_64-linux-gnu``.
    :param perl_dirs: what comes first in ``@INC``; empty where the bundle has no Perl.
    :param python_dir: Python's own library, such as ``lib/python3.11``; its prefix becomes PYTHONHOME.
    :param tcl_dir: Tcl's own library, such as ``share/tcltk/tcl8.6``.
    :raises ManifestError: a name or path has a character that has no place in it.
    """
    entries = [
        f"    {{{_string([row.variable])}, {_string(row.paths)}, {_string(row.unless)}, "
        f"{'true' if row.first else 'false'}}},\n"
        for row in rows
    ]
    perl = "".join(f"{_string([path])}, " for path in perl_dirs)
    return (
        "#ifdef TABLE_OF_VARIABLES\n"
        f"const char library_directory[] = {_string([library_dir])};\n"
        f"const char machines_gconv[] = {_string([f'/usr/{library_dir}/gconv'])};\n"
        "static const struct row rows[] = {\n"
        f"{''.join(entries)}"
        "    {NULL, NULL, NULL, false},\n"
        "};\n"
        "#endif\n"
        "#ifdef TABLE_OF_LANGUAGES\n"
        f"static const char *const perl_dirs[] = {{{perl}NULL}};\n"
        f"static const char python_dir[] = {_string([python_dir] if python_dir else [])};\n"
        f"static const char tcl_dir[] = {_string([tcl_dir] if tcl_dir else [])};\n"
        "#endif\n"
    )


def _string(words: Sequence[str]) -> str:
    """Return words as one C string, joined by ``:``."""
    for word in words:
        if not _WORD.fullmatch(word):
            raise ManifestError(
                f"{word!r} cannot be a variable or path of a bundle's environment",
                hint="use letters, digits and _ . / + @ , = ~ - only",
            )
    return f'"{":".join(words)}"'
