r"""Derivations: the builds that Nix describes, as ``.drv`` files, and the paths that follow from them.

A ``.drv`` is one ATerm without white space::

    Derive([(OUTPUT,PATH,ALGO,HASH),...],          outputs; ALGO and HASH are "" unless it is fixed
           [(DRV,[OUTPUT,...]),...],               input derivations and what is used of them
           [PATH,...],                             input sources
           SYSTEM,BUILDER,[ARGUMENT,...],
           [(NAME,VALUE),...])                     environment

Strings stand in double quotes, with ``\\ \" \n \r \t`` escaped and all other bytes raw. Every list but the
arguments is sorted bytewise. A fixed output has ALGO ``sha256`` (flat) or ``r:sha256`` (its NAR) and HASH
in hexadecimal.

Texts here are ``str``; bytes that are not UTF-8 travel as ``surrogateescape`` makes them, so that any
``.drv`` survives parsing and writing unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self, TypeVar

from pgbake.errors import FormatError
from pgbake.formats.storepath import (
    ALGORITHMS,
    Method,
    StorePath,
    check_name,
    fixed_output_path,
    output_path,
    output_path_name,
    text_path,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a derivation.

    :param path: its full store path; ``""`` while unknown, or masked.
    :param hash_algo: ``""``, or of a fixed output ``sha256``, ``r:sha256`` and the like.
    :param hash: ``""``, or the fixed output's digest in lower-case hexadecimal.
    :raises FormatError: the path, algorithm or digest breaks its rules.
    """

    path: str
    hash_algo: str = ""
    hash: str = ""

    def __post_init__(self) -> None:
        if self.path:
            StorePath.parse(self.path)
        if self.hash_algo or self.hash:
            _, algorithm = self._method()
            size = ALGORITHMS.get(algorithm)
            if size is None:
                raise FormatError(f"a fixed output has the unknown hash algorithm {self.hash_algo!r}")
            if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", self.hash):
                raise FormatError(f"a fixed output's {self.hash_algo} digest is not {2 * size} hex digits")

    @property
    def fixed(self) -> bool:
        """Whether the contents are known beforehand, by their hash."""
        return bool(self.hash)

    def fixed_path(self, drv_name: str) -> StorePath:
        """Return the path that a fixed output of a derivation named ``drv_name`` has."""
        method, algorithm = self._method()
        return fixed_output_path(drv_name, method, algorithm, bytes.fromhex(self.hash))

    def _method(self) -> tuple[Method, str]:
        if self.hash_algo.startswith("r:"):
            return "recursive", self.hash_algo[2:]
        return "flat", self.hash_algo


@dataclass(frozen=True, slots=True)
class Derivation:
    """A build: its inputs, its command, its environment and its outputs.

    :param name: without ``.drv``.
    :param outputs: by name; at least one. A fixed output is the only one, and named ``out``.
    :param input_drvs: the ``.drv`` files whose outputs it uses, with the names of those outputs.
    :param input_srcs: the store paths that it uses as they are.
    :param system: such as ``x86_64-linux``.
    :param builder: the program's path; ``args`` does not repeat it.
    :raises FormatError: a name breaks the rules of store paths, or the outputs do not fit together.
    """

    name: str
    outputs: Mapping[str, Output]
    input_drvs: Mapping[StorePath, frozenset[str]]
    input_srcs: frozenset[StorePath]
    system: str
    builder: str
    args: tuple[str, ...]
    env: Mapping[str, str]

    def __post_init__(self) -> None:
        check_name(f"{self.name}.drv")
        if self.name.endswith(".drv"):
            raise FormatError(f"the derivation's name {self.name!r} must not end in .drv")
        if not self.outputs:
            raise FormatError(f"the derivation {self.name} has no outputs")
        for output in self.outputs:
            check_name(output)
            check_name(output_path_name(self.name, output))
        if any(output.fixed for output in self.outputs.values()) and self.outputs.keys() != {"out"}:
            raise FormatError(
                f"the derivation {self.name} has a fixed output beside others: a fixed output is the only "
                "one, and named 'out'"
            )
        for path in self.input_drvs:
            if not path.name.endswith(".drv"):
                raise FormatError(f"the derivation {self.name} has the input derivation {path}, not a .drv")

    @property
    def output_paths(self) -> dict[str, StorePath]:
        """The store path of each output, by name.

        :raises FormatError: they are not computed yet.
        """
        return {name: StorePath.parse(output.path) for name, output in self.outputs.items()}

    @property
    def path(self) -> StorePath:
        """The store path of the ``.drv`` itself."""
        digest = hashlib.sha256(self.to_aterm()).digest()
        return text_path(f"{self.name}.drv", digest, self.references)

    @property
    def references(self) -> frozenset[StorePath]:
        """The store paths that the ``.drv`` file mentions as inputs."""
        return self.input_srcs.union(self.input_drvs)

    def to_aterm(self) -> bytes:
        """Return the bytes of the ``.drv`` file.

        :raises FormatError: a text holds a lone surrogate that stands for no byte.
        """
        return _aterm(self, [(str(path), outputs) for path, outputs in self.input_drvs.items()])

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Read the bytes of a ``.drv`` file.

        Accepts only what Nix writes: ``parse(data, name).to_aterm() == data``.

        :param name: the file's name in the store, without digest and ``.drv``.
        :raises FormatError: the data is no such ATerm, or holds what no derivation can.
        """
        reader = _Reader(data, name)
        reader.expect(b"Derive(")
        outputs = reader.mapping(reader.output)
        reader.expect(b",")
        drvs = reader.mapping(reader.names)
        reader.expect(b",")
        srcs = reader.names()
        reader.expect(b",")
        system = reader.string()
        reader.expect(b",")
        builder = reader.string()
        reader.expect(b",")
        args = tuple(map(_decode, reader.items(reader.raw)))
        reader.expect(b",")
        env = reader.mapping(reader.string)
        reader.expect(b")")
        reader.end()
        return cls(
            name,
            outputs,
            {StorePath.parse(path): names for path, names in drvs.items()},
            frozenset(map(StorePath.parse, srcs)),
            system,
            builder,
            args,
            env,
        )


def hash_modulo(drv: Derivation, hash_of_input: Callable[[StorePath], bytes]) -> bytes:
    """Return the sha256 that stands for a complete derivation inside those that use it.

    It does not change when only the way in which a fixed output is fetched changes.

    :param hash_of_input: gives this same value of an input derivation; memoise it by path.
    :raises FormatError: two inputs have one and the same hash. Nix's versions disagree about those.
    """
    out = drv.outputs.get("out")
    if out is not None and out.fixed:
        return hashlib.sha256(f"fixed:out:{out.hash_algo}:{out.hash}:{out.path}".encode()).digest()
    inputs: dict[str, frozenset[str]] = {}
    paths: dict[str, StorePath] = {}
    for path, outputs in drv.input_drvs.items():
        digest = hash_of_input(path).hex()
        if digest in inputs:
            raise FormatError(
                f"the derivation {drv.name} has two inputs that build the same: {paths[digest]} and {path}",
                hint="use one and the same derivation for both",
            )
        inputs[digest] = outputs
        paths[digest] = path
    return hashlib.sha256(_aterm(drv, inputs.items())).digest()


def with_outputs(drv: Derivation, hash_of_input: Callable[[StorePath], bytes]) -> Derivation:
    """Return the derivation with its outputs' paths filled in, in ``outputs`` and in ``env``.

    What those places held before does not matter, so a derivation is right if this changes nothing.

    :param hash_of_input: see :func:`hash_modulo`.
    :raises FormatError: as :func:`hash_modulo`.
    """
    out = drv.outputs.get("out")
    if out is not None and out.fixed:
        paths = {"out": str(out.fixed_path(drv.name))}
    else:
        digest = hash_modulo(_fill(drv, dict.fromkeys(drv.outputs, "")), hash_of_input)
        paths = {output: str(output_path(drv.name, output, digest)) for output in drv.outputs}
    return _fill(drv, paths)


def _fill(drv: Derivation, paths: Mapping[str, str]) -> Derivation:
    outputs = {name: replace(output, path=paths[name]) for name, output in drv.outputs.items()}
    return replace(drv, outputs=outputs, env={**drv.env, **paths})


# --- writing ---------------------------------------------------------------------------------------


def _aterm(drv: Derivation, inputs: Iterable[tuple[str, frozenset[str]]]) -> bytes:
    """Write the ATerm; ``inputs`` stands for the input derivations, by path or by hash."""
    outputs = [
        (_quote(name), _quote(output.path), _quote(output.hash_algo), _quote(output.hash))
        for name, output in sorted(drv.outputs.items())
    ]
    drvs = [(_quote(key), _list(map(_escape, sorted(map(_encode, names))))) for key, names in sorted(inputs)]
    env = sorted((_encode(key), _encode(value)) for key, value in drv.env.items())
    fields = (
        _list(map(_tuple, outputs)),
        _list(map(_tuple, drvs)),
        _list(_quote(str(path)) for path in sorted(drv.input_srcs)),
        _quote(drv.system),
        _quote(drv.builder),
        _list(map(_quote, drv.args)),
        _list(_tuple((_escape(key), _escape(value))) for key, value in env),
    )
    return b"Derive" + _tuple(fields)


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b",".join(items) + b")"


def _list(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError(f"{text[:100]!r} is no text for a derivation: {error.reason}") from None


def _escape(raw: bytes) -> bytes:
    raw = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"' + raw.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t") + b'"'


def _quote(text: str) -> bytes:
    return _escape(_encode(text))


# --- reading ---------------------------------------------------------------------------------------

# Possessive (++, *+): a string of a hundred megabytes must not cost memory for ways back.
_STRING = re.compile(rb'"([^"\\\n\r\t]*+(?:\\[\\"nrt][^"\\\n\r\t]*+)*+)"')


class _Reader:
    """A position in an ATerm. The nesting of a derivation is fixed, so nothing here recurses."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    def expect(self, literal: bytes) -> None:
        if not self._accept(literal):
            raise self._error(f"expected {literal.decode()!r}")

    def end(self) -> None:
        if self._at != len(self._data):
            raise self._error("expected the end")

    def raw(self) -> bytes:
        match = _STRING.match(self._data, self._at)
        if match is None:
            raise self._error("expected a string as Nix writes it")
        self._at = match.end()
        return _unescape(match[1])

    def string(self) -> str:
        return _decode(self.raw())

    def output(self) -> Output:
        path = self.string()
        self.expect(b",")
        hash_algo = self.string()
        self.expect(b",")
        return Output(path, hash_algo, self.string())

    def names(self) -> frozenset[str]:
        return frozenset(map(_decode, self._in_order(self.items(self.raw))))

    def mapping(self, value: Callable[[], T]) -> dict[str, T]:
        """Read ``[(KEY,VALUE),...]`` with its keys in order."""

        def pair() -> tuple[bytes, T]:
            self.expect(b"(")
            key = self.raw()
            self.expect(b",")
            result = key, value()
            self.expect(b")")
            return result

        pairs = self.items(pair)
        self._in_order([key for key, _ in pairs])
        return {_decode(key): value for key, value in pairs}

    def items(self, item: Callable[[], T]) -> list[T]:
        self.expect(b"[")
        found: list[T] = []
        while not self._accept(b"]"):
            if found:
                self.expect(b",")
            found.append(item())
        return found

    def _in_order(self, keys: list[bytes]) -> list[bytes]:
        for before, after in pairwise(keys):
            if before >= after:
                raise self._error(f"{after[:100]!r} is out of order or doubled in the list before")
        return keys

    def _accept(self, literal: bytes) -> bool:
        found = self._data.startswith(literal, self._at)
        if found:
            self._at += len(literal)
        return found

    def _error(self, problem: str) -> FormatError:
        return FormatError(f"the derivation {self._name} is malformed at byte {self._at}: {problem}")


def _unescape(raw: bytes) -> bytes:
    # Two backslashes first: what is left between them has one backslash before each escaped byte.
    parts = raw.split(b"\\\\")
    for escaped, byte in ((b'\\"', b'"'), (b"\\n", b"\n"), (b"\\r", b"\r"), (b"\\t", b"\t")):
        if escaped in raw:
            parts = [part.replace(escaped, byte) for part in parts]
    return b"\\".join(parts)


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
