"""``pgbake cache ls``: the bundles of a cache, or its paths."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.cache import chosen_cache, human_age, human_time
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.cache.inventory import Bundle, Inventory
    from pgbake.formats.storepath import StorePath


@click.command(
    "ls",
    short_help="List the bundles of a cache, or its paths.",
    epilog="""\b
Examples:
  pgbake cache ls https://cache.example.org
  pgbake cache ls s3://bucket 'example-*'
  pgbake cache ls --all --json file:///srv/cache""",
)
@click.argument("arguments", metavar="[URL] [NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="List every path, not only bundles.")
@json_option
@pass_app
def command(app: App, arguments: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """List what was pushed for its own sake, newest first: bundles, and paths that were named to `pgbake push`.

    NAME is a shell pattern. "files" is what a path takes in the cache, "closure" what it and all that it needs take
    unpacked. Of a web server all is taken from its index, which does not tell ages.
    """
    from pgbake.cache.inventory import bundles, take_inventory
    from pgbake.cli.caches import count

    url, names = _split(arguments)
    with app.reporting() as report:
        found = take_inventory(chosen_cache(app, url), report)
    listed: dict[StorePath, Bundle | None] = {bundle.path: bundle for bundle in bundles(found)}
    if everything:
        listed |= {path: None for path in sorted(found.infos, key=lambda p: (p.name, p)) if path not in listed}
    if names:
        listed = {p: b for p, b in listed.items() if any(fnmatchcase(p.name, n) or n == str(p) for n in names)}
    rows = [_row(found, path, bundle) for path, bundle in listed.items()]
    if as_json:
        app.say_json(rows)
        return
    if not rows:
        app.say("nothing is listed" if names else "the cache holds no bundle; --all lists all paths")
        return
    app.say(f"{'NAR':>9}  {'files':>9}  {'closure':>9}  {'age':<10}  path, and who signed it")
    for row in rows:
        signers = ", ".join(row["signers"]) or ("content-addressed" if row["ca"] else "unsigned")
        if row["missing"]:
            signers += f"; ITS CLOSURE LACKS {count(len(row['missing'])).upper()}"
        age = human_age(time.time() - row["time"] if row["time"] else None)
        size = [human_size(row[key]) if row[key] is not None else "-" for key in ("nar-size", "file-size", "closure")]
        what = f" ({', '.join(row['what'])})" if row["what"] and row["what"] != ["runtime"] else ""
        app.say(f"{size[0]:>9}  {size[1]:>9}  {size[2]:>9}  {age:<10}  {row['path']}{what}  {signers}")


def _split(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    first = arguments[0] if arguments else ""
    if "://" in first or (first.startswith(("/", ".")) and not first.startswith("/nix/store/")):
        return first, arguments[1:]
    return None, arguments


def _row(found: Inventory, path: StorePath, bundle: Bundle | None) -> dict[str, Any]:
    members, missing = found.closure([path])
    info = found.infos.get(path)
    modified = bundle.pushed if bundle is not None else found.written(path)
    return {
        "path": str(path),
        "what": list(bundle.what) if bundle is not None else [],
        "system": bundle.system if bundle is not None else None,
        "nar-size": info.nar_size if info else None,
        "file-size": info.file_size if info else None,
        "closure": sum(found.infos[member].nar_size for member in members),
        "closure-files": sum(found.infos[member].file_size or 0 for member in members),
        "paths": len(members),
        "missing": sorted(map(str, missing)),
        "pushed": human_time(modified),
        "time": modified,
        "ca": info.ca if info else None,
        "signers": [signature.name for signature in info.signatures] if info else [],
    }
