"""``pgbake verify``: look for damage in the store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import ManifestError, StoreError
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.formats.storepath import StorePath
    from pgbake.store.verify import Finding, Verification

#: How many referrers are named.
_SHOWN = 3


@click.command(
    "verify",
    short_help="Look for damage in the store.",
    epilog="""\b
Examples:
  pgbake verify                    the whole store
  pgbake verify ./result           a bundle, and all that it needs
  pgbake verify --no-contents      only whether everything is there, which takes no time""",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--no-contents", is_flag=True, help="Read no file.")
@click.option("--references", is_flag=True, help="Compare what the files mention with what is registered, too.")
@json_option
@pass_app
def command(app: App, paths: tuple[str, ...], no_contents: bool, references: bool, as_json: bool) -> None:
    """Check that all that the store's database says is true: that each path is there, that its contents are those
    that were registered, and that the database itself is sound. PATH is a store path or a link to one; all that it
    refers to is checked with it. Without PATH, what is installed from this store is held against how it was made, too.

    The exit status is 1 where anything is wrong.
    """
    from pgbake.store.verify import verify

    with app.reporting() as report:
        done = verify(
            app.store, chosen_paths(app, paths), contents=not no_contents, references=references, report=report
        )
    installed = [] if paths else installed_findings(app)
    if as_json:
        app.say_json(as_json_value(done) | {"installed": [{"path": p, "what": what} for p, what in installed]})
    else:
        show_findings(app, done.findings)
        for path, what in installed:
            app.say(f"{'installed':10} {path}")
            app.say(f"{'':10}   {what}")
        if not (done.findings or installed):
            read = "all there" if no_contents else f"{human_size(done.nar_bytes)} read: all as registered"
            app.say(f"{done.paths} path{'s' if done.paths != 1 else ''}, {read}")
    if done.findings:
        count = len(done.findings)
        raise StoreError(f"the store is damaged: {count} finding{'s' if count > 1 else ''}", hint="run `pgbake repair`")
    if installed:
        raise StoreError(
            f"what is installed is not as it was made: {len(installed)} finding{'s' if len(installed) > 1 else ''}",
            hint="run the last `pgbake install` again: it makes what is missing",
        )


def installed_findings(app: App) -> list[tuple[str, str]]:
    """Return what of the machine that is installed from this store is not as it was made."""
    if not (app.store_root / "nix/var/pgbake/machine.json").exists():
        return []
    from pgbake.events import silent
    from pgbake.install.installation import Installation

    return Installation(app.store, silent).inspect()


def chosen_paths(app: App, names: Iterable[str]) -> list[StorePath] | None:
    """Return the store paths that a user names: as such, by their base name, or by links; None for none.

    :raises ManifestError: one is no store path.
    """
    return [_chosen(app, name) for name in names] or None


def _chosen(app: App, name: str) -> StorePath:
    from pathlib import Path

    from pgbake.formats.storepath import STORE_DIR
    from pgbake.store.findroots import store_path_of

    # Relative to where the user is; with -C, to there as well.
    place = str(Path(name).absolute() if os.path.lexists(name) else app.directory.absolute() / name)
    try:
        for _ in range(40):  # as many links as the kernel follows
            if path := store_path_of(app.store, place) or store_path_of(app.store, f"{STORE_DIR}/{name}"):
                return path
            place = str(Path(place).parent / Path(place).readlink())
    except OSError:
        pass
    raise ManifestError(
        f"{name} is no store path, nor a link to one", hint="name it as in /nix/store/HASH-NAME, or ./result"
    )


def as_json_value(done: Verification) -> dict[str, Any]:
    """Return what a program is told of a verification."""
    return {
        "paths": done.paths,
        "nar-bytes": done.nar_bytes,
        "links": done.links,
        "findings": [
            {
                "kind": finding.kind,
                "subject": finding.subject,
                "what": finding.what,
                "files": list(finding.files),
                "referrers": [str(path) for path in finding.referrers],
            }
            for finding in done.findings
        ],
    }


def show_findings(app: App, findings: Iterable[Finding]) -> None:
    """Print what is wrong, and for whom."""
    for finding in findings:
        app.say(f"{finding.kind:10} {finding.subject}")
        app.say(f"{'':10}   {finding.what}")
        if finding.files:
            app.say(f"{'':10}   changed, it seems: {', '.join(finding.files)}")
        if finding.referrers:
            names = [path.name for path in finding.referrers]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            app.say(f"{'':10}   needed by {', '.join(names[:_SHOWN])}{more}")
