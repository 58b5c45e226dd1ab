"""What the commands for local servers do alike: which server is meant, and running programs of its bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pgbake.cli.app import App

if TYPE_CHECKING:
    from pgbake.bundle.server import Servers, Status
    from pgbake.formats.storepath import StorePath

data_option = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="PostgreSQL's data directory [default: one of the manifest's own].",
)  # fmt: skip


def servers(app: App) -> Servers:
    """Return this user's servers."""
    from pgbake.bundle.server import Servers
    from pgbake.places import data_dir

    return Servers(app.store, data_dir() / "servers")


def data_directory(app: App, data: Path | None) -> Path:
    """Return the data directory that a command means: as named, else the project's own."""
    from pgbake.places import data_dir

    if data is not None:
        return data.absolute()
    project = app.project
    digest = hashlib.sha256(os.fsencode(project.directory)).hexdigest()[:8]
    return data_dir() / "servers" / f"{project.manifest.name}-{project.manifest.postgresql}-{digest}"


def describe(status: Status) -> dict[str, Any]:
    """Return a server as it is answered to programs."""
    return {
        "data": str(status.data),
        "running": status.pid is not None,
        "pid": status.pid,
        "port": status.port,
        "bundle": str(status.bundle),
        "uri": status.uri,
        "tcp-uri": status.tcp_uri,
        "pgpass": str(status.pgpass),
    }


def execute(app: App, bundle: StorePath, command: Sequence[str], extra: Mapping[str, str] | None = None) -> NoReturn:
    """Become a program, with the bundle's programs first in PATH, where the store is in view.

    :raises HostError: the kernel is too old for the bundle, the program is not there, or the namespace cannot be made.
    """
    from pgbake.build.sandbox import namespace_command, require_namespace
    from pgbake.bundle.kernel import require_kernel
    from pgbake.bundle.receipt import read_receipt
    from pgbake.run import missing_program

    require_kernel(read_receipt(app.store.physical(bundle)))
    require_namespace(app.store)  # bubblewrap, once it has taken our place, has no hint to give
    environment = {**os.environ, **(extra or {})}
    environment["PATH"] = f"{bundle}/bin:{environment.get('PATH', '/usr/bin:/bin')}"
    argv = namespace_command(app.store, list(command))
    try:
        os.execvpe(argv[0], argv, environment)
    except FileNotFoundError:
        raise missing_program(argv[0]) from None
