"""
HTML and SVG as values that cannot be broken by what they hold.

L{element} makes markup of markup and text.  Text is escaped there and nowhere else, so
nothing that somebody wrote can become a tag, and nothing is escaped twice.  What comes out
is well-formed XML, so that a strict parser reads it as a browser does.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Markup", "element", "join", "page"]

_SPECIAL: Final = re.compile(r"""[&<>"']""")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


class Markup(str):
    """Text that is markup already.  Only this module makes it."""

    __slots__ = ()


def _plain(text: str) -> str:
    """
    @return: the same, as it can be shown: what prints nothing, or turns the direction of
        what follows, is spelt out.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ENTITIES[found[0]], _plain(text))


def join(*children: str) -> Markup:
    """@return: one after the other; what is no markup is text."""
    return Markup("".join(c if isinstance(c, Markup) else _escaped(c) for c in children))


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """
    @param name: of the tag.
    @param children: markup, and text that is escaped.
    @param attributes: those that are L{None} are left out.  A name ends in an underscore
        where it is a word of Python, and has underscores where the attribute has hyphens.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        # A browser takes <p/> for the begin of a paragraph.
        return Markup(f"<{name}{shown}/>" if name in _VOID else f"<{name}{shown}></{name}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def page(title: str, style: str, *body: str) -> str:
    """
    @param style: CSS, of ours: it must not hold C{<} or C{&}.
    @return: a document that loads nothing and runs nothing, wherever it is opened.
    """
    if "<" in style or "&" in style:
        raise ValueError("a style sheet with < or & ends where it should not")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"


#: Elements without an end tag, and those of SVG that hold nothing.
_VOID: Final = frozenset({"br", "circle", "hr", "line", "meta", "path", "rect"})
