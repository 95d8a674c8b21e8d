"""
Tests of L{meshkit.gossip.link} and L{meshkit.gossip.part}, over wires in memory.

The first half are honest places; in the second half one end does as the test says.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from meshkit.errors import NotReady, Overloaded, PeerTooSlow, StorageFailed
from meshkit.feed.message import parse_message
from meshkit.gossip import digestion, telling
from meshkit.gossip import link as link_module
from meshkit.gossip import part as part_module
from meshkit.gossip import spread as spread_module
from meshkit.gossip.codec import (
    MAX_ENTRIES,
    MAX_FRAME,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Credit,
    Gone,
    Hello,
    Interest,
    Messages,
    Note,
    Ping,
    Proof,
    Ranges,
    Stopped,
    encode,
)
from meshkit.gossip.comparing import MAX_OPEN_WINDOWS
from meshkit.gossip.credit import FIRST, WINDOW_BYTES, WINDOW_MESSAGES
from meshkit.gossip.digestion import MAX_UNDIGESTED
from meshkit.gossip.fetching import MAX_REFUSED
from meshkit.gossip.link import DEAD, IDLE, PATIENCE, PROOF, RENEW_BYTES, RENEW_SECONDS
from meshkit.gossip.part import (
    BAN,
    CLOSE_GRACE,
    GATHER,
    IDLE_LINK,
    LABEL,
    LASTING,
    LOOK_AROUND,
    MAX_LINKS_PER_PEER,
    VERSION,
)
from meshkit.gossip.reconcile import Entry
from meshkit.gossip.selection import MAX_AUTHORS
from meshkit.gossip.spread import (
    GRAFT_AFTER,
    LAZY,
    MADE_GOOD,
    MAX_CATCHING,
    MAX_ON,
    MIN_RATE,
    RECEIVE,
    REPLICATE,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import IMeshPart, NodeWoke
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
        authors = [Author(f"author {n}") for n in range(MAX_CATCHING + 10)]
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
        self.assertEqual(told, [])

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

    def test_a_fork_is_found_and_does_not_stop_the_rest(self) -> None:
        a, b = self.place("a"), self.place("b")
        first, second = Author("fork"), Author("fork")
        first.write("one history")
        second.write("another")
        a.ingest([*first.raws, *first.write_many(5)])
        b.ingest([*second.raws, *second.write_many(2)])
        a.publish()
        self.connect(a, b)
        self.run_for(1)
        for place in (a, b):
            self.assertEqual(place.heads(), {a.key.raw: 1})
            proof = place.result(place.feed.fork_proof(first.key))
            self.assertEqual({proof.one, proof.other}, {first.raws[0], second.raws[0]})
        self.assertEqual((len(a.links), len(b.links)), (1, 1))
        # What cannot be had is not asked for at every comparison.
        before = [link.sent for link in (*a.links, *b.links)]
        self.run_for(1000)
        self.assertEqual([link.sent for link in (*a.links, *b.links)], before)

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
                self.assertEqual((len(a.gossip.spread), len(b.gossip.spread)), (0, 0))
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

    def test_what_is_known_of_a_feed_is_not_looked_up_again(self) -> None:
        me = self.place("me")
        author = Author("author")
        first, *texts = author.write_many(3)
        me.ingest([first])
        liars = [self.lie_to(me, name) for name in ("one", "two", "three")]
        asked: list[Any] = []
        frontier = me.feed.frontier

        def counted(*args: Any, **kw: Any) -> Any:
            asked.append(args)
            return frontier(*args, **kw)

        self.patch(me.feed, "frontier", counted)
        liars[0].say(Note([(author.key, 2, REPLICATE)]))
        self.run_for()
        # What it has, and, as it is the next source, once more.
        self.assertEqual((len(asked), liars[0].wanted()), (2, [(author.key, 1)]))
        liars[1].say(Note([(author.key, 3, REPLICATE)]))
        liars[2].say(Note([(author.key, 0, REPLICATE | RECEIVE)]))
        self.run_for()
        self.assertEqual((len(asked), liars[2].got()), (2, [first]))
        liars[0].say(Messages(author.key, 2, texts[:1]))
        self.run_for(GRAFT_AFTER + 0.1)
        self.assertEqual(liars[2].got(), [first, texts[0]])
        self.assertEqual(liars[1].wanted(), [(author.key, 2)])

    def test_what_waits_to_be_turned_on_is_not_when_nobody_wants_it_any_more(self) -> None:
        gates: list[Deferred[Any]] = []
        me = self.place("me")
        liar = self.lie_to(me)
        frontier = me.feed.frontier

        def slow(*args: Any, **kw: Any) -> Any:
            gates.append(Deferred())
            return gates[-1].addCallback(lambda _: frontier(*args, **kw))

        first, *others = (Author(f"author {n}") for n in range(5))
        me.follow(first.identity.public)
        for author in others:
            me.follow(author.identity.public)
        self.patch(spread_module, "MAX_CATCHING", 2)
        self.patch(me.feed, "frontier", slow)
        liar.say(Note([(author.key, 1, REPLICATE) for author in others]))
        self.run_for()
        gates.pop().callback(None)
        self.run_for()
        # Two are being looked up, two wait for these.
        for author in others:
            me.unfollow(author.identity.public)
        while gates:
            gates.pop().callback(None)
            self.run_for()
        self.assertEqual(liar.wanted(), [])

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

    def reasons(self, name: str = "liar") -> list[str]:
        account = self.me.context.peers.ledger.find(Author(name).identity.public)
        return [] if account is None else [reason.code for reason in account.reasons]

    def test_in_the_middle_of_a_frame(self) -> None:
        for length in (1, 3, 4, 5, 30):
            with self.subTest(length=length):
                self.me.gossip.broken.clear()
                liar = self.lie_to(self.me)
                liar.polite = False
                liar.say_bytes(encode(Note([(self.author.key, 1, 1)]))[:length])
                self.dropped("PEER_TOO_SLOW")

    def test_who_drips_a_frame(self) -> None:
        liar = self.lie_to(self.me)
        frame = encode(Note([(self.author.key, 4, REPLICATE)]))
        for n in range(5):
            liar.say_bytes(frame[n : n + 1])
            self.run_for(PATIENCE / 5)
        self.run_for(1)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_is_silent_is_asked_and_then_given_up(self) -> None:
        liar = self.lie_to(self.me, polite=False)
        liar.say(Hello(bytes(16)), Interest(True, [], [], False))
        self.run_for()
        self.assertEqual(len(liar.of_kind(Ping)), 1)
        self.run_for(IDLE + 0.2)
        self.assertEqual(len(liar.of_kind(Ping)), 2)
        self.run_for(DEAD - IDLE - 1)
        self.assertIsNone(liar.lost)
        self.run_for(2)
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_only_says_that_it_is_there_is_kept(self) -> None:
        liar = self.lie_to(self.me)
        self.run_for(20 * DEAD)
        self.assertIsNone(liar.lost)
        pings = liar.of_kind(Ping)
        self.assertLess(abs(len(pings) - 20 * DEAD / IDLE), 3)
        account = self.me.context.peers.ledger.find(Author("liar").identity.public)
        assert account is not None and account.round_trip is not None
        self.assertGreaterEqual(account.round_trip, 0)

    def test_a_promise_that_is_not_kept_is_a_strike_and_another_gets_the_feed(self) -> None:
        liar = self.lie_to(self.me)
        liar.tell(self.author, 10**6)
        self.run_for()
        honest = self.lie_to(self.me, "honest")
        honest.tell(self.author, 4)
        self.run_for()
        self.assertEqual(honest.wanted(), [])
        self.run_for(MADE_GOOD + 1)
        self.assertEqual(self.reasons(), ["PROMISE_BROKEN"])
        self.assertEqual(honest.wanted(), [(self.author.key, 0)])
        self.assertEqual(liar.notes()[-1], (self.author.key, 0, REPLICATE))
        honest.give(self.author, 1, self.raws)
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 4})
        self.assertIsNone(liar.lost)

    def test_three_strikes_and_nothing_is_turned_on_from_it_for_an_hour(self) -> None:
        liar = self.lie_to(self.me)
        good = Author("good")
        liar.tell(good, 1)
        self.run_for()
        liar.give(good, 1, good.write_many(1))
        feeds = [Author(f"feed {n}") for n in range(4)]
        for n in range(3):
            liar.tell(feeds[n], 1)
            self.run_for(MADE_GOOD + 1)
        self.assertEqual(self.reasons(), ["PROMISE_BROKEN"] * 3)
        # What was on is off, too.
        self.assertEqual(liar.notes()[-1], (good.key, 1, REPLICATE))
        asked = liar.wanted()
        liar.tell(feeds[3], 1)
        self.run_for(LAZY - 10)
        self.assertEqual(liar.wanted(), asked)
        self.run_for(LOOK_AROUND + 10)
        self.assertIn((feeds[3].key, 0), liar.wanted())

    def test_what_fails_together_is_one_strike(self) -> None:
        liar = self.lie_to(self.me)
        liar.say(Note([(n.to_bytes(32, "big"), 1, REPLICATE) for n in range(1, 100)]))
        self.run_for(MADE_GOOD + 1)
        self.assertEqual(self.reasons(), ["PROMISE_BROKEN"])
        self.assertIsNone(liar.lost)

    def test_who_drips_a_feed_has_to_leave_it_to_another(self) -> None:
        liar = self.lie_to(self.me)
        liar.tell(self.author, 10**6)
        self.run_for()
        honest = self.lie_to(self.me, "honest")
        honest.tell(self.author, 4)
        for number, raw in enumerate(self.raws[:3], 1):
            self.run_for(MADE_GOOD / 4)
            liar.give(self.author, number, [raw])
        self.assertEqual(honest.wanted(), [])
        self.run_for(MADE_GOOD / 4 + 1)
        self.assertEqual(honest.wanted(), [(self.author.key, 3)])

    def test_who_answers_slowly_but_steadily_is_kept(self) -> None:
        slow = Author("slow")
        raws = [slow.write("x" * MIN_RATE).raw for _ in range(4 * int(MADE_GOOD))]
        liar = self.lie_to(self.me)
        liar.tell(slow, len(raws))
        self.run_for()
        for number, raw in enumerate(raws, 1):
            liar.give(slow, number, [raw])
            self.run_for(1)
        self.run_for(10 * MADE_GOOD)
        self.assertEqual(self.reasons(), [])
        self.assertEqual(self.me.heads(), {slow.key: len(raws)})

    def test_what_is_refused_is_no_progress(self) -> None:
        """... and is not asked for again."""
        liar = self.lie_to(self.me)
        liar.tell(self.author, 10**6)
        self.run_for()
        liar.give(self.author, 1, [b'{"not":"a message"}'])
        self.run_for()
        self.assertEqual(liar.notes()[-1], (self.author.key, 1, REPLICATE))

    def test_while_we_do_not_read_nobody_is_late(self) -> None:
        stuck: Deferred[Any] = Deferred()
        ingest = self.me.gossip.store.ingest
        self.patch(
            self.me.gossip.store,
            "ingest",
            lambda texts, **kw: stuck.addCallback(lambda _: ingest(texts, **kw)),
        )
        self.patch(digestion, "MAX_UNDIGESTED", 100)
        other = Author("other")
        liar = self.lie_to(self.me)
        liar.say(
            Note([(self.author.key, 4, REPLICATE), (other.key, 4, REPLICATE)]),
        )
        self.run_for()
        liar.give(self.author, 1, self.raws)
        self.run_for(10 * MADE_GOOD)
        self.assertEqual(self.reasons(), [])
        self.assertIsNone(liar.lost)
        stuck.callback(None)
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 4})
        # From now on it is.
        self.run_for(MADE_GOOD - 1)
        self.assertEqual(self.reasons(), [])
        self.run_for(2)
        self.assertEqual(self.reasons(), ["PROMISE_BROKEN"])

    def test_who_does_not_read(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.turn_on(big)
        self.run_for()
        self.assertLess(self.wires[-1].second.waiting, 4 * PAGE_BYTES)
        for n in range(5):
            self.run_for(PATIENCE / 5 - 0.2)
            liar.tell(bytes(32), n)  # ... but writes
        self.run_for(2)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_who_reads_slowly_but_steadily_is_kept(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.turn_on(big)
        for _ in range(12):
            liar.transport.pauseProducing()
            self.run_for(PATIENCE - 1)
            liar.transport.resumeProducing()
            self.run_for(0.01)
        self.assertEqual(len(self.me.links), 1)
        self.assertEqual(liar.got(), big.raws)

    def test_nothing_heaps_up_for_who_does_not_read(self) -> None:
        """Neither news, nor answers to pings, nor what is stopped, nor a reconciliation."""
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.turn_on(big)
        self.run_for()
        before = self.wires[-1].second.waiting
        news = [Author(f"news {n}") for n in range(50)]
        for author in news:
            liar.turn_on(author, 0)
            liar.turn_off(author)
            liar.say(Ping(1))
            self.me.ingest(author.write_many(1))
            self.run_for(0.1)
        liar.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for(1)
        self.assertEqual(self.wires[-1].second.waiting, before)
        # ... and when it reads again, it misses nothing.
        liar.transport.resumeProducing()
        self.run_for(1)
        stopped = [author for frame in liar.of_kind(Stopped) for author in frame.authors]
        self.assertEqual(sorted(stopped), sorted(author.key for author in news))
        self.assertEqual(len(liar.of_kind(Ranges)), 1)
        fresh = Author("fresh")
        self.me.ingest(fresh.write_many(1))
        self.run_for()
        self.assertEqual(dict(liar.told())[fresh.key], 1)

    def test_a_feed_is_not_turned_on_before_it_was_said_to_be_stopped(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.turn_on(big)
        self.run_for()
        for _ in range(2):
            liar.turn_off(big)
            liar.turn_on(big)
        self.run_for()
        self.assertEqual(self.me.gossip.status().broken, {"FRAME_MALFORMED": 1})


class Lacking(GossipCase):
    """Who goes on having less than others, as far as he says."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.author = Author("author")
        self.raws = self.author.write_many(4)
        honest = self.lie_to(self.me, "honest")
        honest.tell(self.author, 4)
        self.run_for()
        honest.give(self.author, 1, self.raws)
        self.run_for()

    def lacks(self) -> int:
        (found,) = [each for each in self.me.gossip.status().links if each.dialled]
        return found.lacks

    def has(self, count: int) -> Entry:
        head = parse_message(self.raws[count - 1]).hash
        return Entry(self.author.key, count, bytes.fromhex(head), None)

    def compare(self) -> None:
        self.run_for(self.me.gossip._config.interval + 1)

    def test_who_has_no_more_after_two_comparisons_is_seen(self) -> None:
        self.be_dialled_by(self.me)
        self.assertEqual(self.lacks(), 0)
        self.compare()
        self.assertEqual(self.lacks(), 1)
        self.compare()
        self.assertEqual(self.lacks(), 1)

    def test_who_gets_on_is_not(self) -> None:
        liar = self.be_dialled_by(self.me, entries=[self.has(1)])
        for count in (2, 3, 4):
            liar.entries = [self.has(count)]
            self.compare()
            self.assertEqual(self.lacks(), 0)
        liar.entries = [self.has(3)]
        for _ in range(2):
            self.compare()
        self.assertEqual(self.lacks(), 1)

    def test_who_says_that_he_has_more_now_is_not(self) -> None:
        liar = self.be_dialled_by(self.me, entries=[self.has(2)])
        self.compare()
        self.assertEqual(self.lacks(), 1)
        liar.tell(self.author, 4)
        self.run_for()
        self.assertEqual(self.lacks(), 0)
        # And has to show it.
        self.compare()
        self.assertEqual(self.lacks(), 1)
        liar.entries = [self.has(4)]
        self.compare()
        self.assertEqual(self.lacks(), 0)

    def test_who_takes_it_and_shows_nothing_of_it_is_seen(self) -> None:
        liar = self.be_dialled_by(self.me)
        liar.turn_on(self.author)
        self.run_for()
        self.assertEqual(liar.got(), self.raws)
        for _ in range(2):
            self.compare()
        self.assertEqual(self.lacks(), 1)

    def test_so_many_feeds_are_remembered(self) -> None:
        self.patch(telling, "MAX_LACKING", 2)
        honest = self.lie_to(self.me, "honest")
        for number in range(4):
            another = Author(f"another {number}")
            honest.tell(another, 1)
            self.run_for()
            honest.give(another, 1, another.write_many(1))
        self.run_for()
        self.be_dialled_by(self.me)
        self.compare()
        self.assertEqual(self.lacks(), 2)
        (link,) = [each for each in self.me.links if each.dialled]
        self.assertEqual(len(link.telling._lacking), 2)


class Lies(GossipCase):
    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.author = Author("author")
        self.raws = self.author.write_many(10)

    def asked_by_me(self, claim: int = 10, name: str = "liar") -> Liar:
        """A liar that made a claim and was asked."""
        liar = self.lie_to(self.me, name)
        liar.tell(self.author, claim)
        self.run_for()
        self.assertEqual(liar.wanted(), [(self.author.key, 0)])
        return liar

    def assert_dropped(self, liar: Liar, code: str) -> None:
        self.run_for()
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.links, [])
        self.assertEqual(self.me.gossip.status().broken, {code: 1})
        self.assertEqual(self.reasons(), [code])

    def reasons(self, name: str = "liar") -> list[str]:
        """What the ledger has against a peer."""
        account = self.me.context.peers.ledger.find(Author(name).identity.public)
        return [] if account is None else [reason.code for reason in account.reasons]

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
        liar.say_bytes(b"\x00\x00\x00\x01x" + encode(Note([(self.author.key, 10, REPLICATE)])))
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.assertEqual(liar.wanted(), [])

    def test_who_does_not_greet_first_or_greets_twice(self) -> None:
        liar = self.lie_to(self.me, polite=False)
        liar.say(Ping(1))
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.me.gossip.broken.clear()
        again = self.lie_to(self.me, "again")
        again.say(Hello(bytes(16)))
        self.run_for()
        self.assertIsNotNone(again.lost)

    def test_messages_nobody_asked_for_are_not_stored_and_cost_score(self) -> None:
        liar = self.lie_to(self.me)
        for n in range(4):
            liar.give(self.author, 1, self.raws)
            self.run_for()
            self.assertIsNone(liar.lost)
            self.assertEqual(self.reasons(), ["NOT_ASKED_FOR"] * (n + 1))
        self.assertEqual(self.me.heads(), {})
        liar.give(self.author, 1, self.raws)
        self.run_for()
        # That is enough.
        self.assertIsNotNone(liar.lost)
        self.assertFalse(self.me.gossip.authorize(Author("liar").identity.public, LABEL))
        self.assertEqual(self.me.feed.status().messages, 0)

    def test_messages_before_the_feed_is_on(self) -> None:
        liar = self.lie_to(self.me)
        liar.say(Note([(self.author.key, 10, REPLICATE)]), Messages(self.author.key, 1, self.raws))
        self.run_for()
        self.assertEqual(self.reasons(), ["NOT_ASKED_FOR"])
        self.assertEqual(self.me.heads(), {})

    def test_the_same_page_again_and_one_that_is_not_next(self) -> None:
        liar = self.asked_by_me()
        liar.give(self.author, 1, self.raws[:5])
        liar.give(self.author, 1, self.raws[:5])
        liar.give(self.author, 7, self.raws[6:])
        self.run_for()
        self.assertEqual(self.reasons(), ["NOT_ASKED_FOR"] * 2)
        self.assertEqual(self.me.heads(), {self.author.key: 5})
        # What was not stored is no reason to be out of step.
        liar.give(self.author, 6, self.raws[5:])
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 10})

    def test_messages_of_another_author_are_not_stored(self) -> None:
        """Else anybody could fill a node that follows few with whatever he likes."""
        other = Author("other")
        other.write_many(3)
        liar = self.asked_by_me()
        liar.give(self.author, 1, [self.raws[0], other.raws[0]])
        self.assert_dropped(liar, "NOT_ASKED_FOR")
        self.assertEqual(self.me.heads(), {self.author.key: 1})
        self.assertEqual(self.me.feed.status().feeds, 1)

    def test_messages_with_other_numbers_than_it_says(self) -> None:
        liar = self.asked_by_me()
        liar.give(self.author, 1, self.raws[5:])
        self.assert_dropped(liar, "NOT_ASKED_FOR")
        self.assertEqual(self.me.feed.status().messages, 0)

    def test_who_sends_more_than_it_has_credit_for_is_cut_off(self) -> None:
        gates: list[Deferred[Any]] = []
        ingest = self.me.gossip.store.ingest

        def slow(texts: Any, **kw: Any) -> Any:
            gates.append(Deferred())
            return gates[-1].addCallback(lambda _: ingest(texts, **kw))

        self.patch(self.me.gossip.store, "ingest", slow)
        more = [*self.raws, *self.author.write_many(FIRST.messages)]
        liar = self.asked_by_me(claim=len(more))
        liar.give(self.author, 1, more[: FIRST.messages])
        self.run_for()
        self.assertIsNone(liar.lost)
        self.assertEqual(liar.of_kind(Credit), [])
        liar.give(self.author, FIRST.messages + 1, more[FIRST.messages : FIRST.messages + 1])
        self.assert_dropped(liar, "FRAME_MALFORMED")
        for gate in gates:
            gate.callback(None)
        self.run_for()

    def test_credit_is_raised_when_half_is_stored(self) -> None:
        liar = self.asked_by_me(claim=999)
        more = [*self.raws, *self.author.write_many(300)]
        half = FIRST.messages // 2
        liar.give(self.author, 1, more[: half - 1])
        self.run_for()
        self.assertEqual(liar.of_kind(Credit), [])
        liar.give(self.author, half, more[half - 1 : half])
        self.run_for()
        (credit,) = liar.of_kind(Credit)
        self.assertEqual(credit.messages, half + WINDOW_MESSAGES)
        size = sum(map(len, more[:half]))
        self.assertEqual(credit.bytes, size + WINDOW_BYTES)

    def test_what_is_sent_stays_within_the_credit(self) -> None:
        big = Author("big")
        self.me.ingest([big.write("x" * 9_000).raw for _ in range(200)])
        liar = self.lie_to(self.me)
        liar.turn_on(big)
        self.run_for(5)
        size = sum(map(len, liar.got()))
        self.assertLessEqual(size, FIRST.bytes)
        self.assertGreater(size, FIRST.bytes - 20_000)
        self.me.ingest([big.write("one more").raw])
        self.run_for(1)
        self.assertEqual(sum(map(len, liar.got())), size)
        liar.say(Credit(100, 100))  # an old one
        liar.say(Credit(999, 2 * FIRST.bytes))
        self.run_for(5)
        self.assertEqual(liar.got(), big.raws)

    def test_who_turns_feeds_on_and_off_in_vain_is_held_back(self) -> None:
        liar = self.lie_to(self.me)
        feeds = [n.to_bytes(32, "big") for n in range(1, 901)]
        for _ in range(7):
            liar.say(Note([(feed, 0, REPLICATE | RECEIVE) for feed in feeds]))
            self.run_for(0.1)
            self.assertEqual(self.reasons(), [])
            liar.say(Note([(feed, 0, REPLICATE) for feed in feeds]))
            self.run_for(0.1)
            if self.reasons():
                break
        self.assertEqual(self.reasons(), ["PEER_FLOODS"])

    def test_notes_that_say_nothing_new_are_read_slower_and_slower_then_not_at_all(self) -> None:
        liar = self.lie_to(self.me)
        liar.tell(self.author, 0)
        said = Note([(self.author.key, 0, REPLICATE)] * (MAX_ENTRIES - 50))
        liar.say(said)
        self.run_for()
        self.assertEqual(self.reasons(), [])
        liar.say(said)
        self.run_for(60)
        self.assertEqual(self.reasons(), ["PEER_FLOODS"])
        self.assertIsNone(liar.lost)
        for _ in range(60):
            liar.say(said, said)
        self.run_for(20)
        self.assertFalse(self.wires[-1].second.reading)
        self.assertIsNone(liar.lost)
        for _ in range(120):
            if liar.lost is None:
                self.run_for(10)
        self.assertIsNotNone(liar.lost)
        self.assertFalse(self.me.gossip.authorize(Author("liar").identity.public, LABEL))

    def test_a_proof_that_proves_nothing(self) -> None:
        liar = self.lie_to(self.me)
        liar.say(Proof(self.author.key, self.raws[0], self.raws[1]))
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_what_was_not_turned_off_is_stopped(self) -> None:
        liar = self.asked_by_me()
        liar.stop(self.author)
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_gone_that_was_not_asked_for(self) -> None:
        liar = self.lie_to(self.me)
        liar.say(Gone(self.author.key, 5, bytes(32), b""))
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_a_reconciliation_out_of_turn(self) -> None:
        for number, frames in enumerate(
            (
                [Ranges(1, 1, False, b"\0\xfc")],
                [Ranges(1, 0, False, b"\0\xfc")],
                [Ranges(1, 0, True, b"\0\xfd" + bytes(16))],
                [Ranges(1, 0, False, b"\0\xfd" + bytes(16))] * 2,
            )
        ):
            with self.subTest(number=number):
                liar = self.lie_to(self.me, f"liar {number}")
                liar.say(*frames)
                self.run_for()
                self.assertIsNotNone(liar.lost)
        dialled = self.be_dialled_by(self.me, "dialled")
        dialled.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for()
        self.assertIsNotNone(dialled.lost)

    def test_who_says_that_a_step_goes_on_and_does_not_go_on(self) -> None:
        """A frame that says hardly anything gains no time; it answers pings all the while."""
        place = self.place("place")
        place.ingest([Author(n).write().raw for n in range(30)])
        liar = self.lie_to(place)
        liar.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for()
        (split,) = liar.of_kind(Ranges)
        self.assertEqual(split.round, 1)
        # Of sixteen ranges it says that it has nothing in the first, and so on.
        for body in (b"\0\x06\1\0\0", b"\1\1\x06\2\0\0", b"\1\2\x06\3\0\0"):
            liar.say(Ranges(1, 2, True, body))
            self.run_for(19)
            self.assertIsNone(liar.lost)
        self.run_for(4)
        self.assertIsNotNone(liar.lost)
        self.assertEqual(place.gossip.status().broken, {"PEER_TOO_SLOW": 1})
        self.assertEqual(place.gossip.rooms.answered.tokens, MAX_OPEN_WINDOWS)

    def test_who_does_not_go_on_with_a_reconciliation(self) -> None:
        self.me.publish()
        liar = self.lie_to(self.me)
        liar.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for()
        self.assertEqual(len(liar.of_kind(Ranges)), 1)
        self.run_for(59)
        self.assertIsNone(liar.lost)
        self.run_for(2)
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})

    def test_an_interest_that_is_too_long_or_does_not_ascend(self) -> None:
        keys = [n.to_bytes(32, "big") for n in range(MAX_AUTHORS + 1)]
        pages = [
            Interest(False, keys[n : n + MAX_ENTRIES], [], True)
            for n in range(0, len(keys), MAX_ENTRIES)
        ]
        liar = self.lie_to(self.me)
        for page in pages[:-1]:
            liar.say(page)
            self.run_for(2)
        self.assertIsNone(liar.lost)
        liar.say(pages[-1])
        self.assert_dropped(liar, "FRAME_MALFORMED")
        self.me.gossip.broken.clear()
        other = self.lie_to(self.me, "other")
        other.say(Interest(False, [keys[1], keys[0]], [], False))
        self.run_for()
        self.assertIsNotNone(other.lost)

    def test_forged_messages_are_counted_and_nothing_is_stored(self) -> None:
        liar = self.asked_by_me()
        forged = [raw.replace(b"number", b"numbre") for raw in self.raws]
        liar.give(self.author, 1, forged)
        self.run_for()
        self.assertEqual(self.me.gossip.status().refused, {"HASH_MISMATCH": 10})
        self.assertEqual(self.me.feed.status().messages, 0)
        self.assertEqual(len(self.me.links), 1)

    def test_who_forges_too_much_is_banned(self) -> None:
        other = self.lie_to(self.me)  # a second connection of the same peer
        liar = self.asked_by_me()
        more = [*self.raws, *self.author.write_many(MAX_REFUSED)]
        forged = [raw.replace(b"number", b"numbre") for raw in more]
        liar.give(self.author, 1, forged[:MAX_REFUSED])
        self.run_for()
        self.assertEqual(len(self.me.links), 2)
        # On its way when the feed was turned off.
        liar.give(self.author, MAX_REFUSED + 1, forged[MAX_REFUSED : MAX_REFUSED + 1])
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

    def test_what_lies_behind_a_refused_message_is_not_sent_at_each_meeting(self) -> None:
        forged = self.raws[3].replace(b"number", b"numbre")
        liar = self.asked_by_me()
        liar.give(self.author, 1, [*self.raws[:3], forged, *self.raws[4:]])
        self.run_for()
        self.assertEqual(liar.notes()[-1], (self.author.key, 10, REPLICATE))
        liar.stop(self.author)
        for n in range(11, 14):
            liar.tell(self.author, n)
            self.run_for(10)
        self.assertEqual(len(liar.wanted()), 1)
        # Nobody else is kept from it.
        honest = self.lie_to(self.me, "honest")
        honest.tell(self.author, 10)
        self.run_for()
        self.assertEqual(honest.wanted(), [(self.author.key, 3)])
        honest.give(self.author, 4, self.raws[3:])
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 10})

    def test_while_one_fetches_the_others_are_not_asked(self) -> None:
        self.asked_by_me()
        second = self.lie_to(self.me, "second")
        second.tell(self.author, 10)
        self.run_for()
        self.assertEqual(second.wanted(), [])

    def test_a_lost_connection_hands_its_feeds_to_the_others(self) -> None:
        liar = self.asked_by_me()
        second = self.lie_to(self.me, "second")
        second.tell(self.author, 10)
        self.run_for()
        liar.transport.loseConnection()
        self.run_for()
        self.assertEqual(second.wanted(), [(self.author.key, 0)])

    def test_a_feed_that_came_from_elsewhere_is_handed_on_too(self) -> None:
        """Picked for one peer, found to be here by then, and another peer has more."""
        first = self.asked_by_me(claim=4, name="first")
        second = self.lie_to(self.me, "second")
        third = self.lie_to(self.me, "third")
        second.tell(self.author, 4)
        third.tell(self.author, 10)
        self.run_for()
        first.give(self.author, 1, self.raws[:4])
        self.run_for()
        self.assertEqual(second.wanted(), [])
        # The first may still bring the rest.
        self.assertEqual(third.wanted(), [])
        self.run_for(GRAFT_AFTER)
        self.assertEqual(third.wanted(), [(self.author.key, 4)])
        self.assertEqual(first.notes()[-1], (self.author.key, 4, REPLICATE))

    def test_what_is_on_stays_on(self) -> None:
        liar = self.asked_by_me(claim=9)
        liar.give(self.author, 1, self.raws[:9])
        self.run_for(999)
        liar.give(self.author, 10, self.raws[9:])
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 10})
        self.assertEqual(liar.wanted(), [(self.author.key, 0)])

    def test_so_many_feeds_may_be_on_and_one_more_may_not(self) -> None:
        liar = self.lie_to(self.me)
        wish = REPLICATE | RECEIVE
        keys = [n.to_bytes(32, "big") for n in range(MAX_ON + 1)]
        for start in range(0, MAX_ON, 512):
            liar.say(Note([(key, 0, wish) for key in keys[start : start + 512]]))
        self.run_for(1)
        self.assertIsNone(liar.lost)
        liar.say(Note([(keys[-1], 0, wish)]))
        self.assert_dropped(liar, "FRAME_MALFORMED")

    def test_what_is_turned_off_is_stopped_and_on_again_only_then(self) -> None:
        self.me.ingest(self.raws)
        liar = self.lie_to(self.me)
        liar.turn_on(self.author)
        self.run_for()
        liar.turn_off(self.author)
        self.run_for()
        self.assertEqual(liar.of_kind(Stopped), [Stopped([self.author.key])])
        self.me.ingest(self.author.write_many(1))
        self.run_for()
        self.assertEqual(liar.got(), self.raws)
        liar.turn_on(self.author, 9)
        self.run_for()
        self.assertEqual(liar.got(), [*self.raws, *self.author.raws[9:]])

    def test_feeds_that_are_wanted_take_turns(self) -> None:
        others = [Author("one"), Author("two")]
        for author in others:
            self.me.ingest(author.write_many(PAGE_MESSAGES + 1))
        liar = self.lie_to(self.me)
        liar.say(Note([(author.key, 0, REPLICATE | RECEIVE) for author in others]))
        liar.say(Credit(9_999, 10**9))
        self.run_for(1)
        one, two = (author.key for author in others)
        order = [frame.author for frame in liar.of_kind(Messages)]
        self.assertEqual(order, [one, two, one, two])
        self.assertEqual(len(liar.got()), 2 * (PAGE_MESSAGES + 1))

    def test_a_flood_of_claims_is_digested_before_more_is_read(self) -> None:
        liar = self.lie_to(self.me, chunk=lambda waiting: 65536)
        waiting: list[Deferred[Any]] = []
        frontier = self.me.gossip.store.frontier

        def slow(*args: Any, **kw: Any) -> Any:
            gate: Deferred[Any] = Deferred()
            waiting.append(gate)
            return gate.addCallback(lambda _: frontier(*args, **kw))

        self.patch(self.me.gossip.store, "frontier", slow)
        many = [encode(Note([(bytes(32), n, REPLICATE)])) for n in range(1, 5_001)]
        liar.say_bytes(b"".join(many))
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
        self.patch(self.me.gossip.store, "frontier", frontier)
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
        liar.tell(big, 40)
        self.run_for()
        for number, raw in enumerate(raws[:17], 1):
            liar.give(big, number, [raw])
        self.run_for()
        self.assertLess(len(gates), MAX_UNDIGESTED // 60_000 + 2)
        self.assertFalse(self.wires[-1].second.reading)
        # Not the peer's fault, however long it takes.
        self.run_for(3 * PATIENCE)
        self.assertEqual(len(self.me.links), 1)
        while gates:
            gates.pop(0).callback(None)
            self.run_for()
        self.assertEqual(self.me.heads(), {big.key: 17})
        self.assertTrue(self.wires[-1].second.reading)

    def test_lost_while_paused(self) -> None:
        stuck: Deferred[Any] = Deferred()
        liar = self.asked_by_me()
        self.patch(self.me.gossip.store, "ingest", lambda texts, **kw: stuck)
        self.patch(digestion, "MAX_UNDIGESTED", 100)
        liar.give(self.author, 1, self.raws)
        self.run_for()
        self.wires[-1].cut()
        self.run_for()
        stuck.callback([])
        self.run_for()
        self.assertEqual(self.me.links, [])

    def test_a_branch_is_followed_back_with_whom_it_was_found_and_not_with_the_author(self) -> None:
        """He would go on with the branch that is here already."""
        place = self.place("place")
        one, other = Author("fork"), Author("fork")
        for author in (one, other):
            author.write_many(3)
            for _ in range(9):
                author.write({"branch": str(author is one)})
        key = one.key
        source = self.lie_to(place, "fork")
        source.give(key, 1, one.raws)
        self.run_for()
        head = bytes.fromhex(other.messages[-1].hash)
        peer = self.be_dialled_by(place, entries=[Entry(key, 12, head)])
        asked: list[int] = []
        for _ in range(6):
            if source.wanted_no_more():
                source.frames.clear()
                source.stop(key)
            for after in [n for a, n in peer.wanted() if a == key][len(asked) :]:
                asked.append(after)
                peer.give(key, after + 1, other.raws[after:])
                self.run_for(0)
                peer.stop(key)
            self.run_for(0.1)
        self.assertEqual(asked, [11, 9, 5, 0])
        (frontier,) = [f for f in place.frontier() if f.author == key]
        self.assertEqual((frontier.sequence, frontier.forked), (3, 4))


class Tables(GossipCase):
    """What a peer can make us remember has an end."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")

    def test_news_that_cannot_be_told_are_found_by_a_comparison(self) -> None:
        self.patch(telling, "MAX_NEWS", 3)
        big = Author("big")
        self.me.ingest([big.write("x" * 60_000).raw for _ in range(8)])
        liar = self.lie_to(self.me)
        liar.transport.pauseProducing()
        liar.turn_on(big)
        self.run_for()
        for n in range(5):
            self.me.ingest(Author(n).write_many(1))
        (link,) = self.me.links
        self.assertLessEqual(len(link.telling._news), 3)
        self.assertTrue(link.partner.overflowed)
        interests = len(liar.of_kind(Interest))
        liar.transport.resumeProducing()
        liar.tell(Author("somebody"), 1)
        self.run_for(1)
        # Who was dialled asks for one by saying its interest again.
        self.assertEqual(len(liar.of_kind(Interest)), interests + 1)
        self.assertFalse(link.partner.overflowed)

    def test_a_changed_selection_is_told_once_and_not_into_a_link_that_waits(self) -> None:
        reading, stuck = self.lie_to(self.me, "reading"), self.lie_to(self.me, "stuck")
        link = next(each for each in self.me.links if each.connected_to.raw == stuck.key)
        before = len(reading.of_kind(Interest)), len(stuck.of_kind(Interest))
        asked: list[None] = []
        real = self.me.gossip.selection.interest
        self.patch(
            type(self.me.gossip.selection), "interest", lambda _: asked.append(None) or real()
        )
        link.pauseProducing()
        for number in range(3):
            self.me.follow(Author(number).identity.public)
        self.assertEqual(len(reading.of_kind(Interest)), before[0] + 3)
        self.assertEqual(len(stuck.of_kind(Interest)), before[1])
        # It is made once for all.
        self.assertEqual(len(asked), 3)
        link.resumeProducing()
        self.run_for()
        said = stuck.of_kind(Interest)[before[1] :]
        self.assertEqual(len(said), 1)
        self.assertLessEqual({Author(number).key for number in range(3)}, set(said[0].authors))

    def test_proofs_that_the_peer_has(self) -> None:
        self.patch(telling, "MAX_PROVEN", 2)
        liar = self.lie_to(self.me)
        for n in range(4):
            raws = []
            for word in ("heads", "tails"):
                author = Author(f"forker {n}")
                raws.append(author.write(word).raw)
            self.me.ingest(raws)
        self.run_for()
        (link,) = self.me.links
        self.assertEqual(len(liar.of_kind(Proof)), 4)
        self.assertEqual(len(link.telling._proven), 2)

    def test_proofs_wait_for_a_peer_that_does_not_read(self) -> None:
        for n in range(6):
            raws = []
            for word in ("heads", "tails"):
                author = Author(f"forker {n}")
                raws.append(author.write(word + "x" * 60_000).raw)
            self.me.ingest(raws)
        liar = self.be_dialled_by(self.me)
        self.assertEqual(len(liar.of_kind(Proof)), 6)
        idle = self.lie_to(self.me, "idle")
        idle.transport.pauseProducing()
        # It has nothing of them: it is told all, as fast as it reads.
        idle.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for()
        keys = sorted(Author(f"forker {n}").key for n in range(6))
        lacking = b"".join(key + b"\0" for key in keys)
        idle.say(Ranges(1, 2, False, b"\0\xff\0\6" + lacking))
        self.run_for(1)
        self.assertLess(self.wires[-1].second.waiting, 300_000)
        idle.transport.resumeProducing()
        self.run_for(1)
        self.assertEqual(len(idle.of_kind(Proof)), 6)

    def test_authors_that_all_peers_name(self) -> None:
        self.patch(part_module, "MAX_INTEREST", 5)
        keys = [n.to_bytes(32, "big") for n in range(4)]
        first, second = self.lie_to(self.me, "first"), self.lie_to(self.me, "second")
        first.say(Interest(False, keys, [], False))
        self.run_for()
        second.say(Interest(False, keys[:1], [], True))
        self.run_for()
        self.assertIsNone(second.lost)
        second.say(Interest(False, keys[1:2], [], False))
        self.run_for()
        self.assertIsInstance(second.lost and second.lost.value, ConnectionDone)
        self.assertEqual(self.me.gossip.status().hindered, {"OVERLOADED": 1})
        self.assertIsNone(first.lost)

    def test_windows_that_are_open_at_a_time(self) -> None:
        self.me.publish()
        liars = [self.lie_to(self.me, f"liar {n}") for n in range(MAX_OPEN_WINDOWS + 2)]
        for liar in liars:
            liar.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16)))
        self.run_for()
        answered = [len(liar.of_kind(Ranges)) for liar in liars]
        self.assertEqual(answered, [1] * MAX_OPEN_WINDOWS + [0, 0])
        liars[0].transport.loseConnection()
        self.run_for()
        self.assertEqual(len(liars[MAX_OPEN_WINDOWS].of_kind(Ranges)), 1)


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
            liar.tell(author, each)
        self.run_for()
        for liar, author in zip(liars, authors, strict=True):
            for number in range(1, each + 1):
                liar.give(author, number, [author.write("x" * 20_000).raw])
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
        late.tell(author, 1)
        self.run_for()
        late.give(author, 1, [author.write("hello").raw])
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
                liar.tell(self.author, 3)
                self.run_for()
                ingest = self.me.gossip.store.ingest
                self.break_store("ingest", error)
                liar.give(self.author, 1, self.raws)
                self.run_for()
                # In good order, and nothing is held against the peer.
                self.assertIsInstance(liar.lost and liar.lost.value, ConnectionDone)
                self.assertEqual(self.me.gossip.status().hindered, {error.code: 1})
                self.assertEqual(self.me.gossip.status().broken, {})
                self.assertEqual(len(self.me.gossip.spread), 0)
                self.patch(self.me.gossip.store, "ingest", ingest)
        liar = self.lie_to(self.me)
        liar.tell(self.author, 3)
        self.run_for()
        liar.give(self.author, 1, self.raws)
        self.run_for()
        self.assertEqual(self.me.heads(), {self.author.key: 3})

    def test_two_pages_that_cannot_be_stored_are_one_failure(self) -> None:
        liar = self.lie_to(self.me)
        liar.tell(self.author, 3)
        self.run_for()
        self.break_store("ingest", StorageFailed("disk full"))
        liar.say(*(Messages(self.author.key, n, [raw]) for n, raw in enumerate(self.raws, 1)))
        self.run_for()
        self.assertEqual(self.me.gossip.status().hindered, {"STORAGE_FAILED": 1})

    def test_what_cannot_be_looked_up_ends_the_connection(self) -> None:
        for say in (
            lambda liar: liar.tell(self.author, 3),
            lambda liar: liar.turn_on(self.author),
            lambda liar: liar.say(Ranges(1, 0, False, b"\0\xfd" + bytes(16))),
        ):
            self.me.gossip.hindered.clear()
            liar = self.lie_to(self.me)
            names = ("frontier", "read")
            originals = {name: getattr(self.me.gossip.store, name) for name in names}
            for name in originals:
                self.break_store(name, StorageFailed("disk"))
            say(liar)
            self.run_for()
            self.assertEqual(self.me.gossip.status().hindered, {"STORAGE_FAILED": 1})
            for name, original in originals.items():
                self.patch(self.me.gossip.store, name, original)

    def test_a_mistake_of_ours_is_logged_and_ends_the_connection(self) -> None:
        liar = self.lie_to(self.me)
        self.break_store("frontier", ZeroDivisionError("a bug"))
        liar.tell(self.author, 3)
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
        a.result(a.feed.stopService())
        a.result(a.context.database.stopService())

    def test_who_comes_while_it_stops_is_not_let_in(self) -> None:
        a = self.place("a")
        key = Author("late").identity.public
        factory = a.gossip.capabilities()[LABEL, VERSION]
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
        factory = a.gossip.capabilities()[LABEL, VERSION]
        self.assertIsNone(factory.buildProtocol(None))

    def test_when_all_are_taken_the_one_that_was_idle_for_longest_gives_way(self) -> None:
        a = self.place("a", max_links=2)
        one, two = self.lie_to(a, "one"), self.lie_to(a, "two")
        newcomer = Author("three").identity.public
        self.run_for(IDLE_LINK - 5)
        self.assertFalse(a.gossip.authorize(newcomer, "gossip"))
        one.turn_on(a.key.raw)
        a.publish(1)
        self.run_for(10)
        # To be let in is not to come: nobody goes before the newcomer is there.
        self.assertTrue(a.gossip.authorize(newcomer, "gossip"))
        self.assertEqual(len(a.links), 2)
        three = self.lie_to(a, "three")
        self.assertEqual(
            [each.lost is not None for each in (one, two, three)], [False, True, False]
        )
        self.assertEqual(len(a.links), 2)
        self.assertEqual(a.gossip.status().broken, {})
        self.assertFalse(a.gossip.authorize(Author("four").identity.public, "gossip"))

    def test_but_none_that_this_node_has_dialled(self) -> None:
        a, b, c = self.place("a", max_links=1), self.place("b"), Author("c").identity.public
        self.connect(a, b)
        self.run_for(2 * IDLE_LINK)
        self.assertFalse(a.gossip.authorize(c, "gossip"))
        self.assertEqual(len(a.links), 1)

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

    def test_comparisons_at_every_interval(self) -> None:
        a = self.place("a", interval=10.0)
        a.publish()
        liar = self.be_dialled_by(a, entries=[])
        windows = [frame.window for frame in liar.of_kind(Ranges) if frame.round == 0]
        self.assertEqual(windows, [1])
        self.run_for(25)
        windows = [frame.window for frame in liar.of_kind(Ranges) if frame.round == 0]
        self.assertEqual(windows, [1, 2, 3])


class DialCase(GossipCase):
    """A place whose attempts to dial end as the test says."""

    def setUp(self) -> None:
        super().setUp()
        self.attempts: list[tuple[MeshAddress, Any, Deferred[Any]]] = []
        self.me = Place(self.clock, "me", connections=self)
        self.places.append(self.me)
        self.peer = MeshAddress("10.0.0.9", 7655, Author("peer").identity.public)

    # IConnections, and the endpoint it gives.

    def endpoint(self, address: MeshAddress, label: str, version: int = 1) -> Any:
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
        # Any time up to a limit that grows: who lost the same peer does not come back with us.
        longest = 1.5
        for pause in pauses:
            self.assertLessEqual(pause, min(longest, 60) + 0.3)
            longest *= 1.5
        self.assertGreater(max(pauses[-8:]), 20)
        self.assertGreater(len({*pauses[-8:]}), 4)
        self.assertEqual(self.entry().failures, 20)
        self.assertEqual(self.entry().last_error, "OVERLOADED: no")

    def test_who_hangs_up_at_once_is_dialled_again_later_and_later(self) -> None:
        """... and soon, when a connection has lasted."""
        self.add(self.peer)

        def meet(lasts: float) -> float:
            while not self.attempts:
                self.run_for(0.1)
            liar = self.connect_attempt()
            self.run_for(lasts)
            liar.transport.abortConnection()
            lost = self.clock.seconds()
            while not self.attempts:
                self.run_for(0.1)
            return self.clock.seconds() - lost

        pauses = [meet(1) for _ in range(14)]
        self.assertGreater(max(pauses[-5:]), 10)
        self.assertLess(meet(LASTING + 1), 3)

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
            self.me.gossip.store, "frontier", lambda *args, **kw: fail(StorageFailed("disk full"))
        )
        liar.tell(bytes(32), 1)
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


class Waking(DialCase):
    """This node was asleep."""

    def wake(self) -> None:
        self.me.context.events.publish(NodeWoke(3600.0))

    def test_who_waits_is_dialled_at_once_and_soon_again(self) -> None:
        self.add(self.peer)
        for _ in range(20):
            while not self.attempts:
                self.run_for(0.1)
            self.attempts.pop()[2].errback(Overloaded("no"))
        self.run_for(0.05)
        self.assertEqual(self.attempts, [])
        self.wake()
        self.assertEqual(len(self.attempts), 1)
        for longest in (1.5, 2.25, 3.375):
            self.attempts.pop()[2].errback(Overloaded("no"))
            self.run_for(longest + 0.1)
            self.assertEqual(len(self.attempts), 1)

    def test_a_dial_that_is_under_way_is_begun_anew(self) -> None:
        self.add(self.peer)
        (_, _, waiting) = self.attempts.pop()
        self.wake()
        self.assertEqual(len(self.attempts), 1)
        self.assertTrue(waiting.called)

    def test_who_is_connected_and_says_so_is_kept(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        before = len(liar.of_kind(Ping))
        self.wake()
        self.run_for()
        self.assertEqual(len(liar.of_kind(Ping)), before + 1)
        self.run_for(2 * PROOF)
        self.assertIsNone(liar.lost)
        self.assertEqual(self.attempts, [])

    def test_who_is_not_there_any_more_is_given_up_and_dialled(self) -> None:
        self.add(self.peer)
        liar = self.connect_attempt()
        liar.polite = False
        self.wake()
        # Twice is once.
        self.wake()
        self.run_for(PROOF - 0.5)
        self.assertIsNone(liar.lost)
        self.run_for(1)
        self.assertIsNotNone(liar.lost)
        self.assertEqual(self.me.gossip.status().broken, {"PEER_TOO_SLOW": 1})
        self.run_for(2)
        self.assertEqual(len(self.attempts), 1)

    def test_a_link_that_is_closed_has_nothing_to_prove(self) -> None:
        self.add(self.peer)
        self.connect_attempt()
        self.wake()
        self.me.result(self.me.context.peers.remove(self.peer))
        self.run_for(1)


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
        self.run_for()
        self.assertEqual(self.old.told(), [(self.me.key.raw, 1)])
        new = self.connect_attempt()
        self.assertIsNotNone(self.old.lost)
        self.assertEqual([frame.round for frame in new.of_kind(Ranges)], [0, 2])
        self.assertTrue(self.entry().connected)

    def test_after_so_many_bytes_both_ways(self) -> None:
        self.assertEqual(RENEW_BYTES, 2**40)
        self.patch(link_module, "RENEW_BYTES", 20_000)
        self.old.transport.loseConnection()
        self.run_for(5)
        liar = self.connect_attempt()
        author = Author("somebody")
        raws = [author.write({"text": "x" * 900}).raw for _ in range(10)]
        liar.tell(author, 10)
        self.run_for()
        liar.give(author, 1, raws)
        self.run_for()
        self.assertEqual(self.attempts, [])
        # What we send counts as well.
        liar.turn_on(author)
        self.run_for()
        self.assertEqual(len(self.attempts), 1)
        liar.turn_off(author)
        self.run_for()
        liar.turn_on(author)
        self.run_for()
        self.assertEqual(len(liar.got()), 20)
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
