"""HTML that cannot be forgotten to be escaped: whatever is no :class:`Markup` is text, and becomes markup only here."""

from __future__ import annotations

import re
from html import escape

#: Elements without an end tag.
_VOID = frozenset({"br", "input", "link", "meta"})
#: Characters that HTML does not allow, and those that turn the direction of what follows.
_REFUSED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


class Markup(str):
    """A piece of HTML."""

    __slots__ = ()


Child = str | int | None
Attribute = str | int | float | bool | None


def text(value: str) -> Markup:
    """Return text as HTML. What no page may hold is shown as a replacement character."""
    return Markup(escape(_REFUSED.sub("\ufffd", value)))


def join(*children: Child) -> Markup:
    """Return children one after another; None is nothing."""
    return Markup(
        "".join(child if isinstance(child, Markup) else text(str(child)) for child in children if child is not None)
    )


def element(tag: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element.

    :param attributes: ``_`` stands for ``-``, and one at the end is left out (``class_``). False and None leave an
        attribute out, and True gives it no value.
    """
    parts = [tag]
    for key, value in attributes.items():
        if value is not None and value is not False:
            word = key.rstrip("_").replace("_", "-")
            parts.append(word if value is True else f'{word}="{text(str(value))}"')
    start = f"<{' '.join(parts)}>"
    return Markup(start) if tag in _VOID else Markup(f"{start}{join(*children)}</{tag}>")
