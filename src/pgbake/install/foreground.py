"""A server in the foreground, for containers: this process becomes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from pgbake.errors import HostError, ManifestError, host_error
from pgbake.install import service
from pgbake.install.installation import Installation
from pgbake.machine.definition import Cluster
from pgbake.users import become, identity


def become_server(what: Installation, name: str | None, options: Sequence[str]) -> NoReturn:
    """Make what a boot would make, and the data directory at the first start; then become the server.

    :param name: the cluster's, as in ``15/main``; None: the only one, or ``main`` of the default version.
    :param options: the server's own.
    :raises PgbakeError: there is no such cluster, it runs already, or it cannot be made.
    """
    cluster = _choose(what, name)
    if (pid := service.running(what.root, cluster)) is not None:
        raise HostError(f"the server of {cluster.label} runs already, as pid {pid}", hint="stop it first")
    wanted, _, _ = what.wanted()
    boot = {part.path: part for part in wanted.parts if part.runtime and part.kind == "directory"}
    try:
        for part in boot.values():
            what.machine.make(part)
        service.initialise(cluster)
        service.prepare_start(cluster)
        command = [*service.server_command(cluster), *options]
        os.chdir("/")
        become(identity(service.server_uid()))
        environment = {**os.environ, "HOME": "/var/lib/postgresql"}
        os.execve(command[0], command, environment)
    except OSError as error:
        raise host_error(error, f"cannot run the server of {cluster.label}") from error


def _choose(what: Installation, name: str | None) -> Cluster:
    clusters = what.clusters()
    known = ", ".join(cluster.label for cluster in clusters) or "none"
    if name is not None:
        wanted = [cluster for cluster in clusters if cluster.label == name or cluster.name == name]
    elif len(clusters) == 1:
        wanted = list(clusters)
    else:
        wanted = [cluster for cluster in clusters if (cluster.major, cluster.name) == (what.default, "main")]
    if len(wanted) != 1:
        raise ManifestError(
            f"there is no cluster {name}" if name else "it is not said which cluster is meant",
            hint=f"clusters here: {known}",
        )
    return wanted[0]
