"""Which checks a bundle has, and their lowering to derivations. Pure but for the project's own files in ``tests``.

A check is keyed like a build: by the bundle, the files that it reads, and the harness's modules that it runs. What has
passed is in the store, or in a cache, and is not run again; what has failed has left nothing. In a project::

    tests/sql/NAME.sql  tests/expected/NAME.out     the user's own, for pg_regress; expected/15/NAME.out is of 15 alone
    tests/tap/NAME.sql                              scripts of pgTAP
    tests/isolation/NAME.spec  tests/expected/NAME.out   for pg_isolation_regress
    tests/interface/15.txt                          the SQL interface of all extensions, as reviewed
    tests/known.toml                                what checks find and is known to be so, see `pgbake.checks.known`
    tests/uses/NAME.sql                             a use of an extension, see `pgbake.checks.harness.smoke`
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgbake.bundle.collations import moved_query
from pgbake.bundle.merge import Bundle
from pgbake.checks.harness.smoke import header
from pgbake.checks.known import Known
from pgbake.checks.suites import Place, SuiteLowerer
from pgbake.checks.uses import Uses
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import System
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.choice import choices
from pgbake.recipes.lowering import Lowering, store_name, text_input
from pgbake.recipes.recipe import Catalogue

_HARNESS = Path(__file__).parent / "harness"
#: What every check runs.
_COMMON = ("main", "report", "server")
_PACKAGE = Path(__file__).parent.parent
_SCRIPT = """
python3 -I -c 'import json, pathlib, sys
for name, text in json.load(open(sys.argv[1], encoding="utf-8")).items():
    file = pathlib.Path("pgbake", "" if "/" in name else "checks/harness", f"{name}.py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")' "$harness"
exec python3 -B -m pgbake.checks.harness.main
"""
#: Seconds that a check may take, whatever its kind says.
_LIMIT = 600
#: And one that goes through all extensions: of those with tables of addresses, one takes a minute.
_LONG = 1800


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    :param name: ``KIND/NAME``.
    :param about: the extension of the manifest that it is about, where it is about one.
    :param optional: whether it is run only when it is asked for.
    """

    name: str
    derivation: Derivation
    about: str | None = None
    optional: bool = False

    @property
    def kind(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def path(self) -> StorePath:
        """Where its results are when it has passed."""
        return self.derivation.output_paths["out"]


@dataclass(frozen=True, slots=True)
class Checks:
    """A bundle with its checks, whose derivations are in the bundle's graph."""

    bundle: Bundle
    checks: tuple[Check, ...]

    def by_name(self) -> dict[str, Check]:
        """Return the checks by their names."""
        return {check.name: check for check in self.checks}


def lower_checks(
    bundle: Bundle, manifest: Manifest, catalogue: Catalogue, lock: Lock, system: System, tests: Path
) -> Checks:
    """Lower all checks of a bundle, into its graph.

    :param bundle: the manifest, lowered for the system.
    :param tests: the project's directory of tests; it need not be there.
    :raises LockError: the lock does not fit the manifest.
    :raises ManifestError: a file of the tests cannot be read.
    """
    lowerer = Lowerer(manifest, catalogue, lock, system, bundle, tests)
    return Checks(bundle, tuple(sorted(lowerer.all(), key=lambda check: check.name)))


class Lowerer:
    """Makes the derivations of a bundle's checks."""

    def __init__(
        self, manifest: Manifest, catalogue: Catalogue, lock: Lock, system: System, bundle: Bundle, tests: Path
    ) -> None:
        self.manifest = manifest
        self.bundle = bundle
        self.tests = tests
        self.chosen = choices(manifest, catalogue)
        self.lowering = Lowering(catalogue, lock, system, manifest.postgresql, self.chosen)
        self.lowering.graph = bundle.graph
        self.uses = Uses(manifest.postgresql, tests / "uses")
        self.known = Known(manifest.postgresql, tests / "known.toml")

    def all(self) -> Iterator[Check]:
        """Yield the checks of all kinds."""
        yield from self.smoke()
        yield from self.durability()
        yield from self.replica()
        yield from self.locale()
        yield from SuiteLowerer(self).all()
        yield self.interface()
        yield from self.update()
        yield from self.static()

    def check(
        self,
        kind: str,
        name: str,
        spec: Mapping[str, Any],
        *,
        about: str | None = None,
        modules: Sequence[str] = (),
        others: Sequence[str] = (),
        files: Mapping[str, bytes | None] | None = None,
        limit: float = _LIMIT,
        optional: bool = False,
        small: bool = False,
        place: Place | None = None,
    ) -> Check:
        """Lower one check.

        :param spec: what the module of its kind reads, in JSON's types.
        :param modules: of the harness, beside those that all have and that of the kind.
        :param others: further modules of pgbake's, which import no others, as in ``bundle/merge_program``.
        :param files: further entries of the specification, too long for it: it gets the paths of files with these.
        :param limit: seconds that it may take.
        :param small: whether its servers' data directories may lie in memory: a hundred megabytes at most.
        """
        settings = self.manifest.server_settings
        place = place or Place()
        inputs = {
            key: self.bundle.graph.add_input(text_input(f"{kind}-{key}", content))
            for key, content in (files or {}).items()
            if content is not None
        }
        spec = {**spec, **{key: str(inputs[key]) if key in inputs else None for key in files or {}}}
        with_bundle = dataclasses.replace(
            place,
            env={
                **place.env,
                "bundle": str(self.bundle.path),
                "spec": _json(
                    {"kind": kind, "name": name, "limit": limit, "settings": settings, "small": small, **spec}
                ).decode(),
            },
            sources=(*place.sources, *inputs.values()),
            needs={**place.needs, self.bundle.derivation.path: ("out",)},
        )
        made = self.apart(kind, name, (*_COMMON, *modules), place.before + _SCRIPT, with_bundle, others)
        return dataclasses.replace(made, about=about, optional=optional)

    def apart(
        self, kind: str, name: str, modules: Sequence[str], script: str, place: Place, others: Sequence[str] = ()
    ) -> Check:
        """Lower one check that nobody asks for by itself, and that looks at no bundle unless its place names one.

        :param modules: of the harness, beside that of the kind.
        """
        stack = "merge"
        harness = {module: _HARNESS / f"{module}.py" for module in (*modules, kind)}
        harness |= {module: _PACKAGE / f"{module}.py" for module in others}
        content = _json({module: file.read_text("utf-8") for module, file in harness.items()})
        text = self.bundle.graph.add_input(text_input(f"harness-{kind}.json", content))
        derivation = self.bundle.graph.add(
            store_name(f"check-{kind}-{name}"),
            self.lowering.system,
            place.root or self.lowering.root(stack, self.lowering.catalogue.debian.stack(stack)),
            script,
            env={**place.env, "pname": f"check {kind}/{name}", "harness": str(text)},
            sources=[text, *place.sources],
            needs=place.needs,
        )
        return Check(f"{kind}/{name}", derivation, optional=True)

    # --- the kinds ---------------------------------------------------------------------------------

    def smoke(self) -> Iterator[Check]:
        """Yield a check for each package, for each of contrib's that the manifest names, and for all together."""
        known = self.uses.known
        for name, extensions, package in self.packages():
            spec: dict[str, Any] = {"package": package, "extensions": extensions, "use": self.uses.script(name)}
            yield self.check("smoke", name, spec | {"known": known.get(name)}, about=name, small=True)
        named = [name for name, _, _ in self.packages()]
        yield self.check("smoke", "all", {"all": True, "apart": self.uses.apart(named)})

    def durability(self) -> Iterator[Check]:
        """Yield the check of what a server keeps when it is killed."""
        yield self.check("durability", "server", {}, modules=("load",))

    def replica(self) -> Iterator[Check]:
        """Yield a check for each kind of replication."""
        for name in ("logical", "streaming"):
            yield self.check("replica", name, {}, modules=("load", "durability"))

    def locale(self) -> Iterator[Check]:
        """Yield the check of locales, and of how a change of theirs is noticed."""
        yield self.check("locale", "server", {"moved": moved_query(self.manifest.postgresql)}, small=True)

    def interface(self) -> Check:
        """Return the check of the SQL interface of all extensions."""
        file = self.tests / f"interface/{self.manifest.postgresql}.txt"
        databases, created = {}, {}
        for name, _, package in self.packages():
            use = self.uses.script(name) or ""
            if database := header(use, "database"):
                databases[package] = database
            if (listed := header(use, "create")) is not None:
                created[package] = [word.strip() for word in listed.split(",") if word.strip()]
            if name in self.uses.known:  # where its use cannot succeed, its creation need not
                created[package] = []
        reviewed = file.read_bytes() if file.is_file() else None
        spec = {"databases": databases, "created": created}
        return self.check("interface", "all", spec, files={"reviewed": reviewed}, limit=_LONG)

    def update(self) -> Iterator[Check]:
        """Yield a check for each package of extensions, and one for contrib's."""
        modules = ("interface", "smoke")
        known = self.known.of("update")
        for name, _, package in self.packages():
            if package != "postgresql":
                spec: dict[str, Any] = {
                    "package": package,
                    "uses": {name: self.uses.script(name) or ""},
                    "exceptions": known,
                }
                yield self.check("update", name, spec, about=name, modules=modules)
        spec = {"package": None, "uses": dict(self.uses.contrib), "exceptions": known}
        yield self.check("update", "contrib", spec, modules=modules)

    def static(self) -> Iterator[Check]:
        """Yield the checks that start no server: of what the bundle consists of."""
        reader = "bundle/merge_program"
        spec: dict[str, Any] = {"loader": self.lowering.system.loader, "known": self.known.reasons("closure")}
        yield self.check("closure", "bundle", spec, others=(reader,))
        spec = {"budget": self.manifest.closure_budget}
        yield self.check("size", "bundle", spec, modules=("closure",), others=(reader,))
        spec = {"forbid": self.manifest.licences.forbid, "known": self.known.reasons("licence")}
        yield self.check("licence", "bundle", spec, others=("inputs/licences",))

    def packages(self) -> Iterator[tuple[str, list[str], str]]:
        """Yield what the manifest names: the name, SQL's names where they are known, and the receipt's package."""
        for choice in self.chosen:
            if not choice.older and choice.name != "postgresql":
                yield choice.name, [], choice.name
        contrib = self.lowering.catalogue.postgresql.provides
        for name in self.manifest.extensions:
            if name in contrib:
                yield name, [name], "postgresql"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
