"""Entering what a failed build has left: its directory, in its sandbox, with its environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from pgbake.build.engine import Find, visible_paths
from pgbake.build.sandbox import require_sandbox
from pgbake.build.wrapper import USUAL, unwrap
from pgbake.errors import BuildError
from pgbake.formats.derivation import Derivation
from pgbake.store.local import LocalStore
from pgbake.users import become


def enter(store: LocalStore, derivation: Derivation, program: Sequence[str], find: Find) -> NoReturn:
    """Become a program in the kept directory of a failed build of a derivation.

    :param find: gives the derivations that it names as inputs.
    :raises BuildError: nothing of it is kept.
    :raises HostError: this machine lets no sandbox be made.
    """
    kept = store.failed_build(derivation.path)
    wrapped = unwrap(derivation)
    if wrapped is None or not kept.is_dir():
        name = derivation.env.get("pname", derivation.name)
        raise BuildError(
            f"nothing is kept of a failed build of {derivation.name}",
            hint=f"`pgbake build --keep-failed {name}` keeps what a failing build leaves",
        )
    owner = (kept / "build").stat().st_uid
    sandbox = require_sandbox(owner if owner != os.geteuid() else None)
    command = sandbox.command(
        store, wrapped.build_root, visible_paths(store, derivation, find),
        kept / "store", kept / "build", USUAL, program,
    )  # fmt: skip
    environment = {**derivation.env, **USUAL.environment, "NIX_BUILD_CORES": str(len(os.sched_getaffinity(0)))}
    environment |= {name: os.environ[name] for name in ("TERM",) if name in os.environ}
    become(sandbox.identity)
    os.execvpe(command[0], command, environment)
