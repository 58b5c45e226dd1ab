"""Ages and sizes as types of options: ``7d``, ``12h``, ``5G``, ``1.5GiB``."""

from __future__ import annotations

import click

from pgbake.quantities import DURATION_FORM, SIZE_FORM, parse_duration, parse_size


class _Duration(click.ParamType[float]):
    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        seconds = parse_duration(str(value))
        if seconds is None:
            raise click.BadParameter(f"{value!r} is no age; {DURATION_FORM}", ctx, param)
        return seconds


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        size = parse_size(str(value))
        if size is None:
            raise click.BadParameter(f"{value!r} is no size; {SIZE_FORM}", ctx, param)
        return size


#: Types of options: a whole number with a unit, in seconds; a number with a unit, in bytes.
DURATION = _Duration()
SIZE = _Size()
