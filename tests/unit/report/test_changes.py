"""What has changed between two bundles."""

from __future__ import annotations

from dataclasses import replace

from pgbake.report.changes import Change, InterfaceChange, compare, parse_interface
from tests.reports import facts


def test_versions_that_came_went_and_changed() -> None:
    report = facts()
    assert report.against is not None
    changes = compare(report.against.side, report.side)
    assert changes.server == (Change("PostgreSQL", "15.17", "15.18"),)
    assert changes.extensions == (
        Change("gone", "3", None),
        Change("hll", None, "2.18"),
        Change("vector", "0.7.4", "0.8.0"),
    )
    assert [change.word for change in changes.extensions] == ["removed", "added", "changed"]
    assert changes.runtime == (Change("libssl3", "3.0.15-1~deb12u1", "3.0.17-1~deb12u2"),)
    assert not changes.none


def test_sizes_are_compared_by_names_without_versions() -> None:
    report = facts()
    assert report.against is not None
    changes = compare(report.against.side, report.side)
    assert changes.grown == (("postgresql", 1_100_000), ("libssl3", 100_000))
    assert changes.after_size - changes.before_size == 1_200_000


def test_the_interface_by_extension() -> None:
    report = facts()
    assert report.against is not None
    changes = compare(report.against.side, report.side)
    assert changes.interface is not None
    found = {change.extension: change for change in changes.interface}
    assert found.keys() == {"vector", "gone", "evil"}
    assert found["vector"] == InterfaceChange(
        "vector",
        "0.7.4",
        "0.8.0",
        ("function old_distance(vector, vector)",),
        ("function l2_distance(vector, vector) returns double precision",),
    )
    assert found["gone"].after is None and found["gone"].removed == ("type gone",)


def test_an_interface_that_is_not_known() -> None:
    side = facts().side
    assert compare(replace(side, interface=None), side).interface is None
    assert compare(side, replace(side, interface=None)).interface is None


def test_a_bundle_and_itself() -> None:
    side = facts().side
    changes = compare(side, side)
    assert changes.none and not changes.grown and changes.interface == ()


def test_reading_an_interface() -> None:
    text = "preamble\n[vector 0.8.0]\ntype vector\n\nfunction f()\n[empty 1]\n[odd]\nview v\n"
    assert parse_interface(text) == {"vector": ("type vector", "function f()"), "empty": (), "odd": ("view v",)}
    assert parse_interface("") == {}


def test_lines_that_stand_twice_count_twice() -> None:
    side = facts().side
    before = replace(side, interface={"x": ("a", "a", "b")})
    after = replace(side, interface={"x": ("a", "b", "b")})
    changes = compare(before, after)
    assert changes.interface is not None
    assert (changes.interface[0].removed, changes.interface[0].added) == (("a",), ("b",))
