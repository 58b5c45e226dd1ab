from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgbake.errors import FormatError, PgbakeError
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.narinfo import fingerprint
from pgbake.formats.statement import KINDS, PAYLOAD_TYPE, SignedStatement, Statement
from pgbake.formats.storepath import StorePath
from tests.unit.formats.strategies import damaged, paths, sha256s

PATH = StorePath("0" * 32, "bundle")
NAR = bytes(range(32))
KEY, OTHER = SecretKey("a-1", bytes(32)), SecretKey("b-1", bytes(31) + b"\1")
PASSED = Statement(PATH, NAR, "check", {"result": "PASSED", "configuration": []})
TRUSTED = TrustedKeys((KEY.public,))
PAYLOAD = PASSED.sign([]).payload

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
statements = st.builds(
    Statement, paths, sha256s, st.sampled_from(sorted(KINDS)), st.dictionaries(st.text(), json_values, max_size=3)
)


@given(statements, st.sets(st.sampled_from([KEY, OTHER])))
def test_reading_undoes_writing(statement: Statement, keys: set[SecretKey]) -> None:
    signed = statement.sign(keys)
    assert SignedStatement.parse(signed.to_json()) == signed
    assert signed.statement == statement
    assert {one.name for one in signed.signatures} == {key.name for key in keys}
    again = statement.sign(sorted(keys, key=lambda key: key.name, reverse=True))
    assert again.to_json() == signed.to_json()


def test_it_is_what_the_standards_say() -> None:
    envelope = json.loads(PASSED.sign([KEY]).to_json())
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": str(PATH), "digest": {"sha256": NAR.hex()}, "mediaType": "application/x-nix-nar"}],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {"result": "PASSED", "configuration": []},
    }
    assert envelope["payloadType"] == PAYLOAD_TYPE
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    assert envelope["signatures"] == [{"keyid": "a-1", "sig": base64.b64encode(KEY.sign(signed).data).decode()}]


def test_it_is_written_without_chance() -> None:
    one = Statement(PATH, NAR, "check", {"b": {"d": 1, "c": 2}, "a": []}).sign([KEY, OTHER])
    two = Statement(PATH, NAR, "check", {"a": [], "b": {"c": 2, "d": 1}}).sign([OTHER, KEY])
    assert one.to_json() == two.to_json()


texts = statements.map(lambda statement: statement.sign([KEY]).to_json().decode())


@given(damaged(texts) | st.text())
@example("[" * 100_000)
@example('{"payload": ' + "[" * 100_000)
@example('{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}')
@example('{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":null}')
def test_any_envelope_is_refused_or_read(text: str) -> None:
    try:
        signed = SignedStatement.parse(text.encode())
    except FormatError:
        return
    assert SignedStatement.parse(signed.to_json()) == signed


@given(damaged(statements.map(lambda statement: statement.sign([]).payload.decode())) | st.text())
@example(PASSED.sign([]).payload.decode().replace("{}", "[" * 100_000))
@example(PASSED.sign([]).payload.decode().replace('"sha256"', '"sha512"'))
def test_any_payload_is_refused_or_read(text: str) -> None:
    try:
        statement = Statement.parse(text.encode())
    except FormatError:
        return
    assert Statement.parse(statement.sign([]).payload) == statement


def payload(**changes: Any) -> bytes:
    return json.dumps({**json.loads(PASSED.sign([]).payload), **changes}).encode()


SUBJECT = {"name": str(PATH), "digest": {"sha256": NAR.hex()}}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (payload(_type="https://in-toto.io/Statement/v0.1"), "no type of statement"),
        (payload(predicateType="https://example.org/x"), "no kind of statement"),
        (payload(subject=[]), "one store path"),
        (payload(subject=[SUBJECT, SUBJECT]), "one store path"),
        (payload(subject=[{**SUBJECT, "mediaType": "text/plain"}]), "one store path"),
        (payload(subject=[{**SUBJECT, "name": "/etc/passwd"}]), "not a path in"),
        (payload(subject=[{**SUBJECT, "digest": {"sha256": NAR.hex().upper()}}]), "in hexadecimal"),
        (payload(subject=[{**SUBJECT, "digest": {"sha256": f"{NAR.hex()} "}}]), "in hexadecimal"),
        (payload(subject=[{**SUBJECT, "digest": {}}]), "in hexadecimal"),
        (payload(predicate="PASSED"), "no statement"),
        (b"\xff", "no statement"),
        (b"", "no statement"),
    ],
)
def test_hostile_payloads_are_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        Statement.parse(raw)


def test_unknown_fields_are_passed_over_and_kept() -> None:
    raw = payload(extension={"a": 1}, subject=[{**SUBJECT, "annotations": {}}])
    assert Statement.parse(raw) == PASSED
    signed = SignedStatement(raw, ()).signed_by([KEY])
    assert SignedStatement.parse(signed.to_json()).payload == raw
    assert signed.verify(TRUSTED, PATH, NAR, "check") == PASSED


def test_both_alphabets_of_base64_are_read() -> None:
    signed = PASSED.sign([KEY])
    envelope = json.loads(signed.to_json())
    envelope["payload"] = base64.urlsafe_b64encode(signed.payload).decode()
    envelope["signatures"][0]["sig"] = base64.urlsafe_b64encode(signed.signatures[0].data).decode()
    assert SignedStatement.parse(json.dumps(envelope).encode()) == signed


def test_who_is_trusted_is_believed() -> None:
    assert PASSED.sign([OTHER, KEY]).verify(TRUSTED, PATH, NAR, "check") == PASSED


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (PASSED.sign([]), "signed by nobody; trusted keys: a-1"),
        (PASSED.sign([OTHER]), "signed by b-1; trusted keys: a-1"),
        (PASSED.sign([SecretKey("a-1", OTHER.seed)]), "signed by a-1; trusted"),
        (SignedStatement(PAYLOAD, Statement(PATH, NAR, "check", {}).sign([KEY]).signatures), "signed by"),
        (SignedStatement(PAYLOAD, (KEY.sign(PAYLOAD),)), "signed by a-1; trusted"),
        (SignedStatement(PAYLOAD, (KEY.sign(fingerprint(PATH, NAR, 1, ())),)), "signed by a-1; trusted"),
        (Statement(StorePath("1" * 32, "bundle"), NAR, "check", PASSED.predicate).sign([KEY]), "something else"),
        (Statement(PATH, NAR, "provenance", PASSED.predicate).sign([KEY]), "something else: provenance"),
        (Statement(PATH, bytes(32), "check", PASSED.predicate).sign([KEY]), "other contents"),
        (Statement(PATH, NAR, "check", {"result": "FAILED"}).sign([KEY]), "did not pass: FAILED"),
        (Statement(PATH, NAR, "check", {}).sign([KEY]), "did not pass: None"),
    ],
)  # fmt: skip
def test_all_else_is_refused(signed: SignedStatement, reason: str) -> None:
    with pytest.raises(PgbakeError, match=reason):
        signed.verify(TRUSTED, PATH, NAR, "check")


def test_a_statements_signature_signs_no_path() -> None:
    assert not PASSED.sign([KEY]).signed_bytes.startswith(b"1;")
