from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import base32

# Digests of nothing, as `nix-hash --to-base32` writes them.
VECTORS = {
    "": "",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709": "143xibwh31h9bvxzalr0sjvbbvpa6ffs",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": (
        "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
    ),
    "00": "00",
    "1f": "0z",
    "ff": "7z",
}


@pytest.mark.parametrize(("digest", "text"), VECTORS.items())
def test_known_digests(digest: str, text: str) -> None:
    assert base32.encode(bytes.fromhex(digest)) == text
    assert base32.decode(text) == bytes.fromhex(digest)


@given(st.binary(max_size=80))
def test_decoding_undoes_encoding(data: bytes) -> None:
    assert base32.decode(base32.encode(data)) == data


@given(st.text(alphabet=base32.ALPHABET, max_size=80))
def test_a_text_is_refused_or_the_only_one_for_its_bytes(text: str) -> None:
    try:
        data = base32.decode(text)
    except FormatError:
        return
    assert base32.encode(data) == text


@given(st.text(max_size=60))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        base32.decode(text)
    except FormatError as error:
        assert error.message.isprintable()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0e", "a character is not"),  # e, o, u and t are left out
        ("0Z", "a character is not"),
        ("0_0", "a character is not"),  # int() would take these three
        (" 00", "a character is not"),
        ("00\n", "a character is not"),
        ("٣٣", "a character is not"),
        ("0", "no bytes have 1 digits"),
        ("000", "no bytes have 3 digits"),
        ("80", "first digit is too large"),
        ("zz", "first digit is too large"),
        ("2" + "0" * 51, "first digit is too large"),
    ],
)
def test_what_is_no_base32_is_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        base32.decode(text)
