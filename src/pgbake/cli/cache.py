"""``pgbake cache``: the care of a binary cache; and what its commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App
from pgbake.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from pgbake.cache.cache import BinaryCache

COMMANDS = {
    "Look": {
        "info": "Show what a cache holds, and who signs it.",
        "ls": "List the bundles of a cache, or its paths.",
        "verify": "Check that a cache is whole, and mend it.",
    },
    "Change": {
        "gc": "Take away what no bundle that is to be kept needs.",
        "sign": "Sign all paths with another key.",
    },
    "Serve": {
        "serve": "Serve a directory as a cache over HTTP.",
    },
}


@click.group(
    "cache",
    cls=LazyGroup,
    table=COMMANDS,
    module="pgbake.cli.cache_{}",
    short_help="Care for a binary cache: look, verify, collect, sign, serve.",
    epilog="""\b
Examples:
  pgbake cache ls s3://bucket?region=eu-central-1
  pgbake cache gc --keep-last 3 --dry-run file:///srv/cache""",
)
def command() -> None:
    """Care for a binary cache.

    URL is file:///DIR, DIR, http://HOST/DIR, https://HOST/DIR or s3://BUCKET/PREFIX?region=REGION&endpoint=HOST;
    without one, it is the cache that the manifest or the machine's configuration names.
    """


url_argument = click.argument("url", metavar="[URL]", required=False)


def chosen_cache(app: App, url: str | None) -> BinaryCache:
    """Return the cache that a user names, or the one that the settings name.

    :raises CacheError: the URL is none, or that of a directory that is not there.
    :raises ManifestError: none is named, and the settings name none or several.
    """
    from pgbake.cli.caches import check_there, open_cache, settings
    from pgbake.errors import ManifestError

    if url is not None:
        check_there(url)
        return open_cache(url)
    known = [cache for cache in settings(app).caches if cache.url.partition("?")[0] != "local"]
    known = [cache for cache in known if cache.push] or known
    if len(known) != 1:
        urls = ", ".join(cache.url for cache in known)
        raise ManifestError(
            f"several caches are known: {urls}" if known else "no cache is known", hint="name its URL in the command"
        )
    return open_cache(known[0].url)


def human_age(seconds: float | None) -> str:
    """Write how long ago something was: ``3 days``."""
    if seconds is None:
        return "?"
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "just now"


def human_time(modified: float | None) -> str | None:
    """Write a time (Unix seconds) as ISO 8601 in UTC."""
    import datetime

    if modified is None:
        return None
    return datetime.datetime.fromtimestamp(modified, datetime.UTC).isoformat(timespec="seconds")
