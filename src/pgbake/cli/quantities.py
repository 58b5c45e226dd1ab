"""Ages and sizes as users type them: ``7d``, ``12h``, ``5G``, ``1.5GiB``."""

from __future__ import annotations

import re

import click

_DURATION = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(I?)B?|B)?", re.IGNORECASE)


class _Duration(click.ParamType[float]):
    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        if match := _DURATION.fullmatch(str(value)):
            return float(int(match[1]) * _SECONDS[match[2]])
        raise click.BadParameter(
            f"{value!r} is no age; write a whole number and s, m, h, d or w: 12h, 7d, 2w", ctx, param
        )


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        if match := _SIZE.fullmatch(str(value)):
            base = 1024 if match[3] else 1000
            return int(float(match[1]) * base ** (" KMGT".index((match[2] or " ").upper())))
        raise click.BadParameter(f"{value!r} is no size; write a number and a unit: 500MB, 5G, 1.5GiB", ctx, param)


#: Types of options: a whole number with a unit, in seconds; a number with a unit, in bytes.
DURATION = _Duration()
SIZE = _Size()
