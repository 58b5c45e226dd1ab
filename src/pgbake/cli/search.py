"""``pgbake search``: the extensions that a manifest may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.recipes.recipe import Catalogue


@click.command(
    "search",
    short_help="List the extensions that a manifest may name.",
    epilog="""\b
Examples:
  pgbake search
  pgbake search vector""",
)
@click.argument("words", nargs=-1)
@json_option
@pass_app
def command(app: App, words: tuple[str, ...], as_json: bool) -> None:
    """List the extensions whose name or summary holds all WORDS."""
    catalogue = _catalogue(app)
    provides = catalogue.postgresql.provides
    summaries = {
        name: "part of PostgreSQL, loaded at the server's start" if name in provides else catalogue.recipe(name).summary
        for name in catalogue.extension_names()
    }
    found = {
        name: summary
        for name, summary in summaries.items()
        if all(word.lower() in f"{name} {summary}".lower() for word in words)
    }
    if as_json:
        app.say_json([{"name": name, "summary": summary} for name, summary in found.items()])
        return
    if not found:
        app.say("no extension matches")
    for name, summary in found.items():
        app.say(f"{name:24} {summary}")


def _catalogue(app: App) -> Catalogue:
    """Return the catalogue, with the project's own recipes where there is a project."""
    from pgbake.errors import ManifestError
    from pgbake.project import find_project
    from pgbake.recipes.recipe import load_catalogue

    try:
        return find_project(app.directory.absolute()).catalogue
    except ManifestError:
        return load_catalogue()
