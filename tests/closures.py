"""Small closures that look like real ones, made in a local store in no time.

::

    TOP (a program) -> LIBRARY -> NOTES (a text file), itself
        |                 `----> DATA (a tree that certifies itself: links, an empty directory, an executable file)
        `-> DATA, FILE (a flat file that certifies itself), as many LEAVES as wanted
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pgbake.formats.keys import SecretKey
from pgbake.formats.storepath import StorePath, fixed_output_path, output_path, text_path
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

#: What the program of a closure prints.
GREETING = "made for a test"


@dataclass(frozen=True)
class Closure:
    """Paths in a store, all that ``top`` refers to and itself.

    :param top: its ``bin/greet`` is a shell script that prints :data:`GREETING` and what the data hold.
    :param library: input-addressed; refers to itself.
    :param notes: a text file with a reference, as a ``.drv`` is one.
    :param data: a source tree.
    :param file: a flat file.
    :param leaves: input-addressed, without references.
    """

    top: StorePath
    library: StorePath
    notes: StorePath
    data: StorePath
    file: StorePath
    leaves: tuple[StorePath, ...] = ()

    @property
    def paths(self) -> tuple[StorePath, ...]:
        """All paths."""
        return (self.top, self.library, self.notes, self.data, self.file, *self.leaves)

    @property
    def signed(self) -> tuple[StorePath, ...]:
        """Those paths that do not certify themselves."""
        return (self.top, self.library, *self.leaves)


def make_closure(store: LocalStore, word: str = "", *, leaves: int = 0, size: int = 20_000) -> Closure:
    """Make a closure in a store.

    :param word: closures of other words have other paths.
    :param leaves: how many more paths ``top`` refers to.
    :param size: bytes of the largest file in ``data``, and of all of a leaf; they do not compress.
    """
    rng = random.Random(word)
    noise = rng.randbytes(size)
    file = add_file(store, f"file{word}.bin", noise[:1000])
    data = add_tree(store, f"data{word}", lambda tree: _fill_data(tree, noise))
    notes = add_text(store, f"notes{word}.txt", f"see {data}/words\n".encode(), [data])

    def fill_library(tree: Path, own: StorePath) -> None:
        (tree / "lib").mkdir(parents=True)
        (tree / "lib/self").write_text(f"{own}\n{notes}\n{data}\n")
        (tree / "lib/link").symlink_to(f"{own}/lib/self")

    library = add_output(store, f"library{word}", fill_library, [notes, data])
    ends = [
        add_output(store, f"leaf{word}-{number}", lambda tree, _: _fill_leaf(tree, rng.randbytes(size)), [])
        for number in range(leaves)
    ]

    def fill_top(tree: Path, _own: StorePath) -> None:
        (tree / "bin").mkdir(parents=True)
        greet = tree / "bin/greet"
        greet.write_text(f"#!/bin/sh\necho {GREETING}; cat {data}/words\n# {library} {file}\n")
        greet.chmod(0o755)
        (tree / "leaves").write_text("".join(f"{leaf}\n" for leaf in ends))

    top = add_output(store, f"top{word}", fill_top, [library, data, file, *ends])
    return Closure(top, library, notes, data, file, tuple(ends))


def add_output(
    store: LocalStore, name: str, fill: Callable[[Path, StorePath], object], references: Iterable[StorePath]
) -> StorePath:
    """Make a path as a build would: named by a made-up derivation, and valid on a signature's word alone.

    :param fill: makes the tree at the place that it is given first; its second argument is the path.
    """
    path = output_path(name, "out", hashlib.sha256(name.encode()).digest())
    with store.lock(path):
        made = store.staging(path) / "made"
        fill(made, path)
        store.register([store.place(path, made, candidates=references)])
        made.parent.rmdir()
    return path


def add_tree(store: LocalStore, name: str, fill: Callable[[Path], object]) -> StorePath:
    """Add a tree that is named by its contents."""
    with store.scratch() as scratch:
        fill(scratch / "first")
        sha256 = hash_tree(scratch / "first").sha256
    return store.add_source(name, sha256, lambda tree: (fill(tree), None)[1])


def add_file(store: LocalStore, name: str, contents: bytes) -> StorePath:
    """Add a file that is named by its contents, as fetched ones are."""
    sha256 = hashlib.sha256(contents).digest()
    with store.scratch() as scratch:
        (scratch / "file").write_bytes(contents)
        path = store.add_file(name, sha256, scratch / "file")
    assert path == fixed_output_path(name, "flat", "sha256", sha256)
    return path


def add_text(store: LocalStore, name: str, contents: bytes, references: Iterable[StorePath]) -> StorePath:
    """Add a text file that is named by its contents."""
    references = list(references)
    return store.add_text(text_path(name, hashlib.sha256(contents).digest(), references), contents, references)


def secret_key(name: str = "tests-1") -> SecretKey:
    """Return the same key for the same name."""
    return SecretKey(name, hashlib.sha256(name.encode()).digest())


def _fill_data(tree: Path, noise: bytes) -> None:
    (tree / "empty").mkdir(parents=True)
    (tree / "noise").write_bytes(noise)
    (tree / "words").write_text("several words\n")
    (tree / "link").symlink_to("words")
    (tree / "tool").write_text("#!/bin/sh\n")
    (tree / "tool").chmod(0o755)


def _fill_leaf(tree: Path, noise: bytes) -> None:
    tree.mkdir()
    (tree / "noise").write_bytes(noise)
