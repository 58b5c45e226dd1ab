"""The lock's text, and what a manifest requires of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pgbake.errors import LockError
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock, load_lock, render_lock, save_lock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue
from pgbake.requirements import requirements
from pgbake.resolve import Move, moves
from tests.projects import EXAMPLE
from tests.synthetic import digest


def test_it_survives_being_written_and_read(lock: Lock, tmp_path: Path) -> None:
    save_lock(lock, tmp_path / "pgbake.lock")
    assert load_lock(tmp_path / "pgbake.lock") == lock
    assert [file.name for file in tmp_path.iterdir()] == ["pgbake.lock"]


def test_a_pin_is_one_line_and_the_order_is_stable(lock: Lock) -> None:
    text = render_lock(lock)
    turned = msgspec.structs.replace(
        lock,
        sources=dict(reversed(lock.sources.items())),
        systems={
            name: msgspec.structs.replace(
                part,
                build=dict(reversed(part.build.items())),
                runtime=dict(reversed(part.runtime.items())),
                roots=dict(reversed(part.roots.items())),
            )
            for name, part in reversed(lock.systems.items())
        },
    )
    assert render_lock(turned) == text
    for name, pin in lock.systems["x86_64-linux"].runtime.items():
        assert sum(f'"{name}": {{' in line and pin.sha256 in line for line in text.splitlines()) == 1
    assert text.startswith('{\n  "version": 2,\n  "platform": {"suite": "bookworm"')


def test_the_examples_lock_is_as_it_would_be_written() -> None:
    file = EXAMPLE / "pgbake.lock"
    assert render_lock(load_lock(file)) == file.read_text()


def test_the_examples_lock_fits_its_manifest(manifest: Manifest, catalogue: Catalogue) -> None:
    lock = load_lock(EXAMPLE / "pgbake.lock")
    for system in manifest.platform.systems:
        requirements(manifest, catalogue).check(lock, SYSTEMS[system])
    assert {"x86_64-linux", "aarch64-linux"} == set(lock.systems)


def test_every_difference_is_named(lock: Lock, manifest: Manifest, catalogue: Catalogue) -> None:
    system = SYSTEMS["x86_64-linux"]
    required = requirements(manifest, catalogue)
    required.check(lock, system)
    part = lock.systems[system.name]
    replace = msgspec.structs.replace
    root = replace(part.roots["core"], wants=part.roots["core"].wants[1:])
    source = replace(lock.sources["plsh"], wanted="debian postgresql-plsh sid")

    def other(**changes: object) -> Lock:
        return replace(lock, systems={system.name: replace(part, **changes)})

    for wrong, why in (
        (replace(lock, platform=replace(lock.platform, security=True)), "another suite, or other pockets"),
        (replace(lock, systems={}), "no pins for x86_64-linux"),
        (replace(lock, sources={k: v for k, v in lock.sources.items() if k != "plsh"}), "does not pin plsh"),
        (replace(lock, sources={**lock.sources, "plsh": source}), "sid, not debian postgresql-plsh bookworm"),
        (replace(lock, unpacking="0" * 16), "other rules for runtime packages"),
        (other(roots={**part.roots, "core": root}), "the build root core asks for other packages"),
        (other(runtime_wants=part.runtime_wants[1:]), part.runtime_wants[0]),
    ):
        with pytest.raises(LockError, match="out of date") as caught:
            required.check(wrong, system)
        assert why in caught.value.message


def test_moves_are_what_differs(lock: Lock) -> None:
    part = lock.systems["x86_64-linux"]
    pin = msgspec.structs.replace(part.runtime["libssl3"], version="1.0-2", sha256=digest("new"))
    runtime = {name: p for name, p in part.runtime.items() if name != "tzdata"} | {"libssl3": pin}
    part = msgspec.structs.replace(part, runtime=runtime)
    after = msgspec.structs.replace(lock, systems={**lock.systems, "x86_64-linux": part})
    assert moves(lock, lock) == []
    assert moves(lock, after) == [
        Move("x86_64-linux runtime", "libssl3", "1.0-1", "1.0-2"),
        Move("x86_64-linux runtime", "tzdata", "1.0-1", None),
    ]
    assert len(moves(None, lock)) == len(moves(lock, lock)) + len(lock.sources) + sum(
        len(part.build) + len(part.runtime) for part in lock.systems.values()
    )
