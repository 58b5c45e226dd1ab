"""``pgbake cache verify``: whether a cache is whole, and mending it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.cache import chosen_cache, url_argument
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.cache.mend import Mended
    from pgbake.cache.verify import Verification
    from pgbake.events import Sink
    from pgbake.formats.narinfo import NarInfo
    from pgbake.formats.storepath import StorePath


@click.command(
    "verify",
    short_help="Check that a cache is whole, and mend it.",
    epilog="""\b
Examples:
  pgbake cache verify file:///srv/cache
  pgbake cache verify --no-contents s3://bucket?region=eu-central-1
  pgbake cache verify --repair --key cache.key --from https://other.example.org s3://bucket""",
)
@url_argument
@click.option("--no-contents", is_flag=True, help="Do not read NARs; look at their sizes only.")
@click.option("--trust", "trusted", metavar="KEY", multiple=True, help="Public key that may sign, NAME:BASE64.")
@click.option("--repair", is_flag=True, help="Send what is lost again, from the local store, and mend the index.")
@click.option("--from", "sources", metavar="URL", multiple=True, help="With --repair: take it from that cache, too.")
@click.option(
    "--key", "keys", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="With --repair: secret key to sign with; else that of PGBAKE_SECRET_KEY.",
)  # fmt: skip
@click.option("--drop", is_flag=True, help="With --repair: delete what is lost for good, with all that refers to it.")
@click.option("--dry-run", is_flag=True, help="With --repair: only show what would be done.")
@json_option
@pass_app
def command(
    app: App,
    url: str | None,
    no_contents: bool,
    trusted: tuple[str, ...],
    repair: bool,
    sources: tuple[str, ...],
    keys: tuple[Path, ...],
    drop: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check that each path of a cache has its NAR, of the right size and hash, that all that it refers to is there,
    that the index tells the same, and that a trusted key has signed it, where keys are known: those of --trust, else
    the manifest's and the machine's.

    The exit status is 1 where something is lost. NARs that no path names are no fault; `pgbake cache gc` takes them.
    """
    if not repair and (drop or sources or keys or dry_run):
        raise click.UsageError("--drop, --from, --key and --dry-run go with --repair")
    from pgbake.cache.mend import Mended, mend
    from pgbake.cache.verify import verify
    from pgbake.signing import secret_keys

    cache = chosen_cache(app, url)
    check = _check(app, trusted)
    with app.reporting() as report:
        if repair:
            result = mend(
                app.store, cache, secret_keys(keys, report), report, check=check, contents=not no_contents,
                bring=_bring(app, sources, report) if sources else None, drop=drop, dry_run=dry_run,
            )  # fmt: skip
        else:
            found = verify(cache, report, check, contents=not no_contents)
            lost = [str(path) if path is not None else digest for digest, path in found.lost().items()]
            result = Mended(found, lost=tuple(sorted(lost)))
    if as_json:
        app.say_json(_answer(result, dry_run))
    else:
        _tell(app, result, repair, drop, dry_run)
    if _is_faulty(result, repair and not dry_run, drop):
        click.get_current_context().exit(1)


def _is_faulty(result: Mended, repaired: bool, dropped: bool) -> bool:
    if not repaired:
        return bool(result.found.findings)
    mended = set(map(str, result.mended))
    unsigned = any(f.kind == "signature" and f.name not in mended for f in result.found.findings)
    return unsigned or (not dropped and (bool(result.lost) or any(f.kind == "root" for f in result.found.findings)))


def _check(app: App, trusted: tuple[str, ...]) -> Callable[[NarInfo, str], None] | None:
    from pgbake.cli.caches import settings
    from pgbake.formats.keys import PublicKey, TrustedKeys
    from pgbake.trust import Trust

    trust = Trust(TrustedKeys(tuple(map(PublicKey.parse, trusted)))) if trusted else settings(app).trust
    return trust.check if trust.keys.keys and trust.require_signatures else None


def _bring(app: App, sources: tuple[str, ...], report: Sink) -> Callable[[Iterable[StorePath]], object]:
    from pgbake.cache.pull import pull
    from pgbake.cli.caches import substituters

    def bring(paths: Iterable[StorePath]) -> None:
        caches = substituters(app, sources, unchecked=True)  # what is mended says of its checks what it said
        assert caches is not None
        paths = list(paths)
        offered = caches.offers(paths, sure=paths)
        pull(app.store, caches, list(offered), report)

    return bring


def _tell(app: App, result: Mended, repair: bool, drop: bool, dry_run: bool) -> None:
    from pgbake.cli.caches import count

    found = result.found
    for finding in found.findings:
        app.say(str(finding))
    size = f", {human_size(found.checked)} read" if found.checked else ""
    app.say(f"{count(len(found.inventory.infos))}, {count(len(found.inventory.nars), 'NAR')}{size}: {_verdict(found)}")
    if found.orphans:
        size = human_size(sum(found.orphans.values()))
        app.say(f"{count(len(found.orphans), 'NAR')} of no path, {size}: a push under way, or one that was stopped")
    would = "would be " if dry_run else ""
    for path in result.mended:
        app.say(f"{would}sent again: {path}")
    if result.index_rewritten:
        app.say("the index is written anew")
    unusable = ", and what refers to it cannot be used" if repair and not drop else ""
    for name in result.lost:
        app.say(f"LOST: {name}{unusable}")
    for path in result.dropped:
        app.say(f"{would}DROPPED: {path}")
    if result.lost and not drop:
        hint = "build or pull it here, then run it with --repair again; or name another cache: --from URL"
        app.note(f"hint: {hint if repair else '--repair sends again what the local store has'}")
    elif found.findings and not repair:
        app.note("hint: --repair mends it")
    if repair and not drop and any(finding.kind == "root" for finding in found.findings):
        app.note("hint: --drop deletes damaged roots; the next push of what they named writes them anew")


def _verdict(found: Verification) -> str:
    count = len(found.findings)
    return "whole" if not count else f"{count} problem{'s' if count > 1 else ''}"


def _answer(result: Mended, dry_run: bool) -> dict[str, Any]:
    found = result.found
    return {
        "paths": len(found.inventory.infos),
        "nars": len(found.inventory.nars),
        "file-bytes": found.checked,
        "findings": [
            {
                "kind": finding.kind,
                "name": finding.name,
                "problem": finding.problem,
                "path": str(finding.path) if finding.path else None,
            }
            for finding in found.findings
        ],
        "orphans": found.orphans,
        "dry-run": dry_run,
        "mended": list(map(str, result.mended)),
        "lost": list(result.lost),
        "dropped": list(map(str, result.dropped)),
        "index-rewritten": result.index_rewritten,
    }
