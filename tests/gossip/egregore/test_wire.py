"""Tests of L{meshkit.gossip.egregore.wire}."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip.egregore import wire
from meshkit.shs.egregore_stream import MAX_MESSAGE
from meshkit.testing.identities import Author

AUTHOR = Author("ada")
ID = AUTHOR.identity.public.text


class DecodeTests(SynchronousTestCase):
    def test_every_message_of_the_wire(self) -> None:
        for text, expected in (
            (
                b'{"type":"have","feeds":[{"author":"@x","latest_sequence":3}]}',
                wire.Have([wire.FeedState("@x", 3)]),
            ),
            (
                b'{"type":"want","requests":[{"author":"@x","after_sequence":0}]}',
                wire.Want([wire.FeedRequest("@x", 0)]),
            ),
            (b'{"type":"done"}', wire.Done()),
            (b'{"type":"subscribe","mode":"persistent"}', wire.Subscribe("persistent")),
            (
                b'{"type":"subscribeack","accepted":false,"mode":"pull_only"}',
                wire.SubscribeAck(False, "pull_only"),
            ),
            (b'{"type":"credit_grant","amount":50}', wire.CreditGrant(50)),
            (b'{"type":"credit_request","suggested":7}', wire.CreditRequest(7)),
            (
                b'{"type":"flow_control_ack","supported":true,"initial_credits":9}',
                wire.FlowControlAck(True, 9),
            ),
        ):
            self.assertEqual(wire.decode(text), expected)
            self.assertEqual(wire.decode(wire.encode(expected)), expected)

    def test_texts_stay_as_they_were_signed(self) -> None:
        spelt = b'{ "b": 1.00, "a": [1e2] }'
        message = wire.decode(b'{"type":"messages","messages":[' + spelt + b"," + spelt + b"]}")
        assert isinstance(message, wire.Messages)
        self.assertEqual([bytes(raw) for raw in message.messages], [spelt, spelt])
        pushed = wire.decode(wire.encode_push(spelt))
        assert isinstance(pushed, wire.Push)
        self.assertEqual(bytes(pushed.message), spelt)

    def test_members_that_others_add_are_ignored(self) -> None:
        have = wire.decode(
            b'{"peer_observations":[{"peer_id":"@x","last_seq":1}],"type":"have","feeds":[],'
            b'"bloom_summaries":[{"author":"@x","filter":{"bits":"!","num_hashes":0}}],'
            b'"subscribed_topics":["a"],"new":{"deep":[[]]}}'
        )
        self.assertEqual(have, wire.Have([], ["a"]))

    def test_what_is_none_of_them(self) -> None:
        for text in (
            b"",
            b"{}",
            b"[]",
            b'{"type":"Done"}',
            b'{"type":"gossip"}',
            b'{"type":"have"}',
            b'{"type":"want","requests":[{"author":"@x"}]}',
            b'{"type":"want","requests":[{"author":"@x","after_sequence":-1}]}',
            b'{"type":"have","feeds":[{"author":"@x","latest_sequence":1.5}]}',
            b'{"type":"subscribe","mode":"forever"}',
            b'{"type":"credit_grant","amount":4294967296}',
            b'{"type":"done"}x',
            b"\xff",
            b"[" * (128 * 1024),
            b'{"type":"push","message":' + b"[" * 100_000 + b"}",
        ):
            self.assertRaises(MalformedFrame, wire.decode, text)


class EncodeTests(SynchronousTestCase):
    def test_have_and_want(self) -> None:
        entries = [(AUTHOR.key, 7)]
        self.assertEqual(
            wire.encode_have(entries, ()),
            b'{"type":"have","feeds":[{"author":"' + ID.encode() + b'","latest_sequence":7}]}',
        )
        topics = json.loads(wire.encode_have([], ["a", "b"]))
        self.assertEqual(topics, {"type": "have", "feeds": [], "subscribed_topics": ["a", "b"]})
        self.assertEqual(
            wire.encode_want(entries),
            b'{"type":"want","requests":[{"author":"' + ID.encode() + b'","after_sequence":7}]}',
        )

    def test_the_largest_have_fits_a_message(self) -> None:
        entries = [(n.to_bytes(32, "big"), 2**63 - 1) for n in range(wire.MAX_HAVE)]
        self.assertLess(len(wire.encode_have(entries, ["t" * 256] * 64)), MAX_MESSAGE)
        self.assertLess(len(wire.encode_want(entries)), MAX_MESSAGE)

    @given(st.lists(st.integers(2, 5_000), max_size=60))
    def test_pages_are_packed_as_theirs(self, sizes: list[int]) -> None:
        texts = [b"[" + b"1" * (size - 2) + b"]" for size in sizes]
        packed = wire.pack(texts)
        given_back: list[bytes] = []
        for page in packed:
            message = wire.decode(page)
            assert isinstance(message, wire.Messages)
            self.assertTrue(len(page) <= wire.PACKED or len(message.messages) == 1)
            self.assertLessEqual(len(message.messages), wire.MAX_TOGETHER)
            given_back += [bytes(raw) for raw in message.messages]
        self.assertEqual(given_back, texts)

    def test_no_page_holds_more_than_they_take(self) -> None:
        pages = [wire.decode(page) for page in wire.pack([b"1"] * 500)]
        counts = [len(page.messages) for page in pages if isinstance(page, wire.Messages)]
        self.assertEqual(counts, [200, 200, 100])


class PlaceTests(SynchronousTestCase):
    def test_of_a_message(self) -> None:
        text = AUTHOR.write(1).raw
        self.assertEqual(wire.place_of(text), (AUTHOR.key, 1, []))

    def test_of_what_is_none(self) -> None:
        for text in (
            b"{}",
            b"7",
            b"{",
            b'{"author":"@x","sequence":1}',
            b'{"author":"' + ID.encode() + b'","sequence":-1}',
            b'{"author":"' + ID.encode() + b'","sequence":9223372036854775808}',
            b'{"author":"' + ID.encode() + b'","sequence":1,"tags":[1]}',
            b"[" * 100_000,
        ):
            self.assertIsNone(wire.place_of(text))

    def test_a_second_spelling_of_a_key_is_no_key(self) -> None:
        self.assertEqual(wire.author_key(ID), AUTHOR.key)
        self.assertIsNone(wire.author_key(ID.replace("=", "")))
        self.assertIsNone(wire.author_key("@@"))
