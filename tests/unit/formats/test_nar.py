from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import nar
from pgbake.formats.nar import Directory, End, Event, Regular, Symlink, string


def encode(events: Iterable[Event]) -> bytes:
    return b"".join(nar.encode(events))


def decode(data: bytes) -> list[Event]:
    """Read an archive, joining what one file's contents came in."""
    source = io.BytesIO(data)
    events: list[Event] = []
    for event in nar.decode(source.read):
        if isinstance(event, bytes) and events and isinstance(events[-1], bytes):
            events[-1] += event
        else:
            events.append(event)
    assert source.tell() == len(data), "not the whole of it was read"
    return events


def strings(*parts: bytes) -> bytes:
    return b"".join(map(string, parts))


Tree = bytes | tuple[bool, bytes] | dict[bytes, "Tree"]  # a symlink's target, a file, a directory

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
targets = st.binary(min_size=1, max_size=30).filter(lambda target: b"\0" not in target)
files = st.tuples(st.booleans(), st.binary(max_size=40))
trees: st.SearchStrategy[Tree] = st.recursive(
    targets | files, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12
)


def events_of(tree: Tree, name: bytes = b"") -> Iterator[Event]:
    match tree:
        case bytes():
            yield Symlink(name, tree)
        case dict():
            yield Directory(name)
            for entry in sorted(tree):
                yield from events_of(tree[entry], entry)
            yield End()
        case executable, contents:
            yield Regular(name, executable, len(contents))
            if contents:
                yield contents


@given(trees)
def test_reading_undoes_writing(tree: Tree) -> None:
    events = list(events_of(tree))
    assert decode(encode(events)) == events


damage = st.sampled_from([b"", b"\0", b"\xff" * 8, *map(string, (b"(", b")", b"entry"))]) | st.binary(max_size=8)


@given(trees, st.data())
def test_damaged_archives_are_refused_or_read_exactly(tree: Tree, data: st.DataObject) -> None:
    raw = bytearray(encode(events_of(tree)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        until = data.draw(st.integers(at, min(len(raw), at + 16)))
        raw[at:until] = data.draw(
            st.sampled_from([b"", b"\0", b"\xff" * 8, string(b")"), string(b"("), string(b"entry")])
            | st.binary(max_size=8)
        )
    source = io.BytesIO(raw)
    try:
        events = list(nar.decode(source.read))
    except FormatError:
        return
    assert encode(events) == raw[: source.tell()]


@given(trees, st.integers(1, 9))
def test_a_source_may_give_less_than_it_is_asked_for(tree: Tree, most: int) -> None:
    raw = encode(events_of(tree))
    source = io.BytesIO(raw)
    assert encode(nar.decode(lambda size: source.read(min(size, most)))) == raw


@given(trees)
def test_every_shorter_archive_is_refused(tree: Tree) -> None:
    raw = encode(events_of(tree))
    for size in range(0, len(raw), 8):
        with pytest.raises(FormatError, match="ends too early"):
            decode(raw[:size])


def test_nothing_is_read_beyond_the_end() -> None:
    raw = encode([Directory(b""), Regular(b"a", False, 1), b"x", End()])
    source = io.BytesIO(raw + b"rest")
    list(nar.decode(source.read))
    assert source.read() == b"rest"


OPEN = strings(b"nix-archive-1", b"(", b"type")
FILE = strings(b"(", b"type", b"regular", b"contents", b"", b")")


def directory(*entries: tuple[bytes, bytes]) -> bytes:
    inner = b"".join(strings(b"entry", b"(", b"name", name, b"node") + node + string(b")") for name, node in entries)
    return OPEN + string(b"directory") + inner + string(b")")


HOSTILE = {
    "other magic": (string(b"nix-archive-2"), "the bytes before are not"),
    "empty name": (directory((b"", FILE)), "can not be a name"),
    "dot": (directory((b".", FILE)), "can not be a name"),
    "dot dot": (directory((b"..", FILE)), "can not be a name"),
    "slash": (directory((b"a/b", FILE)), "can not be a name"),
    "absolute": (directory((b"/etc", FILE)), "can not be a name"),
    "NUL in a name": (directory((b"a\0b", FILE)), "can not be a name"),
    "long name": (directory((b"a" * 256, FILE)), "at most 255"),
    "unsorted": (directory((b"b", FILE), (b"a", FILE)), "out of order or doubled"),
    "doubled": (directory((b"a", FILE), (b"a", FILE)), "out of order or doubled"),
    "empty target": (OPEN + strings(b"symlink", b"target", b"", b")"), "target of a symlink"),
    "NUL in a target": (OPEN + strings(b"symlink", b"target", b"a\0", b")"), "target of a symlink"),
    "long target": (OPEN + strings(b"symlink", b"target", b"a" * 4096, b")"), "at most 4095"),
    "a device": (OPEN + strings(b"device", b")"), "no type of file"),
    "padding of a name": (directory((b"a", FILE)).replace(b"a" + bytes(7), b"a" + bytes(6) + b"!"), "padding"),
    "padding of contents": (OPEN + strings(b"regular", b"contents", b"x")[:-1] + b"!", "the bytes before are not"),
    "executable with a value": (OPEN + strings(b"regular", b"executable", b"yes", b"contents"), "the bytes before"),
    "a file without contents": (OPEN + strings(b"regular", b")"), "should"),
    "an entry in a file": (OPEN + strings(b"regular", b"contents", b"", b"entry"), "the bytes before are not"),
    "no entry": (OPEN + strings(b"directory", b"(", b")"), "stands where"),
    "a huge word": (OPEN + (2**63).to_bytes(8, "little"), "at most"),
    "a huge name": (OPEN + strings(b"directory", b"entry", b"(", b"name") + b"\xff" * 8, "at most"),
    "nesting": (OPEN + (strings(b"directory", b"entry", b"(", b"name", b"a", b"node", b"(", b"type")) * 5000, "4096"),
    "nothing": (b"", "ends too early"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=f"malformed at byte [0-9]+: .*{reason}"):
        decode(raw)


@pytest.mark.parametrize("size", [2**20, 2**60, 2**64 - 1])
def test_a_file_that_claims_to_be_huge_costs_nothing(size: int) -> None:
    raw = OPEN + strings(b"regular", b"contents") + size.to_bytes(8, "little") + b"short"
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="ends too early"):
            decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_contents_come_in_chunks() -> None:
    size = 5 * nar.CHUNK_SIZE + 3
    raw = encode([Regular(b"", True, size), bytes(size)])
    chunks = [len(event) for event in nar.decode(io.BytesIO(raw).read) if isinstance(event, bytes)]
    assert sum(chunks) == size
    assert max(chunks) <= nar.CHUNK_SIZE


@pytest.mark.parametrize(
    "events",
    [
        [],
        [End()],
        [b"x"],
        [Directory(b"")],
        [Directory(b""), End(), End()],
        [Directory(b"root"), End()],
        [Symlink(b"", b"a"), Symlink(b"", b"b")],
        [Symlink(b"", b"")],
        [Regular(b"", False, 2)],
        [Regular(b"", False, 2), b"x"],
        [Regular(b"", False, 2), b"xyz"],
        [Regular(b"", False, 0), b""],
        [Directory(b""), Regular(b"a", False, 2), b"x", End()],
        [Directory(b""), Regular(b"b", False, 0), Regular(b"a", False, 0), End()],
        [Directory(b""), Regular(b"", False, 0), End()],
        [Directory(b""), Symlink(b"../a", b"x"), End()],
    ],
)
def test_events_that_are_no_tree_are_refused(events: list[Event]) -> None:
    with pytest.raises(FormatError):
        encode(events)
