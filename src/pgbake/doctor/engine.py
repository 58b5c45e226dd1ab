"""Who builds: pgbake itself, or the Nix of this machine, and whether that one works for this user."""

from __future__ import annotations

from collections.abc import Iterator

from pgbake.doctor.finding import Finding, ok, problem, warning
from pgbake.errors import HostError
from pgbake.places import Engine


def examine_engine(engine: Engine, why: str, *, builders: bool = False) -> Iterator[Finding]:
    """Say which engine builds and why; of Nix, whether it answers, its version and what this user may.

    :param why: the reason for the choice; see :func:`pgbake.places.engine`.
    :param builders: whether it matters that this user may name builders.
    """
    if engine == "local":
        yield ok("engine", f"local: {why}")
        return
    from pgbake.store.daemon import Connection

    try:
        connection = Connection()
    except HostError as error:
        yield problem("engine", f"nix, since {why}: {error.message}", error.hint)
        return
    connection.close()
    version = f" {connection.nix_version}" if connection.nix_version else ""
    yield ok("engine", f"nix{version}: {why}")
    if connection.trusted is False and builders:
        yield problem(
            "Nix's trust",
            "you are no trusted user, and may not choose the machines that Nix builds on",
            "in nix.conf, let trusted-users name you; or let an administrator name the builders in /etc/nix/machines",
        )
    elif connection.trusted is False:
        yield warning(
            "Nix's trust",
            "you are no trusted user: Nix takes from caches only what keys of its own nix.conf have signed",
            "let trusted-users there name you, or trusted-public-keys the caches' keys",
        )
