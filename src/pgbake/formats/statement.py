"""Statements: what somebody signs of a path's contents, such as that its checks have passed.

An in-toto Statement v1 (https://github.com/in-toto/attestation) in a DSSE envelope
(https://github.com/secure-systems-lab/dsse)::

    {"payload": BASE64, "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": KEY, "sig": BASE64}, ...]}

    payload: {"_type": "https://in-toto.io/Statement/v1",
              "predicate": {...},
              "predicateType": URI,                             see KINDS
              "subject": [{"digest": {"sha256": HEX},           of the NAR
                           "mediaType": "application/x-nix-nar",
                           "name": "/nix/store/DIGEST-NAME"}]}

KEY names one of the keys that sign paths. What it signs here begins with ``DSSEv1``, and a path's fingerprint with
``1;``, so that neither signature passes for the other. JSON is written without spaces and with sorted keys: the same
statement and key give the same bytes. Fields that are not known are passed over, as in-toto wants it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from pgbake.errors import FormatError, PgbakeError
from pgbake.formats.keys import SecretKey, Signature, TrustedKeys
from pgbake.formats.storepath import StorePath

#: The kinds of statements by their short names, and the type of the predicate that each has.
KINDS = {
    "check": "https://in-toto.io/attestation/test-result/v0.1",
    "provenance": "https://slsa.dev/provenance/v1",
}

#: Bytes of the largest envelope that is read.
MAX_STATEMENT = 8_000_000

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_TYPE = "https://in-toto.io/Statement/v1"
_NAR = "application/x-nix-nar"
_MOST_SIGNATURES = 100


class _Subject(msgspec.Struct, omit_defaults=True):
    name: str
    digest: dict[str, str]
    mediaType: str | None = None


class _Payload(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    subject: list[_Subject]
    predicate_type: str
    predicate: dict[str, Any]


class _Signature(msgspec.Struct):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, rename={"payload_type": "payloadType"}):
    payload: str
    payload_type: str
    signatures: list[_Signature]


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of one path's contents.

    :param nar_sha256: raw digest of the path's NAR.
    :param kind: one of :data:`KINDS`.
    :param predicate: what is said, in JSON's types; its type defines the fields. Of a ``check``, ``result`` is
        ``PASSED``, ``WARNED`` or ``FAILED``; that a bundle was pushed without its checks is ``FAILED`` with
        ``unchecked`` and a ``reason``.
    """

    path: StorePath
    nar_sha256: bytes
    kind: str
    predicate: Mapping[str, Any]

    @property
    def passes(self) -> bool:
        """Whether it does not tell of failed checks."""
        return self.kind != "check" or self.predicate.get("result") in ("PASSED", "WARNED")

    @property
    def is_unchecked(self) -> bool:
        """Whether it only tells that a bundle was pushed without its checks."""
        return self.kind == "check" and not self.passes and self.predicate.get("unchecked") is True

    def sign(self, keys: Iterable[SecretKey]) -> SignedStatement:
        """Sign it with all of some keys."""
        payload = _write(
            _Payload(
                type=_TYPE,
                subject=[_Subject(str(self.path), {"sha256": self.nar_sha256.hex()}, _NAR)],
                predicate_type=KINDS[self.kind],
                predicate=dict(self.predicate),
            )
        )
        return SignedStatement(payload, ()).signed_by(keys)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read a payload.

        :raises FormatError: it is no statement, or not one about one store path.
        """
        raw = _read(payload, _Payload, "statement")
        kind = next((kind for kind, uri in KINDS.items() if uri == raw.predicate_type), None)
        if raw.type != _TYPE:
            raise FormatError(f"{raw.type[:200]!r} is no type of statement that pgbake knows: {_TYPE}")
        if kind is None:
            raise FormatError(f"{raw.predicate_type[:200]!r} is no kind of statement; known: {', '.join(KINDS)}")
        if len(raw.subject) != 1 or (raw.subject[0].mediaType or _NAR) != _NAR:
            raise FormatError("a statement must be about one store path's NAR")
        subject = raw.subject[0]
        try:
            digest = bytes.fromhex(subject.digest.get("sha256", ""))
        except ValueError:
            digest = b""
        if len(digest) != 32 or digest.hex() != subject.digest["sha256"]:
            raise FormatError(f"the statement about {subject.name[:300]} does not tell its NAR's sha256 in hexadecimal")
        return cls(StorePath.parse(subject.name), digest, kind, raw.predicate)


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement's bytes, and who signed them. None of it is believed before :meth:`verify`."""

    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an envelope.

        :raises FormatError: it is none, its payload is no statement, or it is larger than :data:`MAX_STATEMENT`.
        """
        if len(data) > MAX_STATEMENT:
            raise FormatError(f"a statement of {len(data)} bytes is larger than {MAX_STATEMENT}")
        raw = _read(data, _Envelope, "signed statement")
        if raw.payload_type != PAYLOAD_TYPE:
            raise FormatError(f"a signed {raw.payload_type[:200]!r} is no statement: {PAYLOAD_TYPE}")
        if len(raw.signatures) > _MOST_SIGNATURES:
            raise FormatError(f"a statement bears {len(raw.signatures)} signatures, more than {_MOST_SIGNATURES}")
        try:
            payload = base64.b64decode(_standard(raw.payload), validate=True)
        except ValueError:
            raise FormatError("the payload of a signed statement is not base64") from None
        Statement.parse(payload)
        signatures = (Signature.parse(f"{one.keyid}:{_standard(one.sig)}") for one in raw.signatures)
        return cls(payload, tuple(sorted(set(signatures))))

    def to_json(self) -> bytes:
        """Write the envelope."""
        return _write(
            _Envelope(
                payload=base64.b64encode(self.payload).decode(),
                payload_type=PAYLOAD_TYPE,
                signatures=[
                    _Signature(one.name, base64.b64encode(one.data).decode()) for one in sorted(self.signatures)
                ],
            )
        )

    @property
    def statement(self) -> Statement:
        """What is said."""
        return Statement.parse(self.payload)

    def signed_by(self, keys: Iterable[SecretKey]) -> SignedStatement:
        """Return it with the signatures of further keys."""
        return self.merged(key.sign(self.signed_bytes) for key in keys)

    def merged(self, signatures: Iterable[Signature]) -> SignedStatement:
        """Return it with further signatures of the same payload."""
        return SignedStatement(self.payload, tuple(sorted({*self.signatures, *signatures})))

    def beside(self, before: SignedStatement | None) -> SignedStatement:
        """Return what is to stand where ``before`` stood: the same one gains the signatures of both, another goes.

        That a bundle was pushed unchecked says less than that its checks have passed, and does not replace it.
        """
        if before is None:
            return self
        if before.payload == self.payload:
            return self.merged(before.signatures)
        ours, theirs = self.statement, before.statement
        same = (ours.path, ours.kind, ours.nar_sha256) == (theirs.path, theirs.kind, theirs.nar_sha256)
        return before if same and ours.is_unchecked and theirs.passes else self

    @property
    def signed_bytes(self) -> bytes:
        """What its signatures sign: DSSE's pre-authentication encoding."""
        return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(self.payload), self.payload)

    def verify(self, keys: TrustedKeys, path: StorePath, nar_sha256: bytes, kind: str) -> Statement:
        """Return what is said, if a trusted key has signed that of this path's contents.

        :raises PgbakeError: nobody trusted has, it is about something else, or it tells that checks failed.
        """
        said = self.statement
        what = f"the statement {kind} about {path}"
        if not keys.signers(self.signed_bytes, self.signatures):
            bears = ", ".join(sorted({one.name for one in self.signatures})) or "nobody"
            trusted = ", ".join(sorted({key.name for key in keys.keys})) or "none"
            raise PgbakeError(
                f"{what} is signed by {bears}; trusted keys: {trusted}",
                hint='add the public key of whom you trust to the manifest, below [trust]: keys = ["NAME:..."]',
            )
        if (said.path, said.kind) != (path, kind):
            raise PgbakeError(f"{what} is about something else: {said.kind} of {said.path}")
        if said.nar_sha256 != nar_sha256:
            raise PgbakeError(
                f"{what} is about other contents: sha256 {said.nar_sha256.hex()}, not {nar_sha256.hex()}",
                hint="what was stated of another build must be stated of this one",
            )
        if said.is_unchecked:
            raise PgbakeError(
                f"{what} says that it was pushed unchecked: {str(said.predicate.get('reason'))[:500]}",
                hint="its owner runs `pgbake check` and pushes again; or take it as it is with --unchecked",
            )
        if not said.passes:
            raise PgbakeError(f"{what} says that they did not pass: {str(said.predicate.get('result'))[:50]}")
        return said


def _standard(text: str) -> str:
    """DSSE allows both alphabets of base64."""
    return text.replace("-", "+").replace("_", "/")


def _write(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _read(data: bytes, kind: type[Any], what: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"this is no {what}: {error}") from None
