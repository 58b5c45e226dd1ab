"""Suites of pg_isolation_regress: an extension's, contrib's, or the user's own."""

from __future__ import annotations

import importlib

from pgbake.checks.harness.server import Session


def check(session: Session) -> None:
    """Run the suite that the specification names: its ``of`` is the module that knows how."""
    importlib.import_module(f"{__package__}.{session.spec['of']}").check(session, isolation=True)
