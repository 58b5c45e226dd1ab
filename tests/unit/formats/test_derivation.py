from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats.derivation import Derivation, Output, hash_modulo, with_outputs
from pgbake.formats.storepath import StorePath

SOURCE = StorePath("ybf7by4xvcgjhwilsg87rqz9di79bify", "greeting")


def leaf(name: str = "dep", **changes: object) -> Derivation:
    fields: dict[str, object] = {
        "name": name,
        "outputs": {"out": Output("")},
        "input_drvs": {},
        "input_srcs": frozenset(),
        "system": "x86_64-linux",
        "builder": "/bin/sh",
        "args": ("-c", "echo"),
        "env": {"builder": "/bin/sh", "name": name, "system": "x86_64-linux"},
    }
    return Derivation(**{**fields, **changes})  # type: ignore[arg-type]


def fixed(algo: str, digest: str, name: str = "src") -> Derivation:
    return leaf(name, outputs={"out": Output("", algo, digest)})


def no_inputs(path: StorePath) -> bytes:
    raise AssertionError(f"{path} is no input")


def hashes(*drvs: Derivation) -> Callable[[StorePath], bytes]:
    return {drv.path: hash_modulo(drv, no_inputs) for drv in drvs}.__getitem__


# What Nix 2.8 instantiates for the same two derivations.
DEP = with_outputs(leaf(), no_inputs)
TWO = with_outputs(
    leaf(
        "two",
        outputs={"out": Output(""), "dev": Output("")},
        input_drvs={DEP.path: frozenset({"out"})},
        input_srcs=frozenset({SOURCE}),
        args=(),
        env={
            "builder": "/bin/sh",
            "dep": DEP.outputs["out"].path,
            "name": "two",
            "outputs": "out dev",
            "src": str(SOURCE),
            "system": "x86_64-linux",
        },
    ),
    hashes(DEP),
)


def test_paths_are_those_of_nix() -> None:
    assert DEP.path.basename == "9hzn592ccfb1ihyc2yc3am2l65l84nhj-dep.drv"
    assert DEP.outputs["out"].path == "/nix/store/303wdc87lrvzajsl36dip4fs45dxb120-dep"
    assert DEP.env["out"] == DEP.outputs["out"].path
    assert TWO.path.basename == "02la3z90zrlbhqmgcqkwjwymssbpg14a-two.drv"
    assert TWO.outputs["dev"].path == "/nix/store/dxj2pb08p6nl8y8gk42wlk7vac7gvdar-two-dev"
    assert TWO.references == {DEP.path, SOURCE}


def test_filling_in_outputs_changes_nothing_where_they_are_right() -> None:
    assert with_outputs(TWO, hashes(DEP)) == TWO


def test_a_fixed_output_does_not_depend_on_how_it_is_made() -> None:
    digest = hashlib.sha256(b"hello\n").hexdigest()
    one = with_outputs(fixed("sha256", digest), no_inputs)
    other = with_outputs(leaf("src", outputs={"out": Output("", "sha256", digest)}, args=("other",)), no_inputs)
    assert one.path != other.path
    assert one.outputs == other.outputs
    assert hash_modulo(one, no_inputs) == hash_modulo(other, no_inputs)

    def user(source: Derivation) -> Derivation:
        drv = leaf("user", input_drvs={source.path: frozenset({"out"})})
        return with_outputs(drv, hashes(source))

    assert user(one).outputs == user(other).outputs
    assert user(one).path != user(other).path


def test_two_inputs_that_build_the_same_are_refused() -> None:
    digest = hashlib.sha256(b"hello\n").hexdigest()
    one = with_outputs(fixed("sha256", digest), no_inputs)
    other = with_outputs(leaf("src", outputs={"out": Output("", "sha256", digest)}, args=()), no_inputs)
    user = leaf("user", input_drvs={one.path: frozenset({"out"}), other.path: frozenset({"out"})})
    with pytest.raises(FormatError, match="two inputs that build the same") as caught:
        with_outputs(user, hashes(one, other))
    assert str(one.path) in caught.value.message
    assert str(other.path) in caught.value.message


def test_a_string_is_escaped_as_nix_does() -> None:
    drv = leaf(args=('"\\\n\r\t$\x01\x7f\udcff é',), env={"\n": "\\n"})
    assert b'["\\"\\\\\\n\\r\\t$\x01\x7f\xff \xc3\xa9"],[("\\n","\\\\n")])' in drv.to_aterm()


def test_lists_are_sorted_by_bytes_and_arguments_are_not() -> None:
    # As str, the byte 0xff (U+DCFF) sorts before U+E000; as bytes it comes after.
    drv = leaf(args=("b", "a"), env={"\udcff": "", "\ue000": "", "a": "", "a!": "", 'a"': ""})
    assert drv.to_aterm().endswith(b'["b","a"],[("a",""),("a!",""),("a\\"",""),("\xee\x80\x80",""),("\xff","")])')
    assert Derivation.parse(drv.to_aterm(), "dep") == drv


texts = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
digests = st.text(alphabet="0123456789abcdfghijklmnpqrsvwxyz", min_size=32, max_size=32)
srcs = st.builds(StorePath, digests, st.just("src"))
drv_paths = st.builds(StorePath, digests, st.sampled_from(["a.drv", "b.drv"]))
known_paths = st.just("") | st.builds(lambda path: str(path), srcs)
fixed_outputs = st.one_of(
    *(
        st.builds(
            Output, known_paths, st.sampled_from([algo, f"r:{algo}"]), st.binary(min_size=n, max_size=n).map(bytes.hex)
        )
        for algo, n in (("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64))
    )
)
output_maps: st.SearchStrategy[Mapping[str, Output]] = st.fixed_dictionaries({"out": fixed_outputs}) | (
    st.dictionaries(st.sampled_from(["out", "dev", "doc", "a.b"]), st.builds(Output, known_paths), min_size=1)
)
derivations = st.builds(
    Derivation,
    st.sampled_from(["x", "a-1.0", "A+b?c=d_e"]),
    output_maps,
    st.dictionaries(drv_paths, st.frozensets(texts, max_size=3), max_size=3),
    st.frozensets(srcs, max_size=3),
    texts,
    texts,
    st.lists(texts, max_size=4).map(tuple),
    st.dictionaries(texts, texts, max_size=5),
)


@given(derivations)
def test_parsing_undoes_writing(drv: Derivation) -> None:
    assert Derivation.parse(drv.to_aterm(), drv.name) == drv


damage = st.sampled_from([b"", b'"', b"\\", b"[", b"]", b"(", b",", b"\n"]) | st.binary(max_size=4)


@given(derivations, st.data())
def test_damaged_aterms_are_refused_or_read_exactly(drv: Derivation, data: st.DataObject) -> None:
    raw = bytearray(drv.to_aterm())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        until = data.draw(st.integers(at, min(len(raw), at + 8)))
        raw[at:until] = data.draw(
            st.sampled_from([b"", b'"', b"\\", b"[", b"]", b"(", b",", b"\n"]) | st.binary(max_size=4)
        )
    try:
        read = Derivation.parse(bytes(raw), drv.name)
    except FormatError:
        return
    assert read.to_aterm() == raw


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Derivation.parse(data, "x")


MINIMAL = b'Derive([("out","","","")],[],[],"s","b",[],[])'


def test_the_smallest_derivation() -> None:
    assert Derivation.parse(MINIMAL, "x").to_aterm() == MINIMAL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Derive", b"DrvWithVersion"),
        (b'"b",[],[])', b'"b",[],[]) '),
        (b'"b",[],[])', b'"b",[],[]'),
        (b'"b",[],[]', b'"b",[],[("b",""),("a","")]'),
        (b'"b",[],[]', b'"b",[],[("a",""),("a","")]'),
        (b'"b",[],[]', b'"b",["a",],[]'),
        (b'"b",[],[]', b'"b", [],[]'),
        (b'"b"', rb'"\x"'),
        (b'"b"', b'"a\nb"'),
        (b'"b"', b'"b'),
        (b'"b"', b'"b\\'),
        (b'[("out","","","")]', b"[]"),
        (b'[("out","","","")]', b'[("out","","",""),("dev","","","")]'),
        (b'[("out","","","")]', b'[("a/b","","","")]'),
        (b'[("out","","","")]', b'[("out","","r:sha256","")]'),  # content-addressed, and not fixed
        (b'[("out","","","")]', b'[("out","","sha256","' + b"0" * 63 + b'")]'),
        (b'[("out","","","")]', b'[("out","","sha256","' + b"F" * 64 + b'")]'),
        (b'[("out","","","")]', b'[("out","","crc32","00000000")]'),
        (b'[("out","","","")]', b'[("dev","","sha1","' + b"0" * 40 + b'")]'),
        (b'("out","",', b'("out","/nix/store/nonsense",'),
        (b"[],[]", b'[("/nix/store/' + b"0" * 32 + b'-no-drv",["out"])],[]'),
        (b"[],[]", b'[("relative.drv",["out"])],[]'),
        (b"[],[]", b'[("/nix/store/' + b"0" * 32 + b'-a.drv",["out","dev"])],[]'),
        (b"[],[]", b'[],["/etc/passwd"]'),
        (b"[],[]", b"[" * 100_000),
    ],
)
def test_what_nix_would_not_write_is_refused(old: bytes, new: bytes) -> None:
    damaged = MINIMAL.replace(old, new, 1)
    assert damaged != MINIMAL
    with pytest.raises(FormatError):
        Derivation.parse(damaged, "x")


def test_an_error_names_the_derivation_and_the_place() -> None:
    with pytest.raises(FormatError, match="the derivation pg is malformed at byte 7: expected"):
        Derivation.parse(b"Derive({", "pg")


@pytest.mark.parametrize("name", ["a.drv", "", ".a", "a b", "a" * 208])
def test_names_that_no_derivation_can_have(name: str) -> None:
    with pytest.raises(FormatError):
        leaf(name)


def test_an_output_whose_path_would_be_too_long_is_refused() -> None:
    leaf("a" * 207)
    with pytest.raises(FormatError, match="name of a store path"):
        leaf("a" * 207, outputs={"debug": Output("")})


def test_a_surrogate_that_stands_for_no_byte_is_refused() -> None:
    with pytest.raises(FormatError, match="no text for a derivation"):
        leaf(args=("\ud800",)).to_aterm()
