"""``pgbake config check``: each file is looked at by the program that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import cluster_option, port_option, profile_option

if TYPE_CHECKING:
    from pgbake.cli.imaging import Making
    from pgbake.image.configuration import Finding
    from pgbake.machine.definition import Part
    from pgbake.machine.image import MachineImage


@click.command(
    "check",
    short_help="Let each program look at the files that it reads.",
    epilog="""\b
Examples:
  pgbake config check                 all that the manifest's image has
  pgbake config check --profile aws""",
)
@profile_option
@cluster_option
@port_option
@json_option
@pass_app
def command(app: App, profile: str | None, cluster: str, port: int, as_json: bool) -> int:
    """Give every rendered file to the program that will read it: a throwaway PostgreSQL, pgbouncer, nft, sshd,
    systemd-analyze, nginx and so on, each as the image has it, in a sandbox without network. A setting that nothing
    reads and an include that is not there are failures, too. All failures are told at once.

    The programs are those of a stage 1 with the same packages, which is made where none is kept; PostgreSQL's is the
    manifest's bundle. Files that no program checks are named. The exit status is 1 where anything is wrong.
    """
    from pgbake.cli.imaging import Making
    from pgbake.image.workshop import require_root

    require_root()
    findings, left = _findings(app, Making(app, None, (), cluster, port, profile=profile))
    wrong = [finding for finding in findings if finding.said]
    if as_json:
        app.say_json(
            {
                "checks": [
                    {"name": each.check, "files": each.files, "passed": not each.said, "said": each.said}
                    for each in findings
                ],
                "unchecked": left,
            }
        )
        return 1 if wrong else 0
    for each in findings:
        count = f"{len(each.files)} file{'' if len(each.files) == 1 else 's'}"
        app.say(f"{'failed' if each.said else 'passed'}  {each.check}: {count}")
        for line in each.said:
            app.say(f"        {line}")
    app.note(f"no program checks {len(left)} files: {', '.join(left)}" if left else "every file was checked")
    return 1 if wrong else 0


def _findings(app: App, making: Making) -> tuple[list[Finding], list[str]]:
    """Return what the checks say, and the files that no program checks."""
    from pgbake.cli.imaging import images_dir, workshop
    from pgbake.events import task
    from pgbake.image.configuration import check_files, check_server, has_programs, open_programs, trial, unread

    image = making.image
    installed = _installed(app, image)
    stage = making.stage1
    tools = workshop(app, making.lock)
    if not has_programs(images_dir(), stage):
        making.make_stage1()
    with app.reporting() as report:
        programs = open_programs(images_dir(), stage, tools, report)
        with (
            task(report, "config", "check", "configuration"),
            trial(programs, image.machine, installed, images_dir(), app.store.root / "nix/store") as where,
        ):
            findings = [*check_files(where, image.checks), check_server(where, image.cluster)]
            return findings, unread(where, image.checks, image.cluster)


def _installed(app: App, image: MachineImage) -> list[Part]:
    """Return what the files lead to of an installed bundle, which is the manifest's.

    :raises StoreError: it is not in the store.
    """
    from pgbake.bundle.receipt import read_receipt
    from pgbake.errors import StoreError
    from pgbake.formats.system import host_system
    from pgbake.install.profiles import settings_text
    from pgbake.machine.definition import Part

    bundle = app.project.bundle(host_system()).path
    if not app.store.hold([bundle]):
        raise StoreError(
            f"{bundle} is not here, and its server is to look at the configuration",
            hint="run `pgbake build` or `pgbake pull`",
        )
    current = f"/nix/var/pgbake/profiles/{image.cluster.major}/current"
    settings = settings_text(read_receipt(app.store.physical(bundle)))
    return [
        Part("link", f"{current}/server", target=str(bundle)),
        Part("file", f"{current}/settings.conf", 0o644, content=settings.encode()),
    ]
