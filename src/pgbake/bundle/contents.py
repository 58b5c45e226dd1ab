"""What an unpacked package holds for a server: extensions, modules, and which of these want to be preloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgbake.bundle.merge_program import read_control, read_elf, read_symbols

_PRELOADING = b"process_shared_preload_libraries_in_progress"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a package holds.

    :param extensions: names in SQL, each with its default version.
    :param requires: names in SQL of other packages' extensions that these require.
    :param preload: modules that ask whether they are being preloaded.
    """

    extensions: dict[str, str]
    requires: tuple[str, ...]
    libraries: tuple[str, ...]
    preload: tuple[str, ...]


def read_contents(tree: Path, major: int) -> Contents:
    """Read what a package's tree (``usr/...``) holds for a major version of PostgreSQL."""
    extensions: dict[str, str] = {}
    requires: set[str] = set()
    for file in sorted((tree / f"usr/share/postgresql/{major}/extension").glob("*.control")):
        if "--" in file.name:
            continue
        control = read_control(str(file))
        extensions[file.stem] = control.get("default_version", "")
        requires |= {name.strip() for name in control.get("requires", "").split(",") if name.strip()}
    modules = [f for f in sorted((tree / f"usr/lib/postgresql/{major}/lib").glob("*.so")) if read_elf(str(f))]
    return Contents(
        extensions,
        tuple(sorted(requires - extensions.keys())),
        tuple(module.name for module in modules),
        tuple(module.stem for module in modules if _PRELOADING in read_symbols(str(module)).undefined),
    )
