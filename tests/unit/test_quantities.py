from __future__ import annotations

import pytest

from pgbake.quantities import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1.5GiB", 1_610_612_736), ("5G", 5_000_000_000), ("7", 7), ("7 kB", 7000), ("0", 0),
     ("", None), ("much", None), ("-5M", None), ("5 elephants", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2w", 1209600), ("1.5d", None), ("d", None)])
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
