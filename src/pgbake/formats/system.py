"""Systems: what Nix, Debian, GNU and the ELF loader call one and the same kind of machine."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from pgbake.errors import HostError


@dataclass(frozen=True, slots=True)
class System:
    """One kind of machine.

    :param name: Nix's name, as it stands in a derivation (``x86_64-linux``).
    :param debian: Debian's architecture (``amd64``).
    :param triplet: Debian's multiarch directory name (``x86_64-linux-gnu``).
    :param loader: file name of glibc's dynamic loader in the multiarch directory.
    """

    name: str
    debian: str
    triplet: str
    loader: str

    def __str__(self) -> str:
        return self.name


SYSTEMS = {
    system.name: system
    for system in (
        System("x86_64-linux", "amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
        System("aarch64-linux", "arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
    )
}


def host_system() -> System:
    """Return the system of this machine.

    :raises HostError: pgbake knows no such system.
    """
    name = f"{platform.machine()}-linux"
    try:
        return SYSTEMS[name]
    except KeyError:
        raise HostError(
            f"this machine is a {name}, which pgbake does not know",
            hint=f"known systems: {', '.join(SYSTEMS)}",
        ) from None
