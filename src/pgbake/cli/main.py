"""The command ``pgbake``: options that all commands share, and the table of commands.

Each command is a module of this package, imported when it is called: `pgbake --help` stays quick.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgbake import __version__
from pgbake.cli.app import App, builders_option, engine_option
from pgbake.cli.lazy import LazyGroup
from pgbake.errors import CommandError, PgbakeError

if TYPE_CHECKING:
    from pgbake.places import Engine

#: Command -> what it does, in the order and the groups of `pgbake --help`.
COMMANDS = {
    "Manifest and lock": {
        "init": "Write a manifest to start from.",
        "search": "List the extensions that a manifest may name.",
        "info": "Show what is known of an extension.",
        "add": "Add extensions to the manifest, and pin them.",
        "remove": "Remove extensions from the manifest.",
        "lock": "Pin every outside input of the manifest.",
        "outdated": "Show which pins have newer versions.",
    },
    "Packages and the bundle": {
        "plan": "Show what a build would fetch and build, and why.",
        "build": "Build the bundle, or one package of it.",
        "why": "Show why a path is part of the bundle.",
        "size": "Show what the bundle weighs, and who brings it.",
        "log": "Show the log of a package's build, or of a check.",
        "enter": "Open a shell in what a failed build has left.",
    },
    "Checks": {
        "check": "Test the bundle on live servers.",
        "report": "Write a page on the bundle: contents, size, builds, checks, changes.",
    },
    "Packages for Debian": {
        "deb": "Make Debian packages of the bundle and of its extensions.",
    },
    "Images": {
        "image": "Make images of the bundle: machines and containers.",
        "config": "The configuration of machines: show, check, compare.",
    },
    "Binary caches": {
        "push": "Bring the bundle, or any path, into a binary cache.",
        "pull": "Take the bundle, or any path, from binary caches.",
        "export": "Write the bundle, or any path, to one file.",
        "import": "Take what `pgbake export` wrote into the store.",
        "keygen": "Make a key to sign with.",
        "sign": "Sign the bundle, or other paths of the store.",
        "cache": "Care for a binary cache: look, verify, collect, sign, serve.",
    },
    "A local server": {
        "up": "Start a server from the bundle.",
        "down": "Stop a server.",
        "status": "List the servers that were started here.",
        "psql": "Open psql on the server.",
        "run": "Run one program with the bundle's own first in PATH.",
        "shell": "Open a shell with the bundle's programs in PATH.",
    },
    "An installed machine": {
        "install": "Make a bundle the PostgreSQL of this machine.",
        "upgrade": "Install the newest bundle of the name that is installed.",
        "rollback": "Go back to the generation before, or to any other.",
        "generations": "List what is installed, and what was before.",
        "cluster": "Several servers side by side: list, create, drop.",
        "service": "Run an installed server where there is no systemd.",
        "uninstall": "Remove PostgreSQL from this machine; data stays.",
    },
    "The store": {
        "gc": "Delete what nothing needs any more.",
        "roots": "List what keeps paths from being deleted, and who holds it.",
        "verify": "Look for damage in the store.",
        "repair": "Bring damaged paths back.",
        "optimise": "Save space: make equal files hard links of one another.",
    },
    "Other machines": {
        "builders": "Machines that Nix builds on: check them.",
    },
    "Health": {
        "doctor": "Say what of this machine stands in the way, and what to type.",
    },
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    module="pgbake.cli.{}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: pgbake init && pgbake lock && pgbake up && pgbake psql",
)
@click.version_option(__version__, prog_name="pgbake")
@click.option(
    "-C", "--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
    help="Directory of the manifest; it and those above it are searched.",
)  # fmt: skip
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), envvar="PGBAKE_STORE", show_envvar=True,
    help="Root below which the store lies, as DIR/nix/store.",
)  # fmt: skip
@engine_option(envvar="PGBAKE_ENGINE", show_envvar=True)
@builders_option(envvar="PGBAKE_BUILDERS", show_envvar=True)
@click.option(
    "--progress", type=click.Choice(["auto", "plain", "json", "none"]), default="auto",
    help="How work under way is shown on standard error.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show every line that builds print.")
@click.pass_context
def pgbake(
    ctx: click.Context,
    directory: Path,
    store: Path | None,
    engine: Engine | None,
    builders: str | None,
    progress: str,
    verbose: bool,
) -> None:
    """Unmodified PostgreSQL plus extensions as one reproducible bundle, built from source."""
    ctx.obj = App(directory, store, progress, verbose, engine, builders)


def main() -> None:
    """Run the command line; errors become ``error:`` and ``hint:`` lines and an exit status."""
    # Whoever ends pgbake by `kill` leaves as little behind as who types Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Stores are read by the users that builds and servers run as, whatever the caller's umask.
    os.umask(0o022)
    try:
        status = pgbake.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except PgbakeError as error:
        show_error(error)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as in `pgbake search | head`.
        sys.stderr.close()
        sys.exit(141)


def show_error(error: PgbakeError) -> None:
    """Print an error the way every command does."""
    if error.detail:
        for line in error.detail.splitlines():
            click.secho(f"  {line}", err=True, dim=True)
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.message, err=True)
    if error.hint:
        click.secho("hint: ", fg="cyan", nl=False, err=True)
        click.echo(error.hint, err=True)
    if isinstance(error, CommandError) and not error.hint:
        click.secho("hint: ", fg="cyan", nl=False, err=True)
        click.echo("run the command above by itself to see more", err=True)
