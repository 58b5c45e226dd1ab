"""``pgbake init``: write a manifest to start from."""

from __future__ import annotations

import re

import click

from pgbake.cli.app import App, pass_app
from pgbake.errors import ManifestError

_TEMPLATE = """\
# What this bundle holds. `pgbake search` lists the extensions; after a change: pgbake lock && pgbake build
name = "{name}"
postgresql = {major}
extensions = [{extensions}]
languages = ["plperl", "plpython3u", "pltcl"]
locales = ["C.UTF-8", "en_US.UTF-8"]  # the first is the default of new clusters

[platform]
suite = "{suite}"          # the Debian release beneath
systems = ["{system}"]
security = true            # take Debian's security fixes
updates = true
# mirrors = ["http://..."]  # of the Debian archive; without them, those of this machine's apt

[settings]
# work_mem = "16MB"        # PostgreSQL's own, for servers started with `pgbake up`
"""


@click.command(
    "init",
    short_help="Write a manifest to start from.",
    epilog="""\b
Examples:
  pgbake init
  pgbake init --name shop pgvector pgaudit""",
)
@click.argument("extensions", nargs=-1, metavar="[EXTENSION]...")
@click.option("--name", help="Name of the bundle [default: the directory's].")
@click.option("--dry-run", is_flag=True, help="Print the manifest, and write nothing.")
@pass_app
def command(app: App, extensions: tuple[str, ...], name: str | None, dry_run: bool) -> None:
    """Write pgbake.toml into the directory, with the security and updates suites taken into account."""
    from pgbake.formats.system import host_system
    from pgbake.manifest import MANIFEST_NAME
    from pgbake.recipes.recipe import load_catalogue

    file = app.directory / MANIFEST_NAME
    catalogue = load_catalogue(app.directory / "recipes")
    for extension in extensions:
        if extension not in catalogue.extension_names():
            app.note(f'note: there is no recipe "{extension}": `pgbake lock` looks for a Debian package of that name')
    words = re.sub(r"[^a-z0-9+._-]+", "-", app.directory.absolute().name.lower()).strip("-._+")
    text = _TEMPLATE.format(
        name=name or words or "postgres",
        major=15,
        extensions=", ".join(f'"{extension}"' for extension in extensions),
        suite="bookworm",
        system=host_system().name,
    )
    if dry_run:
        app.say(text.rstrip())
        return
    if file.exists():
        raise ManifestError(f"there is a {file} already", hint="edit it, or name another directory with -C")
    file.write_text(text, encoding="utf-8")
    app.say(f"wrote {file}")
    app.note("next: pgbake lock && pgbake up")
