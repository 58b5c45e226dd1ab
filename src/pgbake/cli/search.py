"""``pgbake search``: the extensions that a manifest may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.available import Packaged
    from pgbake.inputs.apt import AptRoot
    from pgbake.manifest import Platform
    from pgbake.recipes.recipe import Catalogue


@click.command(
    "search",
    short_help="List the extensions that a manifest may name.",
    epilog="""\b
Examples:
  pgbake search
  pgbake search vector
  pgbake search fdw --postgresql 17 --suite trixie""",
)
@click.argument("words", nargs=-1)
@click.option(
    "--all", "everything", is_flag=True, help="List packages of documents, debugging symbols and the like too."
)
@click.option("--postgresql", "major", type=int, metavar="N", help="Major version [default: the manifest's, else 15].")
@click.option("--suite", metavar="NAME", help="Debian release [default: the manifest's, else bookworm].")
@click.option("--offline", is_flag=True, help="Fetch no index: list what is known here.")
@json_option
@pass_app
def command(
    app: App,
    words: tuple[str, ...],
    everything: bool,
    major: int | None,
    suite: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """List the extensions whose name or summary holds all WORDS: recipes, PostgreSQL's own, and Debian packages.

    The second column says where an extension can be had from: "source" (a recipe builds it), "deb" (a compiled
    package of the platform or of a repository that the manifest names), "contrib" (part of PostgreSQL). Debian's
    index is fetched when it is missing or older than a day.
    """
    places = find_places(app, major, suite, offline)
    found = [
        item
        for item in listed(places, everything)
        if all(word.lower() in f"{item['name']} {item['summary']} {item['package'] or ''}".lower() for word in words)
    ]
    if as_json:
        app.say_json(found)
        return
    if not found:
        app.say(f"no extension matches in {places.title}")
        return
    name = max(len(item["name"]) for item in found)
    version = min(24, max(len(item["version"] or "") for item in found))
    for item in found:
        origins = ", ".join(item["origins"])
        app.say(f"{item['name']:{name}}  {origins:11}  {item['version'] or '':{version}}  {item['summary']}".rstrip())


@dataclass(frozen=True, slots=True)
class Places:
    """Where extensions are looked for.

    :param packages: Debian's, by their own names; None where no index can be had.
    """

    catalogue: Catalogue
    major: int
    platform: Platform
    packages: dict[str, Packaged] | None
    root: AptRoot | None = None

    @property
    def title(self) -> str:
        """What was looked through, in words."""
        return f"{self.platform.suite}, for PostgreSQL {self.major}"


def find_places(app: App, major: int | None = None, suite: str | None = None, offline: bool = False) -> Places:
    """Return the recipes and Debian packages that a command looks through; what cannot be had is warned of."""
    from pathlib import Path

    import msgspec

    from pgbake.available import fresh_index, packaged, platform_suites
    from pgbake.errors import HostError, InputError
    from pgbake.formats.system import host_system
    from pgbake.inputs.mirrors import host_mirrors
    from pgbake.manifest import Platform
    from pgbake.places import cache_dir
    from pgbake.recipes.recipe import load_catalogue

    if app.has_project:
        project = app.project
        catalogue, platform, directory = project.catalogue, project.manifest.platform, project.directory
        major = major or project.manifest.postgresql
    else:
        catalogue, platform, directory = load_catalogue(app.directory / "recipes"), Platform(), Path()
        major = major or 15
    known = not suite or suite == platform.suite
    if suite and not known:
        platform = msgspec.structs.replace(platform, suite=suite, repository=())
    packages, root = None, None
    try:
        mirrors = app.project.mirrors if app.has_project else host_mirrors(platform.suite)
        with app.reporting() as report:
            root = fresh_index(
                platform_suites(platform, directory), host_system().debian, mirrors, cache_dir(), report,
                float("inf") if offline else 86400,
            )  # fmt: skip
            if root.age < float("inf"):
                packages = packaged(root, major, catalogue)
    except (InputError, HostError) as error:
        app.note(f"warning: Debian's packages are left out: {error.message}")
    else:
        if packages is None:
            app.note("warning: Debian's packages are left out: no index was fetched yet")
    return Places(catalogue, major, platform, packages, root if packages is not None else None)


def listed(places: Places, everything: bool = False) -> list[dict[str, Any]]:
    """Return every extension that there is, by name, as it is answered to programs."""
    from pgbake.available import CONTRIB, find_packaged
    from pgbake.recipes.choice import deb_want

    catalogue, major = places.catalogue, places.major
    packages = dict(places.packages or {})
    found = {name: _item(name, f"in every bundle: {what}", ["contrib"]) for name, what in CONTRIB.items()}
    for name, provided in catalogue.postgresql.provides.items():
        summary = provided.summary or "part of PostgreSQL, loaded at the server's start"
        found[name] = _item(name, summary, ["contrib"])
    for recipe in catalogue.recipes.values():
        if recipe.name == "postgresql":
            continue
        deb = find_packaged(packages, deb_want(recipe.name, recipe, major, None))
        if deb:
            packages.pop(deb.package)
        source = recipe.at(major).source_for(major, places.platform.suite)
        origins = (["source"] if source else []) + (["deb"] if deb or (recipe.deb and not places.packages) else [])
        if not origins and not everything:
            continue
        summary = recipe.summary or (deb.summary if deb else "")
        version = source.version if source and source.version else deb.version if deb else None
        for name in (recipe.name, *recipe.provides):
            own = packages.pop(deb_want(name, recipe, major, None), None)
            has = own or deb
            found[name] = _item(name, summary, origins, version, has.package if has else None)
    for deb in packages.values():
        if everything or not deb.companion:
            name = deb.name if deb.name not in found else deb.package
            found[name] = _item(name, deb.summary, ["deb"], deb.version, deb.package)
    return [found[name] for name in sorted(found)]


def _item(
    name: str, summary: str, origins: list[str], version: str | None = None, package: str | None = None
) -> dict[str, Any]:
    return {"name": name, "summary": summary, "origins": origins, "version": version, "package": package}
