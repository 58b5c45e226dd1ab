"""What the commands of `pgbake config` do alike: targets, and how a machine's parts are told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgbake.cli.app import App
from pgbake.errors import ManifestError

if TYPE_CHECKING:
    from pgbake.machine.definition import Part, Rendered

TARGETS = ("machine", "image", "container")
#: The manual's words for them.
TARGETS_HELP = (
    "machine is what `pgbake install` makes of any machine, image a whole machine of `pgbake image`, container what a "
    "container has of it."
)


def rendered_target(app: App, target: str, profile: str | None, cluster: str, port: int) -> Rendered:
    """Return what a target is to have.

    :param target: one of :data:`TARGETS`; an image's may name a profile, as in ``image:aws``.
    :raises ManifestError: there is no such target, or the manifest is wrong.
    """
    from pgbake.cli.imaging import machine_image
    from pgbake.machine.definition import Cluster, render, render_container

    name, _, of = target.partition(":")
    major = app.project.manifest.postgresql
    if name == "image":
        return machine_image(app, cluster, port, of or profile).machine
    if name == "machine" and not of:
        return render([major], (Cluster(major, cluster, port),), major)
    if name == "container" and not of:
        return render_container(major)
    raise ManifestError(
        f'there is no target "{target}"', hint=f"targets: {', '.join(TARGETS)}; and image:PROFILE, or a directory"
    )


def told_part(part: Part) -> dict[str, Any]:
    """Return a part for a program."""
    told: dict[str, Any] = {"path": part.path, "kind": part.kind}
    if part.kind == "link":
        return {**told, "target": part.target}
    told |= {"mode": f"{part.mode:04o}", "owner": part.owner, "group": part.group}
    return {**told, "content": part.content.decode()} if part.kind == "file" else told


def told_line(part: Part) -> str:
    """Return a part as one line."""
    if part.kind == "link":
        return f"{part.path} -> {part.target}"
    return f"{part.path}{'/' if part.kind == 'directory' else ''} {part.mode:04o} {part.owner}:{part.group}"


def write_parts(rendered: Rendered, directory: Path) -> int:
    """Write the files and links of a target below a directory, with their modes; return how many.

    :raises HostError: a file cannot be written.
    """
    from pgbake.errors import host_error

    count = 0
    try:
        for part in sorted(rendered.parts, key=lambda part: part.path):
            place = directory / part.path.lstrip("/")
            if part.kind == "directory":
                place.mkdir(parents=True, exist_ok=True)
                place.chmod(part.mode)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            if part.kind == "link":
                place.symlink_to(part.target)
            else:
                place.write_bytes(part.content)
                place.chmod(part.mode)
            count += 1
    except OSError as error:
        raise host_error(error, f"cannot write below {directory}") from error
    return count
