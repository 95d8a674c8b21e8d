"""Tests of L{meshkit.feed.search}."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import search
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_store import NOW_NS, fresh, ingest


def _dated(author: Author, timestamp: str) -> bytes:
    """A first message with a time that does not fit 64 bits of nanoseconds."""
    signed, _, _ = author.write("dated").raw.partition(b',"hash":')
    text = re.sub(rb'"timestamp":"[^"]*"', f'"timestamp":"{timestamp}"'.encode(), signed) + b"}"
    digest = hashlib.sha256(text).hexdigest().encode("ascii")
    signature = base64.b64encode(author.identity._sign_raw(digest))
    return text[:-1] + b',"hash":"' + digest + b'","signature":"' + signature + b'"}'


class Lists(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def publish(self, author: Author, at_ns: int, content: Any, now_ns: int = NOW_NS) -> bytes:
        raw = author.write(content, timestamp_ns=at_ns).raw
        (verdict,) = ingest(self.connection, raw, now_ns=now_ns)
        self.assertEqual(verdict.status, "accepted")
        return raw

    def listed(self, limit: int = 50, offset: int = 0, **wanted: Any) -> list[bytes]:
        rows, total = search.list_messages(self.connection, search.Filter(**wanted), limit, offset)
        everything, count = search.list_messages(self.connection, search.Filter(**wanted), 1000, 0)
        self.assertEqual(total, count)
        self.assertEqual(rows, everything[offset : offset + limit])
        return [row.raw for row in rows]

    def test_newest_first_by_the_authors_clock(self) -> None:
        ada, bob = Author("a"), Author("b")
        raws = [
            self.publish(author, DAY_NS + ns, n)
            for n, (author, ns) in enumerate([(ada, 5), (bob, 9), (ada, 7), (bob, 1)])
        ]
        self.assertEqual(self.listed(), [raws[1], raws[2], raws[0], raws[3]])

    def test_one_moment_is_listed_in_the_order_of_arrival(self) -> None:
        ada, bob = Author("a"), Author("b")
        raws = [self.publish(author, DAY_NS, n) for n, author in enumerate([ada, bob, ada])]
        self.assertEqual(self.listed(), raws[::-1])

    def test_a_clock_in_the_future_pins_nothing_to_the_top(self) -> None:
        ada, bob = Author("a"), Author("b")
        future = _dated(ada, "9999-12-31T23:59:59.999999999Z")
        ingest(self.connection, future, now_ns=DAY_NS)
        past = self.publish(bob, 0, "from 1970", now_ns=DAY_NS + 1)
        now = self.publish(bob, DAY_NS + 2, "now", now_ns=DAY_NS + 2)
        self.assertIn(b'"1970-01-01T00:00:00Z"', past)
        self.assertEqual(self.listed(), [now, future, past])

    def test_filters(self) -> None:
        ada, bob = Author("a"), Author("b")
        note = self.publish(ada, DAY_NS + 1, {"type": "note"})
        insight = self.publish(ada, DAY_NS + 2, {"type": "insight"})
        other = self.publish(bob, DAY_NS + 3, {"type": "insight"})
        plain = self.publish(bob, DAY_NS + 4, "no type")
        self.assertEqual(self.listed(), [plain, other, insight, note])
        self.assertEqual(self.listed(author=ada.key), [insight, note])
        self.assertEqual(self.listed(not_author=ada.key), [plain, other])
        self.assertEqual(self.listed(content_type="insight"), [other, insight])
        self.assertEqual(self.listed(content_type="insight", author=ada.key), [insight])
        self.assertEqual(self.listed(content_type="' OR 1 --"), [])
        self.assertEqual(self.listed(author=bytes(32)), [])
        self.assertEqual(len(self.listed(not_author=bytes(32))), 4)

    def test_limit_and_offset_cut_a_stretch_out(self) -> None:
        ada = Author("a")
        raws = [self.publish(ada, DAY_NS + n, n) for n in range(7)][::-1]
        self.assertEqual(self.listed(limit=3), raws[:3])
        self.assertEqual(self.listed(limit=3, offset=5), raws[5:])
        self.assertEqual(self.listed(limit=3, offset=7), [])


class Searching(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.author = Author("searched")

    def publish(self, content: Any) -> bytes:
        raw = self.author.write(content).raw
        ingest(self.connection, raw)
        return raw

    def search(self, text: str, limit: int = 50, offset: int = 0) -> list[bytes]:
        expression = search.search_expression(text)
        assert expression is not None, text
        rows, total = search.search_messages(self.connection, expression, limit, offset)
        if limit == 50:
            self.assertEqual(total, len(rows))
        return [row.raw for row in rows]

    def test_values_are_found_and_keys_are_not(self) -> None:
        raw = self.publish({"type": "insight", "title": "heron", "deep": [{"more": ["kestrel"]}]})
        for word in ("heron", "HERON", "kestrel", "insight"):
            self.assertEqual(self.search(word), [raw], word)
        for word in ("title", "deep", "more"):
            self.assertEqual(self.search(word), [], word)

    def test_every_word_has_to_occur(self) -> None:
        both = self.publish("a heron met a kestrel")
        self.publish("a heron")
        self.assertEqual(self.search("kestrel heron"), [both])
        self.assertEqual(self.search("kestrel heron owl"), [])

    def test_a_quoted_phrase_stands_together(self) -> None:
        phrase = self.publish("the grey heron waits")
        loose = self.publish("heron, grey")
        self.assertEqual(self.search('"grey heron"'), [phrase])
        self.assertEqual(self.search('waits "grey heron'), [phrase])
        self.assertEqual(set(self.search("grey heron")), {phrase, loose})

    def test_a_phrase_does_not_go_over_two_strings(self) -> None:
        self.publish(["grey", "owl"])
        self.assertEqual(len(self.search("grey owl")), 1)

    def test_syntax_is_text(self) -> None:
        raw = self.publish("heron AND NOT kestrel near c++ body: col*n (x) ^y {z}")
        for text in (
            "AND",
            "NOT kestrel",
            "heron OR owl heron",
            "body:heron",
            "her*",
            "heron*",
            "^heron",
            "NEAR(heron kestrel)",
            "c++",
            "(heron",
            "{body} : heron",
            "heron'; DROP TABLE feed_text; --",
            "-heron",
            "heron\x00kestrel",
            "a\x00",
            "\ufffe heron",
        ):
            self.search(text)
        self.assertEqual(self.search("heron AND NOT"), [raw])
        self.assertEqual(self.search("her*"), [])
        self.assertEqual(self.search("heron*"), [raw])

    @given(st.text(max_size=40))
    def test_no_text_is_a_syntax_error(self, text: str) -> None:
        expression = search.search_expression(text)
        if expression is not None:
            search.search_messages(self.connection, expression, 1, 0)

    def test_what_has_no_word_is_refused(self) -> None:
        for text in ("", " ", '"', '""', "* + -", '" " "'):
            self.assertIsNone(search.search_expression(text), text)

    def test_the_number_of_words_is_limited(self) -> None:
        most = search.MAX_SEARCH_WORDS
        self.assertIsNotNone(search.search_expression("a " * most))
        self.assertIsNone(search.search_expression("a " * (most + 1)))

    def test_many_words_in_one_phrase_can_be_searched(self) -> None:
        raw = self.publish("ab " * 40)
        self.assertEqual(self.search('"' + "ab " * 33 + '"'), [raw])

    def test_the_best_match_comes_first(self) -> None:
        weak = self.publish("heron " + "filler " * 50)
        strong = self.publish("heron heron heron")
        self.assertEqual(self.search("heron"), [strong, weak])

    def test_limit_offset_and_total(self) -> None:
        raws = [self.publish(f"heron {n}") for n in range(5)]
        rows, total = search.search_messages(self.connection, '"heron"', 2, 1)
        self.assertEqual(([row.raw for row in rows], total), ([raws[3], raws[2]], 5))

    def test_content_with_a_nul_is_searchable_on_both_sides(self) -> None:
        raw = self.publish("heron\x00kestrel")
        self.assertEqual(self.search("heron"), [raw])
        self.assertEqual(self.search("kestrel"), [raw])
