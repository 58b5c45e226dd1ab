"""``pgbake image stage1``: a machine's tree with everything but the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import flavour_option, profile_option, unchecked_option

if TYPE_CHECKING:
    from pgbake.machine.definition import Flavour


@click.command(
    "stage1",
    short_help="Make a machine's tree with everything but the bundle.",
    epilog="""\b
Examples:
  pgbake image stage1              made where nothing of the kind is kept
  pgbake image stage1 --dry-run    say whether it would be made""",
)
@flavour_option
@profile_option
@unchecked_option
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@json_option
@pass_app
def command(app: App, flavour: Flavour, profile: str | None, unchecked: bool, dry_run: bool, as_json: bool) -> None:
    """Make the tree of a machine without PostgreSQL: Debian's packages as pgbake-image.lock pins them, and the files of
    the machine definition.

    It is kept, and made anew only when one of these changes; a changed bundle or extension changes nothing here. The
    same lock gives the same bytes on any machine. Root makes it; nothing is fetched that the lock does not pin.

    With --flavour deb, Debian's PostgreSQL and the extensions of the bundle, as packages, are part of it.
    """
    from pgbake.cli.imaging import Making

    making = Making(app, None, flavour=flavour, unchecked=unchecked, profile=profile)
    stage = making.stage1
    known = stage.record is not None
    record = stage.record
    if not dry_run:
        stage, record = making.make_stage1()
    if as_json:
        app.say_json(
            {
                "dry-run": dry_run, "key": stage.key, "kept": known, "tar": str(stage.tar),
                "sha256": record.sha256 if record else None, "packages": len(stage.pins),
            }
        )  # fmt: skip
    elif dry_run:
        app.say(f"stage 1 {stage.key} of {len(stage.pins)} packages {'is kept' if known else 'would be made'}")
    else:
        app.say(str(stage.tar))
