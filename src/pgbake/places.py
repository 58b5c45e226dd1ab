"""Where this user's things lie on this machine: downloads, data, and the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from pgbake.errors import StoreError


def cache_dir() -> Path:
    """Return where this user's downloads and indexes are kept; what lies there can be fetched again."""
    if os.geteuid() == 0 and "XDG_CACHE_HOME" not in os.environ:
        return Path("/var/cache/pgbake")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgbake"


def data_dir() -> Path:
    """Return where this user's data is kept: the clusters of local servers and, but for root, the store."""
    if os.geteuid() == 0 and "XDG_DATA_HOME" not in os.environ:
        return Path("/var/lib/pgbake")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pgbake"


def store_root(option: Path | None) -> Path:
    """Return the root of the store to use: as named, else ``/`` for root and one of their own for others.

    Where a real Nix owns ``/nix``, root has a store of its own as well: nothing of Nix's is written.

    :raises StoreError: the store named is Nix's.
    """
    if option is not None:
        root = option.absolute()
        if nix_owns_the_store() and _is_same(root / "nix", Path("/nix")):
            raise StoreError(
                f"the store at {root / 'nix/store'} belongs to Nix, which is installed on this machine",
                hint="leave --store (and PGBAKE_STORE) away, and pgbake uses a store of its own; "
                "`nix-store --gc`, `--verify` and `--optimise` care for Nix's",
            )
        return root
    if os.geteuid() == 0 and not nix_owns_the_store():
        return Path("/")
    return data_dir() / "store"


Engine = Literal["local", "nix"]


def engine(option: Path | None, choice: Engine | None) -> tuple[Engine, str]:
    """Return which engine builds, and why: ``local``, in a store of pgbake's own, or ``nix``, the Nix of this machine.

    :param option: the root of a store that was named.
    :param choice: the engine that was named.
    :raises StoreError: both were named, and do not go together; or there is no Nix.
    """
    if choice == "nix":
        if option is not None:
            raise StoreError(
                "the engine nix builds in Nix's own store, and another one is named",
                hint="leave --store (and PGBAKE_STORE) away, or --engine nix",
            )
        if not nix_owns_the_store():
            raise StoreError(
                "there is no Nix on this machine: no daemon, and no nix-store in PATH",
                hint="as root: apt-get install nix-bin; or build without it: --engine local",
            )
        return "nix", "it was named"
    if choice == "local":
        return "local", "it was named"
    if option is not None:
        return "local", "a store of its own was named"
    if nix_owns_the_store():
        return "nix", "a real Nix owns /nix"
    return "local", "there is no Nix on this machine"


def nix_has_taken_over() -> bool:
    """Whether root's store has moved away from ``/nix``, since Nix owns it, and something can be taken from there."""
    return os.geteuid() == 0 and nix_owns_the_store() and Path("/nix/var/nix/db/db.sqlite").exists()


def nix_owns_the_store() -> bool:
    """Whether a real Nix is installed on this machine: its daemon listens, or its programs are there."""
    signs = ("/nix/var/nix/daemon-socket/socket", "/nix/var/nix/profiles/default/bin/nix-store")
    return shutil.which("nix-store") is not None or any(os.path.lexists(sign) for sign in signs)


def _is_same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))
