from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import storepath
from pgbake.formats.digest import write_sha256
from pgbake.formats.keys import SecretKey
from pgbake.formats.narinfo import CacheInfo, NarInfo
from pgbake.formats.storepath import StorePath
from tests.unit.formats.strategies import damaged, narinfos

GREETING = StorePath("ybf7by4xvcgjhwilsg87rqz9di79bify", "greeting")
HEX = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # of "hello\n"
DIGEST = write_sha256(bytes.fromhex(HEX))

# As an older Nix writes it, with what newer ones leave out.
TEXT = f"""\
StorePath: /nix/store/ybf7by4xvcgjhwilsg87rqz9di79bify-greeting
URL: nar/1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s.nar.xz
Compression: xz
FileHash: {DIGEST}
FileSize: 6
NarHash: sha256:{HEX}
NarSize: 120
References: 00000000000000000000000000000000-a ybf7by4xvcgjhwilsg87rqz9di79bify-greeting
Deriver: 11111111111111111111111111111111-greeting.drv
System: x86_64-linux
"""


def test_what_nix_writes_is_read() -> None:
    info = NarInfo.parse(TEXT)
    assert info == NarInfo(
        path=GREETING,
        url="nar/1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s.nar.xz",
        compression="xz",
        nar_sha256=bytes.fromhex(HEX),
        nar_size=120,
        references=frozenset({GREETING, StorePath("0" * 32, "a")}),
        file_sha256=bytes.fromhex(HEX),
        file_size=6,
        deriver=StorePath("1" * 32, "greeting.drv"),
    )
    assert info.fingerprint.decode() == (
        f"1;{GREETING};{DIGEST};120;/nix/store/00000000000000000000000000000000-a,{GREETING}"
    )


def without(key: str) -> str:
    return "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith(f"{key}:"))


def test_what_may_be_missing() -> None:
    assert NarInfo.parse(without("Compression")).compression == "bzip2"
    assert NarInfo.parse(without("References")).references == frozenset()
    assert (
        NarInfo.parse(
            TEXT.replace("111-greeting.drv", "").replace("Deriver: " + "1" * 29, "Deriver: unknown-deriver")
        ).deriver
        is None
    )
    for key in ("FileHash", "FileSize", "Deriver", "System"):
        assert NarInfo.parse(without(key)).path == GREETING


@pytest.mark.parametrize("key", ["StorePath", "URL", "NarHash", "NarSize"])
def test_what_must_be_there(key: str) -> None:
    with pytest.raises(FormatError, match=f"lacks its line {key}"):
        NarInfo.parse(without(key))


HOSTILE = {
    "nothing": ("", "lacks its line"),
    "HTML": ("<html><body>404</body></html>\n", "without a colon"),
    "cut off": (TEXT[:-9], "cut off"),
    "a line twice": (TEXT + "NarSize: 121\n", "two lines NarSize"),
    "above": (TEXT.replace("nar/", "../../nar/"), "no URL below"),
    "above in the middle": (TEXT.replace("nar/", "nar/../"), "no URL below"),
    "absolute": (TEXT.replace("nar/", "/nar/"), "no URL below"),
    "another host": (TEXT.replace("nar/", "https://elsewhere/"), "no URL below"),
    "a host alone": (TEXT.replace("nar/", "//elsewhere/"), "no URL below"),
    "a file": (TEXT.replace("nar/", "file:///etc/"), "no URL below"),
    "a backslash": (TEXT.replace("nar/", "nar\\"), "no URL below"),
    "a compression of no name": (TEXT.replace(": xz", ": br"), "known: none"),
    "a negative size": (TEXT.replace("NarSize: 120", "NarSize: -1"), "no number"),
    "a huge size": (TEXT.replace("NarSize: 120", f"NarSize: {10**18}"), "no number"),
    "a size in other digits": (TEXT.replace("NarSize: 120", "NarSize: ١٢٠"), "no number"),
    "sha1": (TEXT.replace(f"sha256:{HEX}", f"sha1:{'0' * 40}"), "no sha256"),
    "another store": (TEXT.replace("/nix/store", "/gnu/store"), "not a path in"),
    "a path below a path": (TEXT.replace("-greeting\nURL", "-greeting/bin\nURL"), "can not be the name"),
    "a full reference": (TEXT.replace("References: ", "References: /nix/store/"), "not a store path"),
    "no reference": (TEXT.replace("References: ", "References: x "), "not a store path"),
    "a wrong signature": (TEXT + "Sig: a:b\n", "base64"),
    "signatures without end": (TEXT + f"Sig: a:{'A' * 86}==\n" * 101, "101 signatures"),
    "no content address": (TEXT + "CA: sha256\n", "no content address"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        NarInfo.parse(text)


@given(narinfos())
def test_reading_undoes_writing(info: NarInfo) -> None:
    assert NarInfo.parse(info.to_text()) == info


@given(damaged(narinfos().map(NarInfo.to_text)) | st.text() | damaged(st.just(TEXT)))
@example(TEXT.replace("\n", "\r\n"))
@example(TEXT.replace("FileSize: 6", "FileSize: "))
@example(TEXT.replace("Compression: xz", "Compression:"))
def test_any_text_is_refused_or_read(text: str) -> None:
    try:
        info = NarInfo.parse(text)
    except FormatError:
        return
    assert NarInfo.parse(info.to_text()) == info
    assert ".." not in info.url.split("/") and not info.url.startswith("/") and ":" not in info.url
    assert isinstance(info.certifies_itself, bool)


@given(narinfos(), st.data())
def test_a_signature_covers_all_that_is_believed(info: NarInfo, data: st.DataObject) -> None:
    key = SecretKey("a", bytes(32))
    signature = key.sign(info.fingerprint).data
    other = data.draw(narinfos())
    for field in ("path", "nar_sha256", "nar_size", "references"):
        changed = dataclasses.replace(info, **{field: getattr(other, field)})
        assert key.public.verify(changed.fingerprint, signature) == (changed.fingerprint == info.fingerprint)
        assert (changed.fingerprint == info.fingerprint) == (getattr(other, field) == getattr(info, field))
    assert (
        dataclasses.replace(
            other, **{f: getattr(info, f) for f in ("path", "nar_sha256", "nar_size", "references")}
        ).fingerprint
        == info.fingerprint
    )


CONTENTS = hashlib.sha256(b"hello\n").digest()


def test_a_content_address_certifies_the_path_that_follows_from_it() -> None:
    info = dataclasses.replace(NarInfo.parse(TEXT), references=frozenset(), ca=f"text:{DIGEST}")
    assert storepath.text_path("greeting", CONTENTS) == GREETING
    assert info.certifies_itself
    assert not dataclasses.replace(info, ca=None).certifies_itself
    assert not dataclasses.replace(info, ca=f"fixed:{DIGEST}").certifies_itself
    assert not dataclasses.replace(info, path=StorePath("0" * 32, "greeting")).certifies_itself
    assert not dataclasses.replace(info, path=StorePath(GREETING.digest, "other")).certifies_itself
    assert not dataclasses.replace(info, references=frozenset({GREETING})).certifies_itself


cache_infos = st.builds(CacheInfo, st.integers(0, 10**18 - 1), st.booleans())


@given(cache_infos)
def test_reading_cache_info_undoes_writing(info: CacheInfo) -> None:
    assert CacheInfo.parse(info.to_text()) == info


@given(damaged(cache_infos.map(CacheInfo.to_text)) | st.text())
def test_any_cache_info_is_refused_or_read(text: str) -> None:
    try:
        info = CacheInfo.parse(text)
    except FormatError:
        return
    assert CacheInfo.parse(info.to_text()) == info


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("StoreDir: /gnu/store\n", "paths in /gnu/store"),
        ("Priority: x\n", "no number"),
        ("Priority: -1\n", "no number"),
        ("StoreDir: /nix/store", "cut off"),
        ("hello\n", "without a colon"),
    ],
)
def test_hostile_cache_infos_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        CacheInfo.parse(text)


def test_cache_info_of_nothing_is_nixs_default() -> None:
    assert CacheInfo.parse("") == CacheInfo(50, False)
    assert CacheInfo.parse("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n") == CacheInfo(40, True)
