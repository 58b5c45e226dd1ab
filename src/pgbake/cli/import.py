"""``pgbake import``: taking what ``pgbake export`` wrote into the store."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import ManifestError, host_error
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.formats.statement import SignedStatement
    from pgbake.formats.storepath import StorePath


@click.command(
    "import",
    short_help="Take what `pgbake export` wrote into the store.",
    epilog="""\b
Examples:
  pgbake import bundle.tar
  pgbake import bundle.tar --out-link ./result
  ssh HOST pgbake export - | pgbake import -""",
)
@click.argument("file", metavar="FILE|-")
@click.option("--out-link", type=click.Path(path_type=Path), help="Link to make to what was exported, if it is one.")
@click.option("--no-check-sigs", is_flag=True, help="Take what nobody trusted has signed, too.")
@click.option("--unchecked", is_flag=True, help="Take a bundle, too, that no trusted key says has passed its checks.")
@json_option
@pass_app
def command(app: App, file: str, out_link: Path | None, no_check_sigs: bool, unchecked: bool, as_json: bool) -> None:
    """Bring all paths of an archive into the store. Hashes and signatures are verified as in a pull, while it is read,
    and a bundle must have a statement of a trusted key that its checks have passed.

    What was complete in a damaged archive stays in the store. Nothing keeps the paths from being collected as garbage
    unless --out-link is given.
    """
    from dataclasses import replace

    from pgbake.cache.archive import import_archive
    from pgbake.cache.statements import demanding, keep_believed
    from pgbake.cli.caches import count, settings

    trust = settings(app).trust
    if no_check_sigs:
        app.note("warning: signatures are not checked: whoever made the archive decides what you run")
        trust = replace(trust, require_signatures=False, statements=())
    if unchecked:
        app.note("warning: UNCHECKED: a bundle is taken whether or not its checks have passed")
        trust = trust.unchecked()
    statements: dict[StorePath, dict[str, SignedStatement]] = {}
    begin = time.monotonic()
    name = "standard input" if file == "-" else file
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream, app.reporting() as report:
            done = import_archive(app.store, stream, name, demanding(trust, (), statements), report, statements)
    except FileNotFoundError:
        raise ManifestError(f"there is no file {file}", hint="write one with `pgbake export FILE`") from None
    except OSError as error:
        raise host_error(error, f"cannot read {name}") from error
    for path in {*done.added, *done.present} & statements.keys():
        for kind, signed in statements[path].items():
            keep_believed(app.store, [signed], path, kind, app.store.info(path).nar_sha256, trust)
    if out_link is not None:
        if len(done.tops) != 1:
            raise ManifestError(
                f"the archive holds {len(done.tops)} paths that no other one refers to, and --out-link can name one",
                hint="export one path only",
            )
        app.store.link_root(out_link, done.tops[0])
    if as_json:
        app.say_json(
            {
                "paths": list(map(str, done.tops)),
                "added": list(map(str, done.added)),
                "present": list(map(str, done.present)),
                "nar-bytes": done.nar_size,
            }
        )
        return
    for path in done.tops:
        app.say(str(path))
    seconds = time.monotonic() - begin
    app.note(
        f"imported {count(len(done.added))}, {human_size(done.nar_size)} in {seconds:.1f} s; "
        f"{len(done.present)} were there"
    )
