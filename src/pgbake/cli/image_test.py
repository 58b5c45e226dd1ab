"""``pgbake image test``: boot an image in a throwaway copy, and try what it must do."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, port_option, unchecked_option
from pgbake.cli.installing import from_option


@click.command(
    "test",
    short_help="Boot stage 2 in a throwaway copy, and try what it must do.",
    epilog="""\b
Examples:
  pgbake image test
  pgbake image test shop --from https://cache.example.org --timeout 120""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@cluster_option
@port_option
@unchecked_option
@click.option(
    "--timeout", type=click.IntRange(1), default=60, show_default=True, metavar="SECONDS",
    help="How long the machine may take to come up.",
)  # fmt: skip
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
    cluster: str,
    port: int,
    unchecked: bool,
    timeout: int,
    as_json: bool,
) -> int:
    """Boot a throwaway overlay of stage 2 in systemd-nspawn, without network, and hold the machine against its
    contract: files, accounts, units, ports, and what its server answers, each extension created once. The image itself
    stays as it is, never booted.

    The exit status is 1 where anything is wrong.
    """  # fmt: skip
    from pgbake.cli.imaging import made_stage2
    from pgbake.cli.installing import meant_bundle
    from pgbake.events import task
    from pgbake.image.boot import booted
    from pgbake.image.verify import check_machine, wanted_of

    path = meant_bundle(app, app, bundle, urls, only_cached=True, dry_run=False)
    stage, tools = made_stage2(app, path, urls, cluster, port, unchecked=unchecked)
    wanted, clusters = wanted_of(stage.root)
    with (
        app.reporting() as report,
        task(report, "boot", "check", f"boot of {path.name}"),
        booted(tools, stage.root, timeout) as machine,
    ):
        proofs = list(check_machine(machine, stage.stage1, wanted, clusters, stage.migrations))
        seconds = machine.seconds
    wrong = [proof for proof in proofs if proof.found]
    if as_json:
        told = [{"name": proof.name, "passed": not proof.found, "found": list(proof.found)} for proof in proofs]
        app.say_json({"bundle": str(path), "tree": str(stage.root), "boot-seconds": round(seconds, 1), "proofs": told})
        return 1 if wrong else 0
    app.say(f"booted in {seconds:.1f} s")
    for proof in proofs:
        app.say(f"{'failed' if proof.found else 'passed'}  {proof.name}")
        for line in proof.found:
            app.say(f"        {line}")
    return 1 if wrong else 0
