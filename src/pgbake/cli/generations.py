"""``pgbake generations``: what is installed, and was."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import root_option


@click.command(
    "generations",
    short_help="List what is installed, and what was before.",
    epilog="""\b
Examples:
  pgbake generations
  pgbake generations --root /mnt/tree --json""",
)
@root_option
@json_option
@pass_app
def command(app: App, root: Path | None, as_json: bool) -> None:
    """List the generations of each installed major version, the newest last. One that is current has a star; those that
    share a server can be switched to without a restart, unless what is preloaded differs.
    """
    from pgbake.cli.installing import describe_generation
    from pgbake.errors import ManifestError
    from pgbake.install.profiles import Profiles

    place = (root or app.store_option or Path("/")).absolute()
    if not (place / "nix/var/pgbake/profiles").is_dir():
        if as_json:
            app.say_json([])
            return
        raise ManifestError(f"nothing is installed in {place}", hint="run `pgbake install`")
    import dataclasses

    profiles = Profiles(dataclasses.replace(app, store_option=place).store)
    found = [generation for major in profiles.majors() for generation in profiles.generations(major)]
    if as_json:
        app.say_json([describe_generation(generation) for generation in found])
        return
    app.say(f"{'':2}{'major':>5}  {'gen':>3}  {'made':16}  {'server':8}  {'checks':9}  bundle")
    for each in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.made))
        app.say(
            f"{'* ' if each.current else '  '}{each.major:>5}  {each.number:>3}  {made}  {each.server[:8]}  "
            f"{each.origin.checks:9}  {each.bundle}"
        )
