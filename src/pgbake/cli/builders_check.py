"""``pgbake builders check``: ask each builder whether it can build."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "check",
    short_help="Ask each builder whether it can build, and say what to do.",
    epilog="""\b
Examples:
  pgbake builders check
  pgbake --builders @/etc/nix/machines builders check --json""",
)
@json_option
@pass_app
@click.pass_context
def command(ctx: click.Context, app: App, as_json: bool) -> None:
    """Ask each builder: is it reached? does ssh let us in? which Nix, with a sandbox? are user namespaces allowed?
    is the user trusted? does it build for the systems that it is named for? Nothing is changed.

    Builders are those of --builders, else of the manifest, else of /etc/nix/machines. They are asked as the user who
    runs this; Nix's daemon connects as root.

    The exit status is 0 where all of them can build, warnings or not, and 1 where one cannot.
    """
    from pgbake.builders import NIX_MACHINES, parse_machines
    from pgbake.cli.doctor import show_report
    from pgbake.doctor.builders import examine_builders
    from pgbake.errors import ManifestError

    builders = app.builders
    if builders.machines is None and NIX_MACHINES.exists():
        builders = parse_machines(f"@{NIX_MACHINES}", str(NIX_MACHINES))
    if not builders.machines:
        raise ManifestError(
            "no builder is named",
            hint='name some in the manifest, [[builders.machine]] with url = "ssh://USER@HOST", or with --builders',
        )
    show_report(ctx, app, examine_builders(builders, app.engine), as_json, "they can build", "in their way")
