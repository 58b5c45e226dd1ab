"""``pgbake gc``: delete what nothing needs any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.quantities import DURATION, SIZE
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.store.local import LocalStore


@click.command(
    "gc",
    short_help="Delete what nothing needs any more.",
    epilog="""\b
Examples:
  pgbake gc --dry-run              list what would go, and how much space it takes
  pgbake gc --keep-for 7d          keep what was built or fetched within a week
  pgbake gc --keep-generations 5   delete generations of profiles but the newest five, and what only they need
  pgbake gc --max-freed 5G         stop when 5 GB are free again
  pgbake roots                     list what is kept, and for whom""",
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--keep-for", type=DURATION, default="0s", help="Keep what became valid within this time: 7d, 12h.")
@click.option("--keep-outputs", is_flag=True, help="Keep all outputs of derivations that stay.")
@click.option("--keep-generations", type=click.IntRange(1), metavar="N", help="Delete generations but the newest N.")
@click.option("--older-than", type=DURATION, help="Delete generations of before that: 30d.")
@click.option("--max-freed", type=SIZE, help="Stop when so much is freed: 5G, 500MB.")
@click.option(
    "--keep-failed", type=DURATION, default="7d", show_default=True, help="Delete kept failed builds of before that."
)
@click.option(
    "--keep-logs", type=DURATION, default="30d", show_default=True,
    help="Delete older build logs of derivations that are gone.",
)  # fmt: skip
@json_option
@pass_app
def command(
    app: App,
    dry_run: bool,
    keep_for: float,
    keep_outputs: bool,
    keep_generations: int | None,
    older_than: float | None,
    max_freed: int | None,
    keep_failed: float,
    keep_logs: float,
    as_json: bool,
) -> None:
    """Delete the store paths that no root needs: no `result` link, profile, server, running program or build.

    Results of checks stay while their project is there and has that bundle. Derivations of what stays are kept, with
    the build roots and sources that they name, so that it can be built again. Generations of profiles, and of what is
    installed, go only where --keep-generations or --older-than lets them; with both given, those that both let go. The
    current one stays.

    Builds may run meanwhile: what they need stays.
    """
    from pgbake.places import data_dir
    from pgbake.store.collector import GcOptions, collect_garbage

    app.require_own_store()
    store = app.open_store(release_reserve=not dry_run)
    if not dry_run and (data_dir() / "checks").exists():
        from pgbake.checks.record import let_go_of_the_gone

        let_go_of_the_gone(data_dir() / "checks")
    gone, without = _let_go_of_installed(store, keep_generations, older_than, dry_run)
    options = GcOptions(
        dry_run=dry_run,
        keep_for=keep_for,
        keep_outputs=keep_outputs,
        keep_generations=keep_generations,
        older_than=older_than,
        without=without,
        max_freed=max_freed,
        keep_failed=keep_failed,
        keep_logs=keep_logs,
    )
    with app.reporting() as report:
        done = collect_garbage(store, options, report)
    nar_bytes = sum(info.nar_size for info in done.deleted)
    if as_json:
        app.say_json(
            {
                "dry-run": dry_run,
                "deleted": [{"path": str(info.path), "nar-size": info.nar_size} for info in done.deleted],
                "nar-bytes": nar_bytes,
                "freed": done.freed,
                "kept": done.kept,
                "links": done.links,
                "generations": [str(link) for link in (*gone, *(item.link for item in done.generations))],
                "failed-builds": [str(place) for place in done.failed],
                "logs": [str(file) for file in done.logs],
                "roots": len(done.roots),
            }
        )
        return
    if dry_run:
        for info in sorted(done.deleted, key=lambda info: (-info.nar_size, info.path)):
            app.say(f"{human_size(info.nar_size):>9}  {info.path}")
    for what, count in (
        ("generation", len(gone) + len(done.generations)),
        ("failed build", len(done.failed)),
        ("log", len(done.logs)),
        ("unused link", done.links),
    ):
        if count:
            app.say(f"{'to go' if dry_run else 'gone'}: {_counted(count, what)}")
    verb = "would be deleted" if dry_run else "deleted"
    app.say(
        f"{_counted(len(done.deleted), 'path')} {verb} ({human_size(nar_bytes)} of contents), "
        f"{human_size(done.freed)} {'would be ' if dry_run else ''}freed; {_counted(done.kept, 'path')} "
        f"{'stays' if done.kept == 1 else 'stay'}"
    )


def _let_go_of_installed(
    store: LocalStore, keep: int | None, older_than: float | None, dry_run: bool
) -> tuple[list[Path], tuple[Path, ...]]:
    """Remove generations of what is installed from this store, with servers' directories that nobody uses then.

    :returns: links of those that go; and, in a dry run, links that count as no roots.
    """
    if (keep is None and older_than is None) or not (store.root / "nix/var/pgbake/profiles").is_dir():
        return [], ()
    import time

    from pgbake.install.profiles import Profiles
    from pgbake.install.servers import ServerDirectories

    profiles = Profiles(store)
    servers = ServerDirectories(profiles)
    with profiles.lock():
        going = profiles.superseded(keep, older_than, time.time())
        links = [generation.place / "bundle" for generation in going]
        if dry_run:
            all_of_it = [each for major in profiles.majors() for each in profiles.generations(major)]
            used = {each.server for each in all_of_it if each not in going}
            return links, (*links, *(place / "current" for place in servers.unused(used)))
        for generation in going:
            profiles.drop(generation)
        servers.heal()
    return links, ()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
