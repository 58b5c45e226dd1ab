from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats import storepath
from pgbake.formats.nar import CLOSE, MAGIC, padding, regular
from pgbake.formats.storepath import Method, StorePath

HELLO = b"hello\n"
HELLO_NAR = MAGIC + regular(False, len(HELLO)) + HELLO + padding(len(HELLO)) + CLOSE

# Paths that Nix 2.8 gave a file of the contents "hello\n" (--add-fixed, builtins.toFile).
FIXED = {
    ("flat", "md5"): "nwyv04d03kciinw9gbbrg1bgc8c3j886",
    ("recursive", "md5"): "vg8g3qw4yizd02f231kbfq4q1zq3gzzn",
    ("flat", "sha1"): "032avhrrgjp8441c41iid7ywc92j4z76",
    ("recursive", "sha1"): "ypkrwry3mx50aca2g82vp7if8fbg2skq",
    ("flat", "sha256"): "8zv8i345w2xn27jrxj4cyjc6x3b4am1q",
    ("recursive", "sha256"): "gwina1sjk7g95wq6fxc6b7s1hza53h74",
    ("flat", "sha512"): "5vapip0agyanfv7221kfbjiphdy7pzzp",
    ("recursive", "sha512"): "2z4pvdfchhd7fgqsqx4dd73arvck0fvf",
}
GREETING = StorePath("ybf7by4xvcgjhwilsg87rqz9di79bify", "greeting")

names = st.text(alphabet="abzAZ09+._?=-", min_size=1, max_size=211).filter(lambda name: name[0] != ".")
paths = st.builds(
    StorePath,
    st.text(alphabet="0123456789abcdfghijklmnpqrsvwxyz", min_size=32, max_size=32),
    names,
)


@pytest.mark.parametrize(("key", "digest"), FIXED.items(), ids=":".join)
def test_fixed_output_paths(key: tuple[Method, str], digest: str) -> None:
    method, algorithm = key
    contents = HELLO if method == "flat" else HELLO_NAR
    hashed = hashlib.new(algorithm, contents).digest()
    assert storepath.fixed_output_path("hello", method, algorithm, hashed) == StorePath(digest, "hello")


def test_source_path_is_that_of_a_recursive_sha256() -> None:
    digest = hashlib.sha256(HELLO_NAR).digest()
    assert str(storepath.source_path("hello", digest)) == "/nix/store/gwina1sjk7g95wq6fxc6b7s1hza53h74-hello"
    assert storepath.source_path("hello", digest, self_reference=True).digest != FIXED["recursive", "sha256"]


def test_text_path() -> None:
    assert storepath.text_path("greeting", hashlib.sha256(HELLO).digest()) == GREETING


def test_references_are_a_set() -> None:
    digest = hashlib.sha256(HELLO).digest()
    other = StorePath("0" * 32, "other")
    path = storepath.text_path("greeting", digest, [GREETING, other])
    assert path == storepath.text_path("greeting", digest, [other, GREETING, other])
    assert path != storepath.text_path("greeting", digest, [other])


def test_output_names() -> None:
    assert storepath.output_path("pg", "out", bytes(32)).name == "pg"
    assert storepath.output_path("pg", "dev", bytes(32)).name == "pg-dev"


@given(paths)
def test_parsing_undoes_writing(path: StorePath) -> None:
    assert StorePath.parse(str(path)) == path
    assert StorePath.from_basename(path.basename) == path


@given(st.lists(paths, max_size=5))
def test_paths_sort_as_their_texts(found: list[StorePath]) -> None:
    assert list(map(str, sorted(found))) == sorted(map(str, found))


@given(st.text() | st.text().map("/nix/store/".__add__) | st.text().map(f"/nix/store/{'0' * 32}-".__add__))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        path = StorePath.parse(text)
    except FormatError:
        return
    assert str(path) == text


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "é", "a" * 212, "a:b", "a\0"])
def test_names_that_no_path_can_have(name: str) -> None:
    with pytest.raises(FormatError, match="name of a store path"):
        StorePath("0" * 32, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/nix/store",
        "/nix/store/",
        f"/nix/store/{'0' * 32}",
        f"/nix/store/{'0' * 31}-a",
        f"/nix/store/{'0' * 33}-a",
        f"/nix/store/{'e' * 32}-a",
        f"/nix/store/{'0' * 32}-a/bin",
        f"/nix/store/{'0' * 32}_a",
        f"/usr/store/{'0' * 32}-a",
        f"{'0' * 32}-a",
    ],
)
def test_texts_that_are_no_path(text: str) -> None:
    with pytest.raises(FormatError):
        StorePath.parse(text)


def test_a_digest_of_the_wrong_length_or_algorithm_is_refused() -> None:
    for algorithm, size in (("sha256", 20), ("sha1", 32), ("crc32", 4)):
        with pytest.raises(FormatError, match="no digest"):
            storepath.fixed_output_path("hello", "flat", algorithm, bytes(size))
