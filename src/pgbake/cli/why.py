"""``pgbake why``: why a path is part of the bundle."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import ManifestError


@click.command(
    "why",
    short_help="Show why a path is part of the bundle.",
    epilog="""\b
Examples:
  pgbake why libicu72
  pgbake why libdb5.3 --json""",
)
@click.argument("name")
@json_option
@pass_app
def command(app: App, name: str, as_json: bool) -> None:
    """Show how the bundle comes to need NAME, a part of a store path's name: who refers to it, and which
    of its files are needed by which others.
    """
    from pgbake.bundle.needs import library_needs
    from pgbake.cli.goals import require_built
    from pgbake.store.closure import shortest_way

    bundle = require_built(app)
    closure = app.store.closure([bundle.path])
    targets = [path for path in closure if name in path.name or name == str(path)]
    if not targets:
        raise ManifestError(
            f'nothing in the bundle is called "{name}"', hint="`pgbake size` lists what the bundle needs"
        )
    answers = []
    for target in targets:
        way = shortest_way(app.store, bundle.path, target)
        needs = library_needs(app.store, list(closure), target)
        answers.append({"path": str(target), "way": [str(path) for path in way], "needed-by": needs})
        if not as_json:
            app.say(str(target))
            app.say("  " + " -> ".join(path.name for path in way))
            for library, users in needs.items():
                more = f" and {len(users) - 4} more" if len(users) > 4 else ""
                app.say(f"  {library} is needed by {', '.join(users[:4])}{more}")
    if as_json:
        app.say_json(answers)
