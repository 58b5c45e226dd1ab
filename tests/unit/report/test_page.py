"""The page as text: nothing in it runs or loads, and equal facts give equal bytes."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.report.facts import Facts
from pgbake.report.markup import Markup, element, join, text
from pgbake.report.page import render
from tests.reports import HOSTILE, facts

_VOID = {"br", "input", "link", "meta", "img"}


class _Outline(HTMLParser):
    """Reads a page: its elements, and whether they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert not self._open


@pytest.fixture(scope="module")
def page() -> str:
    return render(facts())


@pytest.fixture(scope="module")
def outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    outline.close()
    return outline


def test_equal_facts_equal_bytes(page: str) -> None:
    assert render(facts()) == page


def test_facts_go_to_json_and_back() -> None:
    report = facts()
    assert msgspec.json.decode(msgspec.json.encode(report), type=Facts) == report


def test_hostile_text_is_text(page: str, outline: _Outline) -> None:
    assert page.count("&lt;script&gt;window.ran") >= 5
    assert HOSTILE not in page
    assert [tag for tag, _ in outline.elements].count("script") == 2
    assert not any(tag == "img" for tag, _ in outline.elements)
    assert not any(
        name.startswith("on") or name == "style" for _, attributes in outline.elements for name in attributes
    )


def test_nothing_is_loaded(page: str, outline: _Outline) -> None:
    for tag, attributes in outline.elements:
        assert not {"src", "srcset", "data", "action", "poster"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#"), tag
        assert tag not in ("link", "base", "iframe", "object", "embed", "form")
    assert "://" not in re.sub(r"<(pre|code)[ >].*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"url\(|@import", page)


def test_the_policy_names_style_and_script(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    style, script = (
        re.search(r"<style>(.*?)</style>", page, re.DOTALL),
        re.search(r"<script>(.*?)</script>", page, re.DOTALL),
    )
    assert policy and style and script
    assert policy[1].startswith("default-src &#x27;none&#x27;; ")
    assert "unsafe" not in policy[1]
    for content in (style[1], script[1]):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy[1]


def test_headings_are_in_order_and_tables_have_headers(outline: _Outline) -> None:
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in outline.elements if tag == "th")
    tags = [tag for tag, _ in outline.elements]
    assert tags.count("caption") == tags.count("table") > 8
    assert {"header", "nav", "main", "footer"} <= set(tags)


def test_ids_are_unique_and_links_lead_somewhere(outline: _Outline) -> None:
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes.get("href") or "")[1:] for tag, attributes in outline.elements if tag == "a"}
    assert links <= set(ids)
    labels = {attributes["aria-labelledby"] for _, attributes in outline.elements if "aria-labelledby" in attributes}
    assert labels <= set(ids)


def test_what_is_not_known_is_said(page: str) -> None:
    report = facts()
    assert report.against is not None
    without = replace(report.side, interface=None)
    assert "interface/all" in render(replace(report, side=without))
    assert "The interface of this bundle is not known here" in render(replace(report, side=without))
    assert "No earlier bundle of this project is known" in render(replace(report, against=None))
    assert "lines from its middle are left out" in page
    assert "There is no log of its run on this machine" in page
    assert "from a cache" in page


def test_nothing_at_all() -> None:
    report = facts()
    empty = replace(
        report, extensions=(), packages=(), runtime=(), closure=(), timeline=(), checks=(), against=None, budget=None
    )
    outline = _Outline()
    outline.feed(render(empty))
    outline.close()


def test_a_budget_that_is_broken() -> None:
    page = render(replace(facts(), budget=100_000_000))
    assert "too much" in page and 'class="bad"' in page


@given(st.text(alphabet=st.characters(), max_size=80))
def test_any_text_stays_text(value: str) -> None:
    made = element("p", value, title=value)
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)
            assert [name for name, _ in attrs] == ["title"]

    reader = Reader()
    reader.feed(made)
    reader.close()
    assert seen == ["p"]
    assert not re.search("[\x00-\x08\x7f\ud800-\udfff]", made)


def test_markup_is_not_escaped_twice() -> None:
    assert join(text("<"), "<", None, 3) == "&lt;&lt;3"
    assert element("b", Markup("<i></i>"), hidden=True, class_=None, data_x=0) == '<b hidden data-x="0"><i></i></b>'
