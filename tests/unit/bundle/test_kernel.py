"""The kernel floor of a receipt against the running kernel."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from pgbake.bundle.kernel import require_kernel
from pgbake.bundle.receipt import Receipt, Server, read_receipt
from pgbake.errors import HostError

RECEIPT = Receipt(1, "test", "x86_64-linux", Server("15.18", 15), (), (), {}, (), {"libc": "2.36"})


@pytest.mark.parametrize("needed", ["", "3.2.0", "3.2", os.uname().release])
def test_a_kernel_that_is_new_enough(needed: str) -> None:
    require_kernel(msgspec.structs.replace(RECEIPT, kernel=needed))


@pytest.mark.parametrize(("needed", "shown"), [("99.10.2", "99.10"), ("99", "99.0")])
def test_a_kernel_that_is_too_old(needed: str, shown: str) -> None:
    with pytest.raises(HostError) as error:
        require_kernel(msgspec.structs.replace(RECEIPT, kernel=needed))
    running = os.uname().release
    assert error.value.message == f"this bundle needs Linux {shown} or newer, and this machine runs {running}"
    assert error.value.hint


def test_numbers_are_compared_and_not_words(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((machine[0], machine[1], "5.10.0-31-amd64", *machine[3:])))
    require_kernel(msgspec.structs.replace(RECEIPT, kernel="5.9.9"))
    with pytest.raises(HostError):
        require_kernel(msgspec.structs.replace(RECEIPT, kernel="5.10.1"))


def test_a_receipt_of_an_older_pgbake_names_no_kernel(tmp_path: Path) -> None:
    content = msgspec.to_builtins(RECEIPT)
    del content["kernel"]
    (tmp_path / "receipt.json").write_bytes(msgspec.json.encode(content))
    receipt = read_receipt(tmp_path)
    assert receipt.kernel == ""
    require_kernel(receipt)
