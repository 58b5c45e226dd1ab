"""The merge: makes one self-contained tree out of packages. It runs inside a build root, as a derivation.

This file is handed to the derivation as text, and imports nothing of pgbake: only Python, which the build root
``merge`` has. Its input is the variable ``spec`` (see `pgbake.bundle.merge`), its
output the directory ``$out``, which stands for a ``/usr``::

    lib/postgresql/15/bin/       patched copies of every program
    lib/postgresql/15/lib/       links to the modules of all packages
    lib/x86_64-linux-gnu/        links to the runtime's libraries
    lib/locale/                  the bundle's locales
    share/postgresql/15/         links to extensions' files; timezone is the runtime's
    bin/                         links to the programs that a user calls
    etc/ssl/certs/               one file of CA certificates
    etc/ssl/openssl.cnf          configurations that change nothing, instead of the machine's;
    etc/gnutls/config            GnuTLS is libldap's
    receipt.json

Programs (ELF files with an interpreter) are copied, wherever they lie, and patched: the interpreter is the
runtime's loader; DT_RPATH, which all that they load inherits, names the bundle's library directories
relative to the program; the first library is libpgbake-env.so. All else is a link into its package.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

ENVIRONMENT_LIBRARY = "libpgbake-env.so"


def fail(message: str) -> NoReturn:
    """End the merge with one clear line in its log."""
    print(f"merge: {message}", file=sys.stderr)
    sys.exit(1)


@dataclass
class Elf:
    """What the loader reads in an ELF file."""

    interpreter: bool = False
    soname: str = ""
    needed: list[str] = field(default_factory=list)
    runpath: str = ""
    rpath: str = ""
    #: library name -> versions that this file wants of it
    wants: dict[str, set[str]] = field(default_factory=dict)
    defines: set[str] = field(default_factory=set)
    #: The oldest Linux that it runs on, from its note NT_GNU_ABI_TAG; libc has one, and every program.
    kernel: tuple[int, int, int] = (0, 0, 0)

    @property
    def is_program(self) -> bool:
        """Whether it is a program; some libraries have an interpreter as well, to print their version."""
        return self.interpreter and not self.soname


def read_elf(path: str) -> Elf | None:
    """Read an ELF file, or return None for what is none that the loader of a 64-bit little-endian machine could take.

    Read is what the loader reads: program headers and what they lead to (System V gABI, chapter 5; for versions of
    symbols the Linux Standard Base, 10.7). By hand, since a bundle has thousands of files.
    """
    with open(path, "rb") as stream:
        if stream.read(6) != b"\x7fELF\x02\x01":
            return None
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_elf(data)
        except (struct.error, IndexError, ValueError) as error:
            fail(f"{path} is a damaged ELF file: {error}")


def _read_elf(data: mmap.mmap) -> Elf | None:
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    elf = Elf()
    loads: list[tuple[int, int, int]] = []  # address, offset, length
    dynamic = None
    for number in range(count):
        kind, offset, address, length = struct.unpack_from("<I4xQQ8xQ", data, table + number * size)
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, length)
        elif kind == _PT_INTERP:
            elf.interpreter = True
        elif kind == _PT_NOTE:
            elf.kernel = max(elf.kernel, *kernels(data[offset : offset + length]), (0, 0, 0))
    if dynamic is None:
        return elf if elf.interpreter else None  # an object file, or a static program
    tags: list[tuple[int, int]] = []
    for tag, value in struct.iter_unpack("<QQ", data[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]):
        if tag == 0:
            break
        tags.append((tag, value))
    by_tag = dict(tags)

    def place(address: int) -> int:
        for start, offset, length in loads:
            if start <= address < start + length:
                return address - start + offset
        raise ValueError(f"no segment holds the address {address:#x}")

    strings = place(by_tag[_DT_STRTAB]) if _DT_STRTAB in by_tag else 0

    def text(offset: int) -> str:
        end = data.find(b"\0", strings + offset)
        if end < 0:
            raise ValueError("a string has no end")
        return data[strings + offset : end].decode("utf-8", "replace")

    elf.needed = [text(value) for tag, value in tags if tag == _DT_NEEDED]
    for tag, name in ((_DT_SONAME, "soname"), (_DT_RPATH, "rpath"), (_DT_RUNPATH, "runpath")):
        if tag in by_tag:
            setattr(elf, name, text(by_tag[tag]))
    at = place(by_tag[_DT_VERNEED]) if _DT_VERNEED in by_tag else 0
    for _ in range(by_tag.get(_DT_VERNEEDNUM, 0)):
        versions, file, first, following = struct.unpack_from("<2xHIII", data, at)
        wanted = elf.wants.setdefault(text(file), set())
        entry = at + first
        for _ in range(versions):
            name, more = struct.unpack_from("<8xII", data, entry)
            wanted.add(text(name))
            entry += more
        at += following
    at = place(by_tag[_DT_VERDEF]) if _DT_VERDEF in by_tag else 0
    for _ in range(by_tag.get(_DT_VERDEFNUM, 0)):
        first, following = struct.unpack_from("<12xII", data, at)
        elf.defines.add(text(struct.unpack_from("<I", data, at + first)[0]))
        at += following
    return elf


_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF


@dataclass(frozen=True)
class Symbols:
    """The dynamic symbols of an ELF file: those that others may bind to, and those that it must find in others."""

    defined: frozenset[bytes]
    undefined: frozenset[bytes]


def read_symbols(path: str) -> Symbols:
    """Read the section ``.dynsym`` of a 64-bit little-endian ELF file (System V gABI, chapters 4 and 5).

    By hand, since a bundle's libraries have tens of thousands of symbols. Versions of symbols are left out:
    :meth:`Merge.check_versions` has compared these.
    """
    with open(path, "rb") as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        defined, undefined = set(), set()
        try:
            header = read(0, 0x40)
            (table_of_sections,) = struct.unpack_from("<Q", header, 0x28)
            size, count = struct.unpack_from("<HH", header, 0x3A)
            # Of each section: type, place in the file, length, and the section that it belongs to.
            sections = [
                struct.unpack_from("<4xI16xQQI", read(table_of_sections + number * size, size))
                for number in range(count)
            ]
            for kind, offset, length, link in sections:
                if kind != _SHT_DYNSYM:
                    continue
                strings = read(*sections[link][1:3])
                end = strings.index
                for name, info, other, section in struct.iter_unpack("<IBBH16x", read(offset, length)):
                    binding = info >> 4
                    if binding == _STB_LOCAL or not name:
                        continue
                    text = strings[name : end(b"\0", name)]
                    if section != _SHN_UNDEF:
                        if other & 3 not in (_STV_INTERNAL, _STV_HIDDEN):
                            defined.add(text)
                    elif binding != _STB_WEAK:
                        undefined.add(text)
        except (struct.error, IndexError, ValueError):
            fail(f"{path} is a damaged ELF file: its dynamic symbols cannot be read")
    return Symbols(frozenset(defined), frozenset(undefined))


#: Packages of which only what is asked for counts.
_CONTRIB = ("postgresql", "plperl", "plpython3u", "pltcl")
_SHT_DYNSYM, _SHN_UNDEF = 11, 0
#: The server's variable by which a module asks, when it is loaded, whether the server is starting.
_PRELOADING = b"process_shared_preload_libraries_in_progress"
#: What a module defines that decodes the write-ahead log for replication slots ("Logical Decoding Output Plugins").
_OUTPUT_PLUGIN = b"_PG_output_plugin_init"
#: The output plugins that a server trusts, with its default, in postgresql.conf.sample of those that have the setting.
_TRUSTED_PLUGINS = re.compile(r"^#(output_plugin_libraries) = '([^']*)'", re.MULTILINE)
_STB_LOCAL, _STB_WEAK = 0, 2
_STV_INTERNAL, _STV_HIDDEN = 1, 2


def kernels(notes: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield what the notes of a segment say of the oldest kernel: ``.note.ABI-tag``, where it is one of Linux.

    Their padding is of four bytes, and of eight in ``.note.gnu.property``, whose name is as long as this one's.
    """
    at = 0
    while at + 12 <= len(notes):
        name_length, length, kind = struct.unpack_from("<III", notes, at)
        start = at + 12 + (name_length + 3) // 4 * 4
        if notes[at + 12 : at + 12 + name_length] == b"GNU\0" and kind == _NT_GNU_ABI_TAG and length >= 16:
            system, major, minor, tiny = struct.unpack_from("<IIII", notes, start)
            if system == _ELF_NOTE_OS_LINUX:
                yield major, minor, tiny
        at = start + (length + 3) // 4 * 4


_NT_GNU_ABI_TAG, _ELF_NOTE_OS_LINUX = 1, 0


def files_below(top: str) -> Iterator[str]:
    """Yield the files and links below a directory, relative to it, sorted."""
    for directory, names, files in os.walk(top):
        names.sort()
        here = os.path.relpath(directory, top)
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        for name in sorted(files + links):
            yield os.path.normpath(os.path.join(here, name))


class Tree:
    """One package's tree below ``usr``, with its ELF files read."""

    def __init__(self, name: str, path: str, version: str = "", older: bool = False, deb: str = "") -> None:
        self.name = name
        #: Its name among Debian's packages; empty for what was built.
        self.deb = deb
        self.label = f"{name} {version}".rstrip()
        #: Whether it is an older version, of which only what the newer one lacks is part of the bundle.
        self.older = older
        self.usr = os.path.join(path, "usr")
        self.files = list(files_below(self.usr))
        #: The names in each directory, since many questions are about one.
        self.names: dict[str, list[str]] = {}
        for file in self.files:
            where, _, name = file.rpartition("/")
            self.names.setdefault(where, []).append(name)
        self.elves: dict[str, Elf] = {}
        for file in self.files:
            full = os.path.join(self.usr, file)
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            elf = read_elf(full)
            if elf is not None:
                self.elves[file] = elf
        #: Of which the bundle has patched copies: programs, and libraries with a DT_RUNPATH that hides others.
        self.copies = {file for file, elf in self.elves.items() if elf.is_program}


class Merge:
    """The whole merge, from a specification to a tree."""

    def __init__(self, spec: dict[str, Any], out: str) -> None:
        self.spec = spec
        self.out = out
        self.major = spec["major"]
        self.libraries = f"lib/{spec['triplet']}"
        self.modules = f"lib/postgresql/{self.major}/lib"
        self.packages = [
            Tree(p["name"], p["path"], p["version"], p.get("older", False), p.get("deb", "")) for p in spec["packages"]
        ]
        self.runtime: dict[str, Tree] = {}
        self.candidates = {r["name"]: r for r in spec["runtime"]}
        #: Where a library or module of a name lies, and what it needs.
        self.libraries_by_name: dict[str, tuple[str, Elf]] = {}
        #: By Debian's name of a package: the files that are to be written anew.
        self.placed_of: dict[str, frozenset[str]] = {}
        self.extensions_of: dict[str, list[dict[str, Any]]] = {}
        #: Of the files that were asked for.
        self.symbols: dict[str, Symbols] = {}
        #: Directories that are never one link to a package, since the merge itself adds to them.
        self.own = {"", "bin", "etc", "lib", "share", f"lib/postgresql/{self.major}", f"share/postgresql/{self.major}"}

    # --- which runtime packages are needed ---------------------------------------------------------

    def choose_runtime(self) -> None:
        """Take in the runtime packages that something needs, and what these need in turn."""
        providers = self.providers()
        own = {
            os.path.basename(file)
            for tree in self.packages
            for file in tree.files
            if os.path.dirname(file) in (self.libraries, self.modules)
        }
        pending: list[tuple[str, str]] = []  # package, wanted by
        done: set[str] = set()

        def want(name: str, by: str) -> None:
            if name not in done:
                done.add(name)
                pending.append((name, by))

        def scan(tree: Tree) -> None:
            for file, elf in tree.elves.items():
                for needed in elf.needed:
                    if needed in own or self.found_by(elf.runpath or elf.rpath, tree, file, needed):
                        continue
                    if needed not in providers:
                        fail(
                            f"{tree.label}: {file} needs {needed}, which no runtime package in the lock brings; "
                            "name the Debian package that does under `runtime` in the recipe, then `pgbake lock`"
                        )
                    want(providers[needed], f"{tree.label}: {file}")

        def follow(name: str) -> None:
            for rule in self.rules(name):
                for pattern in rule["needs"]:
                    for match in fnmatch.filter(self.candidates, pattern) or [pattern]:
                        want(match, name)

        for tree in self.packages:
            scan(tree)
            follow(tree.deb)
        for rule in self.spec["rules"]:
            if rule["always"]:
                for name in fnmatch.filter(self.candidates, rule["match"]):
                    want(name, "every bundle")
        while pending:
            name, by = pending.pop(0)
            entry = self.candidates.get(name)
            if entry is None:
                fail(f"the runtime package {name}, wanted by {by}, is not in the lock; run `pgbake lock`")
            tree = Tree(f"runtime package {name}", entry["path"], deb=name)
            self.runtime[name] = tree
            scan(tree)
            licences = os.path.join(tree.usr, "share/doc", name)
            if os.path.islink(licences):  # they are another package's, as libgcc-s1's are gcc-12-base's
                want(os.path.basename(os.readlink(licences)), name)
            follow(name)

    def rules(self, name: str) -> list[dict[str, Any]]:
        """Return the catalogue's rules for a Debian package."""
        return [rule for rule in self.spec["rules"] if fnmatch.fnmatchcase(name, rule["match"])]

    def providers(self) -> dict[str, str]:
        """Return which candidate brings a library of a name where the bundle's programs look for it."""
        found: dict[str, str] = {}
        for where in (self.libraries, "lib"):
            for name, entry in sorted(self.candidates.items()):
                directory = os.path.join(entry["path"], "usr", where)
                if os.path.isdir(directory):
                    for file in sorted(os.listdir(directory)):
                        if ".so" in file:
                            found.setdefault(file, name)
        return found

    # --- what the loader will say ------------------------------------------------------------------

    def check_versions(self) -> None:
        """Check what the loader checks: every version of a library that a file wants is defined there."""
        trees = [*self.packages, *self.runtime.values()]
        defined: dict[str, set[str]] = {}
        for tree in trees:
            for file, elf in tree.elves.items():
                for name in {os.path.basename(file), elf.soname} - {""}:
                    defined.setdefault(name, elf.defines)
        problems = [
            f"{tree.label}: {file} wants version {version} of {library}, which is not defined there"
            for tree in trees
            for file, elf in tree.elves.items()
            for library, versions in elf.wants.items()
            for version in sorted(versions - defined.get(library, set()))
        ]
        for tree in trees:
            for file, elf in tree.elves.items():
                # libc and the loader are there before anything else, so nobody searches for them.
                searched = [name for name in elf.needed if name not in ("libc.so.6", self.spec["loader"])]
                hidden = elf.runpath and [n for n in searched if not self.found_by(elf.runpath, tree, file, n)]
                if hidden and (tree.deb or tree.name.startswith("runtime package ")):
                    tree.copies.add(file)
                elif hidden:
                    problems.append(
                        f"{tree.label}: {file} has DT_RUNPATH {elf.runpath}, which hides the bundle's libraries "
                        f"and does not find {', '.join(hidden)}"
                    )
        if problems:
            fail("\nmerge: ".join(problems))

    @staticmethod
    def found_by(runpath: str, tree: Tree, file: str, library: str) -> bool:
        """Whether a RUNPATH, relative to the file's own place, finds a library."""
        origin = os.path.dirname(os.path.join(tree.usr, file))
        places = [p.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for p in runpath.split(":")]
        return any(p.startswith(tree.usr) and os.path.exists(os.path.join(p, library)) for p in places)

    def check_extensions(self) -> None:
        """Check that every extension can be created: a script, or a chain of them, makes its default version."""
        for entry, tree in zip(self.spec["packages"], self.packages, strict=True):
            if tree.older or entry.get("origin") == "deb":
                continue  # a distribution's package is taken as it is
            for file in self.controls(tree):
                name = os.path.basename(file).removesuffix(".control")
                control = read_control(os.path.join(tree.usr, file))
                scripts = self.scripts(tree, control.get("directory", "extension"))
                wanted = control.get("default_version", "")
                steps = [s.removesuffix(".sql").split("--")[1:] for s in scripts if s.startswith(f"{name}--")]
                made = {step[0] for step in steps if len(step) == 1}
                while more := {step[1] for step in steps if len(step) == 2 and step[0] in made} - made:
                    made |= more
                if wanted not in made:
                    some = sorted(scripts)
                    more_scripts = f" and {len(some) - 5} more" if len(some) > 5 else ""
                    fail(
                        f"{tree.label}: its extension {name} has no script for its default version {wanted}; its "
                        f"makefile installs {', '.join(some[:5]) or 'none'}{more_scripts}; see `make` in the recipe"
                    )

    def scripts(self, tree: Tree, where: str = "extension") -> list[str]:
        """Return the names of the SQL scripts of a package's extensions.

        :param where: the directory that a control file names, below PostgreSQL's ``share``.
        """
        directory = f"share/postgresql/{self.major}/{where}"
        return [name for name in tree.names.get(directory, ()) if name.endswith(".sql")]

    def controls(self, tree: Tree) -> list[str]:
        """Return the primary control files of a package, one for each extension."""
        directory = f"share/postgresql/{self.major}/extension"
        return [
            f"{directory}/{name}"
            for name in tree.names.get(directory, ())
            if name.endswith(".control") and "--" not in name
        ]

    def check_required(self) -> None:
        """Check that the bundle holds what its extensions require, but for packages of many."""
        extensions = self.all_extensions()
        names = {extension["name"] for extension in extensions}
        packages = [extension["package"] for extension in extensions]
        for extension in extensions:
            for required in extension["requires"]:
                if required not in names and packages.count(extension["package"]) == 1:
                    fail(
                        f"the extension {extension['name']} requires {required}, which the bundle does not hold; "
                        + (
                            "add it to `languages` in the manifest"
                            if required.startswith("pl")
                            else "add it to `extensions` in the manifest"
                        )
                    )

    # --- what the server will say when it loads a module -------------------------------------------

    def check_symbols(self) -> None:
        """Check that the server can load every module: each symbol that it wants is defined by somebody.

        PostgreSQL binds all symbols of a module when it loads it. They may be the server's or its libraries',
        the module's own or its libraries', or those of modules that are loaded before: the ones of extensions
        that the module's extension `requires`, and the ones that it must have preloaded. A weak symbol may stay
        undefined.
        """
        trees = [*self.packages, *self.runtime.values()]
        for tree in trees:
            for file, elf in tree.elves.items():
                if not elf.is_program:
                    for name in {os.path.basename(file), elf.soname} - {""}:
                        self.libraries_by_name.setdefault(name, (os.path.join(tree.usr, file), elf))
        server = f"lib/postgresql/{self.major}/bin/postgres"
        scope: set[bytes] = set()
        for tree in self.packages:
            if server in tree.elves:
                files = self.loaded_with(os.path.join(tree.usr, server), tree.elves[server])
                scope = self.defined_by([*files, *self.loaded_by_name(ENVIRONMENT_LIBRARY)])
        extensions = self.all_extensions()
        ours = tuple(package.usr + "/" for package in self.packages)
        problems = []
        for tree in self.packages:
            own = [e for e in extensions if e["package"] == tree.name]
            for file, elf in tree.elves.items():
                if elf.is_program or not file.startswith(self.modules + "/"):
                    continue
                files = self.loaded_with(os.path.join(tree.usr, file), elf)
                # Libraries of Debian's are Debian's to get right.
                wanted = set[bytes]().union(
                    *(self.symbols_of(loaded).undefined for loaded in files if loaded.startswith(ours))
                )
                missing = wanted - scope
                missing = missing and missing - self.defined_by(files)
                missing = missing and missing - self.defined_by(self.loaded_before(file, own, extensions))
                if missing:
                    problems.append(self.missing_symbols(tree, file, missing))
        if problems:
            fail("\nmerge: ".join(problems))

    def symbols_of(self, path: str) -> Symbols:
        """Return the symbols of a file, read once."""
        if path not in self.symbols:
            self.symbols[path] = read_symbols(path)
        return self.symbols[path]

    def defined_by(self, paths: Iterable[str]) -> set[bytes]:
        """Return what files define."""
        return set[bytes]().union(*(self.symbols_of(path).defined for path in paths))

    def loaded_with(self, path: str, elf: Elf) -> list[str]:
        """Return the files that the loader maps for a file: itself, what it needs, and what that needs."""
        found = {path: elf}
        pending = [elf]
        while pending:
            for needed in pending.pop().needed:
                library = self.libraries_by_name.get(needed)
                if library and library[0] not in found:
                    found[library[0]] = library[1]
                    pending.append(library[1])
        return list(found)

    def loaded_by_name(self, name: str) -> list[str]:
        """Return the files that the loader maps for a library or module of a name; none where it is not there."""
        library = self.libraries_by_name.get(name)
        return self.loaded_with(*library) if library else []

    def loaded_before(self, file: str, own: list[dict[str, Any]], extensions: list[dict[str, Any]]) -> list[str]:
        """Return the files that are loaded before a module, by what its package's extensions say.

        :param own: the extensions of its package.
        """
        module = os.path.basename(file)
        pending = [e for e in own if module in e["libraries"]]
        names = [f"{library}.so" for e in pending for library in e["preload"]]
        done: set[str] = set()
        while pending:
            for required in pending.pop()["requires"]:
                if required not in done:
                    done.add(required)
                    found = [e for e in extensions if e["name"] == required]
                    pending += found
                    names += [library for e in found for library in e["libraries"]]
        return [path for name in names for path in self.loaded_by_name(name)]

    def missing_symbols(self, tree: Tree, file: str, missing: set[bytes]) -> str:
        """Say what a module lacks, and who in the bundle or in the lock would have it."""
        names = sorted(symbol.decode(errors="replace") for symbol in missing)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        text = (
            f"{tree.label}: {file} wants {', '.join(names[:5])}{more}, defined neither by the server nor by a library "
            "that it needs nor by an extension that it requires"
        )
        for name, (path, _) in sorted(self.libraries_by_name.items()):
            if missing & self.symbols_of(path).defined:
                if os.path.dirname(path).endswith(self.modules):
                    return f"{text}; {name} has it: name its extension under `requires` in the control file"
                return f"{text}; {name} has it: {_LINK_WITH} {_link_option(name)}"
        for package, entry in sorted(self.candidates.items()):
            if package not in self.runtime:
                candidate = Tree(package, entry["path"])
                for library in candidate.elves:
                    if missing & read_symbols(os.path.join(candidate.usr, library)).defined:
                        name = os.path.basename(library)
                        return f"{text}; {name} of {package} has it: {_LINK_WITH} {_link_option(name)}"
        if tree.deb:
            return (
                f"{text}; {tree.deb} was built for another release of PostgreSQL than {self.spec['postgresql']}: "
                'build it with `origin = "source"` where its source can be had, or leave it out until they fit'
            )
        return (
            f"{text}; name the Debian package of the library's headers under `build` in the recipe and link with the "
            'library, as in make = ["SHLIB_LINK=-lNAME"], or leave out the code that wants it'
        )

    # --- the tree ----------------------------------------------------------------------------------

    def link(self) -> None:
        """Make the tree of links and copies."""
        self.programs: list[str] = []
        self.freed: dict[str, str] = {}  # copies of libraries, each with its DT_RUNPATH
        trees = [*self.packages, *self.runtime.values()]
        self.merge_directories("", [(tree, tree.usr) for tree in trees])
        # Time zones are the runtime's, so that they move without a build of PostgreSQL.
        self.add_link(f"share/postgresql/{self.major}/timezone", self.runtime["tzdata"].usr + "/share/zoneinfo")
        for name in sorted(os.listdir(f"{self.out}/lib/postgresql/{self.major}/bin")):
            self.add_link(f"bin/{name}", f"../lib/postgresql/{self.major}/bin/{name}")

    def merge_directories(self, where: str, sources: list[tuple[Tree, str]]) -> None:
        """Make the directory ``where`` from directories of the same name in several packages."""
        os.mkdir(os.path.join(self.out, where))
        entries: dict[str, list[tuple[Tree, str]]] = {}
        for tree, directory in sources:
            for name in os.listdir(directory):
                entries.setdefault(name, []).append((tree, os.path.join(directory, name)))
        for name, brought in sorted(entries.items()):
            path = os.path.join(where, name)
            directories = [os.path.isdir(full) and not os.path.islink(full) for _, full in brought]
            # Of an older version: what the newer one has is the newer one's.
            newer = [(tree, full) for tree, full in brought if not tree.older]
            found = newer if newer and not all(directories) else brought
            directories = [os.path.isdir(full) and not os.path.islink(full) for _, full in found]
            if all(directories):
                # A directory that one package alone brings is one link, unless a program lies below it.
                below = (*self.own, *(file for tree, _ in found for file in tree.copies | self.placed(tree)))
                if len(found) > 1 or any(name == path or name.startswith(path + "/") for name in below):
                    self.merge_directories(path, found)
                else:
                    self.add_link(path, found[0][1])
            elif len(found) > 1:
                fail(
                    f"{found[0][0].label} and {found[1][0].label} both bring usr/{path}, so they cannot be in one "
                    "bundle; remove the extension of one of them from the manifest"
                )
            else:
                tree, full = found[0]
                if path in tree.copies:
                    shutil.copyfile(full, os.path.join(self.out, path))
                    os.chmod(os.path.join(self.out, path), 0o755)
                    if tree.elves[path].is_program:
                        self.programs.append(path)
                    else:
                        self.freed[path] = tree.elves[path].runpath
                elif path in self.placed(tree):
                    self.write_anew(tree, full, path)
                elif self.leads_elsewhere(tree, full):
                    os.symlink(os.readlink(full), os.path.join(self.out, path))
                else:
                    self.add_link(path, full)

    def placed(self, tree: Tree) -> frozenset[str]:
        """Return the files of a package that are to be written anew."""
        if tree.deb not in self.placed_of:
            globs = [glob for rule in self.rules(tree.deb) for glob in rule["places"]] if tree.deb else []
            self.placed_of[tree.deb] = frozenset(file for glob in globs for file in fnmatch.filter(tree.files, glob))
        return self.placed_of[tree.deb]

    def write_anew(self, tree: Tree, full: str, path: str) -> None:
        """Write a text file in which the package's own files have the names that they have here."""
        with open(full, encoding="utf-8") as file:
            text = file.read()

        def place(found: re.Match[str]) -> str:
            here = os.path.join(tree.usr, found[1])
            return here if os.path.exists(here) else found[0]

        with open(os.path.join(self.out, path), "w", encoding="utf-8") as file:
            file.write(re.sub(r"/usr/([\w./+-]+)", place, text))

    @staticmethod
    def leads_elsewhere(tree: Tree, link: str) -> bool:
        """Whether a relative link of a package leads to what only the bundle has.

        That is a file, which the bundle holds as a copy, or a file of another package, as a package's
        licences may be. Such a link is made anew in the bundle.
        """
        if not os.path.islink(link) or os.path.isabs(os.readlink(link)):
            return False
        target = os.path.realpath(link)
        return not os.path.exists(target) or os.path.relpath(target, tree.usr) in tree.copies

    def add_link(self, path: str, target: str) -> None:
        """Make one link in the tree."""
        full = os.path.join(self.out, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        os.symlink(target, full)

    def patch(self) -> None:
        """Give every program the bundle's loader, libraries and environment library."""
        loader = f"{self.runtime['libc6'].usr}/{self.libraries}/{self.spec['loader']}"

        def patch(path: str) -> None:
            file = os.path.join(self.out, path)
            up = "$ORIGIN" + "/.." * path.count("/")
            # Some libraries of Debian's lie where all did before there were several architectures.
            rpath = f"{up}/{self.modules}:{up}/{self.libraries}:{up}/lib"
            # Two runs: given both at once, patchelf 0.14 writes one string over the other.
            subprocess.run(["patchelf", "--add-needed", ENVIRONMENT_LIBRARY, file], check=True)
            subprocess.run(
                ["patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", rpath, file], check=True
            )
            elf = read_elf(file)
            if elf is None or elf.needed[:1] != [ENVIRONMENT_LIBRARY] or (elf.rpath, elf.runpath) != (rpath, ""):
                fail(f"patchelf left {path} without its libraries")

        def free(path: str) -> None:
            # An old DT_RPATH hides nothing: those of what loads the library are searched as well.
            near = ":".join(
                place for place in self.freed[path].split(":") if place.startswith(("$ORIGIN", "${ORIGIN}"))
            )
            option = ["--force-rpath", "--set-rpath", near] if near else ["--remove-rpath"]
            file = os.path.join(self.out, path)
            subprocess.run(["patchelf", *option, file], check=True)
            elf = read_elf(file)
            if elf is None or (elf.rpath, elf.runpath) != (near, ""):
                fail(f"patchelf left {path} with its DT_RUNPATH")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(patch, self.programs))
            list(pool.map(free, self.freed))

    def certificates(self) -> None:
        """Make one file of all CA certificates, as Debian's update-ca-certificates does."""
        tree = self.runtime["ca-certificates"]
        target = os.path.join(self.out, "etc/ssl/certs/ca-certificates.crt")
        os.makedirs(os.path.dirname(target))
        with open(target, "wb") as bundle:
            for file in sorted(glob.glob(f"{tree.usr}/share/ca-certificates/**/*.crt", recursive=True)):
                with open(file, "rb") as certificate:
                    bundle.write(certificate.read().rstrip(b"\n") + b"\n")

    def tls_configuration(self) -> None:
        """Write configurations that change nothing: the machine's are for the machine's OpenSSL and GnuTLS."""
        openssl = "openssl_conf = openssl_init\n\n[openssl_init]\n"  # as Debian's
        for name, text in (("ssl/openssl.cnf", openssl), ("gnutls/config", "# GnuTLS's own defaults\n")):
            path = os.path.join(self.out, "etc", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

    # --- the receipt -------------------------------------------------------------------------------

    def receipt(self) -> None:
        """Write what the bundle holds."""
        versions = subprocess.run(
            [os.path.join(self.out, "lib/pgbake/versions")], stdout=subprocess.PIPE, text=True, check=True, env={}
        )
        packages = [
            {k: entry[k] for k in ("name", "version", "licence", "origin", "path", "source")}
            for entry in self.spec["packages"]
            if entry["receipt"]
        ]
        receipt = {
            "version": 1,
            "name": self.spec["name"],
            "system": self.spec["system"],
            "platform": self.spec["platform"],
            "postgresql": {"version": self.spec["postgresql"], "major": self.major},
            "packages": packages,
            "extensions": sorted(self.all_extensions(), key=lambda e: e["name"]),
            "preload": self.preload(),
            "settings": self.settings(),
            "runtime": [
                {k: self.candidates[name][k] for k in ("name", "version", "path", "sha256")}
                | {"licence": f"share/doc/{name}/copyright"}
                for name in sorted(self.runtime)
            ],
            "locales": self.spec["locales"],
            "collations": json.loads(versions.stdout),
            "kernel": self.kernel(),
            "build-roots": self.spec["buildRoots"],
        }
        with open(os.path.join(self.out, "receipt.json"), "w", encoding="utf-8") as file:
            json.dump(receipt, file, indent=2, ensure_ascii=False)
            file.write("\n")

    def all_extensions(self) -> list[dict[str, Any]]:
        """Describe all extensions of the bundle."""
        return [
            extension
            for entry, tree in zip(self.spec["packages"], self.packages, strict=True)
            if entry["receipt"] and not tree.older
            for extension in self.extensions(entry, tree)
        ]

    def to_preload(self, entry: dict[str, Any], tree: Tree) -> list[str]:
        """Return the modules of a package that ask whether they are being preloaded, so that they want to be.

        Of contrib nothing follows from that: what of it is used by whom is the manifest's to say.
        """
        if entry["many"]:
            return []
        return [name for name, symbols in self.modules_of(tree) if _PRELOADING in symbols.undefined]

    def output_plugins(self) -> list[str]:
        """Return the modules of packages, other than contrib's, through which replication slots can be read."""
        return sorted(
            name
            for entry, tree in zip(self.spec["packages"], self.packages, strict=True)
            if entry["receipt"] and not entry["many"] and not tree.older
            for name, symbols in self.modules_of(tree)
            if _OUTPUT_PLUGIN in symbols.defined
        )

    def modules_of(self, tree: Tree) -> Iterator[tuple[str, Symbols]]:
        """Yield name and symbols of each module that a package has for the server to load."""
        for file, elf in tree.elves.items():
            if os.path.dirname(file) == self.modules and not elf.is_program:
                yield os.path.basename(file).removesuffix(".so"), self.symbols_of(os.path.join(tree.usr, file))

    def trusted_plugins(self) -> dict[str, str]:
        """Return the settings that let replication slots use the packages' output plugins."""
        plugins = self.output_plugins()
        if not plugins:
            return {}
        settings = {"wal_level": "logical"}
        for tree in self.packages:
            sample = os.path.join(tree.usr, f"share/postgresql/{self.major}/postgresql.conf.sample")
            if os.path.exists(sample):
                with open(sample, encoding="utf-8") as file:
                    for name, default in _TRUSTED_PLUGINS.findall(file.read()):
                        settings[name] = ", ".join(dict.fromkeys((*re.findall(r"[^,\s]+", default), *plugins)))
        return settings

    def chosen_needs(self) -> Iterator[tuple[dict[str, Any], list[str], dict[str, str], set[str]]]:
        """Yield for each package: entry, libraries to preload, settings, and what must be preloaded before."""
        # What others require is chosen with them: pg_stat_kcache does not even load without pg_stat_statements.
        required = [r for e in self.all_extensions() if e["package"] not in _CONTRIB for r in e["requires"]]
        chosen = list(dict.fromkeys((*self.spec["extensions"], *required)))
        for entry, tree in zip(self.spec["packages"], self.packages, strict=True):
            if not entry["receipt"] or tree.older:
                continue
            words = [entry["needs"][name] for name in chosen if name in entry["needs"]]
            whole = entry["needs"].get("")
            words += [whole] if whole else []
            if any(word["preload"] is not None for word in words):
                libraries = [library for word in words for library in word["preload"] or ()]
            else:
                libraries = self.to_preload(entry, tree)
            settings = {key: value for word in words for key, value in word["settings"].items()}
            before = {*entry["after"], *(r for e in self.extensions(entry, tree) for r in e["requires"])}
            yield entry, libraries, settings, before

    def preload(self) -> list[str]:
        """Return shared_preload_libraries: in the manifest's order, but after what each package comes after.

        Packages whose recipe says so come first.
        """
        position = {name: number for number, name in enumerate(self.spec["extensions"])}
        waiting: dict[str, set[str]] = {}
        order: dict[str, int] = {}
        for entry, libraries, _, before in self.chosen_needs():
            for library in libraries:
                waiting.setdefault(library, set()).update(before)
                # contrib's are listed by their own names
                place = position.get(library, position.get(entry["name"], len(position)))
                order[library] = -1 if entry["first"] else place
        left = sorted(waiting, key=lambda library: order[library])
        found: list[str] = []
        while left:
            ready = [library for library in left if not waiting[library] & set(left) - {library}]
            found.append((ready or left)[0])
            left.remove(found[-1])
        return found

    def settings(self) -> dict[str, str]:
        """Return the settings without which what the manifest names does not work.

        Two packages that want different values of one are an error.
        """
        found = {key: ("an output plugin", value) for key, value in self.trusted_plugins().items()}
        for entry, _, settings, _ in self.chosen_needs():
            for key, value in settings.items():
                other, before = found.setdefault(key, (entry["name"], value))
                if before != value:
                    fail(
                        f"{other} wants the setting {key} = {before!r} and {entry['name']} wants {value!r}; "
                        "remove one of them from the manifest"
                    )
        return {key: value for key, (_, value) in sorted(found.items())}

    def kernel(self) -> str:
        """Return the oldest Linux on which all of the bundle runs: the newest that one of its files asks for."""
        trees = [*self.packages, *self.runtime.values()]
        return ".".join(map(str, max(elf.kernel for tree in trees for elf in tree.elves.values())))

    def extensions(self, entry: dict[str, Any], tree: Tree) -> list[dict[str, Any]]:
        """Describe the extensions that a package brings, from their control files."""
        if tree.usr not in self.extensions_of:
            self.extensions_of[tree.usr] = self.read_extensions(entry, tree)
        return self.extensions_of[tree.usr]

    def read_extensions(self, entry: dict[str, Any], tree: Tree) -> list[dict[str, Any]]:
        """Do what :meth:`extensions` asks for, which is asked often."""
        found = []
        scripts = self.scripts(tree)
        modules = sorted(name for name in tree.names.get(self.modules, ()) if name.endswith(".so"))
        for file in self.controls(tree):
            name = os.path.basename(file).removesuffix(".control")
            control = read_control(os.path.join(tree.usr, file))
            # Distributions have control files of output plugins, and some by a second name, without a script.
            if (
                entry.get("origin") == "deb"
                and "directory" not in control
                and not any(script.startswith(f"{name}--") for script in scripts)
            ):
                continue
            module = os.path.basename(control.get("module_pathname", "")) + ".so"
            needs = entry["needs"].get(name) or entry["needs"].get("") or {"preload": None, "settings": {}}
            found.append(
                {
                    "name": name,
                    "package": entry["name"],
                    "version": control.get("default_version", ""),
                    "comment": control.get("comment", ""),
                    "requires": [r.strip() for r in control.get("requires", "").split(",") if r.strip()],
                    "trusted": control.get("trusted", "") == "true",
                    # A package of one extension owns all its modules; contrib's are told apart by name.
                    "libraries": [m for m in modules if m == module] if entry["many"] else modules,
                    "preload": self.to_preload(entry, tree) if needs["preload"] is None else needs["preload"],
                    "settings": needs["settings"],
                }
            )
        return found


_LINK_WITH = "link with it, in the recipe:"


def _link_option(library: str) -> str:
    """Return how a recipe says to link with ``libNAME.so.N``."""
    return f'make = ["SHLIB_LINK=-l{library.removeprefix("lib").partition(".so")[0]}"]'


def read_control(path: str) -> dict[str, str]:
    """Read an extension's control file: PostgreSQL's configuration syntax, ``key = 'value'``."""
    values = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            key, sign, value = line.partition("=")
            value = value.strip()
            if not sign or key.lstrip().startswith("#"):
                continue
            if value.startswith("'"):
                value = value[1:].replace("''", "\0").partition("'")[0].replace("\0", "'")
            else:
                value = value.partition("#")[0].strip()
            values[key.strip().lower()] = value
    return values


def main() -> None:
    """Merge as the environment says."""
    merge = Merge(json.loads(os.environ["spec"]), os.environ["out"])

    def phase(name: str) -> None:
        print(f'@nix {{"action":"setPhase","phase":"{name}"}}', file=sys.stderr, flush=True)

    phase("resolve")
    merge.choose_runtime()
    phase("check")
    merge.check_versions()
    merge.check_extensions()
    merge.check_required()
    merge.check_symbols()
    phase("link")
    merge.link()
    phase("patch")
    merge.patch()
    merge.certificates()
    merge.tls_configuration()
    phase("receipt")
    merge.receipt()


if __name__ == "__main__":
    main()
