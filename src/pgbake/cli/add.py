"""``pgbake add``: extensions into the manifest, by name or from sources."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.project import Project
    from pgbake.recipes.survey import Survey


@dataclass(frozen=True, slots=True)
class Addition:
    """One extension that is added.

    :param settings: of its table in the manifest.
    :param recipe: the text of a recipe that is written for it.
    """

    name: str
    settings: dict[str, str]
    recipe: str | None = None
    survey: Survey | None = None


@click.command(
    "add",
    short_help="Add extensions to the manifest, and pin them.",
    epilog="""\b
Examples:
  pgbake add pgvector hll
  pgbake add hll@2.17 --origin deb
  pgbake add https://github.com/owner/foo/archive/refs/tags/v1.2.0.tar.gz
  pgbake add ./my_extension
  pgbake add --dry-run ./my_extension      show the recipe, and write nothing""",
)
@click.argument("what", nargs=-1, required=True, metavar="NAME[@VERSION]|URL|DIR...")
@click.option(
    "--origin",
    type=click.Choice(["source", "deb"]),
    help="Build it, or take the compiled package [default: build].",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--no-lock", is_flag=True, help="Pin nothing: leave that to `pgbake lock`.")
@json_option
@pass_app
def command(app: App, what: tuple[str, ...], origin: str | None, dry_run: bool, no_lock: bool, as_json: bool) -> None:
    """Add extensions to the manifest, keeping its comments and layout, and pin them in the lock.

    NAME is what `pgbake search` lists. Of a URL (a tarball or zip file) or a directory the sources are read, and a
    recipe is drafted from them into recipes/ beside the manifest; nothing of them is run before they are built in
    the sandbox. What was assumed is printed, and stands in the recipe. Where pinning fails, nothing is changed.
    """
    from pgbake.cli.locking import make_lock, tell_lock
    from pgbake.edit import add_extensions
    from pgbake.project import Project
    from pgbake.recipes.choice import choices

    project = app.project
    before = project.manifest_file.read_text(encoding="utf-8-sig")
    additions = [_addition(app, project, word, origin) for word in what]
    _check_new(project, additions)
    text = add_extensions(
        before, [addition.name for addition in additions], {added.name: added.settings for added in additions}
    )
    if dry_run:
        _show(app, project, additions, before, text, as_json)
        return
    with _written(project, additions, text):
        changed = Project(project.directory)
        choices(changed.manifest, changed.catalogue)
        locked = None if no_lock else make_lock(app, changed)
    if as_json:
        app.say_json(
            {
                "added": [
                    {
                        "name": added.name,
                        "recipe": str(_recipe_file(project, added)) if added.recipe else None,
                        "assumed": added.survey.assumed if added.survey else (),
                    }
                    for added in additions
                ],
                **(locked.as_json() if locked else {"moved": [], "written": False}),
            }
        )
        return
    for added in additions:
        if added.survey:
            app.say(f"{added.name} {added.survey.version}, built by {added.survey.builder}; assumed:")
            for sentence in added.survey.assumed:
                app.say(f"  - {sentence}")
            app.say(f"  wrote {_recipe_file(project, added)}: look through it")
        _tell_required(app, changed, added)
    app.say(f"added to {project.manifest_file.name}: {', '.join(added.name for added in additions)}")
    if locked:
        tell_lock(app, changed, locked)
        app.note("next: pgbake build")
    else:
        app.note("next: pgbake lock")


def _addition(app: App, project: Project, word: str, origin: str | None) -> Addition:
    from pgbake.errors import ManifestError

    local = Path(word)
    if "://" in word or local.suffix in (".zip", ".tgz") or ".tar" in local.name or "/" in word or word in (".", ".."):
        if origin == "deb":
            raise ManifestError(f"{word} is a source, no Debian package", hint="leave out --origin deb")
        return _from_sources(app, project, word)
    name, _, version = word.partition("@")
    settings = {key: value for key, value in (("origin", origin), ("version", version)) if value}
    return Addition(name, settings)


def _from_sources(app: App, project: Project, word: str) -> Addition:
    """Draft a recipe for a tarball or a directory."""
    from pgbake.recipes.draft import draft
    from pgbake.recipes.survey import survey

    major = project.manifest.postgresql
    if "://" not in word and Path(word).is_dir():
        from pgbake.inputs.sources import read_directory

        directory = Path(word).absolute()
        found = survey(read_directory(directory), major)
        place = directory.resolve()
        # Beside the manifest it moves with it; elsewhere it stays where it is.
        inside = place.is_relative_to(project.directory.resolve())
        path = str(place.relative_to(project.directory.resolve())) if inside else str(place)
        return Addition(found.name, {}, draft(found, path=f"../{path}" if inside else path), found)

    from pgbake.errors import InputError
    from pgbake.inputs.sources import read_tarball
    from pgbake.inputs.upstream import pin_url
    from pgbake.places import cache_dir

    url = word if "://" in word else Path(word).resolve().as_uri()
    base = url.rpartition("/")[2].partition("?")[0]
    if not base.endswith((".zip", ".tgz", ".crate")) and ".tar" not in base:
        raise InputError(
            f"{word} is no tarball" if "://" in word else f"there is no directory or tarball {word}",
            hint="name the tarball of a release, as https://github.com/OWNER/NAME/archive/refs/tags/TAG.tar.gz"
            if "://" in word
            else "an extension by name stands without a slash: pgbake add NAME",
        )
    downloads = cache_dir() / "downloads"
    with app.reporting() as report:
        pin = pin_url(url, "0", downloads, report)
    found = survey(read_tarball(downloads / f"{pin.sha256}-{pin.filename}", pin.filename), major, url)
    return Addition(found.name, {}, draft(found, url=url), found)


def _check_new(project: Project, additions: Sequence[Addition]) -> None:
    """Check that what is added is not there yet, and that a name means something."""
    from pgbake.errors import ManifestError

    names = [added.name for added in additions]
    for added in additions:
        if added.name in project.manifest.extensions:
            raise ManifestError(
                f"{added.name} is in {project.manifest_file} already",
                hint=f"set its version or origin under [extension.{added.name}]; "
                f"`pgbake lock --update {added.name}` moves its pin",
            )
        if names.count(added.name) > 1:
            raise ManifestError(f"{added.name} is named twice", hint="name it once")
        if added.recipe and _recipe_file(project, added).exists():
            raise ManifestError(
                f"there is a recipe {_recipe_file(project, added)} already",
                hint=f"use it: pgbake add {added.name}; or delete it, and add the source once more",
            )
        if not added.recipe:
            _check_contrib(added.name)


def _check_contrib(name: str) -> None:
    from pgbake.available import CONTRIB
    from pgbake.errors import ManifestError

    if name in CONTRIB:
        raise ManifestError(
            f"{name} is part of PostgreSQL: every bundle holds it, and the manifest does not name it",
            hint=f"in the database: CREATE EXTENSION {name}",
        )


def _tell_required(app: App, project: Project, added: Addition) -> None:
    """Say which extensions the added one requires that the manifest does not name."""
    from pgbake.available import CONTRIB

    for required in added.survey.requires if added.survey else ():
        known = {*project.manifest.extensions, *project.manifest.languages, *CONTRIB, "plpgsql"}
        if required not in known:
            app.note(f"warning: {added.name} requires the extension {required}: pgbake add {required}")


def _recipe_file(project: Project, added: Addition) -> Path:
    return project.directory / "recipes" / f"{added.name}.toml"


@contextmanager
def _written(project: Project, additions: Sequence[Addition], text: str) -> Iterator[None]:
    """Write manifest and recipes, and bring back what was there where the block fails."""
    from pgbake.files import write_whole

    before = project.manifest_file.read_bytes()
    recipes = [(_recipe_file(project, added), added.recipe) for added in additions if added.recipe]
    made = [file for file, _ in recipes]
    directory = project.directory / "recipes"
    new = bool(recipes) and not directory.exists()
    try:
        for file, content in recipes:
            directory.mkdir(exist_ok=True)
            write_whole(file, content.encode())
        write_whole(project.manifest_file, text.encode(), project.manifest_file.stat().st_mode & 0o777)
        yield
    except BaseException:
        write_whole(project.manifest_file, before, project.manifest_file.stat().st_mode & 0o777)
        for file in made:
            file.unlink(missing_ok=True)
        if new and directory.exists() and not any(directory.iterdir()):
            directory.rmdir()
        raise


def _show(app: App, project: Project, additions: Sequence[Addition], before: str, text: str, as_json: bool) -> None:
    """Print what would be written."""
    difference = list(
        difflib.unified_diff(
            before.splitlines(), text.splitlines(), "pgbake.toml", "pgbake.toml, changed", lineterm="", n=1
        )
    )
    if as_json:
        app.say_json(
            {
                "manifest": text,
                "recipes": {str(_recipe_file(project, a)): a.recipe for a in additions if a.recipe},
            }
        )
        return
    for added in additions:
        if added.recipe:
            app.say(f"would write {_recipe_file(project, added)}:\n")
            app.say(added.recipe)
    for line in difference:
        app.say(line)
