"""``pgbake report``: a page on the bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import StoreError
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.formats.storepath import StorePath
    from pgbake.report.facts import Comparison, Facts
    from pgbake.report.record import ReportRecord

#: The page's name in the project's directory.
NAME = "pgbake-report.html"


@click.command(
    "report",
    short_help="Write a page on the bundle: contents, size, builds, checks, changes.",
    epilog="""\b
Examples:
  pgbake report
  pgbake report --out public/index.html --open no
  pgbake report --against ./result-before
  pgbake report --against old-report.html
  pgbake report --json > report.json     the same facts for programs""",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"File to write [default: {NAME}]."
)
@click.option(
    "--against", metavar="BUNDLE|FILE",
    help="Bundle to compare with: a store path, a link to one, an earlier page or its JSON "
    "[default: the project's bundle before].",
)  # fmt: skip
@click.option(
    "--open", "opening", type=click.Choice(["auto", "yes", "no"]), default="auto",
    help="Whether to show the page in a browser; auto: from a terminal of a desktop.",
)  # fmt: skip
@json_option
@pass_app
def command(
    app: App, out: Path | None, against: str | None, opening: Literal["auto", "yes", "no"], as_json: bool
) -> None:
    """Write one page of HTML about the bundle, which must be built: what is in it, its closure as a map, when its
    packages were built, what its checks said, and what has changed since the project's bundle before.

    The page loads nothing, from no network and no other file, and can be mailed or published as it is. Equal facts
    give equal bytes.
    """
    from pgbake.checks.record import Record
    from pgbake.cli.goals import require_built
    from pgbake.places import data_dir
    from pgbake.report.collect import collect, with_comparison
    from pgbake.report.record import ReportRecord

    project = app.project
    require_built(app)
    checks = app.checks
    record = Record(data_dir() / "checks", project.directory)
    reported = ReportRecord(data_dir() / "reports", project.directory)
    facts = collect(app.store, checks, record, project.manifest.closure_budget)
    facts = with_comparison(facts, _comparison(app, facts, checks.bundle.path, reported, against))
    if as_json:
        app.say_json(facts)
        return
    file = out or project.directory / NAME
    size = _write(file, facts)
    if against is None:  # another comparison that was asked for once changes nothing of what comes next
        reported.keep(facts.side, facts.against)
    app.say(f"wrote {file} ({human_size(size)})")
    if opening == "yes" or (opening == "auto" and _on_desktop()):
        _open(app, file)


def _comparison(
    app: App, facts: Facts, path: StorePath, reported: ReportRecord, against: str | None
) -> Comparison | None:
    """Return what to compare with: what was named, else what was reported before, else the store's bundle before.

    :raises ManifestError: what was named is no bundle and no report.
    """
    from pgbake.report.collect import bundle_before, side_of
    from pgbake.report.facts import Comparison
    from pgbake.report.record import read_side

    if against is not None:
        named = Path(against)
        if named.is_file() and not named.is_symlink():
            return Comparison(read_side(named), "the report that was named")
        return Comparison(side_of(app.store, _named_bundle(app, against)), "the bundle that was named")
    before = reported.before(facts.bundle.path)
    if before is not None:
        return before
    found = bundle_before(app.store, path)
    if found is None:
        return None
    try:
        return Comparison(side_of(app.store, found), "the bundle of this name that came into the store before")
    except StoreError:
        return None  # an older pgbake's, or damaged: it was not asked for


def _named_bundle(app: App, name: str) -> StorePath:
    """Return the store path that a name means.

    :raises ManifestError: it means none.
    """
    from pgbake.cli.caches import name_paths
    from pgbake.errors import ManifestError

    if "/" in name:
        return name_paths(app, [name])[0]
    if os.path.lexists(name):  # a link in this directory, such as "result"
        return name_paths(app, [f"./{name}"])[0]
    raise ManifestError(
        f'there is no bundle and no report "{name}"',
        hint="name a store path, a link to one, or a page that `pgbake report` wrote",
    )


def _write(file: Path, facts: Facts) -> int:
    """Write the page and return its size.

    :raises HostError: it cannot be written.
    """
    from pgbake.errors import host_error
    from pgbake.files import write_whole
    from pgbake.report.page import render

    page = render(facts).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page)
    except OSError as error:
        raise host_error(error, f"cannot write {file}") from error
    return len(page)


def _on_desktop() -> bool:
    """Whether a person at a desktop typed this. Root's browser would be another than theirs."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(display) and sys.stdout.isatty() and os.geteuid() != 0


def _open(app: App, file: Path) -> None:
    import webbrowser

    if not webbrowser.open(file.absolute().as_uri()):
        app.note(f"warning: no browser was found to show {file}")
