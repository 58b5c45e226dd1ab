"""``pgbake doctor``: what of this machine stands in the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.doctor.finding import Finding, Report, State
    from pgbake.inputs.mirrors import Mirrors

_MARKS: dict[State, tuple[str, str, str]] = {"ok": ("✓", "ok", "green"), "warning": ("!", "!", "yellow"),
                                             "problem": ("✗", "X", "red")}  # fmt: skip


@click.command(
    "doctor",
    short_help="Say what of this machine stands in the way, and what to type.",
    epilog="""\b
Examples:
  pgbake doctor
  pgbake doctor --offline          ask no mirror
  pgbake doctor --json | jq '.findings[] | select(.state != "ok")'""",
)
@click.option("--offline", is_flag=True, help="Do not ask mirrors whether they answer.")
@json_option
@pass_app
@click.pass_context
def command(ctx: click.Context, app: App, offline: bool, as_json: bool) -> None:
    """Try all that pgbake needs of this machine: programs, build sandbox, store, disks, mirrors; and say
    what stands in the way, and what to type. Nothing is changed.

    The exit status is 0 where pgbake can work, warnings or not, and 1 where it cannot.
    """
    from pgbake.doctor.examination import examine
    from pgbake.places import cache_dir, data_dir

    mirrors, suite = _platform(app)
    report = examine(app.store_root, cache_dir(), data_dir(), mirrors, suite, app.engine, offline)
    show_report(ctx, app, report, as_json, "pgbake can work here", "in pgbake's way")


def show_report(ctx: click.Context, app: App, report: Report, as_json: bool, well: str, ill: str) -> None:
    """Print findings, and end with status 1 where there are problems.

    :param well: the last line where there are none; ``ill``: its end where there are.
    """
    from pgbake.doctor.finding import all_findings

    problems = [finding for finding in all_findings(report) if finding.state == "problem"]
    warnings = [finding for finding in all_findings(report) if finding.state == "warning"]
    if as_json:
        app.say_json(
            {
                "ok": not problems,
                "findings": [
                    {"group": title, "name": f.name, "state": f.state, "found": f.found, "hint": f.hint}
                    for title, findings in report
                    for f in findings
                ],
            }
        )
    else:
        for title, findings in report:
            app.say(click.style(title, bold=True))
            for finding in findings:
                _show(app, finding)
        app.say()
        said = f"; {_count(len(warnings), 'warning')}" if warnings else ""
        if problems:
            app.say(f"{_count(len(problems), 'problem')} {ill}{said}")
        else:
            app.say(f"{well}{said}")
    ctx.exit(1 if problems else 0)


def _platform(app: App) -> tuple[Callable[[], Mirrors], str]:
    """Return how mirrors are found, and the suite: the project's, where there is a readable one."""
    from pgbake.errors import ManifestError
    from pgbake.inputs.mirrors import host_mirrors
    from pgbake.manifest import Platform

    try:
        project = app.project
        return lambda: project.mirrors, project.manifest.platform.suite
    except ManifestError:
        suite = Platform().suite
        return lambda: host_mirrors(suite), suite


def _show(app: App, finding: Finding) -> None:
    fancy, plain, colour = _MARKS[finding.state]
    mark = fancy if (sys.stdout.encoding or "").lower().startswith("utf") else plain
    app.say(f"  {click.style(mark, fg=colour)} {finding.name}: {finding.found}")
    if finding.hint:
        app.say(f"      {click.style(finding.hint, fg='cyan')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
