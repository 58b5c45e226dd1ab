"""``pgbake cluster``: several servers of one major version."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.installing import adopt_option, divert_option, major_option, root_option, timeout_option


@click.group(
    "cluster",
    short_help="Several servers side by side: list, create, drop.",
    epilog="""\b
Examples:
  pgbake cluster list
  pgbake cluster create reports --port 5433
  pgbake cluster drop reports --purge""",
)
def command() -> None:
    """Care for the clusters of an installed machine: data directories, each with a server, a port and a unit."""


@command.command("list", epilog="Example: pgbake cluster list --json")
@root_option
@json_option
@pass_app
def list_clusters(app: App, root: Path | None, as_json: bool) -> None:
    """List the clusters, and whether their servers run."""
    from pgbake.cli.installing import installation, on_machine
    from pgbake.events import silent
    from pgbake.install import service

    what = installation(on_machine(app, root), silent)
    rows = [
        {
            "cluster": cluster.label,
            "port": cluster.port,
            "pid": service.running(what.root, cluster),
            "data": cluster.data,
            "configuration": cluster.conf,
            "log": cluster.log,
            "unit": cluster.unit,
        }
        for cluster in what.clusters()
    ]
    if as_json:
        app.say_json(rows)
        return
    for row in rows:
        app.say(f"{row['cluster']:12} {row['port']:>5}  {'running' if row['pid'] else 'down':8} {row['data']}")


@command.command("create", epilog="Example: pgbake cluster create reports --port 5433")
@click.argument("name")
@major_option
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on [default: the first free from 5432].")
@root_option
@click.option("--no-start", is_flag=True, help="Do not start its server.")
@timeout_option
@adopt_option
@divert_option
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@json_option
@pass_app
def create(
    app: App,
    name: str,
    major: int | None,
    port: int | None,
    root: Path | None,
    no_start: bool,
    timeout: int,
    adopt: bool,
    divert: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a further cluster of a version that is installed, and start its server."""
    from pgbake.cli.install import check_cluster_name
    from pgbake.cli.installing import describe_plan, installation, on_machine, show_plan, way_of
    from pgbake.install.installation import installed_major

    check_cluster_name(name)
    with app.reporting() as report:
        what = installation(on_machine(app, root), report)
        chosen = installed_major(what.profiles, major)
        cluster, plan = what.add_cluster(
            chosen, name, port, way_of(adopt, divert), start=not no_start, limit=timeout, dry_run=dry_run
        )
    if as_json:
        app.say_json({"cluster": cluster.label, "port": cluster.port, "changes": describe_plan(plan)})
    elif dry_run:
        show_plan(app, plan)
    else:
        app.say(f"{cluster.label} on port {cluster.port}: {cluster.data}")


@command.command("drop", epilog="Example: pgbake cluster drop reports --purge")
@click.argument("name")
@major_option
@root_option
@click.option("--purge", is_flag=True, help="Remove its data and configuration, too.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@json_option
@pass_app
def drop(app: App, name: str, major: int | None, root: Path | None, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Stop a cluster's server and remove its unit. Data and changed configuration stay unless --purge is given."""
    from pgbake.cli.installing import describe_plan, installation, on_machine, show_plan
    from pgbake.install.installation import installed_major

    with app.reporting() as report:
        what = installation(on_machine(app, root), report)
        chosen = installed_major(what.profiles, major)
        cluster, plan = what.remove_cluster(chosen, name, purge=purge, dry_run=dry_run)
    if as_json:
        app.say_json({"cluster": cluster.label, "changes": describe_plan(plan)})
    elif dry_run:
        show_plan(app, plan)
    else:
        app.say(f"{cluster.label} is gone" + ("" if purge else f"; its data stays: {cluster.data}"))
