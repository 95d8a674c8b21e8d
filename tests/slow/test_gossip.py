"""Gossip in the large, in memory and virtual time: ten thousand authors, many pushes."""

from __future__ import annotations

import sys
from typing import Final

from meshkit.gossip.spread import MAX_ON
from meshkit.testing.identities import Author
from tests.gossip.support import GossipCase

AUTHORS: Final = 10_000
EACH: Final = 10
PUSHES: Final = 100_000


class Large(GossipCase):
    def test_ten_thousand_authors_with_ten_messages_each(self) -> None:
        a, b = self.place("a"), self.place("b")
        for start in range(0, AUTHORS, 500):
            authors = [Author(n) for n in range(start, start + 500)]
            a.ingest([raw for author in authors for raw in author.write_many(EACH)])
        wire = self.connect(b, a)
        for _ in range(60):
            self.run_for(1)
            if b.feed.status().messages == AUTHORS * EACH:
                break
        self.run_for(1)
        self.assertEqual(b.heads(), a.heads())
        self.assertEqual(b.feed.status().feeds, AUTHORS)
        (at_b,), (at_a,) = b.links, a.links
        self.assertEqual((at_a.sent, b.feed.refused), (AUTHORS * EACH, {}))
        self.assertLessEqual(max(len(at_b.partner.on), len(at_a.partner.wanted)), MAX_ON)
        self.assertEqual(a.gossip.status().broken, {})
        self.assertEqual([list(x.reasons) for x in a.gossip.ledger.accounts()], [[]])
        overhead = wire.second.sent / sum(
            len(raw) for n in range(0, AUTHORS, 1_000) for raw in Author(n).write_many(EACH)
        )
        print(f"bytes sent over bytes of texts: {overhead / 1_000:.3f}", file=sys.stderr)
        # In step, they say so in a few bytes.
        before = wire.first.sent, wire.second.sent
        b.gossip._compare_all()
        self.run_for(5)
        self.assertLess(wire.first.sent - before[0], 60)
        self.assertLess(wire.second.sent - before[1], 60)

    def test_a_hundred_thousand_pushes_in_a_row(self) -> None:
        a, b = self.place("a"), self.place("b")
        self.connect(a, b)
        self.run_for(1)
        for number in range(PUSHES):
            a.feed.publish({"n": number})
            if number % 20 == 0:
                self.run_for(0.001)
        self.run_for(30)
        self.assertEqual(b.heads(), {a.key.raw: PUSHES})
        (link,) = a.links
        self.assertEqual(link.sent, PUSHES)
        self.assertEqual((b.feed.refused, b.gossip.status().broken), ({}, {}))
