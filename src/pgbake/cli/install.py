"""``pgbake install``: make a bundle the PostgreSQL of this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import adopt_option, divert_option, from_option, restart_option, root_option, timeout_option


@click.command(
    "install",
    short_help="Make a bundle the PostgreSQL of this machine.",
    epilog="""\b
Examples:
  pgbake install shop --from https://cache.example.org     the newest bundle of that name
  pgbake install /nix/store/DIGEST-NAME --restart
  pgbake install ./result --root /mnt/tree                 into the tree of a machine
  pgbake install --dry-run                                 the manifest's; what would change, file by file""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@root_option
@click.option("--cluster", default="main", show_default=True, metavar="NAME", help="Cluster of a first install.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port [default: the first free from 5432].")
@restart_option
@click.option("--no-start", is_flag=True, help="Do not start the server after a first install.")
@timeout_option
@adopt_option
@divert_option
@click.option("--only-cached", is_flag=True, help="Build nothing.")
@click.option("--unchecked", is_flag=True, help="Install a bundle whose checks have not passed, too.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@json_option
@pass_app
def command(app: App, /, bundle: str | None, **options: Any) -> None:
    """Install a bundle at the paths that Debian's users expect, with accounts, configuration and a service; or
    switch to it where another one is installed.

    BUNDLE is a store path or a link to one, NAME the name of a bundle in the caches; without either it is the bundle of
    the manifest. The switch is one rename. Where PostgreSQL and its libraries stay the same, servers that run have the
    new extensions at once; else the command says why a restart is needed, and does it with --restart: if the new server
    does not come up, the old one runs again. What is in the way and not pgbake's is named, and nothing is changed.
    """
    install(app, bundle, Options(**options))


@dataclass(frozen=True, slots=True)
class Options:
    """How it is installed: the options of the command, which tell their meaning."""

    urls: tuple[str, ...] = ()
    root: Path | None = None
    cluster: str = "main"
    port: int | None = None
    restart: bool = False
    no_start: bool = False
    timeout: int = 60
    adopt: bool = False
    divert: bool = False
    only_cached: bool = False
    unchecked: bool = False
    dry_run: bool = False
    as_json: bool = False


def install(app: App, bundle: str | None, options: Options) -> None:
    """Do it, for `upgrade` as well."""
    from pgbake.cli.installing import answer, installation, meant_bundle, on_machine, provide_bundle, way_of
    from pgbake.events import silent
    from pgbake.install import host
    from pgbake.install.installation import Wish
    from pgbake.install.profiles import Origin

    check_cluster_name(options.cluster)
    way = way_of(options.adopt, options.divert)
    machine = on_machine(app, options.root)
    host.require_writable(machine.store_root)
    host.require_selinux(machine.store_root)
    path = meant_bundle(app, machine, bundle, options.urls, only_cached=options.only_cached, dry_run=options.dry_run)
    name = bundle if bundle is not None and "/" not in bundle else None
    wish = Wish(
        path, Origin(name, options.urls), options.cluster, options.port, way, options.restart, not options.no_start,
        options.timeout,
    )  # fmt: skip
    here = bool(machine.store.valid([path]))
    if not here:
        # What stands in the way is said before anything is fetched.
        done = installation(machine, silent).foresee(wish)
    checks = provide_bundle(app, machine, path, options.urls, unchecked=options.unchecked, dry_run=options.dry_run)
    if here or not options.dry_run:
        with app.reporting() as report:
            wish = replace(wish, origin=Origin(name, options.urls, checks))
            done = installation(machine, report).install(wish, dry_run=options.dry_run)
    else:
        app.note(f"note: {path} is not here yet; whether a restart would be needed is known when it is")

    def tell() -> None:
        same = done.before is not None and done.now is not None and done.before.number == done.now.number
        number = done.now.number if done.now else 0
        app.say(f"{'as it was' if same else 'installed'}: {path}")
        if not same:
            app.say(f"PostgreSQL {done.major}, generation {number}")

    answer(app, done, options.as_json, options.dry_run, tell)


def check_cluster_name(name: str) -> None:
    """Check that a name can be part of directories and of a unit's name, as postgresql-common has it.

    :raises ManifestError: it cannot.
    """
    import re

    from pgbake.errors import ManifestError

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", name):
        raise ManifestError(
            f'"{name}" is no name of a cluster', hint="use letters, digits, _ and . only: systemd splits at dashes"
        )
