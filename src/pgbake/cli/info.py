"""``pgbake info``: what is known of an extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.available import Packaged
    from pgbake.bundle.contents import Contents
    from pgbake.cli.search import Places
    from pgbake.recipes.recipe import Recipe, Source


@click.command(
    "info",
    short_help="Show what is known of an extension.",
    epilog="""\b
Examples:
  pgbake info pgvector
  pgbake info hll --json
  pgbake info postgis --postgresql 17 --suite trixie""",
)
@click.argument("name")
@click.option("--postgresql", "major", type=int, metavar="N", help="Major version [default: the manifest's, else 15].")
@click.option("--suite", metavar="NAME", help="Debian release [default: the manifest's, else bookworm].")
@click.option("--offline", is_flag=True, help="Fetch nothing: tell what is known here.")
@json_option
@pass_app
def command(app: App, name: str, major: int | None, suite: str | None, offline: bool, as_json: bool) -> None:
    """Show an extension's versions, where it can be had from and which of that is chosen, what it holds and needs.

    What it holds is read from the built bundle or package where there is one; else a Debian package is fetched to
    look into it.
    """
    from pgbake.cli.search import find_places

    answer = _answer(app, find_places(app, major, suite, offline), name, offline)
    if as_json:
        app.say_json(answer)
        return
    app.say(f"{name}: {answer['summary']}" if answer["summary"] else name)
    for key, value in answer.items():
        if key in ("name", "summary") or value in (None, [], {}, ()):
            continue
        if isinstance(value, dict):
            text = ", ".join(f"{word} {item}".strip() for word, item in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        else:
            text = human_size(value) if key == "size" else str(value)
        app.say(f"  {key:12} {text}")


def _answer(app: App, places: Places, name: str, offline: bool) -> dict[str, Any]:
    """Collect what is known.

    :raises InputError: there is no such extension.
    """
    from pgbake.available import CONTRIB, find_packaged, unknown_extension
    from pgbake.recipes.choice import deb_want

    catalogue, major, packages = places.catalogue, places.major, places.packages or {}
    recipe = catalogue.recipes.get(name) or catalogue.providers.get(name)
    if name in CONTRIB or (recipe and recipe.name == "postgresql" and name != "postgresql"):
        provided = catalogue.postgresql.provides.get(name)
        listed = (
            "in `extensions` where it is to be loaded at the server's start" if provided else "no manifest names it"
        )
        return {
            "name": name,
            "summary": CONTRIB.get(name) or (provided.summary if provided else None) or "part of PostgreSQL",
            "origins": ["contrib"],
            "chosen": f"contrib: part of PostgreSQL, in every bundle; {listed}",
            "preload": provided.preload if provided else (),
            "settings": provided.settings if provided else {},
            "licence": "PostgreSQL",
            "homepage": f"https://www.postgresql.org/docs/{major}/contrib.html",
        }
    recipe = recipe.at(major) if recipe else None
    deb = find_packaged(packages, deb_want(name, recipe, major, None))
    if recipe is None and deb is None:
        deb = next((item for item in packages.values() if name in (item.package, item.name)), None)
    if recipe is None and deb is None:
        raise unknown_extension(name, major, places.platform.suite, catalogue, packages)
    source = recipe.source_for(major, places.platform.suite) if recipe else None
    locked = _locked(app, name, recipe, deb)
    origin, why = _chosen(app, name, recipe, source, deb)
    taken = deb if origin == "deb" else None
    contents, licence = _look_into(app, places, taken, offline)
    contents = _built_contents(app, name, recipe) or contents
    return {
        "name": name,
        "summary": (recipe.summary if recipe else None) or (deb.summary if deb else None),
        "origins": (["source"] if source else []) + (["deb"] if deb or (recipe and recipe.deb) else []),
        "chosen": f"{origin}: {why}",
        "source": _source_text(source) if source else None,
        "package": f"{deb.package} {deb.version}" if deb else None,
        "versions": {
            key: value
            for key, value in (
                ("source", source.version or "the suite's" if source else None),
                ("deb", deb.version if deb else None),
                ("locked", locked),
            )
            if value
        },
        "extensions": contents.extensions if contents else {},
        "requires": contents.requires if contents else (),
        "libraries": contents.libraries if contents else (),
        "preload": recipe.preload if recipe and recipe.preload is not None else contents.preload if contents else (),
        "settings": recipe.settings if recipe else {},
        "licence": licence or (recipe.licence if recipe else None),
        "size": _size(app, name, taken),
        "depends": taken.depends.split(", ") if taken and taken.depends else list(_build(recipe)),
        "homepage": (recipe.homepage if recipe else None) or (deb.homepage if deb else None),
    }


def _build(recipe: Recipe | None) -> tuple[str, ...]:
    return (*recipe.build, *recipe.runtime) if recipe else ()


def _source_text(source: Source) -> str:
    if source.debian:
        return f"Debian's source package {source.debian}" + (f" of {source.suite}" if source.suite else "")
    return (source.url or source.path or f"crate {source.crate}").replace("{version}", source.version or "")


def _chosen(app: App, name: str, recipe: Recipe | None, source: Source | None, deb: Packaged | None) -> tuple[str, str]:
    """Return the origin that a lock takes, and why."""
    wish = app.project.manifest.extension.get(name) if app.has_project else None
    if wish and wish.origin:
        return wish.origin, f"the manifest says so under [extension.{name}]"
    if source:
        return "source", "its recipe has a source for this PostgreSQL and platform"
    if recipe is not None and recipe.builder and recipe.deb is None:
        return "none", "its recipe has no source for this PostgreSQL and platform" + (
            f"; `pgbake add {name} --origin deb` takes {deb.package}" if deb else ""
        )
    return "deb", "there is no recipe that builds it here" if recipe is None else "its recipe names a Debian package"


def _locked(app: App, name: str, recipe: Recipe | None, deb: Packaged | None) -> str | None:
    from pgbake.errors import LockError

    if not app.has_project:
        return None
    try:
        lock = app.project.lock
    except LockError:
        return None
    pin = lock.sources.get(recipe.name if recipe else name)
    if pin:
        return pin.version
    for part in lock.systems.values():
        if deb and deb.package in part.debs:
            return part.debs[deb.package].version
    return None


def _built_contents(app: App, name: str, recipe: Recipe | None) -> Contents | None:
    """Return what the receipt of the built bundle tells, or the package where that alone is built."""
    from pgbake.bundle.contents import Contents, read_contents
    from pgbake.bundle.receipt import read_receipt
    from pgbake.errors import PgbakeError
    from pgbake.formats.system import host_system

    if not app.has_project:
        return None
    try:
        bundle = app.project.bundle(host_system())
        if not app.store.valid([bundle.path]):
            derivation = bundle.by_name().get(recipe.name if recipe else name)
            out = derivation.output_paths["out"] if derivation else None
            if out is None or not app.store.valid([out]):
                return None
            return read_contents(app.store.physical(out), app.project.manifest.postgresql)
        receipt = read_receipt(app.store.physical(bundle.path))
    except PgbakeError:
        return None  # not locked, or another pgbake's
    own = [item for item in receipt.extensions if item.package in (name, recipe.name if recipe else name)]
    if not own:
        return None
    names = {item.name for item in own}
    return Contents(
        {item.name: item.version for item in own},
        tuple(sorted({required for item in own for required in item.requires} - names)),
        tuple(sorted({library for item in own for library in item.libraries})),
        tuple(sorted({library for item in own for library in item.preload})),
    )


def _look_into(app: App, places: Places, deb: Packaged | None, offline: bool) -> tuple[Contents | None, str | None]:
    """Return what a Debian package holds, and its licence; it is fetched unless it was before."""
    import tempfile
    from pathlib import Path

    from pgbake.bundle.contents import Contents, read_contents
    from pgbake.errors import PgbakeError
    from pgbake.inputs.buildroot import import_extension
    from pgbake.inputs.fetch import fetch
    from pgbake.inputs.licences import licence_of
    from pgbake.places import cache_dir
    from pgbake.recipes.imports import major_of
    from pgbake.resolve import server_packages

    if deb is None or places.root is None:
        return None, None
    downloads = cache_dir() / "downloads"
    try:
        needed = places.root.resolve([deb.package], server_packages(places.major))
        # Some have their control files and scripts in another package.
        pins = {name: pin for name, pin in needed.items() if major_of(name) == places.major}
        if offline and not all((downloads / f"{pin.sha256}-{pin.filename}").exists() for pin in pins.values()):
            return None, None
        with app.reporting() as report:
            files = fetch(pins, places.root.mirrors, downloads, report)
        with tempfile.TemporaryDirectory(prefix="pgbake-") as scratch:
            found = []
            for name in sorted(pins, key=lambda name: name != deb.package):
                import_extension(files[name], Path(scratch) / name, places.major)
                found.append(read_contents(Path(scratch) / name, places.major))
            scripts = [other for other in found[1:] if not other.libraries]
            whole = found[0] if found[0].extensions or not scripts else scripts[0]
            contents = Contents(whole.extensions, whole.requires, found[0].libraries, found[0].preload)
            return contents, licence_of(Path(scratch) / deb.package, deb.package)
    except PgbakeError as error:
        app.note(f"warning: {deb.package} could not be looked into: {error.message}")
        return None, None


def _size(app: App, name: str, deb: Packaged | None) -> int | None:
    """Return the bytes of the package that was built; of a Debian package those of its file."""
    from pgbake.errors import PgbakeError
    from pgbake.formats.system import host_system

    if deb:
        return deb.size
    if not app.has_project:
        return None
    try:
        derivation = app.project.bundle(host_system()).by_name().get(name)
        path = derivation.output_paths["out"] if derivation else None
        return app.store.info(path).nar_size if path and app.store.valid([path]) else None
    except PgbakeError:
        return None
