"""``pgbake push``: bring the bundle, or any path, into a binary cache."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import CacheError, ManifestError

if TYPE_CHECKING:
    from pgbake.events import Sink
    from pgbake.formats.keys import SecretKey


@click.command(
    "push",
    short_help="Bring the bundle, or any path, into a binary cache.",
    epilog="""\b
Examples:
  pgbake push --to file:///srv/cache --key cache.key
  pgbake push --to s3://bucket?region=eu-central-1
  pgbake push --what build            with all that others need to build it again
  pgbake push --dry-run               show what the cache lacks""",
)
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@click.option("--to", "urls", multiple=True, metavar="URL", help="Cache to push to [default: the manifest's].")
@click.option(
    "--what", type=click.Choice(["runtime", "build"]), default="runtime", show_default=True,
    help="What a user of the bundle needs, or also what builds it: derivations, packages, every pinned input.",
)  # fmt: skip
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Secret key to sign with; else that of PGBAKE_SECRET_KEY.",
)  # fmt: skip
@click.option(
    "--statement", "statements", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Signed statement to put beside the path that it is about; those that are kept here go along by themselves.",
)  # fmt: skip
@click.option("--level", type=click.IntRange(1, 19), default=3, show_default=True, help="Of zstd's compression.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@json_option
@pass_app
def command(
    app: App,
    names: tuple[str, ...],
    urls: tuple[str, ...],
    what: str,
    keys: tuple[Path, ...],
    statements: tuple[Path, ...],
    level: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring the bundle of the manifest, its packages NAME, or store paths PATH into binary caches, with all that
    they refer to, signed.

    Only what a cache lacks is sent; what it should have is looked at. Whoever reads meanwhile sees whole closures
    only. A push that was stopped is taken up where it was by the next.
    """
    from pgbake.cache.push import push
    from pgbake.cache.survey import survey
    from pgbake.cli.app import human_size
    from pgbake.cli.caches import amount, count, name_paths, open_cache, settings

    targets = list(urls) or [cache.url for cache in settings(app).caches if cache.push]
    if not targets:
        raise ManifestError(
            "no cache to push to is known", hint="name one with --to URL, or write push = true in its [[cache]] table"
        )
    signing: list[SecretKey] = []

    def load_keys(report: Sink) -> list[SecretKey]:
        from pgbake.signing import secret_keys

        if not signing:
            signing.extend(secret_keys(keys, report))
        return signing

    if what == "build":
        from pgbake.cli.goals import realise_build_closure

        with app.reporting() as report:
            load_keys(report)  # a build may take hours: a key that is none is told of before
        goals = name_paths(app, names)
        paths = realise_build_closure(app, names)
    else:
        goals = paths = name_paths(app, names)
        if lacking := [path for path in paths if path not in app.store.valid(paths)]:
            raise ManifestError(f"{lacking[0]} is not in the store", hint="`pgbake build` or `pgbake pull` brings it")
    for file in statements:
        from pgbake.store.statements import keep_file

        keep_file(app.store, file, paths, dry_run=dry_run)
    answers = []
    for url in targets:
        cache = open_cache(url)
        if not cache.objects.writable:
            raise CacheError(f"{cache.url} can only be read", hint="push to its s3 or file URL")
        begin = time.monotonic()
        closure = app.store.closure(paths)
        found = survey(cache, closure)
        absent = [path for path in closure if path not in found.present]
        if absent:  # a key that is none is told of before anything is written
            with app.reporting() as report:
                load_keys(report)
        if dry_run:
            size = sum(closure[path].nar_size for path in absent)
            answers.append({"cache": cache.url, "send": [str(path) for path in absent], "nar-bytes": size})
            if not as_json:
                for path in absent:
                    app.say(f"{path}  {human_size(closure[path].nar_size)}")
                app.say(f"To send to {cache.url}: {count(len(absent))}, {human_size(size)} before compression")
            continue
        with app.reporting() as report:
            give_keys = partial(load_keys, report)
            result = push(app.store, cache, paths, give_keys, report, level=level, found=found, roots=goals, what=what)
        stated = 0
        if any(os.path.lexists(app.store.statements_dir / path.digest) for path in paths):
            from pgbake.cache.statements import bring_statements

            stated = bring_statements(app.store, cache, paths)
        answers.append(
            {
                "cache": cache.url,
                "sent": [str(path) for path in result.sent],
                "present": len(result.present),
                "skipped": [str(path) for path in result.skipped],
                "nar-bytes": result.nar_size,
                "file-bytes": result.file_size,
                "unsigned": [str(path) for path in result.unsigned],
                "statements": stated,
            }
        )
        if not as_json:
            moved = amount(result.nar_size, result.file_size, time.monotonic() - begin)
            sent = f"{len(result.sent)} sent" + (f", {moved}" if result.sent else "")
            app.say(f"{cache.url}: {len(result.present)} present, {sent}, {len(result.skipped)} skipped")
            if stated:
                app.say(f"{cache.url}: {count(stated, 'statement')} sent")
        if result.unsigned:
            app.note(
                f"warning: nobody will take what bears no signature: {count(len(result.unsigned))}\n"
                f"hint: `pgbake cache sign --key FILE '{cache.url}'` signs it there; `pgbake keygen NAME` makes a key"
            )
    if as_json:
        app.say_json(answers)
