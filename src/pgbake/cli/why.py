"""``pgbake why``: why a path is part of the bundle."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.errors import ManifestError
    from pgbake.formats.storepath import StorePath


@click.command(
    "why",
    short_help="Show why a path is part of the bundle.",
    epilog="""\b
Examples:
  pgbake why libicu72
  pgbake why libssl.so.3           a file, of whichever path
  pgbake why /nix/store/...-libdb5.3-5.3.28 --json""",
)
@click.argument("name")
@json_option
@pass_app
def command(app: App, name: str, as_json: bool) -> None:
    """Show how the bundle comes to need NAME: by what chain of references, who else refers to it, and which of its
    files are needed by which others. NAME is a path of the store or one below it, a part of such a path's name, or
    the name of a file in one.
    """
    from pgbake.bundle.needs import library_needs
    from pgbake.cli.goals import require_built
    from pgbake.store.closure import shortest_way

    bundle = require_built(app)
    closure = app.store.closure([bundle.path])
    targets = _targets(app, name, closure, bundle.path)
    if not targets:
        raise _unknown(app, name, closure)
    answers = []
    for target in targets:
        way = shortest_way(app.store, bundle.path, target)
        needs = library_needs(app.store, list(closure), target) if target != bundle.path else {}
        referrers = sorted(
            (path for path, info in closure.items() if target in info.references and path != target),
            key=lambda path: path.name,
        )
        answers.append(
            {
                "path": str(target),
                "way": [str(path) for path in way],
                "referrers": [str(path) for path in referrers],
                "needed-by": needs,
            }
        )
        if as_json:
            continue
        app.say(str(target))
        app.say("  " + " -> ".join(path.name for path in way))
        others = [path.name for path in referrers if path not in way]
        if others:
            more = f" and {len(others) - 6} more" if len(others) > 6 else ""
            app.say(f"  {', '.join(others[:6])}{more} refer{'s' if len(others) == 1 else ''} to it too")
        for library, users in needs.items():
            more = f" and {len(users) - 4} more" if len(users) > 4 else ""
            app.say(f"  {library} is needed by {', '.join(users[:4])}{more}")
    if as_json:
        app.say_json(answers)


def _targets(app: App, name: str, closure: Iterable[StorePath], bundle: StorePath) -> list[StorePath]:
    """Return the paths of a closure that a name means: itself, one that it lies in, by name, or by a file's name.

    :param bundle: it holds links to all of the others' files, so it is meant where no other is.
    """
    from pgbake.formats.storepath import STORE_DIR

    if "/" in name:
        place = name
        if not name.startswith(STORE_DIR + "/"):  # a link of the machine's, such as ./result/lib/...
            place = str(Path(name).resolve())
            place = place[place.find(STORE_DIR + "/") :] if STORE_DIR + "/" in place else place
        return [path for path in closure if place == str(path) or place.startswith(f"{path}/")]
    exact = [path for path in closure if name in (path.name, str(path).rpartition("/")[2])]
    named = exact or [path for path in closure if name in path.name]
    holding = named or [path for path in closure if _holds(app.store.physical(path), name)]
    return [path for path in holding if named or path != bundle] or holding


def _holds(top: Path, file: str) -> bool:
    """Whether a file or link of that name lies below a directory."""
    from pgbake.bundle.merge_program import files_below

    return any(path.rpartition("/")[2] == file for path in files_below(str(top)))


def _unknown(app: App, name: str, closure: Iterable[StorePath]) -> ManifestError:
    from pgbake.errors import ManifestError

    roots = [
        root for part in app.project.lock.systems.values() for root, made in part.roots.items() if name in made.packages
    ]
    if roots:
        return ManifestError(
            f"{name} is part of the build root {roots[0]}, and no part of the bundle",
            hint="`pgbake size` lists what the bundle needs",
        )
    # By name, and by name without version: who mistypes one seldom types the other.
    names = {path.name for path in closure} | {re.split(r"-\d", path.name)[0] for path in closure}
    near = difflib.get_close_matches(name, names, 3)
    return ManifestError(
        f'nothing in the bundle is called "{name}"',
        hint=f"did you mean {' or '.join(near)}?" if near else "`pgbake size` lists what the bundle needs",
    )
