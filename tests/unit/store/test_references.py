from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.formats.base32 import ALPHABET
from pgbake.formats.storepath import StorePath
from pgbake.store.references import ReferenceScanner


def some_path(seed: int) -> StorePath:
    return StorePath("".join(random.Random(seed).choices(ALPHABET, k=32)), "x")


PATHS = [some_path(seed) for seed in range(100)]

# Bytes of the alphabet beside others: what makes runs of every length around a digest.
noise = st.text(alphabet="0az e/u", max_size=70).map(str.encode) | st.binary(max_size=70)
mentions = st.sampled_from(PATHS[:5]).map(lambda path: path.digest.encode())
# Nearly a mention: a digest with its middle missing.
near = mentions.map(lambda digest: digest[:15] + digest[16:])


@given(st.lists(noise | mentions | near, max_size=12), st.lists(st.integers(1, 60), min_size=1), st.integers(1, 100))
def test_what_is_found_is_what_stands_there(parts: list[bytes], sizes: list[int], candidates: int) -> None:
    """In pieces of any size, whatever surrounds a digest, with few candidates or many."""
    data = b"".join(parts)
    scanner = ReferenceScanner(PATHS[:candidates])
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        scanner.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert scanner.found == {path for path in PATHS[:candidates] if path.digest.encode() in data}


@pytest.mark.parametrize("offset", range(40))
@pytest.mark.parametrize("before", [b" ", b"a"])
def test_a_digest_is_found_at_every_offset_and_cut(offset: int, before: bytes) -> None:
    path = PATHS[0]
    data = before * offset + path.digest.encode() + before * 7
    for cut in range(len(data)):
        scanner = ReferenceScanner([path, PATHS[1]])
        scanner.feed(memoryview(data)[:cut])
        scanner.feed(memoryview(data)[cut:])
        assert scanner.found == {path}


def test_each_byte_alone() -> None:
    scanner = ReferenceScanner(PATHS)
    for byte in str(PATHS[7]).encode():
        scanner.feed(bytes([byte]))
    assert scanner.found == {PATHS[7]}


def test_without_candidates_nothing_is_found() -> None:
    scanner = ReferenceScanner([])
    scanner.feed(str(PATHS[0]).encode())
    assert scanner.found == frozenset()
