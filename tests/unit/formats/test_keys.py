from __future__ import annotations

import base64
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgbake.errors import FormatError
from pgbake.formats.keys import PublicKey, SecretKey, Signature, TrustedKeys, check_key_name
from tests.unit.formats.strategies import damaged, key_names, signatures

# RFC 8032, section 7.1, tests 1 and 3.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OF_NOTHING = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
KEY = SecretKey("test-1", SEED)
OTHER = SecretKey("test-1", bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"))

secrets = st.builds(SecretKey, key_names, st.binary(min_size=32, max_size=32))
publics = st.builds(PublicKey, key_names, st.binary(min_size=32, max_size=32))


def test_the_signatures_are_those_of_the_standard() -> None:
    assert KEY.public == PublicKey("test-1", PUBLIC)
    assert KEY.sign(b"") == Signature("test-1", OF_NOTHING)
    assert KEY.public.verify(b"", OF_NOTHING)


@settings(max_examples=30)
@given(secrets, st.binary())
def test_a_key_is_what_its_text_says(key: SecretKey, message: bytes) -> None:
    assert SecretKey.parse(key.export()) == SecretKey.parse(f" {key.export()}\n") == key
    assert PublicKey.parse(str(key.public)) == key.public
    signature = key.sign(message)
    assert Signature.parse(str(signature)) == signature
    assert key.public.verify(message, signature.data)
    assert not key.public.verify(message + b"!", signature.data)


@given(publics | signatures)
def test_reading_undoes_writing(value: PublicKey | Signature) -> None:
    assert type(value).parse(str(value)) == value


@given(damaged(publics.map(str) | signatures.map(str) | secrets.map(SecretKey.export)) | st.text())
@example("a:" + base64.b64encode(bytes(32)).decode()[:-2] + "B=")  # bits beyond the last byte
@example("a:" + "é" * 44)
def test_any_text_is_refused_or_read_exactly(text: str) -> None:
    for kind in (PublicKey, Signature):
        try:
            value = kind.parse(text)
        except FormatError:
            continue
        assert str(value) == text
    try:
        key = SecretKey.parse(text)
    except FormatError as error:
        digits = text.partition(":")[2].strip()
        assert len(digits) < 10 or digits not in error.message + str(error.hint)
    else:
        assert key.export() == text.strip()


PUBLIC_TEXT = str(KEY.public)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PUBLIC_TEXT + "%", "is wrong or missing"),  # as in a file that was copied with a prompt's mark
        (PUBLIC_TEXT[:-1], "is wrong or missing"),
        (PUBLIC_TEXT + "\n", "is wrong or missing"),
        (PUBLIC_TEXT.replace(":", ": "), "is wrong or missing"),
        (PUBLIC_TEXT.partition(":")[2], "lacks the colon"),
        ("", "lacks the colon"),
        (":" + PUBLIC_TEXT.partition(":")[2], "can not be the name"),
        ("a b" + PUBLIC_TEXT, "can not be the name"),
        ("test-1:", "has 0 bytes"),
        (KEY.export(), "seems to be a secret key"),
    ],
)
def test_what_is_wrong_with_a_public_key_is_told(text: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        PublicKey.parse(text)


def test_a_public_key_is_no_secret_key() -> None:
    with pytest.raises(FormatError, match="seems to be a public key"):
        SecretKey.parse(PUBLIC_TEXT)


def test_the_halves_of_a_secret_key_must_fit() -> None:
    mixed = "test-1:" + base64.b64encode(SEED + OTHER.public.data).decode()
    with pytest.raises(FormatError, match="is damaged"):
        SecretKey.parse(mixed)


def test_a_refusal_shows_no_secret() -> None:
    secret = KEY.export().partition(":")[2]
    for text in (secret, f"test-1:{secret}x", f"test-1:{secret[:-3]}", f"te st:{secret}", f"test-1:{secret[4:]}"):
        with pytest.raises(FormatError) as caught:
            SecretKey.parse(text)
        assert secret[10:30] not in f"{caught.value.message}{caught.value.hint}"
    for text in (f"test-1:{secret}", secret):
        with pytest.raises(FormatError) as caught:
            PublicKey.parse(text)
        assert secret[10:30] not in f"{caught.value.message}{caught.value.hint}"
    assert secret[10:30] not in repr(KEY) and SEED.hex() not in repr(KEY)


def test_all_signatures_and_all_keys_of_a_name_are_tried() -> None:
    trusted = TrustedKeys((OTHER.public, KEY.public))
    wrong = Signature("test-1", bytes(64))
    assert trusted.signers(b"x", [wrong, KEY.sign(b"x")]) == ("test-1",)
    assert trusted.signers(b"x", [wrong]) == ()
    assert trusted.signers(b"y", [KEY.sign(b"x")]) == ()


def test_another_name_is_another_key() -> None:
    trusted = TrustedKeys((PublicKey("test-2", PUBLIC),))
    assert trusted.signers(b"x", [KEY.sign(b"x")]) == ()


@pytest.mark.parametrize("data", [bytes(32), b"\1" + bytes(31), b"\xff" * 32], ids=["zero", "identity", "no point"])
@given(st.binary(min_size=64, max_size=64))
@settings(max_examples=20)
def test_a_weak_public_key_proves_no_random_signature(data: bytes, signature: bytes) -> None:
    PublicKey("weak", data).verify(b"x", signature)  # raises nothing


def test_a_signature_of_another_length_is_none() -> None:
    assert not KEY.public.verify(b"", OF_NOTHING[:-1])
    assert not KEY.public.verify(b"", b"")


@pytest.mark.parametrize("name", ["", "a:b", "a b", "-a", "a,b", "a\n", "é", "a" * 129, 'a"'])
def test_what_can_not_name_a_key(name: str) -> None:
    with pytest.raises(FormatError, match="can not be the name"):
        check_key_name(name)


def test_generated_keys_differ() -> None:
    one, two = SecretKey.generate("a"), SecretKey.generate("a")
    assert one != two and pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FormatError):
        SecretKey.generate("a:b")
