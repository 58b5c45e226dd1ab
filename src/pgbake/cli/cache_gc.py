"""``pgbake cache gc``: taking away what no bundle that is to be kept needs."""

from __future__ import annotations

import time

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.cache import chosen_cache, human_age, human_time, url_argument
from pgbake.cli.quantities import DURATION
from pgbake.quantities import human_size


@click.command(
    "gc",
    short_help="Take away what no bundle that is to be kept needs.",
    epilog="""\b
Examples:
  pgbake cache gc --dry-run --keep-last 3 s3://bucket?region=eu-central-1
  pgbake cache gc --keep 'example-postgresql-15*' --keep-for 30d file:///srv/cache""",
)
@url_argument
@click.option("--keep", "names", metavar="NAME", multiple=True, help="Keep bundles of that name, a shell pattern.")
@click.option("--keep-for", type=DURATION, help="Keep bundles that were pushed within that time, such as 30d.")
@click.option(
    "--keep-last", type=click.IntRange(1), metavar="N",
    help="Keep the newest N of each name, PostgreSQL major version and system.",
)  # fmt: skip
@click.option(
    "--grace", type=DURATION, default="1d", show_default=True,
    help="Keep whatever is younger; longer than any push takes.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@json_option
@pass_app
def command(
    app: App,
    url: str | None,
    names: tuple[str, ...],
    keep_for: float | None,
    keep_last: int | None,
    grace: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete from a cache what no bundle that is to be kept needs. A bundle stays where one of the options says so.

    With a bundle all stays that its push brought, build inputs too where they were asked for. Pushes may run at the
    same time: they wait. Files that are not a cache's own are left alone.
    """
    from pgbake.cache.gc import Retention, collect
    from pgbake.cli.caches import count

    retention = Retention(names, keep_for, keep_last, grace)
    with app.reporting() as report:
        done = collect(chosen_cache(app, url), retention, report, dry_run=dry_run)
    now = time.time()
    if as_json:
        app.say_json(
            {
                "dry-run": dry_run,
                "kept": [{"path": str(b.path), "pushed": human_time(b.pushed)} for b in done.kept],
                "dropped": [{"path": str(b.path), "pushed": human_time(b.pushed)} for b in done.dropped],
                "paths": sorted(map(str, done.dead)),
                "nars": list(done.nars),
                "freed": done.freed,
                "push-under-way": str(done.pushing) if done.pushing else None,
            }
        )
        return
    for word, bundles in (("keep", done.kept), ("drop", done.dropped)):
        for bundle in bundles:
            age = human_age(now - bundle.pushed if bundle.pushed else None)
            app.say(f"{word}  {age:<10}  {bundle.path.name}  {bundle.path}")
    if done.pushing is not None:
        app.note(f"a push of {done.pushing} seems to be under way: NARs are left for the next time")
    would = "would go" if dry_run else "went"
    app.say(f"{count(len(done.dead))} and {count(len(done.nars), 'NAR')} {would}, {human_size(done.freed)}")
