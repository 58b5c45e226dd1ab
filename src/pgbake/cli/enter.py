"""``pgbake enter``: a shell in what a failed build has left."""

from __future__ import annotations

import click

from pgbake.cli.app import App, pass_app


@click.command(
    "enter",
    short_help="Open a shell in what a failed build has left.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  pgbake build --keep-failed pgvector
  pgbake enter pgvector
  pgbake enter pgvector cat source/config.log
  pgbake enter pgvector bash -euo pipefail -c 'eval "$script"'     the build once more""",
)
@click.argument("name")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@pass_app
def command(app: App, name: str, program: tuple[str, ...]) -> None:
    """Open a shell, or run PROGRAM, in the kept directory of the package NAME, whose last build failed.

    It is the sandbox of the build: its build root at /, its inputs in /nix/store, its variables and its user, and no
    network. /build is the directory that the build has left, and may be changed.
    """
    from pgbake.build.enter import enter
    from pgbake.cli.goals import choose
    from pgbake.errors import BuildError
    from pgbake.formats.system import host_system

    bundle = app.project.bundle(host_system())
    derivation = choose(bundle, [name])[name]
    if app.engine[0] == "nix" and not app.store.failed_build(derivation.path).is_dir():
        raise BuildError(
            f"nothing that can be entered is kept of {derivation.name}: Nix builds it, and keeps what fails by itself",
            hint=f"`pgbake --engine local build --keep-failed {name}`, then `pgbake --engine local enter {name}`",
        )
    if not program:
        app.note(f"the build directory of {derivation.name}; leave with exit. Its script is in $script")
    enter(app.store, derivation, program or ("/usr/bin/bash", "--norc", "-i"), bundle.graph.derivations.__getitem__)
