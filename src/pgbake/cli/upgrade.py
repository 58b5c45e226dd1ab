"""``pgbake upgrade``: take the newest bundle of the name that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import major_option, restart_option, root_option, timeout_option


@click.command(
    "upgrade",
    short_help="Install the newest bundle of the name that is installed.",
    epilog="""\b
Examples:
  pgbake upgrade
  pgbake upgrade --restart
  pgbake upgrade --from https://cache.example.org --dry-run""",
)
@major_option
@click.option("--from", "urls", multiple=True, metavar="URL", help="Cache to ask [default: those of the install].")
@root_option
@restart_option
@timeout_option
@click.option("--unchecked", is_flag=True, help="Install a bundle whose checks have not passed, too.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@json_option
@pass_app
def command(app: App, /, major: int | None, urls: tuple[str, ...], root: Path | None, **options: Any) -> None:
    """Ask the caches for the name that was installed, and install what it stands for now. Nothing is ever built.

    Data stays as it is: a bundle of another major version is refused here, and installed beside by `pgbake install`.
    """
    from pgbake.cli.install import Options, install
    from pgbake.cli.installing import on_machine
    from pgbake.errors import ManifestError
    from pgbake.install.installation import installed_major
    from pgbake.install.profiles import Profiles

    profiles = Profiles(on_machine(app, root).store)
    chosen = installed_major(profiles, major)
    current = profiles.current(chosen)
    name = current.origin.name if current else None
    if current is None or name is None:
        raise ManifestError(
            f"PostgreSQL {chosen} was installed from a path, so there is no name to ask for",
            hint="run `pgbake install NAME --from CACHE` once",
        )
    group = current.bundle.name.rpartition(".")[0]  # NAME-postgresql-MAJOR: never another major version
    asked = name if name.startswith(group) else group
    install(app, asked, Options(urls or current.origin.caches, root, only_cached=True, **options))
