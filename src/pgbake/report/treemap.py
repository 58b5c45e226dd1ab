"""Squarified treemaps (Bruls, Huizing, van Wijk: "Squarified Treemaps", 2000): areas in proportion to sizes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width by height."""
        return self.width * self.height


def squarify(sizes: Sequence[float], place: Rectangle) -> list[Rectangle]:
    """Divide a place among sizes, in their order, into rectangles that are as square as this way makes them.

    :param sizes: none is negative. One that is zero gets a rectangle without area.
    """
    result = [Rectangle(place.x, place.y, 0.0, 0.0)] * len(sizes)
    total = sum(sizes)
    if not total or not place.area:
        return result
    scale = place.area / total
    waiting = sorted((i for i, size in enumerate(sizes) if size > 0), key=lambda i: (-sizes[i], i))
    areas = {i: sizes[i] * scale for i in waiting}
    free = place
    while waiting:
        side = min(free.width, free.height)
        row = [waiting.pop(0)]
        worst = _worst([areas[i] for i in row], side)
        while waiting:
            with_next = _worst([areas[i] for i in (*row, waiting[0])], side)
            if with_next > worst:
                break
            worst = with_next
            row.append(waiting.pop(0))
        free = _lay(row, areas, free, result, last=not waiting)
    return result


def _worst(areas: Sequence[float], side: float) -> float:
    """Return the worst ratio of sides in a row of these areas along a side."""
    total = sum(areas)
    if not side or not total:
        return float("inf")
    return max(max(side * side * area / total**2, total**2 / (side * side * area)) for area in areas)


def _lay(
    row: Sequence[int], areas: dict[int, float], free: Rectangle, result: list[Rectangle], last: bool
) -> Rectangle:
    """Lay a row along the shorter side of what is free, and return what is free then."""
    total = sum(areas[i] for i in row)
    along_x = free.width < free.height
    side = free.width if along_x else free.height
    # Rounding must leave neither a gap nor anything outside.
    depth = (free.height if along_x else free.width) if last else total / side
    done = 0.0
    for number, i in enumerate(row):
        length = side - done if number == len(row) - 1 else areas[i] / total * side
        if along_x:
            result[i] = Rectangle(free.x + done, free.y, length, depth)
        else:
            result[i] = Rectangle(free.x, free.y + done, depth, length)
        done += length
    if along_x:
        return Rectangle(free.x, free.y + depth, free.width, free.height - depth)
    return Rectangle(free.x + depth, free.y, free.width - depth, free.height)
