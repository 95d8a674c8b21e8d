from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.markup import Markup, element, join, page

NASTY = "</title></style></pre></svg><script>alert(1)</script>\"'> onload=x &amp; ]]> <!--"


class ElementTests(SynchronousTestCase):
    @given(st.text(), st.text())
    @example(NASTY, NASTY)
    @example("\x00\x1b[31m\r\x85\u202e\u2028\ufffe", "\ud800")
    def test_any_text_is_text(self, text: str, value: str) -> None:
        made = element("p", text, title=value)
        found = ElementTree.fromstring(made)
        self.assertEqual((found.tag, len(found)), ("p", 0))
        shown = found.text or ""
        self.assertTrue(all(c.isprintable() or c in "\n\t" for c in shown))
        if text.isprintable():
            self.assertEqual(shown, text)
        if value.isprintable():
            self.assertEqual(found.attrib, {"title": value})
        made.encode("utf-8")

    def test_markup_stays_markup_and_nothing_is_escaped_twice(self) -> None:
        self.assertEqual(
            element("a", "x & y", element("b", "<"), None_=None, text_anchor="end", class_="c"),
            '<a text-anchor="end" class="c">x &amp; y<b>&lt;</b></a>',
        )
        self.assertEqual(join("<", Markup("<br/>"), ">"), "&lt;<br/>&gt;")
        self.assertEqual((element("br"), element("p")), ("<br/>", "<p></p>"))
        # What is done with markup as a text is text again.
        self.assertEqual(element("p", element("b") + "<"), "<p>&lt;b&gt;&lt;/b&gt;&lt;</p>")


class PageTests(SynchronousTestCase):
    def test_a_browser_and_a_strict_parser_read_the_same(self) -> None:
        text = page(NASTY, "a > b { c: d }", element("p", NASTY), element("hr"))
        tree = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
        seen = []

        class Reader(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                seen.append((tag, dict(attrs)))

        reader = Reader()
        reader.feed(text)
        reader.close()
        self.assertEqual(seen, [(each.tag, each.attrib) for each in tree.iter()])
        self.assertEqual(tree.findtext("head/title"), NASTY)

    def test_nothing_is_loaded_and_nothing_runs(self) -> None:
        text = page("x", "")
        self.assertIn("default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;", text)

    def test_a_style_cannot_end_early(self) -> None:
        for style in ("</style>", "a::before { content: '&' }"):
            self.assertRaises(ValueError, page, "x", style)
