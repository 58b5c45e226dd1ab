from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import base32
from pgbake.formats.digest import parse_digest, parse_sha256, write_sha256
from pgbake.formats.storepath import ALGORITHMS
from tests.unit.formats.strategies import damaged, sha256s

EMPTY = hashlib.sha256(b"").digest()


def forms(algorithm: str, digest: bytes) -> list[str]:
    """Return all that Nix writes of a digest."""
    in_base64 = base64.b64encode(digest).decode()
    return [
        f"{algorithm}:{digest.hex()}",
        f"{algorithm}:{base32.encode(digest)}",
        f"{algorithm}:{in_base64}",
        f"{algorithm}-{in_base64}",
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_form_is_read(algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"hello\n").digest()
    assert {parse_digest(form) for form in forms(algorithm, digest)} == {(algorithm, digest)}


@given(sha256s)
def test_reading_undoes_writing(digest: bytes) -> None:
    assert parse_sha256(write_sha256(digest)) == digest


texts = st.sampled_from(sorted(ALGORITHMS)).flatmap(
    lambda algorithm: st.binary(min_size=ALGORITHMS[algorithm], max_size=ALGORITHMS[algorithm]).flatmap(
        lambda digest: st.sampled_from(forms(algorithm, digest))
    )
)


@given(damaged(texts) | st.text() | st.text().map("sha256:".__add__))
@example("sha256:" + "é" * 64)
@example("sha256:" + "٣" * 52)
@example("sha256-" + base64.b64encode(EMPTY).decode()[:-2] + "V=")
def test_any_text_is_refused_or_read_for_what_it_says(text: str) -> None:
    try:
        algorithm, digest = parse_digest(text)
    except FormatError:
        return
    assert text in forms(algorithm, digest)


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256", ":", "sha256:", EMPTY.hex(), f"sha3:{EMPTY.hex()}", f"sha1:{EMPTY.hex()}",
        f"sha256:{EMPTY.hex().upper()}", f"sha256:{EMPTY.hex()}0", f" sha256:{EMPTY.hex()}",
        f"sha256-{EMPTY.hex()}", f"sha256:{'e' * 52}", f"sha256:{'z' * 52}",
    ],
)  # fmt: skip
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(FormatError, match=r"is no|is not"):
        parse_digest(text)


def test_another_digest_is_no_sha256() -> None:
    with pytest.raises(FormatError, match="is no sha256"):
        parse_sha256(f"sha1:{hashlib.sha1(b'').hexdigest()}")
