"""``pgbake repair``: bring damaged paths back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.verify import chosen_paths
from pgbake.errors import LockError, ManifestError, StoreError
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.cache.substituters import Substituters
    from pgbake.formats.storepath import StorePath
    from pgbake.recipes.lowering import Graph
    from pgbake.store.salvage import Salvaged

_WAYS = {
    "fetched": "fetched from a cache",
    "unpacked": "unpacked again from its pinned files",
    "written": "written again",
    "rebuilt": "rebuilt",
    "registered": "its contents were sound; registered anew",
    "removed": "removed; the files that it stood for have their own copies",
    "reindexed": "its indexes were made anew",
}


@click.command(
    "repair",
    short_help="Bring damaged paths back.",
    epilog="""\b
Examples:
  pgbake repair                    verify the whole store, and mend what is damaged
  pgbake repair ./result           only a bundle, and what it needs
  pgbake repair --dry-run          say what would be done""",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--cores", type=click.IntRange(1), help="Cores to use together [default: all].")
@json_option
@pass_app
def command(app: App, paths: tuple[str, ...], dry_run: bool, cores: int | None, as_json: bool) -> None:
    """Verify the store, or each PATH with all that it refers to, and bring back what is damaged: from binary caches,
    inputs from their pinned files, packages by building them again.

    What comes back has the contents that were registered, bit for bit, or is refused.

    Where there is a manifest, what it names is known how to get; without one, only what the store itself knows how
    to build can be brought back. The exit status is 1 where anything stays damaged.
    """
    from pgbake.build.repair import Repair
    from pgbake.cli.caches import substituters, tell_problems
    from pgbake.cli.goals import input_provider
    from pgbake.store.verify import verify

    app.require_own_store()
    salvaged = _mend_database(app, dry_run)
    wanted = chosen_paths(app, paths)
    graph = _project_graph(app)
    caches = substituters(app, unchecked=True)  # nothing comes in that was not there
    with app.reporting() as report:
        found = verify(app.store, wanted, report=report)
        repair = Repair(app.store, report=report, cores=cores, dry_run=dry_run)
        if caches is not None:
            repair.fetch = partial(_fetch, app, caches)
        if graph is not None:
            repair.graph = graph
            repair.provider = input_provider(app, report)
        outcomes = repair.mend(found.findings)
    if caches is not None:
        tell_problems(app, caches.problems)
    if as_json:
        app.say_json(
            {
                "paths": found.paths,
                "lost": list(salvaged.lost) if salvaged is not None else [],
                "outcomes": [
                    {"kind": finding.kind, "subject": done.subject, "way": done.way, "why": done.why}
                    for finding, done in zip(found.findings, outcomes, strict=True)
                ],
            }
        )
    elif not outcomes and salvaged is None:
        app.say(f"{found.paths} paths, {human_size(found.nar_bytes)} read: nothing to repair")
    else:
        for done in outcomes:
            app.say(done.subject)
            app.say(
                f"  {_WAYS[done.way]}{' (would be)' if dry_run else ''}" if done.way else f"  NOT mended: {done.why}"
            )
    if salvaged is not None and not as_json:
        app.say(f"{app.store.database.file}")
        app.say(f"  made anew: {len(salvaged.kept)} paths are proven; the damaged file is kept in {salvaged.aside}")
        for name in salvaged.lost:
            app.say(f"  not proven, to be fetched or built again when it is needed: {name}")
    lost = sum(1 for done in outcomes if done.way is None)
    if lost:
        raise StoreError(
            f"{lost} of {len(outcomes)} could not be mended",
            hint="why is said above; what nothing needs any more goes with `pgbake gc`",
        )


def _mend_database(app: App, dry_run: bool) -> Salvaged | None:
    """Bring the database into order, where its tables are damaged, by a new one; return what became of it then.

    :raises StoreError: it is damaged, and nothing is to be changed.
    """
    from pgbake.store.database import DamagedDatabase
    from pgbake.store.salvage import salvage

    try:
        problems = app.store.database.problems()
        if problems and not dry_run:
            app.store.database.reindex()  # enough, where only indexes are damaged
            problems = app.store.database.problems()
    except DamagedDatabase as error:
        problems = [error.message]
    if not problems or (dry_run and "store" in app.__dict__):
        return None
    if dry_run:
        raise StoreError(problems[0], hint="`pgbake repair` makes a new one of what the store's contents prove")
    app.close_store()
    with app.reporting() as report:
        return salvage(app.store_root, report)


def _fetch(app: App, caches: Substituters, path: StorePath, into: Path | None) -> bool:
    from pgbake.cache.pull import fetch_tree

    if into is None:
        return bool(caches.offers([path], sure=[path]))
    return fetch_tree(caches, path, app.store.info(path).nar_sha256, into)


def _project_graph(app: App) -> Graph | None:
    from pgbake.formats.system import host_system

    try:
        return app.project.bundle(host_system()).graph
    except (ManifestError, LockError) as error:
        app.note(f"working without a project: {error}")
        return None
