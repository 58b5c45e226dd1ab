from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import storepath
from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.storepath import Method, StorePath
from tests.unit.formats.strategies import addresses, damaged, paths, write_address

HELLO = hashlib.sha256(b"hello\n").digest()
OTHER = StorePath("0" * 32, "other")


@given(addresses)
def test_reading_undoes_writing(address: ContentAddress) -> None:
    assert ContentAddress.parse(write_address(address)) == address


@given(damaged(addresses.map(write_address)) | st.text() | st.text().map("fixed:".__add__))
@example("text:r:sha256:" + HELLO.hex())
@example("fixed:r:r:sha256:" + HELLO.hex())
def test_any_text_is_refused_or_read(text: str) -> None:
    try:
        address = ContentAddress.parse(text)
    except FormatError:
        return
    assert ContentAddress.parse(write_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", "text", "text:", f"text:sha1:{'0' * 40}", f"flat:sha256:{HELLO.hex()}", f"sha256:{HELLO.hex()}"]
)
def test_what_is_no_content_address(text: str) -> None:
    with pytest.raises(FormatError, match="is no"):
        ContentAddress.parse(text)


@given(st.frozensets(paths, max_size=3))
def test_a_text_and_a_tree_may_refer_to_others(references: frozenset[StorePath]) -> None:
    text = ContentAddress("text", "sha256", HELLO)
    tree = ContentAddress("recursive", "sha256", HELLO)
    assert text.path("x", references) == storepath.text_path("x", HELLO, references)
    assert tree.path("x", references) == storepath.source_path("x", HELLO, references)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
@pytest.mark.parametrize("method", ["flat", "recursive"])
def test_a_fixed_output_refers_to_nothing(method: Method, algorithm: str) -> None:
    address = ContentAddress(method, algorithm, hashlib.new(algorithm, b"").digest())
    assert address.path("x") == storepath.fixed_output_path("x", method, algorithm, address.digest)
    if (method, algorithm) != ("recursive", "sha256"):
        assert address.path("x", [OTHER]) is None
