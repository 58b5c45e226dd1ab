"""The bundle's support package: `libpgbake-env.so` and `versions`, compiled from pgbake's own C sources."""

from __future__ import annotations

import re

from pgbake.bundle.environment import (
    COMPILER_OPTIONS,
    LIBRARY,
    SOURCE_DIR,
    SOURCES,
    debian_rows,
    perl_dirs,
    table_header,
)
from pgbake.formats.derivation import Derivation
from pgbake.recipes.builders import SOURCE_DATE_EPOCH
from pgbake.recipes.lowering import Lowering, root_of

_SCRIPT = r"""
mkdir /build/source
cd /build/source
number=0
for name in $files; do
  content=file$number
  printf '%s' "${!content}" > "$name"
  number=$((number + 1))
done
lib=$out/usr/lib
mkdir -p "$lib/$triplet" "$lib/pgbake"
gcc $options -I . -o "$lib/$triplet/$library" $sources
gcc -O2 -Wall -Wextra -Werror -Wl,-z,relro,-z,now -o "$lib/pgbake/versions" versions.c -licui18n -licuuc
strip --strip-unneeded "$lib/$triplet/$library" "$lib/pgbake/versions"
"""


def support_package(lowering: Lowering) -> Derivation:
    """Lower the support package; it depends on which Perl, Python and Tcl the runtime holds, by version."""
    system = lowering.system
    perl, python, tcl = (_version(lowering, name) for name in ("libperl", "libpython", "libtcl"))
    table = table_header(
        debian_rows(system.triplet),
        library_dir=f"lib/{system.triplet}",
        perl_dirs=perl_dirs(system.triplet, perl) if perl else (),
        python_dir=f"lib/python{python}" if python else None,
        tcl_dir=f"share/tcltk/tcl{tcl}" if tcl else None,
    )
    files = {"table.h": table}
    for name in ("env.h", "versions.c", *SOURCES):
        files[name] = (SOURCE_DIR / name).read_text(encoding="utf-8")
    return lowering.graph.add(
        "pgbake-support",
        system,
        lowering.root(*root_of(lowering.server, lowering.catalogue)),
        _SCRIPT,
        env={
            "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
            "files": " ".join(files),
            "library": LIBRARY,
            "options": " ".join(COMPILER_OPTIONS),
            "pname": "support",
            "sources": " ".join(SOURCES),
            **{f"file{number}": text for number, text in enumerate(files.values())},
        },
    )


def _version(lowering: Lowering, library: str) -> str | None:
    """Return the version that stands in a runtime package's name: ``5.36`` of ``libperl5.36``."""
    for name in lowering.pins.runtime:
        if found := re.fullmatch(rf"{library}(\d+\.\d+)(t64)?", name):
            return found[1]
    return None
