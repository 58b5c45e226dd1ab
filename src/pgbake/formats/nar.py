"""NAR: Nix's archive of one file tree, the bytes that store paths are hashed as.

::

    archive   = "nix-archive-1" node
    node      = "(" "type" "regular" ["executable" ""] "contents" CONTENTS ")"
              | "(" "type" "symlink" "target" TARGET ")"
              | "(" "type" "directory" entry* ")"
    entry     = "entry" "(" "name" NAME "node" node ")"

Each string is its length as 64 bits, little-endian, its bytes, and zeros up to a multiple of eight. Entries
are sorted bytewise. Of metadata there is the executable bit, and nothing else.

A tree travels as a flat sequence of :data:`Event`, in the order of the archive: :func:`decode` reads one,
:func:`encode` writes one. Neither holds more than a chunk of a file, nor recurses into directories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pgbake.errors import FormatError

#: Most bytes of a file's contents in one event of :func:`decode`.
CHUNK_SIZE = 1 << 20
#: Most bytes of a name, and of a symlink's target: what Linux allows.
MAX_NAME = 255
MAX_TARGET = 4095
#: Most directories within each other: more than a path on Linux can name.
MAX_DEPTH = 4096


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory begins; its entries follow, up to its :class:`End`. The archive's root is named ``b""``."""

    name: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The innermost open directory is complete."""


@dataclass(frozen=True, slots=True)
class Regular:
    """A file; its contents follow as ``bytes``, ``size`` of them in all."""

    name: bytes
    executable: bool
    size: int


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link. Its target may be anything: it is not followed."""

    name: bytes
    target: bytes


Event = Directory | End | Regular | Symlink | bytes


# --- pieces of the archive, for those who walk a tree in its order themselves ------------------------


_ZEROS = tuple(bytes(count) for count in range(8))


def string(data: bytes) -> bytes:
    """Return ``data`` as a string of the archive."""
    size = len(data)
    return size.to_bytes(8, "little") + data + _ZEROS[-size % 8]


def padding(size: int) -> bytes:
    """Return the zeros that follow a string of ``size`` bytes."""
    return _ZEROS[-size % 8]


MAGIC = string(b"nix-archive-1")
CLOSE = string(b")")
_OPEN = string(b"(") + string(b"type")
_REGULAR = string(b"regular")
_EXECUTABLE = string(b"executable") + string(b"")
_CONTENTS = string(b"contents")
_TARGET = string(b"target")
_ENTRY = string(b"entry")
_NAME = string(b"(") + string(b"name")
_NODE = string(b"node")

DIRECTORY = _OPEN + string(b"directory")
_FILE_HEAD = {False: _OPEN + _REGULAR + _CONTENTS, True: _OPEN + _REGULAR + _EXECUTABLE + _CONTENTS}
_SYMLINK_HEAD = _OPEN + string(b"symlink") + _TARGET
_ENTRY_HEAD = _ENTRY + _NAME


def entry(name: bytes) -> bytes:
    """Return what stands before an entry's node; after the node stands :data:`CLOSE`."""
    return _ENTRY_HEAD + string(name) + _NODE


def regular(executable: bool, size: int) -> bytes:
    """Return what stands before a file's contents; after them stand :func:`padding` and :data:`CLOSE`."""
    return _FILE_HEAD[executable] + size.to_bytes(8, "little")


def symlink(target: bytes) -> bytes:
    """Return a symlink's node up to its :data:`CLOSE`."""
    return _SYMLINK_HEAD + string(target)


# --- writing -----------------------------------------------------------------------------------------


def encode(events: Iterable[Event]) -> Iterator[bytes]:
    """Yield the archive of the tree that ``events`` describe, piece by piece.

    :raises FormatError: the events are no tree: entries out of order, a name that no file can have,
        contents of another size than announced, directories left open, more than one root.
    """
    parents: list[bytes] = []  # of each open directory the name of its last entry
    left = 0  # bytes of the current file that are still to come
    started = False
    size = 0
    for event in events:
        if isinstance(event, bytes):
            left -= len(event)
            if left < 0 or not event:
                raise FormatError("a file's contents are longer than its announced size")
            yield event
            if left == 0:
                yield padding(size) + _leave(parents)
            continue
        if left:
            raise FormatError(f"a file's contents are {left} bytes shorter than its announced size")
        if isinstance(event, End):
            if not parents:
                raise FormatError("a directory ends that was not begun")
            parents.pop()
            yield _leave(parents)
            continue
        if started and not parents:
            raise FormatError("a tree has one root only")
        if not started and event.name:
            raise FormatError("the root of a tree has no name")
        yield _enter(event.name, parents) if parents else MAGIC
        started = True
        match event:
            case Directory():
                parents.append(b"")
                yield DIRECTORY
            case Regular(_, executable, size):
                left = size
                yield regular(executable, size)
                if not size:
                    yield _leave(parents)
            case Symlink(_, target):
                _check_target(target)
                yield symlink(target) + _leave(parents)
    if parents or left or not started:
        raise FormatError("a tree's description ends before the tree does")


def _enter(name: bytes, parents: list[bytes]) -> bytes:
    _check_name(name, parents[-1])
    parents[-1] = name
    return entry(name)


def _leave(parents: list[bytes]) -> bytes:
    return CLOSE + CLOSE if parents else CLOSE


def _check_name(name: bytes, before: bytes) -> None:
    if not name or name in (b".", b"..") or len(name) > MAX_NAME or b"/" in name or b"\0" in name:
        raise FormatError(f"{name[:300]!r} can not be a name in a directory")
    if name <= before:
        raise FormatError(f"the entry {name!r} is out of order or doubled: it comes after {before!r}")


def _check_target(target: bytes) -> None:
    if not target or len(target) > MAX_TARGET or b"\0" in target:
        raise FormatError(f"{target[:300]!r} can not be the target of a symlink")


# --- reading -----------------------------------------------------------------------------------------


def decode(read: Callable[[int], bytes]) -> Iterator[Event]:
    """Yield the tree in an archive, and read not one byte beyond its end.

    Only what Nix writes is accepted, so ``b"".join(encode(decode(read)))`` gives back the same bytes.

    :param read: as a binary file's: returns at most so many bytes, none at the end.
    :raises FormatError: the archive is malformed or incomplete, or names what no file system can hold;
        the message says at which byte. What was yielded before stands.
    """
    source = _Source(read)
    source.expect(MAGIC)
    parents: list[bytes] = []  # of each open directory the name of its last entry
    name = b""
    while True:
        source.expect(_OPEN)
        kind = source.string(len(b"directory"))
        if kind == b"directory":
            if len(parents) == MAX_DEPTH:
                raise source.error(f"more than {MAX_DEPTH} directories within each other")
            parents.append(b"")
            yield Directory(name)
        else:
            if kind == b"regular":
                yield from source.regular(name)
            elif kind == b"symlink":
                source.expect(_TARGET)
                target = source.string(MAX_TARGET)
                source.check(_check_target, target)
                yield Symlink(name, target)
            else:
                raise source.error(f"{kind!r} is no type of file")
            source.expect(_leave(parents))
        while parents:
            word = source.string(len(b"entry"))
            if word == b"entry":
                source.expect(_NAME)
                name = source.string(MAX_NAME)
                source.check(_check_name, name, parents[-1])
                source.expect(_NODE)
                parents[-1] = name
                break
            if word != b")":
                raise source.error(f"{word!r} stands where an entry or the directory's end should")
            parents.pop()
            yield End()
            if parents:
                source.expect(CLOSE)
        else:
            return


class _Source:
    """The archive's bytes, counted."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._at = 0

    def error(self, problem: str) -> FormatError:
        return FormatError(f"the archive is malformed at byte {self._at}: {problem}")

    def check(self, rule: Callable[..., None], *values: bytes) -> None:
        """Apply a rule that knows nothing of offsets, and add ours to its error."""
        try:
            rule(*values)
        except FormatError as error:
            raise self.error(error.message) from None

    def some(self, size: int) -> bytes:
        """Return at least one byte and at most ``size``."""
        data = self._read(size)
        if not data:
            raise self.error("it ends too early")
        self._at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        data = self.some(size)
        while len(data) < size:  # rare: pipes and sockets
            data += self.some(size - len(data))
        return data

    def expect(self, literal: bytes) -> None:
        data = self.exactly(len(literal))
        if data != literal:
            raise self.error(f"the bytes before are not {literal!r}")

    def number(self) -> int:
        return int.from_bytes(self.exactly(8), "little")

    def string(self, longest: int) -> bytes:
        size = self.number()
        if size > longest:
            raise self.error(f"a string of {size} bytes, where at most {longest} are allowed")
        if not size:
            return b""
        data = self.exactly(size + -size % 8)
        if data[size:].strip(b"\0"):
            raise self.error("padding that is not zero")
        return data[:size]

    def regular(self, name: bytes) -> Iterator[Event]:
        """Read a file from after its type to the end of its contents."""
        word = self.string(len(b"executable"))
        executable = word == b"executable"
        if executable:
            self.expect(string(b"") + _CONTENTS)
        elif word != b"contents":
            raise self.error(f"{word!r} stands where a file's contents should")
        size = left = self.number()
        yield Regular(name, executable, size)
        while left:
            chunk = self.some(min(left, CHUNK_SIZE))
            left -= len(chunk)
            yield chunk
        if -size % 8:
            self.expect(padding(size))
