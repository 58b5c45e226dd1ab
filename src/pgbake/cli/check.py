"""``pgbake check``: test the bundle on live servers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import BuildError, ManifestError

if TYPE_CHECKING:
    from pgbake.checks.check import Check, Checks
    from pgbake.checks.record import Record
    from pgbake.checks.results import Outcome, Test
    from pgbake.errors import PgbakeError
    from pgbake.formats.derivation import Derivation

#: How many lines of a failed test's detail are shown.
_SHOWN = 30
#: And of each server's log, below them.
_SHOWN_OF_LOG = 12


@click.command(
    "check",
    short_help="Test the bundle on live servers.",
    epilog="""\b
Examples:
  pgbake check                       all that has not passed yet
  pgbake check pgvector              all about one extension
  pgbake check smoke/pgvector        one check
  pgbake check 'durability/*'        a kind
  pgbake check --list                which there are, and which have passed
  pgbake check --failed              those that failed last time
  pgbake check --accept regress/own  take what came out as what is expected from now on
  pgbake check --junit results.xml   for continuous integration""",
)
@click.argument("names", nargs=-1, metavar="[NAME | KIND | KIND/NAME]...")
@click.option("--list", "listing", is_flag=True, help="List the checks, and run none.")
@click.option("--changed", is_flag=True, help="Only those that are others than when they were last run.")
@click.option("--failed", is_flag=True, help="Only those that failed when they were last run.")
@click.option("--world", is_flag=True, help="PostgreSQL's own suite as well, from a build of its own: ten minutes.")
@click.option("--accept", is_flag=True, help="Write what the checks NAME come to into the project's tests.")
@click.option("--again", is_flag=True, help="Run what has passed as well.")
@click.option("--cores", type=click.IntRange(1), help="Cores to use together [default: all].")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as JUnit's XML.")
@click.option("--dry-run", is_flag=True, help="Show which would be run, and run none.")
@json_option
@pass_app
def command(
    app: App,
    names: tuple[str, ...],
    listing: bool,
    changed: bool,
    failed: bool,
    world: bool,
    accept: bool,
    again: bool,
    cores: int | None,
    junit: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the checks of the bundle, or only those that are named; build it first where need be.

    A check starts the bundle's own server in a sandbox. What has passed is kept in the store and not run again, until
    the bundle, the check or its files change. The exit status is 1 if a check fails; the others run on all the same.

    Your own tests lie in the directory tests of the project: sql/NAME.sql with expected/NAME.out (pg_regress),
    tap/NAME.sql (pgTAP), isolation/NAME.spec, uses/EXTENSION.sql. The SQL interface that you have reviewed is in
    interface/MAJOR.txt, what is known to fail in known.toml.
    """
    from pgbake.checks.gate import unpassed
    from pgbake.checks.record import Record
    from pgbake.places import data_dir

    checks = app.checks
    record = Record(data_dir() / "checks", app.project.directory)
    chosen = select(checks, names, world)
    if changed:
        chosen = [check for check in chosen if record.changed(check)]
    if failed:
        chosen = [check for check in chosen if record.failed(check)]
    if accept and not names:
        raise ManifestError("--accept needs the names of checks", hint="for example: pgbake check --accept interface")
    if listing or dry_run:
        _list(app, chosen, as_json, waiting=dry_run and not again)
        return
    if accept:
        _forget_unknown(app, record, chosen)
    outcomes = _run(app, checks, chosen, cores, again, record)
    if accept:
        _accept(app, outcomes)
        return
    record.keep_results(app.store, checks)
    if junit is not None:
        from pgbake.checks.results import junit as as_xml

        _write(junit, as_xml(outcomes))
    if as_json:
        app.say_json([_as_json(outcome) for outcome in outcomes])
    else:
        for outcome in sorted(outcomes, key=lambda outcome: outcome.state == "failed"):  # what failed is seen best last
            _show(app, outcome)
    bad = [outcome.check.name for outcome in outcomes if outcome.state == "failed"]
    if bad:
        raise BuildError(
            f"{len(bad)} of {_count(outcomes)} failed: {', '.join(bad[:8])}{', ...' if len(bad) > 8 else ''}",
            hint=f"all that one of them wrote: pgbake log {bad[0]}\n      to run them again: pgbake check --failed",
        )
    if not as_json:
        ran = sum(outcome.state == "passed" for outcome in outcomes)
        app.say(
            f"{_count(outcomes)} passed" + (f", {len(outcomes) - ran} of them before" if ran < len(outcomes) else "")
        )
        if not unpassed(app.store, checks):
            app.note(_next(app))


def _next(app: App) -> str:
    """Say how to go on with a bundle that has passed all."""
    from pgbake.cli.caches import settings
    from pgbake.signing import VARIABLE

    to = "" if any(cache.push for cache in settings(app).caches) else " --to URL"
    key = "" if os.environ.get(VARIABLE) else " --key FILE"
    return f"next: pgbake push{to}{key}"


def _count(outcomes: Sequence[Outcome]) -> str:
    return f"{len(outcomes)} check{'s' if len(outcomes) != 1 else ''}"


def find_check(app: App, name: str) -> Check:
    """Return the one check of a name.

    :raises ManifestError: there is none.
    """
    name = name.removeprefix("check ")

    checks = app.checks
    return checks.by_name().get(name) or select(checks, [name], world=True)[0]


def select(checks: Checks, names: Sequence[str], world: bool) -> list[Check]:
    """Return the checks that names mean: of an extension, of a kind, or one; globs are allowed.

    :raises ManifestError: a name means none.
    """
    if not names:
        return [check for check in checks.checks if not check.optional or world]
    chosen: dict[str, Check] = {}
    for name in names:
        found = [check for check in checks.checks if _means(name, check)]
        if not found:
            known = sorted({word for check in checks.checks for word in (check.kind, check.name, check.about) if word})
            near = difflib.get_close_matches(name, known, 3)
            raise ManifestError(
                f'no check is called "{name}"',
                hint=f"did you mean {' or '.join(near)}?" if near else "`pgbake check --list` lists them",
            )
        chosen |= {check.name: check for check in found}
    return sorted(chosen.values(), key=lambda check: check.name)


def _means(name: str, check: Check) -> bool:
    return any(fnmatchcase(word, name) for word in (check.kind, check.name, check.about) if word)


def _list(app: App, checks: Sequence[Check], as_json: bool, waiting: bool) -> None:
    """List checks; ``waiting``: only those that have not passed."""
    valid = app.store.valid([check.path for check in checks])
    shown = [check for check in checks if not (waiting and check.path in valid)]
    if as_json:
        app.say_json(
            [
                {"name": check.name, "passed": check.path in valid, "optional": check.optional, "path": str(check.path)}
                for check in shown
            ]
        )
        return
    for check in shown:
        app.say(f"{check.name:40} {'passed' if check.path in valid else 'optional' if check.optional else ''}".rstrip())
    if waiting and not shown:
        app.say("all of them have passed")


def _run(
    app: App, checks: Checks, chosen: Sequence[Check], cores: int | None, again: bool, record: Record
) -> list[Outcome]:
    """Run checks, building the bundle first; return what came of each, in their order, and keep it in the record."""
    from pgbake.bundle.check import check_references
    from pgbake.checks.results import failed_outcome, passed_outcome
    from pgbake.cli.goals import realise_goals
    from pgbake.formats.system import host_system

    graph, system = checks.bundle.graph, host_system()
    realise_goals(app, graph, [checks.bundle.derivation.path], system, cores)
    check_references(app.store, checks.bundle)
    if again:
        _forget(app, record, chosen)
    before = app.store.valid([check.path for check in chosen])
    by_path = {check.derivation.path: check for check in chosen}
    errors: dict[str, PgbakeError] = {}

    def takes(derivation: Derivation, error: BuildError) -> bool:
        check = by_path.get(derivation.path)
        if check is not None:
            errors[check.name] = error
        return check is not None

    def come() -> list[Outcome]:
        valid = app.store.valid([check.path for check in chosen])
        return [
            failed_outcome(app.store, check, errors[check.name])
            if check.name in errors
            else passed_outcome(app.store, check, "kept" if check.path in before else "passed")
            for check in chosen
            if check.name in errors or check.path in valid
        ]

    try:
        plan = realise_goals(app, graph, list(by_path), system, cores, takes=takes)
        before |= plan.substitutes.keys()  # they have passed elsewhere
    finally:  # whatever interrupts it, what had come of some is known to --failed and --changed
        outcomes = come()
        record.add(outcomes)
    return outcomes


def _forget(app: App, record: Record, checks: Sequence[Check]) -> None:
    """Let results of checks be as if they had never been."""
    paths = [check.path for check in checks]
    record.release(paths)
    app.store.forget(paths)


def _forget_unknown(app: App, record: Record, checks: Sequence[Check]) -> None:
    """Let checks run again that have passed elsewhere: what they offer stands in their logs, which caches have not."""
    from pgbake.checks.results import read_told

    _forget(app, record, [check for check in checks if read_told(app.store, check) is None])


def _accept(app: App, outcomes: Sequence[Outcome]) -> None:
    from pgbake.checks.results import read_told

    written = 0
    for outcome in outcomes:
        told = read_told(app.store, outcome.check)
        for name, text in told.offers.items() if told else ():
            _write(app.project.directory / "tests" / name, text.encode())
            app.say(f"wrote tests/{name}")
            written += 1
        if outcome.error is not None:
            raise outcome.error
    bad = [outcome.check.name for outcome in outcomes if outcome.state == "failed"]
    if not written and bad:
        raise BuildError(
            f"nothing can be accepted of {', '.join(bad)}: what fails is no difference to what is expected",
            hint=f"`pgbake check {bad[0]}` tells what it is",
        )
    if not written:
        app.say("nothing to accept: what came out is what is expected")


def _write(file: Path, content: bytes) -> None:
    from pgbake.errors import host_error
    from pgbake.files import write_whole

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise host_error(error, f"cannot write {file}") from error


def _show(app: App, outcome: Outcome) -> None:
    seconds = f"{outcome.seconds:6.1f} s" if outcome.seconds is not None else " " * 8
    words = {"passed": "passed", "kept": "passed before", "failed": click.style("FAILED", fg="red", bold=True)}
    app.say(f"{outcome.check.name:40} {seconds}  {words[outcome.state]}")
    for test in outcome.skipped:
        app.say(f"    skipped: {test.test}: {test.reason}")
    for test in outcome.failures:
        _show_failure(app, test)
    if outcome.error is not None:
        app.say(f"    {outcome.error}")
        for line in (outcome.error.detail or "").splitlines()[-_SHOWN:]:
            app.say(f"        {line}")
    for server, text in outcome.logs.items():
        if lines := text.splitlines()[-_SHOWN_OF_LOG:]:
            app.say(f"    the end of the log of the server {server}:")
            for line in lines:
                app.say(f"        {line}")


def _show_failure(app: App, test: Test) -> None:
    app.say(f"    {test.test}: {test.reason}")
    lines = test.detail.splitlines()
    for line in lines[lines[:1] == [test.reason] :][-_SHOWN:]:  # the reason is often the detail's first line
        app.say(f"        {line}")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    import msgspec

    return {
        "name": outcome.check.name,
        "state": outcome.state,
        "seconds": outcome.seconds,
        "path": str(outcome.check.path) if outcome.state != "failed" else None,
        "tests": [msgspec.to_builtins(test) for test in outcome.tests],
        "error": str(outcome.error) if outcome.error else None,
    }
