"""``pgbake cache info``: what a cache holds, and who signs it."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.cache import chosen_cache, url_argument
from pgbake.quantities import human_size


@click.command(
    "info",
    short_help="Show what a cache holds, and who signs it.",
    epilog="""\b
Examples:
  pgbake cache info https://cache.example.org
  pgbake cache info --json s3://bucket?region=eu-central-1""",
)
@url_argument
@json_option
@pass_app
def command(app: App, url: str | None, as_json: bool) -> None:
    """Show what a cache says of itself, how much it holds, whether its index is whole, and which keys sign it.

    A web server has no listing: what its index tells is all that is known of it.
    """
    from collections import Counter

    from pgbake.cache.inventory import bundles, take_inventory
    from pgbake.cli.caches import count

    cache = chosen_cache(app, url)
    with app.reporting() as report:
        found = take_inventory(cache, report)
    signers = Counter(signature.name for info in found.infos.values() for signature in info.signatures)
    unsigned = sum(not info.signatures and not info.certifies_itself for info in found.infos.values())
    indexed = len(found.index.texts) if found.index is not None else None
    index_state = "damaged" if found.index_problem else "none" if indexed is None else "complete"
    if found.objects is not None and found.index is not None:
        digests = {path.digest for path in found.infos}
        if digests != found.index.texts.keys():
            index_state = (
                f"lacks {len(digests - found.index.texts.keys())} of {len(digests)} paths, "
                f"has {len(found.index.texts.keys() - digests)} that are gone"
            )
    kept = bundles(found)
    answer = {
        "url": cache.url,
        "store-dir": "/nix/store",
        "priority": found.info.priority if found.info else None,
        "want-mass-query": found.info.want_mass_query if found.info else None,
        "listed": found.objects is not None,
        "paths": len(found.infos),
        "damaged": sorted(found.damaged),
        "nar-bytes": sum(info.nar_size for info in found.infos.values()),
        "nars": len(found.nars),
        "file-bytes": sum(found.nars.values()),
        "index": index_state,
        "bundles": len(kept),
        "signers": dict(sorted(signers.items())),
        "unsigned": unsigned,
    }
    if as_json:
        app.say_json(answer)
        return
    app.say(f"cache     {cache.url}")
    if found.info is None:
        app.say("          no nix-cache-info: Nix does not take this for a cache")
    else:
        wish = "may be asked for many paths" if found.info.want_mass_query else "does not want mass queries"
        app.say(f"          /nix/store, priority {found.info.priority}, {wish}")
    app.say(f"bundles   {len(kept)}")
    app.say(f"paths     {len(found.infos)}, {human_size(sum(i.nar_size for i in found.infos.values()))} unpacked")
    app.say(f"NARs      {len(found.nars)}, {human_size(sum(found.nars.values()))}")
    app.say(f"index     {index_state}")
    for name, signed in sorted(signers.items()):
        app.say(f"signed    {signed} by {name}")
    if unsigned:
        app.say(f"unsigned  {count(unsigned)}, which nobody will trust")
    for name in sorted(found.damaged):
        app.say(f"damaged   {name}: {found.damaged[name]}")
