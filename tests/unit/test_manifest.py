"""Values of the manifest that types alone do not check."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.errors import ManifestError
from pgbake.manifest import load_manifest


def manifest(directory: Path, line: str) -> Path:
    file = directory / "pgbake.toml"
    file.write_text(f'name = "x"\npostgresql = 15\n{line}\n')
    return file


@pytest.mark.parametrize(("text", "size"), [("260MB", 260_000_000), ("1.5GiB", 1_610_612_736)])
def test_a_budget(tmp_path: Path, text: str, size: int) -> None:
    assert load_manifest(manifest(tmp_path, f'max_closure = "{text}"')).closure_budget == size
    assert load_manifest(manifest(tmp_path, "")).closure_budget is None


@pytest.mark.parametrize("text", ["", "much", "0", "-5MB", "5 elephants"])
def test_a_budget_that_is_no_size(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"pgbake\.toml:3: max_closure: .* is no size") as caught:
        load_manifest(manifest(tmp_path, f'max_closure = "{text}"'))
    assert caught.value.hint == "write a number and a unit: 500MB, 5G, 1.5GiB"
