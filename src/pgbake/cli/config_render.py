"""``pgbake config render``: the files of a machine."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.configuring import TARGETS_HELP
from pgbake.cli.imaging import cluster_option, port_option, profile_option


@click.command(
    "render",
    short_help="Show or write the files of a machine.",
    epilog=f"""\b
Examples:
  pgbake config render                           what an image of the manifest has
  pgbake config render --path '/etc/nginx/*'     these files, with their contents
  pgbake config render image --profile aws --to out

{TARGETS_HELP}""",
)
@click.argument("target", default="image", metavar="[TARGET]")
@profile_option
@cluster_option
@port_option
@click.option("--path", "globs", multiple=True, metavar="GLOB", help="Show the contents of files with such a path.")
@click.option(
    "--to", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write files and links below this directory, instead of showing them.",
)  # fmt: skip
@json_option
@pass_app
def command(
    app: App,
    target: str,
    profile: str | None,
    cluster: str,
    port: int,
    globs: tuple[str, ...],
    directory: Path | None,
    as_json: bool,
) -> None:
    """Show every account, directory, file, link, unit and port that a target is to have, with final paths and contents;
    nothing of it need be built. Owners are told and not given to what is written.
    """
    from fnmatch import fnmatchcase

    from pgbake.cli.configuring import rendered_target, told_line, told_part, write_parts

    rendered = rendered_target(app, target, profile, cluster, port)
    parts = sorted(rendered.parts, key=lambda part: part.path)
    if globs:
        parts = [part for part in parts if any(fnmatchcase(part.path, pattern) for pattern in globs)]
    written = write_parts(rendered, directory) if directory is not None else None
    if as_json:
        app.say_json(
            {
                "target": target,
                "directory": str(directory) if directory is not None else None,
                "groups": rendered.groups,
                "users": rendered.users,
                "parts": [told_part(part) for part in parts],
                "units": [{"name": unit.name, "state": unit.state} for unit in rendered.units],
                "ports": [
                    {"number": port.number, "protocol": port.protocol, "address": port.address, "unit": port.unit}
                    for port in rendered.ports
                ],
            }
        )
        return
    if directory is not None:
        app.say(f"{directory}: {written} files and links")
        return
    if globs:
        for part in parts:
            app.say(f"==> {told_line(part)}")
            if part.kind == "file":
                app.say(part.content.decode())
        return
    for group in rendered.groups:
        app.say(f"group {group.name} {group.id}")
    for user in rendered.users:
        app.say(f"user {user.name} {user.id}:{user.group} {user.home} {user.shell}")
    for part in parts:
        app.say(told_line(part))
    for unit in rendered.units:
        app.say(f"unit {unit.name} {unit.state}")
    for listening in rendered.ports:
        app.say(f"port {listening.number}/{listening.protocol} on {listening.address}: {listening.unit}")
