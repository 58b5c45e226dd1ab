"""``pgbake config drift``: where a machine is not as the definition says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import profile_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgbake.image.contract import Deviation
    from pgbake.machine.definition import Rendered


@click.command(
    "drift",
    short_help="Say where a machine is not as the definition says.",
    epilog="""\b
Examples:
  pgbake config drift                       this machine
  pgbake config drift --root /mnt/root      a machine's tree that does not run""",
)
@click.option("--host", is_flag=True, help="Look at this machine; so it is without --root.")
@click.option(
    "--root", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="Look at the tree of a machine, instead of this one.",
)  # fmt: skip
@profile_option
@json_option
@pass_app
def command(app: App, host: bool, root: Path | None, profile: str | None, as_json: bool) -> int:
    """Hold a machine against what the definition says of the versions and clusters that are installed on it, and, in a
    project's directory and where the machine was made as its image, of that image: files that were changed, modes,
    owners, links, accounts, and the states of units. What the machine has beside is its own.

    Files that are the administrator's from the first day, such as pg_hba.conf, are told too: changing them is no fault.
    The exit status is 1 where anything deviates.
    """
    from pgbake.image.contract import drift

    if host and root is not None:
        raise click.UsageError("--host and --root exclude one another: give one of them.")
    place = root.absolute() if root is not None else Path("/")
    wanted = _wanted(app, place, profile)
    found = [*drift(place, wanted), *_units(place, wanted)]
    if as_json:
        app.say_json({"root": str(place), "deviations": [{"what": each.what, "found": each.found} for each in found]})
    else:
        for each in found:
            app.say(f"{each.what}: {each.found}")
        app.note(f"{place}: {len(found) or 'no'} deviation{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


def _wanted(app: App, root: Path, profile: str | None) -> Rendered:
    """Return what is declared of a machine.

    :raises StoreError: nothing is installed there.
    """
    from pgbake.cli.imaging import machine_image
    from pgbake.errors import StoreError
    from pgbake.image.verify import wanted_of
    from pgbake.machine.apply import below
    from pgbake.machine.image import PRESETS

    # A store is laid out where one is opened, and this only looks.
    is_installed = below(root, "/nix/var/pgbake/machine.json").exists()
    installed, clusters = wanted_of(root) if is_installed else (None, ())
    if installed is None or not clusters:
        raise StoreError(
            f"pgbake has installed no PostgreSQL below {root}",
            hint="`pgbake install`, or name a machine's tree: --root DIR",
        )
    if not (app.has_project and below(root, PRESETS).exists()):
        return installed
    return machine_image(app, clusters[0].name, clusters[0].port, profile).over(installed)


def _units(root: Path, wanted: Rendered) -> Iterator[Deviation]:
    """Yield the units whose state is another, where systemd can be asked."""
    import shutil

    from pgbake.image.contract import Deviation
    from pgbake.run import run

    if shutil.which("systemctl") is None or not (root / "etc/systemd/system").is_dir():
        return
    for unit in sorted(set(wanted.units)):
        done = run(["systemctl", f"--root={root}", "is-enabled", unit.name], sandbox="host", check=False)
        state = done.stdout.strip() or "not there"
        if state != unit.state:
            yield Deviation(unit.name, f"is {state}, and not {unit.state}")
