"""Where tests keep what they need again: downloads, the unpacked Nix, the store with PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path


def test_cache() -> Path:
    """Return ``$PGBAKE_TEST_CACHE``, or a directory of this user's.

    Root's is not below its home, which is closed to the users that builds and servers run as.
    """
    if named := os.environ.get("PGBAKE_TEST_CACHE"):
        return Path(named)
    return Path("/var/cache/pgbake-tests") if os.geteuid() == 0 else Path.home() / ".cache/pgbake-tests"
