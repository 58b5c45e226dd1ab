"""Treemaps: areas in proportion, inside their place, without overlap."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.report.treemap import Rectangle, squarify

_SIZES = st.lists(st.integers(0, 10**9), max_size=60)
_PLACES = st.builds(Rectangle, st.just(3.0), st.just(5.0), st.floats(1, 500), st.floats(1, 500))


def _overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(width, 0) * max(height, 0)


@given(_SIZES, _PLACES)
def test_areas_are_in_proportion(sizes: list[int], place: Rectangle) -> None:
    total = sum(sizes)
    for size, rectangle in zip(sizes, squarify(sizes, place), strict=True):
        wanted = size / total * place.area if total else 0
        assert rectangle.area == pytest.approx(wanted, rel=1e-6, abs=place.area * 1e-9)


@given(_SIZES, _PLACES)
def test_all_lies_inside_and_nothing_overlaps(sizes: list[int], place: Rectangle) -> None:
    rectangles = squarify(sizes, place)
    for one in rectangles:
        assert one.x >= place.x - 1e-6 and one.x + one.width <= place.x + place.width + 1e-6
        assert one.y >= place.y - 1e-6 and one.y + one.height <= place.y + place.height + 1e-6
        assert one.width >= -1e-9 and one.height >= -1e-9
    for one, other in combinations(rectangles, 2):
        assert _overlap(one, other) <= place.area * 1e-9


def test_the_example_of_the_paper() -> None:
    rectangles = squarify([6, 6, 4, 3, 2, 2, 1], Rectangle(0, 0, 6, 4))
    assert rectangles[0] == Rectangle(0, 0, 3, 2)
    assert rectangles[1] == Rectangle(0, 2, 3, 2)
    assert max(max(r.width / r.height, r.height / r.width) for r in rectangles) < 3


def test_nothing_and_nothing_to_draw() -> None:
    place = Rectangle(0, 0, 10, 10)
    assert squarify([], place) == []
    assert [r.area for r in squarify([0, 0], place)] == [0, 0]
    assert [r.area for r in squarify([0, 7], place)] == [0, 100]
