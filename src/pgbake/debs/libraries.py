"""Which Debian packages the ELF files of a package need, and in which versions: what dpkg-shlibdeps does.

Debian's packages tell it themselves, in their control archives::

    symbols (deb-symbols(5))               shlibs (deb-shlibs(5))
      libssl.so.3 libssl3 #MINVER#           libtcl8.6 0 libtcl8.6 (>= 8.6.0)
       SSL_new@OPENSSL_3.0.0 3.0.0

A library with ``symbols`` is needed in the newest of the versions in which those of its symbols came that a file uses;
one with ``shlibs`` alone in the version told there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from pgbake.errors import InputError

#: Libraries of PostgreSQL's own, which Debian has once for all major versions: each has all symbols of older ones.
_CLIENT_LIBRARIES = {
    "libpq.so.5": "libpq5", "libecpg.so.6": "libecpg6", "libecpg_compat.so.3": "libecpg-compat3",
    "libpgtypes.so.3": "libpgtypes3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Uses:
    """What an ELF file needs of libraries.

    :param needed: its NEEDED entries.
    :param symbols: symbols that are defined elsewhere, ``NAME@VERSION``; ``NAME@Base`` without a version.
    """

    needed: tuple[str, ...]
    symbols: frozenset[str]


def read_uses(file: Path) -> Uses | None:
    """Read what a file needs; None for what is no dynamically linked ELF file."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        elf = ELFFile(stream)
        dynamic = elf.get_section_by_name(".dynamic")
        if not isinstance(dynamic, DynamicSection):
            return None
        needed = tuple(str(tag.needed) for tag in dynamic.iter_tags("DT_NEEDED"))  # type: ignore[attr-defined]
        versions = {}
        section = elf.get_section_by_name(".gnu.version_r")
        if isinstance(section, GNUVerNeedSection):
            for _, auxiliaries in section.iter_versions():
                for auxiliary in auxiliaries:
                    versions[auxiliary["vna_other"]] = auxiliary.name
        symbols = set()
        table, indexes = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
        for number, symbol in enumerate(table.iter_symbols() if isinstance(table, SymbolTableSection) else ()):
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
                index = indexes.get_symbol(number)["ndx"] if isinstance(indexes, GNUVerSymSection) else 0
                symbols.add(f"{symbol.name}@{versions.get(index, 'Base')}")
        return Uses(needed, frozenset(symbols))


@dataclass
class Library:
    """A library as a package's ``symbols`` describes it.

    :param templates: dependencies, in which ``#MINVER#`` stands for the version that is needed.
    :param symbols: symbol to the version in which it came, and the number of the template that it asks for.
    """

    templates: list[str]
    symbols: dict[str, tuple[str, int]] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], str, int]] = field(default_factory=list)

    def find(self, symbol: str) -> tuple[str, int] | None:
        """Return version and template of a symbol, or None where the library has it not."""
        if found := self.symbols.get(symbol):
            return found
        return next(((version, which) for pattern, version, which in self.patterns if pattern.fullmatch(symbol)), None)


def parse_symbols(text: str) -> dict[str, Library]:
    """Parse a ``symbols`` file: the libraries of a package by soname."""
    libraries: dict[str, Library] = {}
    library = Library([])
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "*")):
            continue
        if line.startswith("|"):
            library.templates.append(line[1:].strip())
        elif not line[0].isspace():
            soname, _, template = line.partition(" ")
            library = libraries.setdefault(soname, Library([]))
            library.templates.append(template.strip())
        elif found := re.fullmatch(r'\s+(?:\(([^)]*)\))?(?:"([^"]+)"|(\S+))\s+(\S+)(?:\s+(\d+))?\s*', line):
            tags, quoted, plain, version, which = found.groups()
            name, number = quoted or plain, int(which or 0)
            kinds = {tag.partition("=")[0] for tag in (tags or "").split("|")}
            if "symver" in kinds:
                library.patterns.append((re.compile(rf".*@{re.escape(name)}"), version, number))
            elif "regex" in kinds:
                library.patterns.append((re.compile(name), version, number))
            elif "c++" not in kinds:  # those are unmangled names, and built packages have none
                library.symbols[name] = (version, number)
    return libraries


def parse_shlibs(text: str) -> dict[str, str]:
    """Parse a ``shlibs`` file: what depends on a library of a name depends on which packages."""
    found = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split(None, 2)
        if len(words) == 3 and not words[0].endswith(":"):  # "udeb:" is for the installer
            name, version, depends = words
            found[f"{name}.so.{version}"] = found[f"{name}-{version}.so"] = depends.strip()
    return found


class Resolver:
    """Finds the dependencies of ELF files.

    :param package_of: the Debian package that has a library of a name, or None.
    :param control: the control archive of such a package: file name to text.
    """

    def __init__(
        self,
        major: int,
        package_of: Callable[[str], str | None],
        control: Callable[[str], Mapping[str, str]],
    ) -> None:
        self.major = major
        self.package_of = package_of
        self._control = control
        self._symbols: dict[str, dict[str, Library]] = {}
        self._shlibs: dict[str, dict[str, str]] = {}

    def depends(self, files: Iterable[Path]) -> tuple[str, ...]:
        """Return what files of one package depend on, sorted, as a Depends field has it.

        :raises InputError: nobody brings a library.
        """
        uses = {file: use for file in files if (use := read_uses(file)) is not None}
        own = {file.name for file in uses}
        #: Package to the versions of it that are asked for; "" is any.
        wanted: dict[str, list[str]] = {}
        for file, use in sorted(uses.items()):
            for soname in use.needed:
                if soname not in own:
                    for dependency in self._library(file, soname, use):
                        name, _, version = dependency.partition(" (>= ")
                        wanted.setdefault(name, []).append(version.rstrip(")"))
        return tuple(
            f"{name} (>= {newest})" if (newest := newest_version(versions)) else name
            for name, versions in sorted(wanted.items())
        )

    def _library(self, file: Path, soname: str, use: Uses) -> list[str]:
        """Return the dependencies for one library that a file needs."""
        if soname in _CLIENT_LIBRARIES:
            return [f"{_CLIENT_LIBRARIES[soname]} (>= {self.major}~~)"]
        package = self.package_of(soname)
        if package is None:
            raise InputError(
                f"{file.name} needs {soname}, which no runtime package in the lock brings", hint="run `pgbake lock`"
            )
        if package not in self._symbols:
            control = self._control(package)
            self._symbols[package] = parse_symbols(control.get("symbols", ""))
            self._shlibs[package] = parse_shlibs(control.get("shlibs", ""))
        library = self._symbols[package].get(soname)
        if library is None:
            depends = self._shlibs[package].get(soname, package)
            return [part.strip() for part in depends.split(",")]
        versions: dict[int, list[str]] = {0: []}
        for symbol in use.symbols:
            if found := library.find(symbol):
                versions.setdefault(found[1], []).append(found[0])
        wanted = []
        for which, needed in sorted(versions.items()):
            newest = newest_version(needed)
            template = library.templates[which].replace("#MINVER#", f"(>= {newest})" if newest else "")
            wanted += [part.strip() for part in template.split(",")]
        return wanted


def newest_version(versions: Iterable[str]) -> str:
    """Return the newest of versions of Debian's; ``""`` of none, and for ``0``, which says nothing."""
    from debian.debian_support import version_compare

    told = {version for version in versions if version not in ("", "0")}
    return max(told, key=cmp_to_key(version_compare), default="")


def interpreters(files: Iterable[Path]) -> tuple[str, ...]:
    """Return the packages whose interpreters scripts among files name in their first line."""
    packages = {"perl": "perl:any", "python3": "python3:any", "tclsh": "tcl:any"}
    found = set()
    for file in files:
        with file.open("rb") as stream:
            first = stream.readline(200)
        if match := re.match(rb"#!\s*(?:/usr/bin/env\s+)?(?:\S*/)?(perl|python3|tclsh)\b", first):
            found.add(packages[match[1].decode()])
    return tuple(sorted(found))
