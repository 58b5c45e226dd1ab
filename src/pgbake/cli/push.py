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
    from collections.abc import Callable, Sequence

    from pgbake.cache.cache import BinaryCache
    from pgbake.cli.gate import Gate
    from pgbake.events import Sink
    from pgbake.formats.keys import SecretKey
    from pgbake.formats.statement import SignedStatement
    from pgbake.formats.storepath import StorePath


@click.command(
    "push",
    short_help="Bring the bundle, or any path, into a binary cache.",
    epilog="""\b
Examples:
  pgbake push --to file:///srv/cache --key cache.key
  pgbake push --to s3://bucket?region=eu-central-1
  pgbake push --what build            with all that others need to build it again
  pgbake push --dry-run               show what the cache lacks
  pgbake push --unchecked             a bundle whose checks have not passed""",
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
@click.option("--unchecked", is_flag=True, help="Push a bundle whose checks have not passed; this is stated, too.")
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
    unchecked: bool,
    level: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring the bundle of the manifest, its packages NAME, or store paths PATH into binary caches, with all that
    they refer to, signed.

    A bundle goes only when `pgbake check` has passed, or a statement of a trusted key that is kept beside it says so.
    It takes a signed statement along, which `pgbake pull` demands, and the results of its checks.

    Only what a cache lacks is sent; what it should have is looked at. Whoever reads meanwhile sees whole closures
    only. A push that was stopped is taken up where it was by the next.
    """
    from pgbake.cache.push import push
    from pgbake.cache.roots import is_bundle_name
    from pgbake.cache.survey import survey
    from pgbake.cli.caches import amount, count, name_paths, open_cache, settings
    from pgbake.quantities import human_size

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

    def own_keys() -> list[SecretKey]:
        with app.reporting() as report:
            return load_keys(report)

    goals = name_paths(app, names)
    bundles = [path for path in goals if is_bundle_name(path.name)]
    if what == "build":
        from pgbake.cli.goals import realise_build_closure

        with app.reporting() as report:
            load_keys(report)  # a build may take hours: a key that is none is told of before
        if bundles and not unchecked:
            from pgbake.cli.gate import foresee

            foresee(app, bundles, "pushed")
        paths = realise_build_closure(app, names)
    else:
        paths = goals
        if lacking := [path for path in paths if path not in app.store.valid(paths)]:
            raise ManifestError(f"{lacking[0]} is not in the store", hint="`pgbake build` or `pgbake pull` brings it")
    for file in statements:
        from pgbake.store.statements import keep_file

        keep_file(app.store, file, paths, dry_run=dry_run)
    gates: list[Gate] = []
    if bundles:
        from pgbake.cli.gate import look, require_checked

        for path in bundles:
            if dry_run:
                gates.append(look(app, path, own_keys, own=True))
            else:
                gates.append(require_checked(app, path, "pushed", unchecked=unchecked, keys=own_keys, own=True))
    if dry_run and not as_json:
        for gate in gates:
            _foretell(app, gate, unchecked)
    if any(gate.passed or gate.kept for gate in gates):
        from pgbake.checks.gate import results_of

        for gate in gates:
            stating = gate.passed or (gate.kept.statement if gate.kept else None)
            if stating is not None:
                paths = [*paths, *(path for path in results_of(app.store, stating) if path not in paths)]
    answers = []
    made: list[SignedStatement] | None = None
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
            answers.append(
                {
                    "cache": cache.url,
                    "send": [str(path) for path in absent],
                    "nar-bytes": size,
                    "checks": {str(gate.path): gate.word for gate in gates},
                }
            )
            if not as_json:
                for path in absent:
                    app.say(f"{path}  {human_size(closure[path].nar_size)}")
                app.say(f"To send to {cache.url}: {count(len(absent))}, {human_size(size)} before compression")
            continue
        if made is None:
            made = _statements(app, gates, own_keys, unchecked=unchecked, anew=bool(absent or keys))
        # Statements come first: nobody sees a bundle that lacks its own.
        stated = _bring(app, cache, paths, made)
        with app.reporting() as report:
            give_keys = partial(load_keys, report)
            result = push(app.store, cache, paths, give_keys, report, level=level, found=found, roots=goals, what=what)
        if result.sent:  # a collection that ended meanwhile may have taken those of an older copy of the bundle
            stated = max(stated, _bring(app, cache, paths, made))
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
                "checks": {str(gate.path): gate.word for gate in gates},
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


def _foretell(app: App, gate: Gate, unchecked: bool) -> None:
    """Say what would become of a bundle."""
    from pgbake.cli.caches import settings
    from pgbake.cli.gate import refusal

    if gate.problem is None:
        app.say(f"{gate.path}: its checks have passed" + ("" if gate.passed else ", as is stated"))
    elif unchecked or not settings(app).trust.demands_checks:
        app.say(f"{gate.path}: would be pushed UNCHECKED: {gate.problem}")
    else:
        error = refusal(gate, "pushed")
        app.say(f"Would be refused: {error}")
        app.note(f"hint: {error.hint}")


def _statements(
    app: App, gates: Sequence[Gate], keys: Callable[[], Sequence[SecretKey]], *, unchecked: bool, anew: bool
) -> list[SignedStatement]:
    """Return the statements that are made of bundles: those that they have passed their checks are kept, too."""
    from pgbake.cli.gate import sign_passed, state_unchecked

    made = []
    for gate in gates:
        signed = None
        if gate.passed is not None:
            signed = sign_passed(app, gate, keys, anew=anew)
        elif gate.kept is not None:
            continue  # it goes along as it is: whoever reads it sees which checks it is about
        elif gate.problem is not None and unchecked:
            signed = state_unchecked(app, gate, keys)
        if signed is not None:
            made.append(signed)
        else:
            app.note(
                f"warning: nobody will take {gate.path}: no key signs a statement about its checks\n"
                "hint: push with --key FILE (`pgbake keygen NAME` makes one); others pull it with --unchecked"
            )
    return made


def _bring(app: App, cache: BinaryCache, paths: Sequence[StorePath], made: Sequence[SignedStatement]) -> int:
    if not made and not any(os.path.lexists(app.store.statements_dir / path.digest) for path in paths):
        return 0
    from pgbake.cache.statements import bring_statements

    return bring_statements(app.store, cache, paths, made)
