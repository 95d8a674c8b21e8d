"""
Tests of L{meshkit.gossip.link} and L{meshkit.gossip.part}, over wires in memory.

The first half are honest places; in the second half one end does as the test says.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from meshkit.errors import NotReady, Overloaded, PeerTooSlow, StorageFailed
from meshkit.gossip import digestion
from meshkit.gossip import link as link_module
from meshkit.gossip import part as part_module
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    MAX_FRAME,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Done,
    Have,
    Messages,
    Want,
    encode,
)
from meshkit.gossip.digestion import MAX_UNDIGESTED
from meshkit.gossip.link import MAX_REFUSED, PATIENCE, RENEW_BYTES, RENEW_SECONDS
from meshkit.gossip.part import (
    BAN,
    CLOSE_GRACE,
    GATHER,
    MAX_BANNED,
    MAX_LINKS_PER_PEER,
    UNKEPT,
)
from meshkit.gossip.session import MAX_ASKED, MAX_WANTED, MIN_RATE
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import IMeshPart
from meshkit.testing.identities import Author
from tests.gossip.support import GossipCase, Liar, Place


class Together(GossipCase):
    def test_it_is_a_part(self) -> None:
        verifyObject(IMeshPart, self.place("a").gossip)

    def test_both_sides_end_with_everything(self) -> None:
        a, b = self.place("a"), self.place("b")
        a.publish(2)
        b.publish(3)
        self.connect(a, b)
        self.run_for()
        self.assertEqual(a.heads(), b.heads())
        self.assertEqual(a.heads(), {a.key.raw: 2, b.key.raw: 3})

    def test_the_texts_arrive_byte_by_byte_the_same(self) -> None:
        a, b = self.place("a"), self.place("b")
        a.publish(3)
        rng = Random(1)
        self.connect(a, b, chunk=lambda waiting: rng.randint(1, 5))
        self.run_for(5)
        read = [place.result(place.feed.read(a.key.raw, 0, 10**9, 99)) for place in (a, b)]
        self.assertEqual(read[0], read[1])
        self.assertEqual(len(read[0]), 3)

    def test_many_pages_of_many_feeds(self) -> None:
        a, b = self.place("a"), self.place("b")
        authors = [Author(f"author {n}") for n in range(MAX_ASKED + 10)]
        for author in authors:
            a.ingest(author.write_many(1))
        long = Author("long")
        a.ingest(long.write_many(PAGE_MESSAGES + 5))
        self.connect(b, a)
        self.run_for(1)
        self.assertEqual(b.heads(), a.heads())
        self.assertEqual(len(b.heads()), len(authors) + 1)

    def test_what_is_published_later_is_pushed_at_once(self) -> None:
        a, b = self.place("a"), self.place("b")
        self.connect(a, b)
        self.run_for()
        a.publish()
        self.assertEqual(b.heads(), {a.key.raw: 1})

    def test_more_than_a_hundred_pushes_and_none_is_lost(self) -> None:
        a, b = self.place("a"), self.place("b")
        self.connect(a, b)
        for _ in range(120):
            a.publish()
        self.assertEqual(b.heads(), {a.key.raw: 120})

    def test_a_quiet_connection_lasts(self) -> None:
        a, b = self.place("a"), self.place("b")
        self.connect(a, b)
        self.run_for(3600)
        a.publish()
        self.assertEqual(b.heads(), {a.key.raw: 1})

    def test_in_a_line_it_goes_to_the_third_and_not_back(self) -> None:
        a, b, c = self.place("a"), self.place("b"), self.place("c")
        self.connect(a, b)
        self.connect(b, c)
        self.run_for()
        told: list[Any] = []
        (from_b,) = [link for link in b.links if link.connected_to == a.key]
        self.patch(from_b, "send", lambda frame: told.append(frame) or _write(from_b, frame))
        a.publish()
        self.run_for(2 * GATHER)
        self.assertEqual(c.heads(), {a.key.raw: 1})
        self.assertEqual([f for f in told if isinstance(f, Have)], [])
        self.assertEqual([type(f) for f in told], [Want])

    def test_a_late_joiner_gets_everything(self) -> None:
        a, b, c = self.place("a"), self.place("b"), self.place("c")
        self.connect(a, b)
        self.run_for()
        a.publish(5)
        b.publish(1)
        self.run_for()
        self.connect(c, b)
        self.run_for()
        self.assertEqual(c.heads(), {a.key.raw: 5, b.key.raw: 1})

    def test_a_message_arrives_once_in_a_clique(self) -> None:
        places = [self.place(name) for name in "abcd"]
        for n, first in enumerate(places):
            for second in places[:n]:
                self.connect(first, second)
        self.run_for()
        for _ in range(10):
            places[0].publish()
            self.run_for()
        received = sum(link.received for place in places for link in place.links)
        self.assertEqual(received, 30)
        duplicates = [place.feed.refused["DUPLICATE_MESSAGE"] for place in places]
        self.assertEqual(duplicates, [0, 0, 0, 0])

    def test_gaps_are_not_told(self) -> None:
        a, b = self.place("a"), self.place("b")
        author = Author("gap")
        raws = author.write_many(5)
        a.ingest([*raws[:2], *raws[3:]])
        self.connect(a, b)
        self.run_for()
        self.assertEqual(b.heads(), {author.key: 2})
        a.ingest([raws[2]])
        self.run_for()
        self.assertEqual(b.heads(), {author.key: 5})

    def test_a_fork_does_not_stop_the_rest(self) -> None:
        a, b = self.place("a"), self.place("b")
        first, second = Author("fork"), Author("fork")
        first.write("one history")
        second.write("another")
        a.ingest([*first.raws, *first.write_many(5)])
        b.ingest([*second.raws, *second.write_many(2)])
        a.publish()
        self.connect(a, b)
        self.run_for(1)
        self.assertEqual(b.heads(), {first.key: 3, a.key.raw: 1})
        self.assertEqual((len(a.links), len(b.links)), (1, 1))
        # The claim cannot be made good, and is not asked for at every announcement.
        before = b.feed.refused["FORK_REFUSED"]
        self.run_for(1000)
        self.assertEqual(b.feed.refused["FORK_REFUSED"], before)

    def test_status_names_the_peers(self) -> None:
        a, b = self.place("a"), self.place("b")
        a.publish(3)
        self.connect(a, b)
        self.run_for()
        (status,) = a.gossip.status().links
        self.assertEqual((status.peer, status.dialled, status.sent), (b.key.text, True, 3))
        (status,) = b.gossip.status().links
        self.assertEqual(
            (status.peer, status.dialled, status.received, status.fetching),
            (a.key.text, False, 3, 0),
        )

    def test_a_connection_that_is_cut_leaves_nothing(self) -> None:
        """... whatever it was doing: tearDown looks for timers, claims and errors."""
        for steps in range(30):
            with self.subTest(steps=steps):
                a, b = self.place(f"a{steps}"), self.place(f"b{steps}")
                a.publish(3)
                b.publish(3)
                wire = self.connect(a, b)
                for _ in range(steps):
                    if self.clock.getDelayedCalls():
                        self.clock.advance(0.0001)
                        wire.step()
                wire.cut()
                self.run_for()
                self.assertEqual((a.links, b.links), ([], []))
                self.assertEqual((len(a.gossip.claims), len(b.gossip.claims)), (0, 0))
                if steps > 8:
                    continue
                self.connect(a, b)
                self.run_for()
                self.assertEqual(a.heads(), b.heads())


def _write(link: Any, frame: Any) -> None:
    link._channel.write(encode(frame))


class Following(GossipCase):
    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.place("a"), self.place("b")
        self.ada, self.bob = Author("ada"), Author("bob")
        self.a.ingest([*self.ada.write_many(2), *self.bob.write_many(2)])

    def test_only_followed_feeds_are_fetched(self) -> None:
        self.b.follow(self.ada.identity.public)
        self.connect(self.a, self.b)
        self.run_for()
        self.assertEqual(self.b.heads(), {self.ada.key: 2})

    def test_following_while_connected_fetches_what_is_there(self) -> None:
        self.b.follow(self.ada.identity.public)
        self.connect(self.a, self.b)
        self.run_for()
        self.b.follow(self.bob.identity.public)
        self.run_for()
        self.assertEqual(self.b.heads(), {self.ada.key: 2, self.bob.key: 2})
        self.assertEqual(
            self.b.call("follows_list"),
            sorted(self.b.call("follows_list"), key=lambda followed: followed.author),
        )

    def test_unfollowing_while_connected_stops_the_feed(self) -> None:
        self.b.follow(self.ada.identity.public)
        self.b.follow(self.bob.identity.public)
        self.connect(self.a, self.b)
        self.run_for()
        self.b.unfollow(self.bob.identity.public)
        self.a.ingest([*self.ada.write_many(1), *self.bob.write_many(1)])
        self.run_for()
        self.assertEqual(self.b.heads(), {self.ada.key: 3, self.bob.key: 2})

    def test_following_nobody_is_replicating_everybody(self) -> None:
        self.b.follow(self.ada.identity.public)
        self.connect(self.a, self.b)
        self.run_for()
        self.b.unfollow(self.ada.identity.public)
        self.run_for()
        self.assertEqual(self.b.heads(), self.a.heads())

    def test_ones_own_feed_comes_back_whomever_one_follows(self) -> None:
        mine = Author("b")
        self.a.ingest(mine.write_many(3))
        self.b.follow(self.ada.identity.public)
        self.connect(self.a, self.b)
        self.run_for()
        self.assertEqual(self.b.heads(), {self.ada.key: 2, mine.key: 3})

    def test_whom_one_follows_is_kept(self) -> None:
        self.b.follow(self.ada.identity.public)
        self.b.follow(self.ada.identity.public)
        again = part_module.make_part(self.b.context)
        self.b.result(again.startService())
        self.assertEqual(again.status(), self.b.gossip.status())
        self.assertEqual(again.status().follows, 1)
        self.b.result(again.stopService())

    def test_a_follow_whose_caller_hangs_up_is_kept_in_memory_as_well(self) -> None:
        (bound,) = [b for b in self.b.gossip.operations() if b.operation.name == "follows_add"]
        for steps, author in enumerate((self.ada, self.bob)):
            request = bound.operation.request(author=author.identity.public.text)
            waiting = bound.handler(request)
            waiting.addErrback(lambda failure: None)
            for _ in range(steps):  # the disk is at work
                self.clock.calls.pop(0).func()
            self.assertFalse(waiting.called)
            waiting.cancel()
            self.run_for()
            self.assertEqual(self.b.gossip.status().follows, steps + 1)


class Patience(GossipCase):
    """A peer that stops in the middle of something."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.author = Author("author")
        self.raws = self.author.write_many(4)

    def dropped(self, code: str, after: float = PATIENCE) -> None:
        self.run_for(after - 1)
        self.assertEqual(len(self.me.links), 1)
        self.run_for(2)
        self.assertEqual(self.me.links, [])
        self.assertEqual(self.me.gossip.status().broken, {code: 1})

    def test_in_the_middle_of_a_frame(self) -> None:
        for length in (1, 3, 4, 5, 30):
            with self.subTest(length=length):
                self.me.gossip.broken.clear()
                liar = self.lie_to(self.me)
                liar.say_bytes(encode(Have([(self.author.key, 1)]))[:length])
                self.dropped("PEER_TOO_SLOW")

    def test_who_never_answers_a_want(self) -> None:
        self.lie_to(self.me).have((self.author.key, 4))
        self.dropped("PEER_TOO_SLOW")

    def test_who_stops_between_two_pages(self) -> None:
        big = Author("big")
        raws = [big.write("x" * MIN_RATE * int(PATIENCE)).raw for _ in range(2)]
        liar = self.lie_to(self.me)
        liar.have((big.key, 4))
        self.run_for(10)
        liar.give(big, raws, done=False)
        self.dropped("PEER_TOO_SLOW")
        self.assertEqual(self.me.heads(), {big.key: 2})

    def test_who_keeps_talking_instead_of_answering(self) -> None:
        """A peer that only tells what it has, or drips bytes, would hold the feed for ever."""
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 4))
        for n in range(5):
            self.run_for(PATIENCE / 5 - 0.1)
            liar.have((bytes(32), n))
        self.run_for(1)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_drips_a_frame(self) -> None:
        liar = self.lie_to(self.me)
        frame = encode(Have([(self.author.key, 4)]))
        for n in range(5):
            liar.say_bytes(frame[n : n + 1])
            self.run_for(PATIENCE / 5)
        self.run_for(1)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_answers_slowly_but_steadily_is_kept(self) -> None:
        slow = Author("slow")
        raws = [slow.write("x" * MIN_RATE).raw for _ in range(4 * int(PATIENCE))]
        liar = self.lie_to(self.me)
        liar.have((slow.key, len(raws)))
        self.run_for()
        for raw in raws:
            liar.give(slow, [raw], done=False)
            self.run_for(1)
        self.run_for(PATIENCE - 2)
        liar.give(slow, [])
        self.run_for(10 * PATIENCE)
        self.assertEqual(len(self.me.links), 1)
        self.assertEqual(self.me.heads(), {slow.key: len(raws)})

    def test_several_feeds_share_the_rate_of_a_link(self) -> None:
        """As they take turns, a page each, any of them may pause for that long."""
        liar = self.lie_to(self.me)
        authors = [Author(f"author {n}") for n in range(3)]
        needed = int(MIN_RATE * PATIENCE)
        liar.have(*((author.key, 9) for author in authors))
        self.run_for()
        for _ in range(2):
            for author in authors:
                self.run_for(PATIENCE - 1)
                liar.give(author, [author.write("x" * needed).raw], done=False)
        for author in authors:
            liar.give(author, [])
        self.run_for(PATIENCE)
        self.assertEqual(len(self.me.links), 1)
        self.assertEqual(self.me.heads(), {author.key: 2 for author in authors})

    def drip(self, liar: Liar, pages: Sequence[Sequence[bytes]]) -> None:
        """A page now and then, often enough never to be silent for too long."""
        for page in pages:
            self.run_for(PATIENCE - 1)
            if liar.lost is not None:
                break
            liar.give(self.author, page, done=False)

    def test_who_drips_a_feed_has_to_leave_it_to_another(self) -> None:
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 10**6))
        self.run_for()
        honest = self.lie_to(self.me, "honest")
        honest.have((self.author.key, 4))
        self.run_for()
        self.assertEqual(honest.wanted(), [])
        self.drip(liar, [[raw] for raw in self.raws])
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})
        self.assertEqual(honest.wanted(), [(self.author.key, 1)])
        honest.give(self.author, self.raws[1:])
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 4})

    def test_what_is_refused_is_no_progress(self) -> None:
        padding = "x" * int(MIN_RATE * PATIENCE)
        forged = [b'{"not":"a message"}' + padding.encode() for _ in range(3)]
        self.me.ingest(self.raws)
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 10**6))
        self.run_for()
        self.assertEqual(liar.wanted(), [(self.author.key, 4)])
        self.drip(liar, [[raw] for raw in forged])
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_a_claim_of_which_nothing_came_is_not_believed_again_for_a_while(self) -> None:
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 10**6))
        self.run_for(PATIENCE + 1)
        self.assertIsNotNone(liar.lost)
        again = self.lie_to(self.me)
        other = Author("other")
        again.have((self.author.key, 10**6 + 1), (other.key, 1))
        self.run_for()
        # That feed alone, from that peer alone.
        self.assertEqual(again.wanted(), [(other.key, 0)])
        again.give(other, other.write_many(1))
        honest = self.lie_to(self.me, "honest")
        honest.have((self.author.key, 4))
        self.run_for()
        honest.give(self.author, self.raws)
        self.run_for(UNKEPT)
        again.have((self.author.key, 10**6 + 1))
        self.run_for()
        self.assertEqual(again.wanted(), [(other.key, 0), (self.author.key, 4)])
        again.give(self.author, [])
        self.run_for()

    def test_the_claims_that_are_not_believed_are_bounded(self) -> None:
        self.patch(part_module, "MAX_UNKEPT", 2)
        keys = [n.to_bytes(32, "big") for n in range(3)]
        peer = Author("liar").identity.public
        for key in keys:
            self.me.gossip.note_unkept(peer, key)
        self.assertEqual([self.me.gossip.is_unkept(peer, key) for key in keys], [False, True, True])

    def test_while_we_do_not_read_nobody_is_slow(self) -> None:
        gates: list[Deferred[Any]] = []
        ingest = self.me.gossip.store.ingest

        def gated(texts: Any, **kw: Any) -> Any:
            gates.append(Deferred())
            return gates[-1].addCallback(lambda _: ingest(texts, **kw))

        self.patch(self.me.gossip.store, "ingest", gated)
        self.patch(digestion, "MAX_UNDIGESTED", 100)
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 4))
        self.run_for()
        steps = int(PATIENCE / 3)
        raws = [*self.raws, *self.author.write_many(steps)]
        for number, raw in enumerate(raws[:steps]):
            self.assertEqual(len(self.me.links), 1, number)
            liar.give(self.author, [raw], done=False)
            self.run_for(2 * PATIENCE)
            gates.pop(0).callback(None)
            self.run_for(3)
        # What we did listen adds up, over all pauses.
        self.assertEqual(self.me.links, [])
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_a_store_that_is_slow_is_not_the_peers_fault(self) -> None:
        stuck: Deferred[Any] = Deferred()
        liar = self.lie_to(self.me)
        ingest = self.me.gossip.store.ingest
        self.patch(
            self.me.gossip.store,
            "ingest",
            lambda texts, **kw: stuck.addCallback(lambda _: ingest(texts, **kw)),
        )
        liar.have((self.author.key, 4))
        self.run_for()
        liar.give(self.author, self.raws)
        self.run_for(3 * PATIENCE)
        self.assertEqual(len(self.me.links), 1)
        stuck.callback(None)
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 4})

    def test_who_does_not_read(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.want((big.key, 0))
        self.run_for()
        waiting = self.wires[-1].second.waiting
        self.assertLess(waiting, 4 * PAGE_BYTES)
        for n in range(5):
            self.run_for(PATIENCE / 5 - 0.2)
            liar.have((bytes(32), n))  # ... but writes
        self.run_for(2)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_reads_slowly_but_steadily_is_kept(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.want((big.key, 0))
        for _ in range(12):
            liar.transport.pauseProducing()
            self.run_for(PATIENCE - 1)
            liar.transport.resumeProducing()
            self.run_for(0.01)
        self.assertEqual(len(self.me.links), 1)
        self.assertEqual(liar.got(), big.raws)

    def test_nothing_heaps_up_for_who_does_not_read(self) -> None:
        """Neither news, nor answers to feeds that are not here."""
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.want((big.key, 0))
        self.run_for()
        before = self.wires[-1].second.waiting
        for n in range(50):
            liar.want(*((n.to_bytes(1, "big") * 32, k) for k in range(3)))
            liar.want((bytes(32), 0))
            self.me.ingest(Author(f"news {n}").write_many(1))
            self.run_for(0.1)
        self.assertEqual(self.wires[-1].second.waiting, before)
        # ... and when it reads again, it misses nothing.
        liar.transport.resumeProducing()
        self.run_for(1)
        told = dict(liar.told())
        for n in range(50):
            self.assertEqual(told[Author(f"news {n}").key], 1)
        self.assertIn(bytes(32), liar.finished())

    def test_answers_do_not_heap_up_for_who_asks_and_does_not_read(self) -> None:
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        nowhere = [n.to_bytes(32, "big") for n in range(MAX_WANTED)]
        for _ in range(10):
            liar.want(*((key, 0) for key in nowhere))
            self.run_for(1)
        self.assertLess(self.wires[-1].second.waiting, 70_000)
        self.assertEqual(len(self.me.links), 1)


class Lies(GossipCase):
    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.author = Author("author")
        self.raws = self.author.write_many(10)

    def asked_by_me(self, claim: int = 10, name: str = "liar") -> Liar:
        """A liar that made a claim and got our Want."""
        liar = self.lie_to(self.me, name)
        liar.have((self.author.key, claim))
        self.run_for()
        self.assertEqual(liar.wanted(), [(self.author.key, 0)])
        return liar

    def assert_dropped(self, liar: Liar, code: str) -> None:
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.links, [])
        self.assertEqual(self.me.gossip.status().broken, {code: 1})

    def test_a_frame_that_is_none(self) -> None:
        liar = self.lie_to(self.me)
        liar.say_bytes(b"\x00\x00\x00\x01x")
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_a_frame_that_is_too_large(self) -> None:
        liar = self.lie_to(self.me)
        liar.say_bytes((MAX_FRAME + 1).to_bytes(4, "big"))
        self.assert_dropped(liar, "FRAME_TOO_LARGE")

    def test_what_is_behind_a_bad_frame_is_not_looked_at(self) -> None:
        liar = self.lie_to(self.me)
        liar.say_bytes(b"\x00\x00\x00\x01x" + encode(Have([(self.author.key, 10)])))
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.assertEqual(liar.wanted(), [])

    def test_messages_nobody_asked_for(self) -> None:
        for frame in (Messages(self.author.key, self.raws), Done(self.author.key)):
            with self.subTest(frame=type(frame)):
                self.me.gossip.broken.clear()
                liar = self.lie_to(self.me)
                liar.say(frame)
                self.assert_dropped(liar, "FRAME_MALFORMED")
                self.assertEqual(self.me.heads(), {})

    def test_messages_before_the_want_is_sent(self) -> None:
        liar = self.lie_to(self.me)
        liar.say(Have([(self.author.key, 10)]), Messages(self.author.key, self.raws))
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_messages_after_done(self) -> None:
        liar = self.asked_by_me()
        liar.give(self.author, self.raws)
        liar.give(self.author, self.raws)
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_messages_of_another_author_are_not_stored(self) -> None:
        """Else anybody could fill a node that follows few with whatever he likes."""
        other = Author("other")
        other.write_many(3)
        liar = self.asked_by_me()
        liar.say(Messages(self.author.key, [self.raws[0], other.raws[0]]))
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.assertEqual(self.me.heads(), {self.author.key: 1})
        self.assertEqual(self.me.feed.status().feeds, 1)

    def test_messages_out_of_turn_are_not_stored(self) -> None:
        liar = self.asked_by_me()
        liar.say(Messages(self.author.key, self.raws[5:]))
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.assertEqual(self.me.feed.status().messages, 0)

    def test_the_same_page_again_and_again(self) -> None:
        """It would hold the feed for ever, with nothing but honest messages."""
        liar = self.asked_by_me()
        for _ in range(3):
            liar.give(self.author, self.raws, done=False)
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.assertEqual(self.me.heads(), {self.author.key: 10})

    def test_forged_messages_are_counted_and_nothing_is_stored(self) -> None:
        liar = self.asked_by_me()
        forged = [raw.replace(b"number", b"numbre") for raw in self.raws]
        liar.give(self.author, forged)
        self.run_for()
        self.assertEqual(self.me.gossip.status().refused, {"HASH_MISMATCH": 10})
        self.assertEqual(self.me.feed.status().messages, 0)
        self.assertEqual(len(self.me.links), 1)

    def test_who_forges_too_much_is_banned(self) -> None:
        other = self.lie_to(self.me)  # a second connection of the same peer
        liar = self.asked_by_me()
        more = [*self.raws, *self.author.write_many(MAX_REFUSED)]
        forged = [raw.replace(b"number", b"numbre") for raw in more]
        liar.give(self.author, forged[:MAX_REFUSED], done=False)
        self.run_for()
        self.assertEqual(len(self.me.links), 2)
        liar.give(self.author, forged[MAX_REFUSED : MAX_REFUSED + 1], done=False)
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.assertIsNotNone(other.lost)
        self.assertEqual(self.me.links, [])
        key = Author("liar").identity.public
        self.assertFalse(self.me.gossip.authorize(key, "gossip"))
        self.run_for(BAN - 1)
        self.assertFalse(self.me.gossip.authorize(key, "gossip"))
        self.run_for(2)
        self.assertTrue(self.me.gossip.authorize(key, "gossip"))

    def test_the_list_of_the_banned_is_bounded(self) -> None:
        keys = [Author(n).identity.public for n in range(3)]
        self.patch(part_module, "MAX_BANNED", 2)
        self.assertGreater(MAX_BANNED, 2)
        for key in keys:
            self.me.gossip.ban(key, StorageFailed())
        self.assertEqual([self.me.gossip.is_banned(key) for key in keys], [False, True, True])

    def test_a_claim_that_cannot_be_made_good_does_not_keep_others_from_it(self) -> None:
        liar = self.asked_by_me(claim=2**63 - 1)
        liar.give(self.author, self.raws[:3])
        self.run_for()
        honest = self.lie_to(self.me, "honest")
        honest.have((self.author.key, 10))
        self.run_for()
        self.assertEqual(honest.wanted(), [(self.author.key, 3)])
        honest.give(self.author, self.raws[3:])
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 10})
        liar.have((self.author.key, 2**63 - 1))
        self.run_for()
        self.assertEqual(len(liar.wanted()), 1)

    def test_while_one_fetches_the_others_are_not_asked(self) -> None:
        self.asked_by_me()
        second = self.lie_to(self.me, "second")
        second.have((self.author.key, 10))
        self.run_for()
        self.assertEqual(second.wanted(), [])

    def test_a_lost_connection_hands_its_feeds_to_the_others(self) -> None:
        liar = self.asked_by_me()
        second = self.lie_to(self.me, "second")
        second.have((self.author.key, 10))
        self.run_for()
        liar.transport.loseConnection()
        self.run_for()
        self.assertEqual(second.wanted(), [(self.author.key, 0)])

    def test_a_feed_that_came_from_elsewhere_is_handed_on_too(self) -> None:
        """Picked for one peer, found to be here by then, and another peer has more."""
        first = self.asked_by_me(claim=4, name="first")
        second = self.lie_to(self.me, "second")
        third = self.lie_to(self.me, "third")
        second.have((self.author.key, 4))
        third.have((self.author.key, 10))
        self.run_for()
        first.give(self.author, self.raws[:4])
        self.run_for()
        self.assertEqual(second.wanted(), [])
        self.assertEqual(third.wanted(), [(self.author.key, 4)])

    def test_told_while_it_answers_is_asked_for_afterwards(self) -> None:
        liar = self.asked_by_me(claim=9)
        liar.say(
            Messages(self.author.key, self.raws[:9]),
            Have([(self.author.key, 10)]),
            Done(self.author.key),
        )
        self.run_for()
        self.assertEqual(liar.wanted(), [(self.author.key, 0), (self.author.key, 9)])

    def test_wants_up_to_the_limit_are_served_and_one_more_is_not(self) -> None:
        liar = self.lie_to(self.me)
        everything = [n.to_bytes(32, "big") for n in range(MAX_WANTED + 1)]
        for start in range(0, MAX_WANTED, MAX_ENTRIES):
            liar.want(*((key, 0) for key in everything[start : start + MAX_ENTRIES]))
        self.run_for(1)
        self.assertEqual(liar.finished(), everything[:MAX_WANTED])
        liar.say(Want([(key, 0) for key in everything[:MAX_ENTRIES]]), Want([(everything[-1], 0)]))
        liar.want((everything[0], 0))
        self.run_for(1)

    def test_feeds_that_are_wanted_take_turns(self) -> None:
        others = [Author("one"), Author("two")]
        for author in others:
            self.me.ingest(author.write_many(PAGE_MESSAGES + 1))
        liar = self.lie_to(self.me)
        liar.want(*((author.key, 0) for author in others))
        self.run_for(1)
        order = [
            (type(f).__name__, f.author) for f in liar.frames if isinstance(f, (Messages, Done))
        ]
        one, two = (author.key for author in others)
        self.assertEqual(
            order,
            [("Messages", one), ("Messages", two)] * 2 + [("Done", one), ("Done", two)],
        )

    def test_a_flood_of_claims_is_digested_before_more_is_read(self) -> None:
        liar = self.lie_to(self.me, chunk=lambda waiting: 65536)
        waiting: list[Deferred[Any]] = []
        heads = self.me.gossip.store.heads

        def slow(*args: Any, **kw: Any) -> Any:
            gate: Deferred[Any] = Deferred()
            waiting.append(gate)
            return gate.addCallback(lambda _: heads(*args, **kw))

        self.patch(self.me.gossip.store, "heads", slow)
        one = encode(Have([(bytes(32), 1)]))
        liar.say_bytes(one * 5_000)
        self.run_for()
        # However small the frames are, and however many came in one piece.
        self.assertLess(len(waiting), MAX_UNDIGESTED // 4096 + 2)
        self.assertGreater(self.wires[-1].first.waiting, 100_000)
        while waiting:
            gates, waiting[:] = list(waiting), []
            for gate in gates:
                gate.callback(None)
            self.clock.advance(0)
            if len(gates) < 2:
                break
        self.run_for()
        liar.transport.abortConnection()
        self.patch(self.me.gossip.store, "heads", heads)
        for gate in waiting:
            gate.callback(None)
        self.run_for()

    def test_pages_that_are_not_stored_yet_stop_the_reading(self) -> None:
        big = Author("big")
        raws = [big.write("x" * 60_000).raw for _ in range(40)]
        liar = self.lie_to(self.me)
        gates: list[Deferred[Any]] = []
        ingest = self.me.gossip.store.ingest

        def slow(texts: Any, **kw: Any) -> Any:
            gate: Deferred[Any] = Deferred()
            gates.append(gate)
            return gate.addCallback(lambda _: ingest(texts, **kw))

        self.patch(self.me.gossip.store, "ingest", slow)
        liar.have((big.key, 40))
        self.run_for()
        for raw in raws:
            liar.give(big, [raw], done=False)
        liar.give(big, [])
        self.run_for()
        self.assertLess(len(gates), MAX_UNDIGESTED // 60_000 + 2)
        self.assertFalse(self.wires[-1].second.reading)
        # Not the peer's fault, however long it takes.
        self.run_for(3 * PATIENCE)
        self.assertEqual(len(self.me.links), 1)
        while gates:
            gates.pop(0).callback(None)
            self.run_for()
        self.assertEqual(self.me.heads(), {big.key: 40})
        self.assertTrue(self.wires[-1].second.reading)

    def test_lost_while_paused(self) -> None:
        stuck: Deferred[Any] = Deferred()
        liar = self.asked_by_me()
        self.patch(self.me.gossip.store, "ingest", lambda texts, **kw: stuck)
        self.patch(digestion, "MAX_UNDIGESTED", 100)
        liar.give(self.author, self.raws, done=False)
        self.run_for()
        self.wires[-1].cut()
        self.run_for()
        stuck.callback([])
        self.run_for()
        self.assertEqual(self.me.links, [])


class Crowded(GossipCase):
    """Many peers have much to give at the same time."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.gates: list[Deferred[Any]] = []
        self.bytes_held = 0
        ingest = self.me.gossip.store.ingest

        def gated(texts: Any, **kw: Any) -> Any:
            gate: Deferred[Any] = Deferred()
            self.gates.append(gate)
            self.bytes_held += sum(map(len, texts))
            return gate.addCallback(lambda _: ingest(texts, **kw))

        self.patch(self.me.gossip.store, "ingest", gated)

    def givers(self, count: int, each: int) -> list[Author]:
        authors = [Author(f"giver {n}") for n in range(count)]
        liars = [self.lie_to(self.me, f"liar {n}") for n in range(count)]
        for liar, author in zip(liars, authors, strict=True):
            liar.have((author.key, each))
        self.run_for()
        for liar, author in zip(liars, authors, strict=True):
            for _ in range(each):
                liar.give(author, [author.write("x" * 20_000).raw], done=False)
            liar.give(author, [])
        self.run_for()
        return authors

    def test_what_all_links_hold_is_bounded_and_all_of_it_arrives(self) -> None:
        self.patch(digestion, "MAX_IN_ALL", 400_000)
        authors = self.givers(30, 4)
        self.assertLess(self.bytes_held, 400_000 + 40_000)
        self.assertGreater(self.bytes_held, 150_000)
        self.run_for(2 * PATIENCE)  # not their fault
        while self.gates:
            self.gates.pop(0).callback(None)
            self.run_for(0.01)
        self.run_for()
        self.assertEqual(self.me.heads(), {author.key: 4 for author in authors})
        self.assertEqual(self.me.gossip.status().broken, {})
        self.assertEqual(self.me.gossip.digestion.in_all, 0)

    def test_a_few_that_give_much_leave_room_for_who_comes_later(self) -> None:
        self.patch(digestion, "MAX_IN_ALL", 400_000)
        self.givers(3, 30)
        held = self.bytes_held
        self.assertLess(held, 400_000)
        late = self.lie_to(self.me, "late")
        author = Author("late author")
        late.have((author.key, 1))
        self.run_for()
        late.give(author, [author.write("hello").raw])
        self.run_for()
        self.assertGreater(self.bytes_held, held)
        while self.gates:
            self.gates.pop(0).callback(None)
            self.run_for(0.01)

    def test_links_that_wait_for_room_and_are_lost_leave_nothing(self) -> None:
        self.patch(digestion, "MAX_IN_ALL", 100_000)
        self.givers(8, 10)
        for wire in self.wires:
            wire.cut()
        self.run_for()
        while self.gates:
            self.gates.pop(0).callback(None)
            self.run_for(0.01)
        self.run_for()
        self.assertEqual(self.me.links, [])
        self.assertEqual(self.me.gossip.digestion.in_all, 0)


class Failing(GossipCase):
    """The store, not the peer, has a problem."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.author = Author("author")
        self.raws = self.author.write_many(3)

    def break_store(self, method: str, error: Exception) -> None:
        self.patch(self.me.gossip.store, method, lambda *args, **kw: fail(error))

    def test_what_cannot_be_stored_ends_the_connection_and_the_next_one_goes_on(self) -> None:
        for error in (StorageFailed("disk full"), Overloaded("busy"), NotReady("stopping")):
            with self.subTest(error=error):
                self.me.gossip.hindered.clear()
                liar = self.lie_to(self.me)
                liar.have((self.author.key, 3))
                self.run_for()
                ingest = self.me.gossip.store.ingest
                self.break_store("ingest", error)
                liar.give(self.author, self.raws)
                self.run_for()
                # In good order, and nothing is held against the peer.
                self.assertIsInstance(liar.lost and liar.lost.value, ConnectionDone)
                self.assertEqual(self.me.gossip.status().hindered, {error.code: 1})
                self.assertEqual(self.me.gossip.status().broken, {})
                self.assertEqual(len(self.me.gossip.claims), 0)
                self.patch(self.me.gossip.store, "ingest", ingest)
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 3))
        self.run_for()
        liar.give(self.author, self.raws)
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 3})

    def test_two_pages_that_cannot_be_stored_are_one_failure(self) -> None:
        liar = self.lie_to(self.me)
        liar.have((self.author.key, 3))
        self.run_for()
        self.break_store("ingest", StorageFailed("disk full"))
        liar.say(*(Messages(self.author.key, [raw]) for raw in self.raws))
        self.run_for()
        self.assertEqual(self.me.gossip.status().hindered, {"STORAGE_FAILED": 1})

    def test_what_cannot_be_looked_up_ends_the_connection(self) -> None:
        for say in (
            lambda liar: liar.have((self.author.key, 3)),
            lambda liar: liar.want((self.author.key, 0)),
        ):
            self.me.gossip.hindered.clear()
            liar = self.lie_to(self.me)
            originals = {name: getattr(self.me.gossip.store, name) for name in ("heads", "read")}
            for name in originals:
                self.break_store(name, StorageFailed("disk"))
            say(liar)
            self.run_for()
            self.assertEqual(self.me.gossip.status().hindered, {"STORAGE_FAILED": 1})
            for name, original in originals.items():
                self.patch(self.me.gossip.store, name, original)

    def test_a_mistake_of_ours_is_logged_and_ends_the_connection(self) -> None:
        liar = self.lie_to(self.me)
        self.break_store("heads", ZeroDivisionError("a bug"))
        liar.have((self.author.key, 3))
        self.run_for()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.links, [])


class Closing(GossipCase):
    def test_a_goodbye_is_answered(self) -> None:
        """A channel waits for its producer before it closes: the link has to let go."""
        a, b = self.place("a"), self.place("b")
        wire = self.connect(a, b)
        self.run_for()
        (link,) = b.links
        link.readConnectionLost()
        self.run_for()
        self.assertIsInstance(wire.second.lost and wire.second.lost.value, ConnectionDone)
        self.assertEqual((a.links, b.links), ([], []))

    def test_a_peer_that_does_not_close_is_cut_off(self) -> None:
        a, b = self.place("a"), self.place("b")
        wire = self.connect(a, b)
        self.run_for()
        self.patch(wire.first, "loseConnection", lambda: None)
        self.places.remove(a)
        stopped: list[Any] = []
        a.gossip.stopService().addBoth(stopped.append)
        self.run_for(CLOSE_GRACE - 1)
        self.assertEqual(stopped, [])
        self.run_for(2)
        self.assertEqual(stopped, [None])
        self.assertTrue(wire.first.aborted)
        a.result(a.context.database.stopService())

    def test_who_comes_while_it_stops_is_not_let_in(self) -> None:
        a = self.place("a")
        key = Author("late").identity.public
        factory = a.gossip.capabilities()["gossip"]
        a.result(a.gossip.stopService())
        self.assertFalse(a.gossip.authorize(key, "gossip"))
        # ... also if its handshake was through already.
        wire = self._wire(key, a.key, None)
        liar = Liar()
        wire.connect(liar, factory.buildProtocol(None))
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.assertEqual(a.links, [])

    def test_no_more_connections_than_configured(self) -> None:
        a = self.place("a", max_links=2)
        self.lie_to(a, "one")
        self.lie_to(a, "two")
        self.assertFalse(a.gossip.authorize(Author("three").identity.public, "gossip"))
        factory = a.gossip.capabilities()["gossip"]
        self.assertIsNone(factory.buildProtocol(None))

    def test_one_peer_cannot_take_all_connections(self) -> None:
        a = self.place("a")
        liars = [self.lie_to(a) for _ in range(MAX_LINKS_PER_PEER + 2)]
        self.assertEqual(len(a.links), MAX_LINKS_PER_PEER)
        # The oldest go: they may be those that a restarted peer has forgotten.
        self.assertEqual(
            [liar.lost is not None for liar in liars],
            [True, True, *[False] * MAX_LINKS_PER_PEER],
        )
        self.assertEqual(a.gossip.status().broken, {})

    def test_nor_by_never_saying_goodbye(self) -> None:
        a = self.place("a")
        for _ in range(10 * MAX_LINKS_PER_PEER):
            self.lie_to(a)
            # Our goodbye is never answered: the link is there until it is cut.
            self.patch(self.wires[-1].second, "loseConnection", lambda: None)
            self.assertLessEqual(len(a.links), MAX_LINKS_PER_PEER)
            a.links[-1].close()
        for _ in range(2 * MAX_LINKS_PER_PEER):
            self.lie_to(a)
            self.patch(self.wires[-1].second, "loseConnection", lambda: None)
            self.assertLessEqual(len(a.links), MAX_LINKS_PER_PEER)
        self.assertEqual(len(a.links), MAX_LINKS_PER_PEER)
        for wire in self.wires:
            wire.cut()
        self.run_for()

    def test_announcements_at_every_interval(self) -> None:
        a = self.place("a", interval=10.0)
        a.publish()
        liar = self.lie_to(a)
        self.assertEqual(liar.told(), [(a.key.raw, 1)])
        self.run_for(25)
        self.assertEqual(liar.told(), [(a.key.raw, 1)] * 3)


class DialCase(GossipCase):
    """A place whose attempts to dial end as the test says."""

    def setUp(self) -> None:
        super().setUp()
        self.attempts: list[tuple[MeshAddress, Any, Deferred[Any]]] = []
        self.me = Place(self.clock, "me", connections=self)
        self.places.append(self.me)
        self.peer = MeshAddress("10.0.0.9", 7655, Author("peer").identity.public)

    # IConnections, and the endpoint it gives.

    def endpoint(self, address: MeshAddress, label: str) -> Any:
        self.assertEqual(label, "gossip")
        case = self

        class Endpoint:
            def connect(self, factory: Any) -> Deferred[Any]:
                waiting: Deferred[Any] = Deferred()
                case.attempts.append((address, factory, waiting))
                return waiting

        return Endpoint()

    def add(self, address: MeshAddress) -> None:
        self.me.result(self.me.context.peers.add(address))

    def entry(self) -> Any:
        (entry,) = self.me.context.peers.entries()
        return entry

    def connect_attempt(self) -> Liar:
        (address, factory, waiting) = self.attempts.pop()
        link = factory.buildProtocol(None)
        wire = self._wire(self.me.key, address.key, None)
        liar = Liar()
        wire.connect(link, liar)
        waiting.callback(link)
        self.run_for()
        return liar


class Dialling(DialCase):
    """Over whole nodes, channels included, this is tested in tests/services."""

    def test_an_address_that_is_added_is_dialled(self) -> None:
        self.add(self.peer)
        self.assertEqual([address for address, _, _ in self.attempts], [self.peer])

    def test_ones_own_address_is_not_dialled(self) -> None:
        self.add(MeshAddress("10.0.0.1", 7655, self.me.key))
        self.assertEqual(self.attempts, [])

    def test_failures_are_noted_and_tried_again_later_and_later(self) -> None:
        self.add(self.peer)
        moments = []
        for _ in range(20):
            (_, _, waiting) = self.attempts.pop()
            moments.append(self.clock.seconds())
            waiting.errback(Overloaded("no"))
            while not self.attempts:
                self.run_for(0.1)
        pauses = [round(b - a, 1) for a, b in zip(moments, moments[1:], strict=False)]
        self.assertLess(pauses[0], 2.5)
        self.assertTrue(all(60 <= pause <= 61.3 for pause in pauses[-3:]), pauses)
        self.assertEqual(self.entry().failures, 20)
        self.assertEqual(self.entry().last_error, "OVERLOADED: no")

    def test_a_failure_is_logged_once_until_it_fails_in_another_way(self) -> None:
        events: list[Any] = []
        observer: ILogObserver = events.append  # type: ignore[assignment]
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

        def lines() -> list[str]:
            return [t for e in events if self.peer.text in (t := formatEvent(e))]

        self.add(self.peer)
        refused = ConnectionRefusedError("refused")
        for error in (refused, refused, PeerTooSlow("slow"), PeerTooSlow("slow"), refused):
            (_, _, waiting) = self.attempts.pop()
            waiting.errback(error)
            while not self.attempts:
                self.run_for(0.1)
        codes = [line for line in lines() if "failed:" in line]
        self.assertEqual(
            [
                code in line
                for code, line in zip(
                    ("PEER_UNREACHABLE", "PEER_TOO_SLOW", "PEER_UNREACHABLE"), codes, strict=True
                )
            ],
            [True] * 3,
        )
        # What Twisted logs of it names the address as well.
        self.assertTrue(any("retry" in line for line in lines()))

    def test_a_connection_is_noted_and_its_end_too(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        self.assertTrue(self.entry().connected)
        liar.transport.loseConnection()
        self.run_for()
        self.assertFalse(self.entry().connected)
        self.assertEqual(self.entry().failures, 0)
        self.run_for(5)
        self.assertEqual(len(self.attempts), 1)

    def test_our_own_trouble_is_not_noted_against_the_peer(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        self.patch(
            self.me.gossip.store, "heads", lambda *args, **kw: fail(StorageFailed("disk full"))
        )
        liar.have((bytes(32), 1))
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.assertFalse(self.entry().connected)
        self.assertEqual((self.entry().failures, self.entry().last_error), (0, None))

    def test_a_peer_that_misbehaves_is_noted(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        liar.say_bytes(b"\xff\xff\xff\xff")
        self.run_for()
        self.assertFalse(self.entry().connected)
        self.assertIn("FRAME_TOO_LARGE", self.entry().last_error)
        self.assertEqual(self.entry().failures, 1)

    def test_a_connection_that_the_peer_opened_says_nothing_of_the_one_we_opened(self) -> None:
        self.add(self.peer)
        self.connect_attempt()
        other = self.lie_to(self.me, "peer")
        other.say_bytes(b"\xff\xff\xff\xff")
        self.run_for()
        self.assertTrue(self.entry().connected)
        self.assertIsNone(self.entry().last_error)

    def test_a_banned_peer_is_not_dialled(self) -> None:
        self.me.gossip.ban(self.peer.key, Overloaded())
        self.add(self.peer)
        self.run_for(BAN - 61)
        self.assertEqual(self.attempts, [])
        self.run_for(62 + 62)
        self.assertEqual(len(self.attempts), 1)

    def test_an_address_that_is_removed_is_let_go(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        self.me.result(self.me.context.peers.remove(self.peer))
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.run_for(300)
        self.assertEqual((self.attempts, self.me.links), ([], []))

    def test_an_attempt_for_an_address_that_is_removed_is_given_up(self) -> None:
        self.add(self.peer)
        (_, _, waiting) = self.attempts.pop()
        self.me.result(self.me.context.peers.remove(self.peer))
        self.assertTrue(waiting.called)
        self.run_for(300)
        self.assertEqual(self.attempts, [])


class Renewing(DialCase):
    """Connections are replaced while their keys are fresh, before the old one is closed."""

    def setUp(self) -> None:
        super().setUp()
        self.add(self.peer)
        self.old = self.connect_attempt()

    def test_after_a_day_a_new_one_is_made_and_then_the_old_one_closed(self) -> None:
        self.run_for(RENEW_SECONDS - 1)
        self.assertEqual(self.attempts, [])
        self.run_for(2)
        self.assertEqual([address for address, _, _ in self.attempts], [self.peer])
        # Make before break.
        self.run_for(10)
        self.assertIsNone(self.old.lost)
        new = self.connect_attempt()
        self.assertIsNotNone(self.old.lost)
        self.assertIsNone(new.lost)
        (link,) = self.me.links
        self.assertTrue(link.open)
        # It was connected all the time, and the next one is due in a day.
        self.assertTrue(self.entry().connected)
        self.assertEqual(self.entry().failures, 0)
        self.run_for(RENEW_SECONDS - 20)
        self.assertEqual(self.attempts, [])
        self.run_for(21)
        self.assertEqual(len(self.attempts), 1)
        self.connect_attempt()
        self.assertIsNotNone(new.lost)
        self.assertEqual(len(self.me.links), 1)

    def test_until_a_new_one_can_be_made_the_old_one_serves(self) -> None:
        self.run_for(RENEW_SECONDS + 1)
        for _ in range(3):
            (_, _, waiting) = self.attempts.pop()
            waiting.errback(ConnectionRefusedError("refused"))
            self.run_for(90)
        self.assertIsNone(self.old.lost)
        self.me.publish()
        self.assertEqual(self.old.told(), [(self.me.key.raw, 1)])
        new = self.connect_attempt()
        self.assertIsNotNone(self.old.lost)
        self.assertEqual(new.told(), [(self.me.key.raw, 1)])
        self.assertTrue(self.entry().connected)

    def test_after_so_many_bytes_both_ways(self) -> None:
        self.assertEqual(RENEW_BYTES, 2**40)
        self.patch(link_module, "RENEW_BYTES", 20_000)
        self.old.transport.loseConnection()
        self.run_for(5)
        liar = self.connect_attempt()
        author = Author("somebody")
        raws = [author.write({"text": "x" * 900}).raw for _ in range(10)]
        liar.have((author.key, 10))
        self.run_for()
        liar.give(author, raws)
        self.run_for()
        self.assertEqual(self.attempts, [])
        # What we send counts as well.
        liar.want((author.key, 0))
        self.run_for()
        self.assertEqual(len(self.attempts), 1)
        liar.want((author.key, 0))
        self.run_for()
        self.assertEqual(len(self.attempts), 1)
        self.connect_attempt()
        self.assertIsNotNone(liar.lost)

    def test_one_that_the_peer_opened_is_the_peers_to_replace(self) -> None:
        liar = self.lie_to(self.me, "other")
        self.me.result(self.me.context.peers.remove(self.peer))
        self.run_for(2 * RENEW_SECONDS)
        self.assertIsNone(liar.lost)
        self.assertEqual(self.attempts, [])

    def test_what_is_lost_meanwhile_is_dialled_once(self) -> None:
        self.run_for(RENEW_SECONDS + 1)
        self.old.transport.loseConnection()
        self.run_for(5)
        # The one that was to replace it, and the one that comes back by itself.
        self.assertEqual(len(self.attempts), 2)
        self.attempts.reverse()
        new = self.connect_attempt()
        self.run_for(300)
        self.assertIsNone(new.lost)
        ((_, _, waiting),) = self.attempts
        self.assertTrue(waiting.called)
        self.assertEqual(len(self.me.links), 1)

    def test_an_address_that_is_removed_is_not_renewed(self) -> None:
        self.run_for(RENEW_SECONDS + 1)
        (_, _, waiting) = self.attempts.pop()
        self.me.result(self.me.context.peers.remove(self.peer))
        self.assertTrue(waiting.called)
        self.run_for(300)
        self.assertEqual((self.attempts, self.me.links), ([], []))

    def test_a_node_that_is_full_renews_as_well(self) -> None:
        self.me.gossip._config = part_module.Config(max_links=1)
        self.assertTrue(self.me.gossip.is_full())
        self.run_for(RENEW_SECONDS + 1)
        new = self.connect_attempt()
        self.assertIsNone(new.lost)
        self.assertIsNotNone(self.old.lost)


class Idle(GossipCase):
    def test_without_feeds_the_part_says_that_it_does_nothing(self) -> None:
        from tests.gossip.support import make_context

        context = make_context(self.clock, "no feeds", config=part_module.Config())
        part = part_module.make_part(context)
        self.assertIn("IFeedStore", part.status().idle)
        self.assertEqual((part.capabilities(), list(part.operations())), ({}, []))
        part.startService()
        part.stopService()
        context.database.stopService()
        self.run_for()
