"""Ages and sizes as people write and read them: ``7d``, ``12h``, ``5G``, ``1.5GiB``, ``12.3 MB``."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(I?)B?|B)?", re.IGNORECASE)

#: How each is written, for those who wrote it otherwise.
DURATION_FORM = "write a whole number and s, m, h, d or w: 12h, 7d, 2w"
SIZE_FORM = "write a number and a unit: 500MB, 5G, 1.5GiB"


def parse_duration(text: str) -> float | None:
    """Return the seconds that a text means, or None where it means none."""
    match = _DURATION.fullmatch(text)
    return float(int(match[1]) * _SECONDS[match[2]]) if match else None


def parse_size(text: str) -> int | None:
    """Return the bytes that a text means, or None where it means none."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** (" KMGT".index((match[2] or " ").upper())))


def human_size(size: int) -> str:
    """Write a size in bytes with a decimal unit: ``12.3 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
