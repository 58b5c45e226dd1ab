"""Which Debian packages a project's bundle gives, and how each is put together.

======================================  =============================================================================
``pgbake-postgresql-N``                 the whole bundle below ``/usr/lib/pgbake/postgresql-N``, with the conventional
                                        paths as links (`pgbake.debs.conventions`); it needs no library of Debian's
``pgbake-postgresql-N-programs``        the names in ``/usr/bin``, which one package of a machine can have
``postgresql-N-EXT``                    one extension that was built from source, for Debian's own PostgreSQL N
======================================  =============================================================================

What goes into a package is told by its field ``Pgbake-Inputs``, a hash of store paths and fields: where it is equal,
the package is. So a repository takes a new revision only of what has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pgbake.bundle.merge import Bundle
from pgbake.bundle.merge_program import read_control
from pgbake.bundle.receipt import Receipt, read_receipt
from pgbake.debs import naming, texts
from pgbake.debs.archive import build_deb, gzipped, installed_size, write_control
from pgbake.debs.conventions import (
    DEBIANS_PACKAGES,
    SYSUSERS,
    TMPFILES,
    conventions,
    prefix,
    program_links,
)
from pgbake.debs.flatten import flatten, write_flat
from pgbake.debs.libraries import Resolver, interpreters
from pgbake.events import Sink, task
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import System
from pgbake.inputs.deb import control_files
from pgbake.inputs.pins import Pin
from pgbake.project import Project
from pgbake.recipes.choice import choices
from pgbake.recipes.lowering import Package
from pgbake.requirements import chosen_debs
from pgbake.store.local import LocalStore

#: Changes with every change of what packages of equal inputs hold.
_FORMAT = 2
#: What packages are dated where SOURCE_DATE_EPOCH says nothing: as builds are (1980).
DEFAULT_EPOCH = 315532800

Kind = Literal["server", "programs", "extension"]


@dataclass(frozen=True, slots=True)
class Deb:
    """One package as it is to be, but for its version.

    :param key: what the user calls it: ``bundle``, ``programs``, or the manifest's name of an extension.
    :param upstream: the upstream version.
    :param outputs: store paths that it is made of; of an extension the newest version's first.
    :param fields: of the control file, without Version and Installed-Size.
    :param notes: lines of its changelog.
    """

    kind: Kind
    key: str
    name: str
    upstream: str
    outputs: tuple[StorePath, ...]
    fields: dict[str, str]
    notes: tuple[str, ...]
    package: Package | None = None
    inputs: str = field(default="")


@dataclass(frozen=True)
class Packer:
    """Packs what a project has built.

    :param fetch: brings Debian packages that the lock pins and returns where each lies, by name.
    :param maintainer: ``NAME <ADDRESS>``.
    :param epoch: the time of all files, in seconds since 1970.
    """

    project: Project
    bundle: Bundle
    system: System
    store: LocalStore
    fetch: Callable[[Mapping[str, Pin]], Mapping[str, Path]]
    maintainer: str
    epoch: int = DEFAULT_EPOCH

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.project.manifest.postgresql

    @property
    def suite(self) -> str:
        """The release of Debian that the packages are for."""
        return self.project.lock.platform.suite

    def packages(self, only: Sequence[str] = ()) -> list[Deb]:
        """Return the packages of the bundle, which must be valid: the whole one, then each extension that was built.

        :param only: keys; none means all.
        :raises InputError: nobody brings a library that an extension needs.
        """
        receipt = read_receipt(self.store.physical(self.bundle.path))
        found = []
        for key in self.names():
            if only and key not in only:
                continue
            if key == "bundle":
                deb = self._server(receipt)
            elif key == "programs":
                deb = self._programs(receipt)
            else:
                deb = self._extension(key, receipt)
            words = [_FORMAT, deb.kind, self.epoch, list(map(str, deb.outputs)), deb.fields, deb.notes]
            digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
            found.append(replace(deb, inputs=digest[:32]))
        return found

    def names(self) -> list[str]:
        """Return what the packages are called: ``bundle``, ``programs``, and each extension that is built."""
        return ["bundle", "programs", *(package.choice.key for package in self._built() if not package.choice.older)]

    def _built(self) -> tuple[Package, ...]:
        return self.bundle.packages[1:]

    # --- what is told of each ----------------------------------------------------------------------

    def _fields(
        self, name: str, *, depends: Sequence[str], text: str, homepage: str | None, **more: str
    ) -> dict[str, str]:
        return {
            "Package": name,
            "Source": "",
            "Architecture": self.system.debian,
            "Maintainer": self.maintainer,
            "Section": "database",
            "Priority": "optional",
            "Depends": ", ".join(depends),
            **more,
            "Homepage": homepage or "",
            "Description": text,
        }

    def _server(self, receipt: Receipt) -> Deb:
        major = self.major
        name = naming.server_name(major)
        debians = ", ".join(package.replace("{major}", str(major)) for package in DEBIANS_PACKAGES)
        extensions = sorted(e.name for e in receipt.extensions)
        own = sorted(
            {e.name for e in receipt.extensions if e.package not in ("postgresql", *self.project.manifest.languages)}
        )
        text = texts.description(
            f"PostgreSQL {major} with {len(extensions)} extensions, self-contained",
            (
                f"The bundle {receipt.name} of pgbake: the server, its clients and contrib, procedural languages, and "
                "all libraries that these need, none of which is taken from the system. It stands in the place of "
                f"Debian's postgresql-{major}, at the same paths.",
                f"To make a cluster and start its server: systemctl enable --now pgbake-postgresql-{major}@main",
                f"Extensions beside contrib: {', '.join(own) or 'none'}.",
            ),
        )
        fields = self._fields(
            name,
            depends=(
                SYSUSERS,
                TMPFILES,
                f"{naming.programs_name(major)} | pgbake-postgresql-programs | postgresql-client-common",
            ),
            text=text,
            homepage=self.project.catalogue.postgresql.homepage,
            Conflicts=debians,
        )
        notes = (f"The bundle {self.bundle.path.basename}, in one package.",)
        return Deb("server", "bundle", name, receipt.postgresql.version, (self.bundle.path,), fields, notes)

    def _programs(self, receipt: Receipt) -> Deb:
        name = naming.programs_name(self.major)
        text = texts.description(
            f"names in /usr/bin for the programs of PostgreSQL {self.major}",
            (
                f"psql, pg_dump and others as links to those of pgbake-postgresql-{self.major}. One major version of a "
                "machine can have these names; with postgresql-client-common they are pg_wrapper's, which chooses "
                "among all.",
            ),
        )
        fields = self._fields(
            name,
            depends=(naming.server_name(self.major),),
            text=text,
            homepage=self.project.catalogue.postgresql.homepage,
            Provides="pgbake-postgresql-programs",
            Conflicts="pgbake-postgresql-programs, postgresql-client-common",
        )
        return Deb("programs", "programs", name, receipt.postgresql.version, (), fields, ("Links for all programs.",))

    def _extension(self, key: str, receipt: Receipt) -> Deb:
        versions = [p for p in self._built() if p.choice.name == key or p.choice.key == key]
        package = next(p for p in versions if not p.choice.older)
        outputs = tuple(
            p.output(o) for p in (package, *(p for p in versions if p.choice.older)) for o in p.choice.outputs
        )
        recipe, major = package.recipe, self.major
        name = naming.extension_name(key, recipe, major)
        files = [self.store.physical(o) / file for o in outputs for file in _files(self.store.physical(o))]
        regular = [file for file in files if file.is_file() and not file.is_symlink()]
        depends = [f"postgresql-{major} (>= {receipt.postgresql.version}~)"]
        depends += self._required(key, regular)
        depends += self._resolver.depends(regular)
        depends += interpreters(regular)
        depends += recipe.runtime
        extensions = [e for e in receipt.extensions if e.package == key]
        told = [f"{e.name} {e.version}" for e in extensions]
        more = {}
        if replaced := sorted(self._replaced(package) - {name}):
            more = {"Conflicts": ", ".join(replaced), "Replaces": ", ".join(replaced)}
        summary = recipe.summary or key
        text = texts.description(
            f"{summary[:1].lower() if summary[1:2].islower() else summary[:1]}{summary[1:]}",
            (
                f"The extension{'s' * (len(told) != 1)} {', '.join(told)} for Debian's PostgreSQL {major}, built from "
                "source."
                if told
                else f"A module for Debian's PostgreSQL {major}, built from source.",
            ),
        )
        fields = self._fields(name, depends=list(dict.fromkeys(depends)), text=text, homepage=recipe.homepage, **more)
        source = package.source
        notes = (
            f"Built by pgbake from {source.filename} (sha256 {source.sha256}), against PostgreSQL "
            f"{receipt.postgresql.version}, without bitcode for JIT.",
        )
        return Deb("extension", key, name, package.version, outputs, fields, notes, package)

    def _replaced(self, package: Package) -> set[str]:
        """Return Debian's other packages that hold what this one does."""
        chosen = {name for name in package.choice.extensions if name in package.recipe.provides}
        return {deb for name in chosen if (deb := package.recipe.provides[name].deb.get(str(self.major))) is not None}

    def _required(self, key: str, files: Sequence[Path]) -> list[str]:
        """Return the packages with the extensions that those of a package require, as their control files say."""
        required: set[str] = set()
        own = set()
        for file in files:
            if file.suffix == ".control" and file.parent.name == "extension":
                own.add(file.name.removesuffix(".control").partition("--")[0])
                words = read_control(str(file)).get("requires", "").split(",")
                required |= {word.strip() for word in words if word.strip()}
        found = []
        for extension in sorted(required - own):
            if language := naming.language_package(extension, self.major):
                found.append(language)
            elif provider := self._provider(extension):
                found.append(provider)
        return found

    def _provider(self, extension: str) -> str | None:
        """Return the package that an extension is in; None where it is part of postgresql-N itself."""
        receipt = read_receipt(self.store.physical(self.bundle.path))
        owner = next((e.package for e in receipt.extensions if e.name == extension), None)
        for package in self._built():
            if package.choice.key == owner:
                return naming.extension_name(package.choice.key, package.recipe, self.major)
        pins = self.project.lock.systems[self.system.name]
        wants = [owner] if owner is not None and owner in pins.debs else []
        wants += [
            choice.deb
            for choice in choices(self.project.manifest, self.project.catalogue)
            if choice.deb and (owner in choice.extensions or choice.key == owner)
        ]
        return next(iter(chosen_debs(pins, wants)), None)

    # --- libraries ---------------------------------------------------------------------------------

    @property
    def _resolver(self) -> Resolver:
        return Resolver(self.major, self._package_of, self._control_of)

    def _package_of(self, soname: str) -> str | None:
        """Return the runtime package of the bundle that has a library of a name."""
        return _libraries(self.store, self.bundle, self.system).get(soname)

    def _control_of(self, package: str) -> Mapping[str, str]:
        pin = self.project.lock.systems[self.system.name].runtime[package]
        return control_files(self.fetch({package: pin})[package])

    # --- putting together --------------------------------------------------------------------------

    def pack(self, deb: Deb, version: str, into: Path, report: Sink) -> Path:
        """Build one package into a directory and return its file, named as Debian's archive names them."""
        file = into / file_name(deb, version)
        with task(report, f"pack:{deb.name}", "pack", f"{deb.name} {version}"), _scratch(into) as tree:
            scripts: dict[str, str] = {}
            if deb.kind == "server":
                scripts = self._stage_server(tree)
            elif deb.kind == "programs":
                _place_links(tree, program_links(self.major))
            else:
                self._stage_extension(deb, tree)
            self._documents(deb, version, tree)
            fields = {"Package": deb.name, "Version": version, **deb.fields}
            size = str(installed_size(tree))
            fields = {k: v for k, v in fields.items() if k != "Description"} | {
                "Installed-Size": size, "Pgbake-Inputs": deb.inputs, "Description": deb.fields["Description"],
            }  # fmt: skip
            write_control(tree, texts.control_file(fields), scripts, self._triggers(tree))
            build_deb(tree, file, self.epoch)
        return file

    def _triggers(self, tree: Path) -> str:
        """Tell dpkg to have the loader's cache made anew, where a package has libraries that the loader looks for."""
        libraries = tree / "usr/lib" / self.system.triplet
        return "activate-noawait ldconfig\n" if libraries.is_dir() and any(libraries.glob("*.so.*")) else ""

    def _stage_server(self, tree: Path) -> dict[str, str]:
        receipt = read_receipt(self.store.physical(self.bundle.path))
        place = prefix(self.major)
        flat = flatten(self.store, self.bundle.path)
        top = tree / place.lstrip("/")
        top.parent.mkdir(parents=True)
        for _ in write_flat(flat, top, place):
            pass
        own = conventions(self.major, receipt.locales[0], _settings(receipt))
        for directory in own.directories:
            (tree / directory.lstrip("/")).mkdir(parents=True)
        _place_links(tree, own.links)
        for path, (content, mode) in own.files.items():
            file = tree / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
        return own.scripts

    def _stage_extension(self, deb: Deb, tree: Path) -> None:
        for number, output in enumerate(deb.outputs):
            top = self.store.physical(output)
            for path in _files(top):
                source, target = top / path, tree / path
                if path.startswith(f"usr/share/doc/postgresql-{self.major}-") and texts.is_licence(source.name):
                    continue  # it is in the copyright file
                if path.startswith(f"usr/share/doc/postgresql-{self.major}-"):
                    target = tree / "usr/share/doc" / deb.name / path.split("/", 4)[4]
                if number and os.path.lexists(target):
                    continue  # of an older version: what the newer one has is the newer one's
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_symlink():
                    target.symlink_to(source.readlink())
                else:
                    shutil.copyfile(source, target)
                    # Debian has modules without the bit that only programs need.
                    runs = source.stat().st_mode & 0o100 and source.suffix != ".so" and ".so." not in source.name
                    target.chmod(0o755 if runs else 0o644)

    def _documents(self, deb: Deb, version: str, tree: Path) -> None:
        directory = tree / "usr/share/doc" / deb.name
        directory.mkdir(parents=True, exist_ok=True)
        log = texts.changelog(deb.name, version, self.suite, deb.notes, self.maintainer, self.epoch)
        (directory / "changelog.Debian.gz").write_bytes(gzipped(log))
        package = deb.package or self.bundle.packages[0]
        recipe, source = package.recipe, package.source
        where = self.store.physical(package.output()) / "usr/share/doc"
        licences = texts.licence_texts(where / f"postgresql-{self.major}-{package.choice.key}")
        licences = licences or texts.licence_texts(where / f"postgresql-{self.major}")
        text = texts.copyright_file(
            recipe.name, recipe.licence or "", recipe.homepage, f"{source.filename} (sha256 {source.sha256})", licences
        )
        if deb.kind == "server":
            text += (
                f"\nFiles: usr/lib/pgbake/postgresql-{self.major}/*\n"
                "Copyright: see each part's own file\n"
                "License: several\n"
                f" Each part's licence is in /usr/lib/pgbake/postgresql-{self.major}/share/doc/PART/copyright;\n"
                f" /usr/lib/pgbake/postgresql-{self.major}/receipt.json lists the parts.\n"
            )
        (directory / "copyright").write_text(text, encoding="utf-8")
        if deb.kind == "server":
            file = tree / "usr/share/lintian/overrides" / deb.name
            file.parent.mkdir(parents=True)
            file.write_text("".join(f"# {why}\n{deb.name}: {tag}\n" for tag, why in _OVERRIDES), encoding="utf-8")
        for path in (*directory.iterdir(), *(tree / "usr/share/lintian").rglob("*")):
            if path.is_file():
                path.chmod(0o644)


#: What lintian calls errors in a bundle, and why each is meant so. Extensions have none.
_OVERRIDES = (
    ("embedded-library", "The bundle has its own libraries, so that none of the system is used."),
    ("missing-dependency-on-libc", "It has its own libc."),
    ("library-not-linked-against-libc", "Libc's own parts, and libraries of data."),
    ("shared-library-is-executable", "The loader and libc are programs as well, as in Debian's libc6."),
    ("python3-script-but-no-python3-dep", "Modules of the bundle's own Python; nobody runs them as scripts."),
    ("interpreter-in-usr-local", "An example in a module of Python's or Perl's own library."),
    ("missing-depends-on-sensible-utils", "Less asks for an editor where one is there, and does without it."),
)


def file_name(deb: Deb, version: str) -> str:
    """Return the name of a package's file."""
    return f"{deb.name}_{version}_{deb.fields['Architecture']}.deb"


def _settings(receipt: Receipt) -> str:
    """Return lines of postgresql.conf that the bundle's extensions need."""
    values = {"shared_preload_libraries": ",".join(receipt.preload), **receipt.settings}
    lines = ["# What the extensions of this package need."]
    lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _libraries(store: LocalStore, bundle: Bundle, system: System) -> dict[str, str]:
    """Return the libraries of a bundle's runtime packages, each with its package."""
    entries = json.loads((store.physical(bundle.path) / "receipt.json").read_bytes())["runtime"]
    found: dict[str, str] = {}
    for entry in entries:
        usr = store.physical(StorePath.parse(entry["path"])) / "usr"
        for directory in (usr / "lib" / system.triplet, usr / "lib"):
            if directory.is_dir():
                for file in sorted(directory.iterdir()):
                    if ".so" in file.name:
                        found.setdefault(file.name, entry["name"])
    return found


def _files(top: Path) -> Iterator[str]:
    """Yield the files and links below a directory, relative to it, sorted."""
    for directory, names, files in os.walk(top):
        names.sort()
        links = [name for name in names if Path(directory, name).is_symlink()]
        for name in sorted(files + links):
            yield str(Path(directory, name).relative_to(top))


def _place_links(tree: Path, links: Mapping[str, str]) -> None:
    """Make links; as policy 10.5 has it, relative within a top-level directory."""
    for path, target in links.items():
        link = tree / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, Path(path).parent))


@contextmanager
def _scratch(into: Path) -> Iterator[Path]:
    """Give an empty directory for a package's tree, on the disk that the package goes to."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".packing-") as name:
        tree = Path(name, "tree")
        tree.mkdir(mode=0o755)
        yield tree
