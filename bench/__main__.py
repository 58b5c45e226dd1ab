"""`make bench`: all measurements, or those whose names are given: `python -m bench tree start`."""

from __future__ import annotations

import importlib
import os
import sys

NAMES = ("start", "size", "tree", "merge", "debs", "verify", "cache", "install", "container", "build")


def main() -> None:
    """Run the benches named on the command line, or all."""
    # An installed pgbake has its bytecode; the first of several runs writes it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in sys.argv[1:] or NAMES:
        importlib.import_module(f"bench.bench_{name}").main()


if __name__ == "__main__":
    main()
