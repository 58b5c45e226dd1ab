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


def execute_dev(app: App, command: Sequence[str]) -> NoReturn:
    """Become a program that compiles against the bundle: with its pg_config, headers, and the build root's compiler.

    :raises HostError: the namespace cannot be made, or the program is not there.
    """
    import shutil
    import subprocess

    from pgbake.bundle.devtree import dev_namespace, headers, make_dev_tree
    from pgbake.cli.goals import built_bundle, realise_goals, realise_inputs
    from pgbake.errors import HostError
    from pgbake.formats.system import host_system
    from pgbake.places import data_dir
    from pgbake.recipes.lowering import Lowering
    from pgbake.run import missing_program

    project = app.project
    bundle = built_bundle(app)
    lowering = Lowering(project.catalogue, project.lock, host_system(), project.manifest.postgresql)
    root = lowering.build_root(lowering.server)
    realise_inputs(app, lowering.graph, {root})
    if not app.store.valid([headers(bundle)]):
        realise_goals(app, bundle.graph, [bundle.packages[0].derivation.path], host_system())
    digest = hashlib.sha256(os.fsencode(project.directory)).hexdigest()[:8]
    place = data_dir() / "dev" / f"{project.manifest.name}-{project.manifest.postgresql}-{digest}"
    usr = make_dev_tree(app.store, bundle, root, project.manifest.postgresql, place)
    if shutil.which("bwrap") is None:
        raise missing_program("bwrap")
    programs = f"{usr}/lib/postgresql/{project.manifest.postgresql}/bin"
    environment = {
        **os.environ,
        "PATH": f"{programs}:{bundle.path}/bin:/usr/local/bin:/usr/bin:/bin",
        "PGBAKE_BUNDLE": str(bundle.path),
        "PG_CONFIG": f"{programs}/pg_config",
    }
    # bubblewrap, once it has taken our place, has no hint to give.
    trial = subprocess.run(
        dev_namespace(app.store, root, ["/bin/sh", "-c", 'command -v "$0" || exit 3', command[0]], Path.cwd()),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if trial.returncode == 3:
        raise HostError(
            f"there is no program {command[0]} in the build root or the bundle",
            hint="name one that is there, or one of your own by its path",
        )
    if trial.returncode:
        raise HostError(
            "the build root cannot be entered",
            hint="`pgbake doctor` looks for what forbids it, and says what to type",
            detail=trial.stderr.strip(),
        )
    argv = dev_namespace(app.store, root, command, Path.cwd())
    os.execvpe(argv[0], argv, environment)
