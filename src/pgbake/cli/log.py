"""``pgbake log``: the build log of a package."""

from __future__ import annotations

import click

from pgbake.cli.app import App, pass_app, system_option


@click.command(
    "log",
    short_help="Show the log of a package's build, or of a check.",
    epilog="""\b
Examples:
  pgbake log pgvector
  pgbake log smoke/pgvector        the check of that name
  pgbake log                       the merge's own""",
)
@click.argument("name", default="bundle")
@system_option
@pass_app
def command(app: App, name: str, system: str | None) -> None:
    """Show the log of the last build of a package on this machine, or of the last run of a check, failed or not."""
    from pgbake.build.log import OF_CHECKS, read_log
    from pgbake.cli.goals import choose

    system_ = app.project.system(system)
    bundle = app.project.bundle(system_)
    if "/" in name:
        from pgbake.cli.check import find_check

        check = find_check(app, name)
        file = app.store.log_file(check.derivation.path)
        text = read_log(file, f"`pgbake check --again {check.name}` runs it")
    else:
        text = read_log(app.store.log_file(choose(bundle, [name])[name].path))
    click.echo_via_pager("".join(line for line in text.splitlines(True) if not line.startswith(OF_CHECKS)))
