"""Lowering of suites to checks: of extensions and of PostgreSQL, from their sources, and the user's own.

Which tests of others' suites are known to fail, each with the reason, is in the catalogue's ``suites.toml``::

    [[exception]]
    suite = "regress/pgaudit"    # of which check
    test = "pgaudit"             # its name there; a glob
    majors = [15]                # empty: all
    platforms = ["bookworm"]     # empty: all
    sometimes = true             # it passes in other runs
    reason = "..."
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pgbake.checks.known import Exempt, read_exceptions
from pgbake.errors import ManifestError
from pgbake.formats.storepath import StorePath
from pgbake.recipes.builders import CARGO, build_environment, build_only, configuring, unpacking
from pgbake.recipes.lowering import Package, source_input, text_input
from pgbake.recipes.recipe import SHIPPED, Suite

if TYPE_CHECKING:
    from pgbake.checks.check import Check, Lowerer

#: Seconds.
_LIMIT = 900
_WORLD_LIMIT = 3 * 3600

#: What of PostgreSQL's source its suites need: unpacking the rest would take as long as many a suite.
_UNPACK_CONTRIB = """
mkdir -p /build/source
tar -xf "$src" --strip-components=1 --no-same-owner -C /build/source --wildcards \\
  '*/contrib/*' '*/src/pl/*' '*/src/test/regress/regress.c'
"""
_WORLD_SCRIPT = """
mkdir -p pgbake/checks/harness
python3 -I -c 'import json, sys
for name, text in json.load(open(sys.argv[1], encoding="utf-8")).items():
    open(f"pgbake/checks/harness/{name}.py", "w", encoding="utf-8").write(text)' "$harness"
exec python3 -B -m pgbake.checks.harness.world
"""


@dataclass(frozen=True)
class Place:
    """Where a check runs, and what it sees beside the bundle and the harness.

    :param root: its build root; None means that of the merge.
    :param before: shell lines before the harness starts.
    """

    root: StorePath | None = None
    before: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[StorePath, ...] = ()
    needs: Mapping[StorePath, tuple[str, ...]] = field(default_factory=dict)


class _Exception(Exempt, frozen=True, forbid_unknown_fields=True, kw_only=True):
    suite: str
    test: str
    sometimes: bool = False


class SuiteLowerer:
    """Makes the checks that are suites."""

    def __init__(self, lowerer: Lowerer) -> None:
        self._lowerer = lowerer
        self._lowering = lowerer.lowering
        self._major: int = lowerer.manifest.postgresql

    def all(self) -> Iterator[Check]:
        """Yield the checks of all suites."""
        yield from self.extensions()
        yield from self.contrib()
        yield from self.own()
        yield from self.tap()
        yield self.world()

    # --- of sources --------------------------------------------------------------------------------

    def extensions(self) -> Iterator[Check]:
        """Yield the suites of extensions that are built from source."""
        for choice in self._lowerer.chosen:
            recipe = choice.recipe
            if (
                choice.older
                or choice.source is None
                or recipe is None
                or recipe.builder in (None, "postgresql", *CARGO)
            ):
                continue
            package = self._lowering.package(choice.key)
            words = recipe.suite or Suite()
            left_out = words.left_out
            if not isinstance(left_out, str):
                left_out = left_out.get(str(self._major), "")
            if recipe.suite is None and recipe.builder not in ("pgxs", "make"):
                left_out = f"sources for {recipe.builder} have no common entrance, and its recipe has no [suite]"
            for kind in ("regress", *(["isolation"] if words.isolation else [])):
                yield self._of_source(
                    kind,
                    choice.name,
                    package,
                    {
                        "of": "extension",
                        "leftOut": left_out,
                        "directory": words.directory,
                        "configure": configuring(recipe),
                        "command": words.command,
                        "steps": list(words.steps.items()),
                        "tap": msgspec.to_builtins(words.tap),
                        "make": [
                            word.replace("{major}", str(self._major)) for word in (*_plain(recipe.make), *words.make)
                        ],
                        "own": words.settings,
                        "preload": words.preload,
                        "before": words.before,
                        "prepare": words.prepare,
                    },
                    unpacking(),
                    about=choice.name,
                    configure=words.configure,
                )

    def contrib(self) -> Iterator[Check]:
        """Yield the suites of contrib and of the languages."""
        package = self._lowering.package("postgresql")
        for kind in ("regress", "isolation"):
            spec = {"of": "contrib", "languages": self._lowerer.manifest.languages}
            yield self._of_source(kind, "contrib", package, spec, _UNPACK_CONTRIB)

    def _of_source(
        self,
        kind: str,
        name: str,
        package: Package,
        spec: Mapping[str, Any],
        before: str,
        about: str | None = None,
        configure: tuple[str, ...] = (),
    ) -> Check:
        recipe = msgspec.structs.replace(package.recipe, configure=package.recipe.configure + configure)
        server = self._lowering.package("postgresql")
        source = self._lowering.graph.add_input(source_input(package.choice.key, package.source))
        place = Place(
            root=self._lowering.build_root(package.recipe),
            before=f"{before}\ncd /build\n",
            env={
                **build_environment(recipe, self._major, package.version),
                "src": str(source),
                "dev": str(server.output("dev")),
            },
            sources=(source,),
            needs={server.derivation.path: ("dev",)},
        )
        # The manifest's settings are for the user's servers: suites know those of a new cluster.
        known = self._known(f"{kind}/{name}")
        given = {
            **spec,
            "settings": {},
            "known": {exception.test: exception.reason for exception in known},
            "sometimes": [exception.test for exception in known if exception.sometimes],
        }
        modules = ("pgregress", "suite", spec["of"], *(["tap"] if spec.get("tap") else []))
        return self._lowerer.check(kind, name, given, about=about, modules=modules, limit=_LIMIT, place=place)

    def world(self) -> Check:
        """Return the check that builds PostgreSQL anew and runs all its suites."""
        package = self._lowering.package("postgresql")
        source = self._lowering.graph.add_input(source_input("postgresql", package.source))
        # Programs look for libraries in the directories that the build was told: what is tested is installed there.
        script = build_only(package.recipe) + "phase check\nmake -j1 -k $directories check-world\n"
        place = Place(
            root=self._lowering.build_root(package.recipe),
            env={
                **build_environment(package.recipe, self._major, package.version),
                "src": str(source),
                "world": script,
                "limit": str(_WORLD_LIMIT),
            },
            sources=(source,),
        )
        return self._lowerer.apart("world", "postgresql", ("report", "pgregress"), _WORLD_SCRIPT, place)

    def _known(self, suite: str) -> list[_Exception]:
        """Return what is known of tests of a suite that may fail."""
        platform = self._lowering.lock.platform.suite
        return [known for known in self._exceptions if known.suite == suite and known.counts(self._major, platform)]

    @cached_property
    def _exceptions(self) -> tuple[_Exception, ...]:
        return read_exceptions(SHIPPED / "suites.toml", _Exception)

    # --- the user's own ----------------------------------------------------------------------------

    def own(self) -> Iterator[Check]:
        """Yield the suites of the project's own tests, where there are any."""
        tests = self._lowerer.tests
        for kind, directory, suffix, below in (
            ("regress", "sql", ".sql", "sql"),
            ("isolation", "isolation", ".spec", "specs"),
        ):
            scripts = _texts(tests / directory, suffix)
            if not scripts:
                continue
            files = {f"{below}/{name}{suffix}": text for name, text in scripts.items()}
            accept, missing = {}, []
            for name in scripts:
                file, expected = self._expected(tests / "expected", name)
                accept[name] = file
                files |= expected
                if not expected:
                    missing.append(name)
            spec = {"of": "own", "tests": list(scripts), "accept": accept, "missing": missing}
            yield self._lowerer.check(
                kind, "own", spec, modules=("pgregress", "own", "diff"), place=self._files(f"{kind}-own", files)
            )

    def _expected(self, directory: Path, name: str) -> tuple[str, dict[str, str]]:
        """Return the file that the output of a test is accepted into, and the expected outputs for this major."""
        for below in (f"{self._major}/", ""):
            place = directory / below
            # pg_regress takes the nearest of NAME.out, NAME_1.out, ..., NAME_9.out.
            alternatives = [
                file for file in (f"{name}.out", *(f"{name}_{n}.out" for n in range(10))) if (place / file).is_file()
            ]
            if alternatives:
                found = {f"expected/{file}": _text(place / file) for file in alternatives}
                # It wants the first to be there.
                found.setdefault(f"expected/{name}.out", found[f"expected/{alternatives[0]}"])
                return f"expected/{below}{name}.out", found
        return f"expected/{name}.out", {}

    def tap(self) -> Iterator[Check]:
        """Yield a check for each of the project's scripts of pgTAP."""
        for name, text in _texts(self._lowerer.tests / "tap", ".sql").items():
            yield self._lowerer.check(
                "tap", name, {"file": "script"}, place=self._files(f"tap-{name}", {"script": text})
            )

    def _files(self, name: str, files: Mapping[str, str]) -> Place:
        content = json.dumps(files, sort_keys=True, ensure_ascii=False).encode()
        path = self._lowering.graph.add_input(text_input(f"tests-{name}.json", content))
        return Place(env={"files": str(path)}, sources=(path,))


def _texts(directory: Path, suffix: str) -> dict[str, str]:
    """Return the files of a directory by their names without the suffix, sorted; it need not be there.

    :raises ManifestError: one cannot be read, or has a name that pg_regress does not take.
    """
    if not directory.is_dir():
        return {}
    files = sorted(file for file in directory.iterdir() if file.suffix == suffix and file.is_file())
    for file in files:
        if not re.fullmatch(r"[\w.+-]+", file.stem):
            raise ManifestError(
                f"{file}: a test's name has letters, digits and _ + - . only", hint="rename it, and its expected output"
            )
    return {file.stem: _text(file) for file in files}


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{file} is not UTF-8", hint="tests are read as UTF-8, which servers take as well"
        ) from error
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}") from error


def _plain(words: tuple[str, ...]) -> list[str]:
    """Return a recipe's words for make, but for those that name variables of a build's script."""
    return [word for word in words if not re.search(r"\$(?!\()", word)]
