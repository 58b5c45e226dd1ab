"""Choices: what a manifest's words for extensions mean, package by package, without asking anybody.

An extension is built from source where its recipe has a source for PostgreSQL's major version and the platform;
else it is the Debian package that its recipe names or, without a recipe, that Debian's own rule of names gives:
``hll`` is ``postgresql-15-hll``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgbake.errors import ManifestError
from pgbake.manifest import ExtensionSetting, Manifest
from pgbake.recipes.recipe import Catalogue, Recipe, Source

_USUAL = ExtensionSetting()


@dataclass(frozen=True, slots=True)
class Choice:
    """One package of a bundle, and which of the manifest's extensions it is there for.

    :param recipe: its recipe; None where a Debian package needs no words.
    :param source: where it is built from; None means that it is a Debian package.
    :param outputs: of a package that is built: the outputs that are part of the bundle.
    :param deb: of a Debian package: what apt is asked for, ``NAME``, ``NAME=VERSION`` or several joined by ``|``.
    :param version: which version of a recipe's is wanted, or its beginning; None means the newest.
    :param older: whether it is an older version beside another choice of the same recipe.
    """

    name: str
    recipe: Recipe | None
    source: Source | None
    extensions: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    deb: str | None = None
    version: str | None = None
    older: bool = False

    @property
    def key(self) -> str:
        """Its name in the lock: of an older version with that, as in ``hll@2.16``."""
        return f"{self.name}@{self.version}" if self.older else self.name


def choices(manifest: Manifest, catalogue: Catalogue) -> list[Choice]:
    """Return the packages that a manifest asks for: PostgreSQL first, then others in the manifest's order.

    :raises ManifestError: an extension cannot be had in the way that the manifest wants it, or two that it names
        cannot be in one bundle.
    """
    major, suite = manifest.postgresql, manifest.platform.suite
    server = catalogue.postgresql.at(major)
    source = server.source_for(major, suite)
    if source is None:
        raise ManifestError(
            f"there is no source of PostgreSQL {major} for {suite}",
            hint=f"known: {', '.join(map(str, majors(catalogue)))}; or name one in recipes/postgresql.toml",
        )
    found: dict[str, Choice] = {}
    for name in manifest.extensions:
        recipe = catalogue.recipes.get(name) or catalogue.providers.get(name)
        if recipe is not None and recipe.builder == "cargo":
            raise ManifestError(f"{name} is no extension, but a tool of builds", hint=f'remove "{name}"')
        if recipe is not None and recipe.name == "postgresql":
            continue  # contrib's are there in any case
        for choice in _choose(name, recipe, manifest):
            before = found.get(choice.key)
            if before is None:
                found[choice.key] = choice
                continue
            if (before.source, before.deb) != (choice.source, choice.deb):
                raise ManifestError(
                    f"{before.extensions[0]} and {name} come from one package, {choice.name}, in two ways",
                    hint=f"say the same under [extension.{before.extensions[0]}] and [extension.{name}]",
                )
            found[choice.key] = Choice(
                choice.name, choice.recipe, choice.source, (*before.extensions, name),
                tuple(dict.fromkeys((*before.outputs, *choice.outputs))), choice.deb, choice.version, choice.older,
            )  # fmt: skip
    _check_conflicts(list(found.values()))
    return [Choice("postgresql", server, source, (), ("out", "bin", *manifest.languages)), *found.values()]


def majors(catalogue: Catalogue) -> list[int]:
    """Return the major versions of PostgreSQL that the catalogue has a source of."""
    return sorted({major for source in catalogue.postgresql.sources for major in source.majors})


def _choose(name: str, recipe: Recipe | None, manifest: Manifest) -> list[Choice]:
    """Return the choices for one extension: the version that is used, and older ones beside it."""
    major, suite = manifest.postgresql, manifest.platform.suite
    wish = manifest.extension.get(name, _USUAL)
    if recipe is not None:
        recipe = recipe.at(major)
    chosen = []
    for version in (wish.version, *wish.older):
        older = version in wish.older and version != wish.version
        source = recipe.source_for(major, suite, version) if recipe and wish.origin != "deb" else None
        if source is not None:
            assert recipe is not None
            provided = recipe.provides.get(name)
            outputs = ("out", provided.output) if provided and provided.output != "out" else ("out",)
            chosen.append(Choice(recipe.name, recipe, source, (name,), outputs, None, version, older))
            continue
        if wish.origin == "source" or (wish.origin is None and recipe is not None and recipe.deb is None):
            raise _no_source(name, recipe, major, suite, version)
        deb = deb_want(name, recipe, major, version)
        own = own_package(name, recipe, major) if recipe else None
        known = None if own else recipe  # whose words are for the recipe's own package
        called = own.removeprefix(f"postgresql-{major}-").replace("-", "_") if own else name
        chosen.append(
            Choice(known.name if known else called, known, None, (name,), deb=deb, version=version, older=older)
        )
    return chosen


def own_package(name: str, recipe: Recipe, major: int) -> str | None:
    """Return the Debian package that holds an extension of a recipe apart from the recipe's own, where one does."""
    provided = recipe.provides.get(name)
    return provided.deb.get(str(major)) if provided else None


def deb_want(name: str, recipe: Recipe | None, major: int, version: str | None) -> str:
    """Return what apt is asked for: names in the order in which they are tried, as a Depends field has them.

    :param version: the version that is wanted, or its beginning.
    """
    if recipe and (own := own_package(name, recipe, major)):
        packages = [own]
    elif recipe and recipe.deb:
        packages = [recipe.deb.replace("{major}", str(major))]
    else:
        stem = name.replace("_", "-")
        # Debian's packages have the prefix or not, whatever the extension itself has.
        packages = [f"postgresql-{major}-{word}" for word in dict.fromkeys((stem, stem.removeprefix("pg-")))]
    return " | ".join(f"{package}={version}*" if version else package for package in packages)


def deb_names(want: str) -> list[str]:
    """Return the names of packages in what apt is asked for."""
    return [choice.partition("=")[0].strip() for choice in want.split("|")]


def _no_source(name: str, recipe: Recipe | None, major: int, suite: str, version: str | None) -> ManifestError:
    if recipe is None or recipe.builder is None:
        return ManifestError(
            f"there is no recipe that builds {name} from source",
            hint=f"write one: `pgbake add URL`; or take Debian's package: drop `origin` of [extension.{name}]",
        )
    if version is not None and any(source.fits(major, suite) for source in recipe.sources):
        versions = sorted(source.version for source in recipe.sources if source.version)
        return ManifestError(
            f"there is no version {version} of {name} for PostgreSQL {major} on {suite}",
            hint=f"the recipe has {', '.join(versions)}" if versions else "leave out `version`: the suite has just one",
        )
    fits = sorted({major for source in recipe.sources for major in source.majors})
    platforms = sorted({platform for source in recipe.sources for platform in source.platforms})
    words = [f"PostgreSQL {', '.join(map(str, fits))}"] if fits else []
    words += [f"the suite {', '.join(platforms)}"] if platforms else []
    return ManifestError(
        f"{name} cannot be built for PostgreSQL {major} on {suite}: its recipe is for {' and '.join(words)}",
        hint=f"remove it, or write a recipe of your own: recipes/{recipe.name}.toml",
    )


def _check_conflicts(chosen: list[Choice]) -> None:
    names = {choice.name for choice in chosen}
    for choice in chosen:
        for other, why in choice.recipe.conflicts.items() if choice.recipe else ():
            if other in names:
                raise ManifestError(
                    f"{choice.name} and {other} cannot be in one bundle: {why}", hint=f"remove {choice.name} or {other}"
                )
