"""The page on services tells what the declarations say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgbake.machine.image import profiles
from pgbake.machine.services import known, load

PAGE = (Path(__file__).parents[3] / "docs/services.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", known())
def test_every_value_is_told_with_its_default(name: str) -> None:
    service = load(name)
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    for value, default in service.values.items():
        assert f"`{value} = {json.dumps(default)}`" in row
    assert all(f"`{need}`, which you must set" in row for need in service.needs)
    assert f"**{name}**" in PAGE


def test_every_profile_is_told() -> None:
    assert all(f"`{name}`" in PAGE or f'"{name}"' in PAGE for name in profiles())
