"""A damaged database is made anew: nothing that was proven is lost, and nothing wrong is registered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbake.errors import StoreError
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.formats.storepath import StorePath
from pgbake.store.database import DamagedDatabase, PathInfo
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.salvage import salvage
from pgbake.store.verify import verify
from tests.unit.store.texts import damage, text, tree


def build(store: LocalStore, name: str, *needs: StorePath) -> PathInfo:
    """Register what a build would: its derivation, and an output that mentions itself and what it needs."""
    source = tree(store, f"{name}-source", {"data": name.encode()})
    bare = Derivation(name, {"out": Output("")}, {}, frozenset([source]), "x86_64-linux", str(source), (), {"out": ""})
    derivation = with_outputs(bare, lambda _: b"")
    store.add_derivation(derivation)
    (path,) = derivation.output_paths.values()
    with store.lock(path):
        made = store.staging(path) / "made"
        made.write_text("\n".join(map(str, (path, *needs))))
        info = store.place(path, made, candidates=needs, deriver=derivation.path)
        store.register([info])
        remove_tree(store.staging(path))
    return info


def fill(root: Path) -> dict[StorePath, PathInfo]:
    with LocalStore(root) as store:
        library = build(store, "library")
        program = build(store, "program", library.path)
        store.database.add_signatures({program.path: ["test-1:AAAA"]})
        text(store, "note", program.path)
        for number in range(40):
            tree(store, f"tree-{number}", {"file": bytes([number])})
        return store.database.registered()


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[tuple[Path, dict[StorePath, PathInfo]]]:
    yield tmp_path, fill(tmp_path)


def same(found: PathInfo, before: PathInfo) -> bool:
    """Whether all is as it was that the contents tell."""
    return (found.nar_sha256, found.nar_size, found.references, found.ca) == (
        before.nar_sha256, before.nar_size, before.references, before.ca,
    )  # fmt: skip


def database_of(root: Path) -> Path:
    return root / "nix/var/nix/db/db.sqlite"


def test_a_sound_database_comes_out_the_same(filled: tuple[Path, dict[StorePath, PathInfo]]) -> None:
    root, before = filled
    done = salvage(root)
    assert set(done.kept) == before.keys() and done.lost == ()
    with LocalStore(root) as store:
        after = store.database.registered()
        for path, info in before.items():  # when they were registered is the only thing that is not carried over
            assert after[path] == dataclasses.replace(info, registered=after[path].registered)
        drv = next(path for path in before if path.name == "program.drv")
        assert store.database.outputs()[drv] == set(store.derivation(drv).output_paths.values())


def test_a_file_that_is_no_database_any_more(filled: tuple[Path, dict[StorePath, PathInfo]]) -> None:
    root, before = filled
    file = database_of(root)
    file.write_bytes(b"\0" * 200 + file.read_bytes()[200:])
    with pytest.raises(DamagedDatabase) as caught:
        LocalStore(root)
    assert caught.value.hint is not None and "pgbake repair" in caught.value.hint
    done = salvage(root)
    assert set(done.kept) == before.keys(), "the hashes stand in its bytes"
    with LocalStore(root) as store:
        assert all(same(info, before[path]) for path, info in store.database.registered().items())
        assert verify(store, references=True).findings == ()
    assert (done.aside / "db.sqlite").exists()


def test_contents_that_nothing_proves_are_not_registered(filled: tuple[Path, dict[StorePath, PathInfo]]) -> None:
    root, before = filled
    library = next(path for path in before if path.name == "library")
    program = next(path for path in before if path.name == "program")
    note = next(path for path in before if path.name == "note")
    damage(root / "nix/store" / library.basename)
    file = database_of(root)
    file.write_bytes(b"\0" * 200 + file.read_bytes()[200:])
    done = salvage(root)
    assert set(done.lost) == {library.basename, program.basename, note.basename}, "with all that refers to it"
    with LocalStore(root) as store:
        assert store.database.registered().keys() == before.keys() - {library, program, note}
        assert verify(store, references=True).findings == ()


def test_what_is_open_elsewhere_is_left_alone(filled: tuple[Path, dict[StorePath, PathInfo]]) -> None:
    root, _ = filled
    before = database_of(root).read_bytes()
    with LocalStore(root), pytest.raises(StoreError, match="has it open"):
        salvage(root)
    assert database_of(root).read_bytes() == before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_damaged_nothing_wrong_is_registered(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    with LocalStore(root) as store:
        library = build(store, "library")
        build(store, "program", library.path)
        before = store.database.registered()
    file = database_of(root)
    contents = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(contents) - 1))
        size = data.draw(st.integers(1, 5000))
        contents[start : start + size] = data.draw(st.sampled_from([b"\0", b"\xff", b"A"])) * size
    file.write_bytes(contents)
    salvage(root)
    with LocalStore(root) as store:
        after = store.database.registered()
        assert all(path in before and same(info, before[path]) for path, info in after.items())
        certified = {path for path, info in before.items() if info.ca}
        assert certified <= after.keys(), "what certifies itself needs no database"
        assert verify(store, references=True).findings == ()
