"""What hypothesis makes: values of Nix's formats, and texts that are nearly ones."""

from __future__ import annotations

import hashlib

from hypothesis import strategies as st

from pgbake.formats import base32
from pgbake.formats.contentaddress import ContentAddress
from pgbake.formats.keys import Signature
from pgbake.formats.narinfo import COMPRESSIONS, EXTENSIONS, NarInfo
from pgbake.formats.storepath import ALGORITHMS, StorePath

names = st.text(alphabet="abzAZ09+._?=-", min_size=1, max_size=30).filter(lambda name: name[0] != ".")
paths = st.builds(StorePath, st.text(alphabet=base32.ALPHABET, min_size=32, max_size=32), names)
sha256s = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 10**18 - 1)
key_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+@/=-]{0,20}", fullmatch=True)
signatures = st.builds(Signature, key_names, st.binary(min_size=64, max_size=64))
addresses = st.builds(ContentAddress, st.just("text"), st.just("sha256"), sha256s) | st.sampled_from(
    sorted(ALGORITHMS)
).flatmap(
    lambda algorithm: st.builds(
        ContentAddress,
        st.sampled_from(["flat", "recursive"]),
        st.just(algorithm),
        st.binary(min_size=ALGORITHMS[algorithm], max_size=ALGORITHMS[algorithm]),
    )
)


def write_address(address: ContentAddress) -> str:
    """Return Nix's notation of a content address."""
    kind = {"text": "text:", "flat": "fixed:", "recursive": "fixed:r:"}[address.method]
    return f"{kind}{address.algorithm}:{base32.encode(address.digest)}"


@st.composite
def narinfos(draw: st.DrawFn) -> NarInfo:
    """Any narinfo."""
    compression = draw(st.sampled_from(COMPRESSIONS))
    file_sha256 = draw(st.none() | sha256s)
    digest = file_sha256 or hashlib.sha256(b"").digest()
    return NarInfo(
        path=draw(paths),
        url=f"nar/{base32.encode(digest)}.nar{EXTENSIONS[compression]}",
        compression=compression,
        nar_sha256=draw(sha256s),
        nar_size=draw(sizes),
        references=draw(st.frozensets(paths, max_size=4)),
        file_sha256=file_sha256,
        file_size=draw(st.none() | sizes),
        deriver=draw(st.none() | paths),
        signatures=tuple(draw(st.lists(signatures, max_size=3))),
        ca=draw(st.none() | addresses.map(write_address)),
    )


def damaged(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Give texts in which a few stretches are cut out, doubled or replaced."""

    @st.composite
    def damage(draw: st.DrawFn) -> str:
        text = draw(texts)
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.integers(0, len(text)))
            end = draw(st.integers(start, min(len(text), start + 40)))
            new = draw(
                st.sampled_from(["", text[start:end] * 2, "\n", "\r\n", ":", " ", "\0", "\x85", "é", "٣", "=", "-1"])
            )
            text = text[:start] + new + text[end:]
        return text

    return damage()
