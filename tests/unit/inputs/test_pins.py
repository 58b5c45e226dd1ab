from __future__ import annotations

import msgspec
import pytest

from pgbake.inputs.pins import Pin

GOOD = {"version": "1:2.0~a+b", "path": "pool/main/a+b/a_2.0~a+b_amd64.deb", "size": 3, "sha256": "0" * 64}


def test_a_pin_survives_the_lock() -> None:
    pin = msgspec.convert(GOOD, Pin)
    assert pin.archive == "debian"
    assert pin.filename == "a_2.0~a+b_amd64.deb"
    assert msgspec.json.decode(msgspec.json.encode(pin), type=Pin) == pin
    assert msgspec.to_builtins(pin) == GOOD


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/etc/passwd"},
        {"path": "../../etc/passwd"},
        {"path": "pool/../../etc/passwd"},
        {"path": "pool/./x"},
        {"path": "pool//x"},
        {"path": "pool/"},
        {"path": "pool/.."},
        {"path": ""},
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"sha256": "A" * 64},
        {"sha256": "0" * 64 + "\n"},
        {"size": -1},
        {"version": ""},
        {"archive": "Else where"},
        {"archive": "ftp://example.org/files"},
        {"unknown": 1},
    ],
)
def test_a_wrong_pin_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(GOOD | wrong, Pin)
