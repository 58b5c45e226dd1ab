"""Making the lock, as `lock`, `add` and `remove` do it alike."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgbake.cli.app import App

if TYPE_CHECKING:
    from pgbake.lock import Lock
    from pgbake.project import Project
    from pgbake.resolve import Move


@dataclass(frozen=True, slots=True)
class Locked:
    """What making a lock came to."""

    previous: Lock | None
    lock: Lock
    moved: list[Move]
    written: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as it is answered to programs."""
        return {"moved": self.moved, "written": self.written}


def make_lock(app: App, project: Project, update: frozenset[str] | None = None, *, dry_run: bool = False) -> Locked:
    """Pin what a project's manifest asks for, and write the lock where it changed.

    :param update: names of what is to move; empty moves everything, None nothing that is pinned.
    """
    from pgbake.errors import LockError
    from pgbake.events import Notice
    from pgbake.lock import load_lock, save_lock
    from pgbake.places import cache_dir
    from pgbake.prune import drop_pins
    from pgbake.requirements import requirements
    from pgbake.resolve import Resolver, moves
    from pgbake.store.locks import directory_lock

    required = requirements(project.manifest, project.catalogue, project.directory)
    with ExitStack() as stack:
        report = stack.enter_context(app.reporting())
        stack.enter_context(
            directory_lock(
                project.directory,
                lambda holder: report(
                    Notice("info", f"{project.lock_file.name} is being made by {holder}; waiting for it")
                ),
            )
        )
        # What the other has pinned meanwhile is kept like any pin.
        previous = load_lock(project.lock_file) if project.lock_file.exists() else None
        suite = project.manifest.platform.suite
        if previous and previous.platform.suite != suite and update != frozenset() and not dry_run:
            raise LockError(
                f"the lock is of {previous.platform.suite}, the manifest's platform is {suite}: every pin moves",
                hint="`pgbake plan` lists what that touches; take the step with `pgbake lock --update`",
            )
        resolver = Resolver(
            project.manifest,
            project.directory,
            project.catalogue,
            lambda: project.mirrors,
            app.store,
            cache_dir(),
            report,
            previous=drop_pins(previous, required) if previous else None,
            update=update,
        )
        lock = resolver.resolve()
        written = lock != previous and not dry_run
        if written:
            save_lock(lock, project.lock_file)
    return Locked(previous, lock, moves(previous, lock), written)


def tell_lock(app: App, project: Project, locked: Locked) -> None:
    """Print what making a lock came to."""
    for move in locked.moved if locked.previous else ():
        app.say(f"{move.where}: {move.name} {move.before or '(new)'} -> {move.after or '(gone)'}")
    if locked.lock == locked.previous:
        app.say(f"{project.lock_file.name} is up to date; nothing moved")
        return
    systems = locked.lock.systems
    files = sum(len(part.build) + len(part.runtime) + len(part.debs) for part in systems.values())
    files += len(locked.lock.sources)
    pins = "pins" if locked.written else "would pin"
    app.say(f"{project.lock_file.name} {pins} {files} files for {', '.join(systems)}; {len(locked.moved)} moved")
