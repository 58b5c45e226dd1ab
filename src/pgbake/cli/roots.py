"""``pgbake roots``: what keeps paths from being deleted, and who holds it."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "roots",
    short_help="List what keeps paths from being deleted, and who holds it.",
    epilog="""\b
Examples:
  pgbake roots
  pgbake roots --json""",
)
@json_option
@pass_app
def command(app: App, as_json: bool) -> None:
    """List the garbage collector's roots: links, profiles, running programs, and builds under way.

    `pgbake gc` spares each path listed, and all that it refers to. To give up a link, delete it.
    """
    from pgbake.store.findroots import find_roots

    with app.reporting() as report:
        roots = find_roots(app.store, report=report)
    if as_json:
        app.say_json([{"path": str(root.path), "kind": root.kind, "holder": root.holder} for root in roots])
        return
    path = None
    for root in roots:
        if root.path != path:
            app.say(str(root.path))
        path = root.path
        app.say(f"  {root.kind:9}  {root.holder}")
    if not roots:
        app.say("There are no roots: `pgbake gc` would delete everything.")
