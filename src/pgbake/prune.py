"""Dropping pins that nothing asks for any more, without asking anybody."""

from __future__ import annotations

import msgspec

from pgbake.lock import Lock, SystemLock
from pgbake.requirements import Requirements, chosen_debs, tool_key


def drop_pins(lock: Lock, required: Requirements) -> Lock:
    """Return a lock without the pins that a manifest does not require; what it requires beyond the lock is not there.

    Runtime packages stay: which of them nothing needs any more, only a resolver tells; a bundle takes in none
    that nothing needs.
    """
    if lock.platform != required.platform or lock.unpacking != required.unpacking:
        return lock
    kept = {name for name in lock.sources if name in required.sources}
    # What builds an extension is named by the extension's crates, not by the manifest.
    tools = {tool_key(lock.sources[name]) for name in kept if required.sources[name].builds_by_pgrx}
    return msgspec.structs.replace(
        lock,
        sources={name: pin for name, pin in lock.sources.items() if name in kept | tools},
        systems={
            name: _drop(part, required) for name, part in lock.systems.items() if name in required.systems
        },
    )  # fmt: skip


def _drop(part: SystemLock, required: Requirements) -> SystemLock:
    if all(name in part.roots and part.roots[name].wants == wants for name, wants in required.roots.items()):
        roots = {name: root for name, root in part.roots.items() if name in required.roots}
        members = {package for root in roots.values() for package in root.packages}
        part = msgspec.structs.replace(
            part, roots=roots, build={name: pin for name, pin in part.build.items() if name in members}
        )
    if required.debs.keys() <= set(part.deb_wants):
        part = msgspec.structs.replace(
            part, debs=chosen_debs(part, required.debs), deb_wants=tuple(sorted(required.debs))
        )
    if set(required.runtime) <= set(part.runtime_wants):
        part = msgspec.structs.replace(part, runtime_wants=required.runtime)
    return part
