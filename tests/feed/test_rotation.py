"""Tests of L{meshkit.feed.rotation}, L{meshkit.feed.closings} and L{meshkit.feed.rotating}."""

from __future__ import annotations

import base64
import re
import sqlite3
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FeedClosed, FeedForked, FeedReadOnly
from meshkit.feed import guard, store
from meshkit.feed.doctor import examine
from meshkit.feed.message import Message, parse_message, verify_message
from meshkit.feed.rotating import rotate
from meshkit.feed.rotation import Rotation, read_rotation, rotation_content
from meshkit.identity.contexts import ADDRESS_RECORD, ROTATION
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.interfaces import FeedRotated
from meshkit.testing.identities import DAY_NS, Author, make_identity
from tests.feed.test_part import PartCase
from tests.feed.test_store import NOW_NS, fresh, ingest

NEW, OTHER = make_identity("new"), make_identity("other")


def end(author: Author, new: Identity = NEW, content: Any = None) -> Message:
    """The author's next message, which ends the feed."""
    before = author.messages[-1] if author.messages else None
    return author.write(
        content
        or rotation_content(
            author.identity.public,
            new,
            0 if before is None else before.sequence,
            None if before is None else before.hash,
        )
    )


class Statements(SynchronousTestCase):
    def test_both_keys_have_signed_it(self) -> None:
        for count in (0, 1, 3):
            ada = Author("ada")
            ada.write_many(count)
            message = end(ada)
            verify_message(message)
            self.assertEqual(
                read_rotation(message), Rotation(ada.identity.public, NEW.public, count + 1)
            )
            consent = Envelope.open(base64.b64decode(message.content["consent"]), ROTATION)
            self.assertEqual(consent.signer, NEW.public)
            last = bytes.fromhex(ada.messages[-2].hash) if count else None
            self.assertEqual(
                msgspec.msgpack.decode(consent.payload), [ada.key, NEW.public.raw, count, last]
            )

    def test_what_only_looks_like_one_is_a_message_like_others(self) -> None:
        bob = Author("bob")
        bob.write_many(3)
        one, two, three = bob.messages

        def forged(content: Any, by: str = "bob") -> Rotation | None:
            author = Author(by)
            author.write_many(3)
            return read_rotation(author.write(content))

        def content(old: Identity = bob.identity, new: Identity = NEW, **fields: Any) -> Any:
            made = rotation_content(
                old.public, new, fields.pop("seq", 3), fields.pop("hash", three.hash)
            )
            return made | fields

        self.assertIsNotNone(forged(content()))
        consent = content()["consent"]
        payload = Envelope.open(base64.b64decode(consent), ROTATION).payload

        def sealed(by: Identity, context: Any = ROTATION, data: bytes = payload) -> str:
            return base64.b64encode(Envelope.seal(by, context, data).raw).decode()

        for wrong in (
            content(seq=2, hash=two.hash),
            content(seq=3, hash=one.hash),
            content(hash=None),
            # Egregore's S3: somebody else names the victim.
            content(old=make_identity("ada")),
            content(new=bob.identity),
            content(successor=OTHER.public.text),
            content(successor=5),
            content(successor="bob"),
            content(consent=""),
            content(consent="?"),
            content(consent=None),
            content(consent=consent[:-8]),
            content(consent=sealed(OTHER)),
            content(consent=sealed(bob.identity)),
            content(consent=sealed(NEW, ADDRESS_RECORD)),
            content(consent=sealed(NEW, data=b"")),
            content(consent=sealed(NEW, data=payload + b"x")),
            content(type="rotate"),
            "rotation",
            {"type": "rotation"},
        ):
            self.assertIsNone(forged(wrong), wrong)
        # The statement of one feed ends no other, though it has as many messages.
        self.assertIsNone(forged(content(), by="ada"))


class Ends(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.ada = Author("ada")

    def put(self, *messages: Message) -> list[Any]:
        verdicts = ingest(self.connection, *(m.raw for m in messages), now_ns=NOW_NS)
        return [verdict.error and type(verdict.error) for verdict in verdicts]

    def frontier(self) -> Any:
        (found,) = store.list_frontier(self.connection, [self.ada.key], b"", 1)
        return found

    def test_what_follows_is_refused(self) -> None:
        self.ada.write_many(2)
        last = end(self.ada)
        beyond = [self.ada.write("more"), self.ada.write("and more")]
        self.assertEqual(self.put(*self.ada.messages), [None] * 3 + [FeedClosed] * 2)
        self.assertEqual(self.put(beyond[1]), [FeedClosed])
        found = self.frontier()
        self.assertEqual((found.sequence, found.head.hex()), (3, last.hash))
        self.assertEqual((found.forked, found.disputed), (None, None))

    def test_what_came_before_it_is_not_counted(self) -> None:
        self.ada.write_many(2)
        end(self.ada)
        for _ in range(2):
            self.ada.write("more")
        self.assertEqual(self.put(*self.ada.messages[3:], *self.ada.messages[:3]), [None] * 5)
        found = self.frontier()
        self.assertEqual((found.sequence, found.disputed), (3, None))
        raws = store.read_chain(self.connection, self.ada.key, 0, 10**6, 100)
        self.assertEqual(raws, self.ada.raws[:3])

    @given(order=st.permutations(range(6)), second=st.booleans())
    def test_the_order_of_arrival_does_not_matter(self, order: list[int], second: bool) -> None:
        """Where the feed ends; a second rotation behind the first one changes nothing."""
        self.connection = fresh()
        ada = self.ada = Author("ada")
        ada.write_many(2)
        end(ada)
        ada.write("more")
        if second:
            end(ada, OTHER)
        else:
            ada.write("still")
        ada.write("the end")
        for at in order:
            self.put(ada.messages[at])
        self.put(*ada.messages)
        self.assertEqual(self.frontier().sequence, 3)
        self.assertEqual(self.ends(), [(ada.key, NEW.public.raw, 3)])
        self.connection.commit()
        report = examine(self.connection, repair=False, own=None, now_ns=NOW_NS)
        self.assertEqual(report.findings, [])

    def ends(self) -> list[Any]:
        return self.connection.execute("SELECT * FROM feed_rotations").fetchall()

    def test_the_end_is_not_skipped(self) -> None:
        """Nobody keeps what is before it: it is the end all the same."""
        self.ada.write_many(2)
        end(self.ada)
        beyond = [self.ada.write("more"), self.ada.write("and more")]
        self.put(*beyond, *self.ada.messages[1:3])
        at_end, after = bytes.fromhex(self.ada.messages[2].hash), bytes.fromhex(beyond[0].hash)
        for until, head in ((3, at_end), (4, after)):
            self.assertIsNone(store.skip(self.connection, self.ada.key, until, head, NOW_NS))
        first = bytes.fromhex(self.ada.messages[0].hash)
        self.assertEqual(store.skip(self.connection, self.ada.key, 1, first, NOW_NS), 3)
        self.assertEqual(self.frontier().sequence, 3)

    def test_two_in_one_place_are_a_fork(self) -> None:
        self.ada.write_many(2)
        messages = list(self.ada.messages)
        one = end(self.ada)
        del self.ada.messages[2:]
        two = end(self.ada, OTHER)
        self.assertNotEqual(one.hash, two.hash)
        self.put(*messages, one)
        self.put(two)
        found = self.frontier()
        self.assertEqual((found.sequence, found.forked), (2, 3))
        self.assertIsNotNone(store.fork_proof(self.connection, self.ada.key))

    def test_nobody_can_end_the_feed_of_another(self) -> None:
        """Egregore's S3."""
        self.ada.write_many(1)
        eve = Author("eve")
        eve.write(rotation_content(self.ada.identity.public, NEW, 1, self.ada.messages[0].hash))
        self.ada.write("still here")
        self.assertEqual(self.put(*eve.messages, *self.ada.messages), [None] * 3)
        self.assertEqual(self.ends(), [])


class Own(SynchronousTestCase):
    """A node's own feed is ended."""

    def setUp(self) -> None:
        self.connection = fresh()
        self.old = Author("me")

    def rotate(self, new: Identity = NEW) -> Rotation:
        return rotate(self.connection, self.old.identity, new, NOW_NS)

    def raws(self, identity: Identity) -> list[Message]:
        raws = store.read_chain(self.connection, identity.public.raw, 0, 10**6, 100)
        return [parse_message(raw) for raw in raws]

    def test_the_old_feed_ends_and_the_new_one_begins(self) -> None:
        ingest(self.connection, *self.old.write_many(2), now_ns=NOW_NS)
        done = self.rotate()
        self.assertEqual(done, Rotation(self.old.identity.public, NEW.public, 3))
        last = self.raws(self.old.identity)[-1]
        (first,) = self.raws(NEW)
        self.assertEqual(read_rotation(last), done)
        self.assertEqual(
            first.content,
            {
                "type": "rotated",
                "predecessor": self.old.identity.public.text,
                "rotation": last.hash,
            },
        )
        self.assertEqual(first.relates, last.hash)
        with self.assertRaisesRegex(FeedClosed, re.escape(NEW.public.text)):
            store.own_tail(self.connection, self.old.key)
        self.assertEqual(store.own_tail(self.connection, NEW.public.raw), (1, first.hash))

    def test_again_does_nothing_and_another_key_is_refused(self) -> None:
        done = self.rotate()
        self.assertEqual(self.rotate(), done)
        self.assertEqual((len(self.raws(self.old.identity)), len(self.raws(NEW))), (1, 1))
        with self.assertRaises(FeedClosed):
            self.rotate(OTHER)

    def test_a_feed_that_may_have_gone_on_elsewhere_is_not_ended(self) -> None:
        guard.set_behind(self.connection, 0, NOW_NS)
        with self.assertRaises(FeedReadOnly):
            self.rotate()
        self.assertEqual(self.raws(self.old.identity), [])

    def test_a_forked_feed_is_not_ended(self) -> None:
        one, two = self.old.write("a"), Author("me").write("b")
        ingest(self.connection, one.raw, two.raw, now_ns=NOW_NS)
        with self.assertRaises(FeedForked):
            self.rotate()


class Parts(PartCase):
    def test_it_is_told_to_the_other_parts(self) -> None:
        told: list[FeedRotated] = []
        self.context.events.subscribe(FeedRotated, told.append)
        ada, bob = Author("ada"), Author("bob")
        for author in (ada, bob):
            author.write_many(1)
            end(author)
        expected = [FeedRotated(author.key, NEW.public.raw, 2) for author in (ada, bob)]
        self.done(self.part.ingest(ada.raws + bob.raws))
        self.done(self.part.ingest(ada.raws))
        self.assertEqual(told, expected)
        known = sorted(expected, key=lambda rotated: rotated.author)
        self.assertEqual(self.done(self.part.rotations()), known)
        self.assertEqual(self.done(self.part.rotations(NEW.public.raw, limit=1)), known[:1])
        self.assertEqual(self.done(self.part.rotations(after=known[0].author)), known[1:])
        self.assertEqual(self.done(self.part.rotations(OTHER.public.raw)), [])

    def test_a_feed_that_has_ended_takes_no_message(self) -> None:
        def job(connection: sqlite3.Connection) -> Rotation:
            return rotate(connection, self.context.identity, NEW, DAY_NS)

        self.done(self.context.database.write(job))
        error = self.failed(self.part.publish("more"), FeedClosed)
        self.assertIn(NEW.public.text, str(error))
