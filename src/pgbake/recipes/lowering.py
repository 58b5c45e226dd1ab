"""Lowering: from recipes and a lock to derivations. Pure: neither store nor network is asked.

Every outside input's store path follows from the lock, so the whole graph, with all output paths, is
known before anything is fetched. That is what `pgbake plan` shows and what caches are asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pgbake.build.wrapper import wrap
from pgbake.errors import LockError
from pgbake.formats.derivation import Derivation, Output, hash_modulo, with_outputs
from pgbake.formats.storepath import StorePath, fixed_output_path, source_path
from pgbake.formats.system import System
from pgbake.inputs.pins import Pin
from pgbake.lock import CratePin, DebPin, Lock, SourcePin, SystemLock, pgrx_version
from pgbake.recipes.builders import CARGO, build_environment, build_script, stack, tools
from pgbake.recipes.choice import Choice
from pgbake.recipes.recipe import Catalogue, Recipe


@dataclass(frozen=True, slots=True)
class Input:
    """An outside input: the store path that it gets, and the pins that it is made from.

    :param kind: ``source``: a tarball as it is, or with ``tree`` a directory of the user's. ``root``: a build root
        from many packages. ``runtime``: one runtime package, as its import keeps it. ``deb``: one package with
        extensions, likewise. ``text``: a file of pgbake's own or of the project's, whose content is at hand.
    """

    kind: Literal["source", "root", "runtime", "deb", "text"]
    name: str
    path: StorePath
    pins: Mapping[str, Pin]
    tree: bytes | None = None
    content: bytes = b""

    @property
    def is_crate(self) -> bool:
        """Whether it is one of the many crates of a Rust program."""
        return self.kind == "source" and all(pin.archive == "crates" for pin in self.pins.values())


@dataclass(frozen=True, slots=True)
class Package:
    """A recipe lowered for one system and PostgreSQL major."""

    choice: Choice
    recipe: Recipe
    source: SourcePin
    derivation: Derivation

    @property
    def version(self) -> str:
        """The upstream version."""
        return self.source.version

    def output(self, name: str = "out") -> StorePath:
        """Return the store path of one output."""
        return self.derivation.output_paths[name]


@dataclass
class Graph:
    """Derivations and outside inputs, by store path, as they are lowered."""

    inputs: dict[StorePath, Input] = field(default_factory=dict)
    derivations: dict[StorePath, Derivation] = field(default_factory=dict)
    _hashes: dict[StorePath, bytes] = field(default_factory=dict)

    def add_input(self, item: Input) -> StorePath:
        """Take in an outside input and return its path."""
        self.inputs.setdefault(item.path, item)
        return item.path

    def add(
        self,
        name: str,
        system: System,
        build_root: StorePath,
        script: str,
        *,
        env: Mapping[str, str],
        outputs: Sequence[str] = ("out",),
        sources: Sequence[StorePath] = (),
        needs: Mapping[StorePath, Sequence[str]] | None = None,
    ) -> Derivation:
        """Lower one build: a script in a build root, with what it may see.

        :param sources: outside inputs beside the build root.
        :param needs: derivations of this graph, each with the outputs that the build sees.
        """
        builder, args, environment = wrap(name, system, build_root, script, outputs=tuple(outputs), env=dict(env))
        derivation = with_outputs(
            Derivation(
                name=name,
                outputs={output: Output("") for output in outputs},
                input_drvs={path: frozenset(names) for path, names in (needs or {}).items()},
                input_srcs=frozenset([build_root, *sources]),
                system=system.name,
                builder=builder,
                args=args,
                env=environment,
            ),
            self._hash,
        )
        self.derivations[derivation.path] = derivation
        return derivation

    def _hash(self, path: StorePath) -> bytes:
        if path not in self._hashes:
            self._hashes[path] = hash_modulo(self.derivations[path], self._hash)
        return self._hashes[path]


class Lowering:
    """Lowers a catalogue's recipes under one lock, for one system and PostgreSQL major."""

    def __init__(
        self, catalogue: Catalogue, lock: Lock, system: System, major: int, chosen: Iterable[Choice] = ()
    ) -> None:
        """:raises LockError: the lock has no pins for the system."""
        pins = lock.systems.get(system.name)
        if pins is None:
            raise LockError(
                f"the lock has no pins for {system}",
                hint="add it to `systems` under [platform] and run `pgbake lock`",
            )
        self.catalogue = catalogue
        self.lock = lock
        self.pins: SystemLock = pins
        self.system = system
        self.major = major
        self.graph = Graph()
        self._choices = {choice.key: choice for choice in chosen}
        self._packages: dict[str, Package] = {}

    @property
    def server(self) -> Recipe:
        """The recipe of PostgreSQL, with what it adds for the major version."""
        return self.catalogue.postgresql.at(self.major)

    def package(self, key: str) -> Package:
        """Lower a recipe that was chosen, and PostgreSQL before an extension.

        :param key: of the choice.
        :raises LockError: the lock does not pin its source or its build root.
        """
        if key not in self._packages:
            self._packages[key] = self._lower(self._choices[key])
        return self._packages[key]

    def _lower(self, choice: Choice) -> Package:
        recipe = choice.recipe
        assert recipe is not None
        pin = self.lock.sources.get(choice.key)
        if pin is None:
            raise out_of_date(f"it does not pin the source of {choice.key}")
        version = pin.version
        source = self.graph.add_input(source_input(choice.key, pin))
        crates = [self.graph.add_input(_crate_input(crate)) for crate in pin.crates if recipe.builder in CARGO]
        env = build_environment(recipe, self.major, version) | {"src": str(source), "pname": choice.key}
        needs: dict[StorePath, Sequence[str]] = {}
        if crates:
            env["crates"] = " ".join(map(str, crates))
        if recipe.builder == "postgresql":
            name = f"postgresql-{version}"
        elif recipe.builder == "cargo":
            name = f"{recipe.name}-{version}"
        else:
            server = self.package("postgresql")
            parts = ("out", "bin", "dev")
            needs[server.derivation.path] = parts
            env["postgresqlParts"] = " ".join(str(server.output(part)) for part in parts)
            name = f"postgresql-{self.major}-{recipe.name}-{version}"
        if recipe.builder == "cargo-pgrx":
            tool = self._tool("cargo-pgrx", pgrx_version(pin.crates))
            needs[tool.derivation.path] = ("out",)
            env["tools"] = str(tool.output())
        derivation = self.graph.add(
            store_name(name),
            self.system,
            self.build_root(recipe),
            build_script(recipe),
            env=env,
            outputs=("out", *recipe.outputs),
            sources=[source, *crates],
            needs=needs,
        )
        return Package(choice, recipe, pin, derivation)

    def _tool(self, name: str, version: str | None) -> Package:
        """Lower a program that a build runs and that is no part of a bundle; several versions may be at work."""
        if version is None:
            raise out_of_date(f"it does not say which version of {name} an extension needs")
        choice = Choice(name, self.catalogue.recipe(name), None, (), version=version, older=True)
        self._choices[choice.key] = choice
        return self.package(choice.key)

    def build_root(self, recipe: Recipe) -> StorePath:
        """Return the build root of a recipe: its stack, with the recipe's additions where it has any."""
        return self.root(*root_of(recipe, self.catalogue))

    def root(self, name: str, wants: Sequence[str]) -> StorePath:
        """Return the store path of a build root.

        :raises LockError: the lock has no such root, or one made for other packages.
        """
        root = self.pins.roots.get(name)
        if root is None or tuple(sorted(wants)) != root.wants:
            raise out_of_date(f"it does not hold the build root {name} as it is now")
        tree = bytes.fromhex(root.tree)
        path = source_path(store_name(f"build-root-{self.lock.platform.suite}-{name}"), tree)
        return self.graph.add_input(
            Input("root", name, path, {package: self.pins.build[package] for package in root.packages}, tree)
        )

    def deb(self, name: str, pin: DebPin) -> StorePath:
        """Return the store path of a Debian package that holds extensions, as its import keeps it."""
        tree = bytes.fromhex(pin.tree)
        path = source_path(store_name(f"{name}-{pin.version}"), tree)
        return self.graph.add_input(Input("deb", name, path, {name: pin}, tree))

    def runtime(self) -> dict[str, StorePath]:
        """Return the store path of every runtime package in the lock, by name."""
        paths = {}
        for name, pin in self.pins.runtime.items():
            tree = bytes.fromhex(pin.tree)
            path = source_path(store_name(f"{name}-{pin.version}"), tree)
            paths[name] = self.graph.add_input(Input("runtime", name, path, {name: pin}, tree))
        return paths


def text_input(name: str, content: bytes) -> Input:
    """Return the input that is a file of this content."""
    path = fixed_output_path(store_name(name), "flat", "sha256", hashlib.sha256(content).digest())
    return Input("text", name, path, {}, content=content)


def source_input(key: str, pin: SourcePin) -> Input:
    """Return the input that is the source of a package."""
    if pin.tree:
        return Input(
            "source", key, source_path(store_name(pin.filename), tree := bytes.fromhex(pin.tree)), {key: pin}, tree
        )
    digest = bytes.fromhex(pin.sha256)
    return Input("source", key, fixed_output_path(store_name(pin.filename), "flat", "sha256", digest), {key: pin})


def _crate_input(crate: CratePin) -> Input:
    pin = crate.pin
    path = fixed_output_path(store_name(pin.filename), "flat", "sha256", bytes.fromhex(pin.sha256))
    return Input("source", f"{crate.name}-{crate.version}", path, {f"crate {crate.name}": pin})


def root_of(recipe: Recipe, catalogue: Catalogue) -> tuple[str, tuple[str, ...]]:
    """Return name and wanted packages (sorted) of the build root that a recipe builds in.

    A stack may name alternatives, ``libpcre3-dev | libpcre2-dev``; it covers a recipe that asks for the first of them.
    """
    base = stack(recipe)
    packages = catalogue.debian.stack(base)
    covered = {want.split("|")[0].strip() for want in packages}
    extra = sorted({*recipe.build, *recipe.tools, *tools(recipe)} - {*packages, *covered})
    name = "+".join([base, *extra])
    if len(name) > _LONGEST_ROOT:
        name = f"{base}+{recipe.name}"
    return re.sub(r"\s*\|\s*", "-or-", name), tuple(sorted({*packages, *extra}))


#: Characters in the name of a build root that tells its packages; others are called by their recipe.
_LONGEST_ROOT = 80


def store_name(text: str) -> str:
    """Return ``text`` with what a store path's name may not hold replaced by ``-``."""
    return re.sub(r"[^A-Za-z0-9+._?=-]", "-", text).lstrip(".")


def out_of_date(why: str) -> LockError:
    """Return the error for a lock that does not fit manifest and recipes."""
    return LockError(f"the lock is out of date: {why}", hint="run `pgbake lock`")
