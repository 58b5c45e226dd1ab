"""``pgbake config diff``: two targets, trees or directories beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.configuring import TARGETS, TARGETS_HELP
from pgbake.cli.imaging import cluster_option, port_option

if TYPE_CHECKING:
    from pgbake.machine.difference import Side


@click.command(
    "diff",
    short_help="Compare two targets, trees or directories.",
    epilog=f"""\b
Examples:
  pgbake config diff image image:aws            what a profile changes
  pgbake config diff machine image              what an image has beyond an installed machine
  pgbake config diff image /mnt/root            a target and a machine's tree
  pgbake config diff before after               two directories of `config render --to`

{TARGETS_HELP}""",
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@cluster_option
@port_option
@json_option
@pass_app
def command(app: App, before: str, after: str, cluster: str, port: int, as_json: bool) -> int:
    """Compare the configuration of two sides, each a target or a directory: paths that only one of them has, and how
    others differ in content, mode, owner or target. Of a directory beside a target, only what the target names counts;
    of two machines' trees, what lies in /etc and /boot/grub. Owners count where both sides have them.

    The exit status is 1 where they differ.
    """
    from pgbake.cli.configuring import rendered_target
    from pgbake.machine.difference import differences, side_of_parts, side_of_tree

    names = (before, after)
    tree = next((Path(name) for name in names if _is_directory(name)), None)
    targets: list[Side | None] = [
        None if _is_directory(name) else side_of_parts(rendered_target(app, name, None, cluster, port).parts, tree)
        for name in names
    ]
    beside = next((side for side in targets if side is not None), None)
    one, two = (
        side if side is not None else side_of_tree(Path(name), beside)
        for side, name in zip(targets, names, strict=True)
    )
    found = differences(one, two)
    if as_json:
        app.say_json(
            {"a": before, "b": after, "differences": [{"path": each.path, "lines": each.lines} for each in found]}
        )
    else:
        for each in found:
            app.say(each.path)
            for line in each.lines:
                app.say(f"  {line}")
        app.note(f"{before}, {after}: {len(found) or 'no'} difference{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


def _is_directory(name: str) -> bool:
    return Path(name).is_dir() and ("/" in name or name not in TARGETS)
