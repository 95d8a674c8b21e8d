"""Tests of L{meshkit.gossip.selection}, alone and between nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, InvalidRequest, SelectionConfigured, StorageFailed
from meshkit.gossip import codec, selection
from meshkit.gossip.part import Config
from meshkit.gossip.selection import PeerInterest
from meshkit.interfaces import Interest
from meshkit.testing.identities import Author
from tests import declared
from tests.gossip.support import Place
from tests.gossip.test_mesh import MeshCase

ADA, BOB, EVE = Author("ada"), Author("bob"), Author("eve")


def text(author: Author) -> str:
    return author.identity.public.text


class Alone(MeshCase):
    def place(self, name: str = "me", **config: Any) -> Place:
        place = Place(self.clock, name, **config)
        self.places.append(place)
        return place

    def test_nothing_selected_is_everybody(self) -> None:
        me = self.place()
        self.assertEqual(me.gossip.interest(), Interest(all=True))
        self.assertTrue(me.gossip.wants(ADA.key))

    def test_follows_and_those_who_use_a_topic(self) -> None:
        me = self.place()
        bob = Author("tagger")
        bob.write(tags=["weather", "other"])
        me.ingest([*bob.raws, *Author("other").write_many(1)])
        me.call("topics_add", topic="weather")
        me.follow(ADA.identity.public)
        self.assertEqual(
            me.gossip.interest(),
            Interest(False, tuple(sorted([me.key.raw, ADA.key, bob.key])), ("weather",)),
        )
        self.assertEqual([me.gossip.wants(a.key) for a in (ADA, bob, EVE)], [True, True, False])
        self.assertTrue(me.gossip.wants(me.key.raw))
        status = me.gossip.status()
        self.assertEqual((status.follows, status.topics, status.tagged), (1, 1, 1))
        me.call("topics_remove", topic="weather")
        self.assertFalse(me.gossip.wants(bob.key))
        me.unfollow(ADA.identity.public)
        self.assertTrue(me.gossip.wants(EVE.key))

    def test_whom_a_part_keeps_for_others_is_selected_besides_and_nobody_else(self) -> None:
        me = self.place(follow=(text(ADA),))
        told: list[Interest] = []
        me.gossip.watch(lambda: told.append(me.gossip.interest()))
        kept: dict[bytes, None] = {}
        changed = me.gossip.add_kept(kept)
        kept[BOB.key] = None
        self.assertEqual([me.gossip.wants(a.key) for a in (ADA, BOB, EVE)], [True, True, False])
        self.assertEqual(told, [])
        changed()
        self.assertEqual(told, [Interest(False, tuple(sorted([me.key.raw, ADA.key, BOB.key])))])
        del kept[BOB.key]
        self.assertFalse(me.gossip.wants(BOB.key))
        self.assertRaises(ValueError, me.gossip.add_kept, {})

    def test_where_a_part_keeps_nobody_nothing_selected_is_nobody(self) -> None:
        me = self.place()
        kept: dict[bytes, None] = {}
        me.gossip.add_kept(kept)
        self.assertEqual(me.gossip.interest(), Interest(False, (me.key.raw,)))
        self.assertFalse(me.gossip.wants(ADA.key))
        kept[ADA.key] = None
        self.assertTrue(me.gossip.wants(ADA.key))
        me.block(ADA.identity.public)
        self.assertFalse(me.gossip.wants(ADA.key))
        self.assertEqual(me.gossip.interest(), Interest(False, (me.key.raw,)))

    def test_who_uses_a_topic_from_now_on_is_selected_then(self) -> None:
        me = self.place()
        me.call("topics_add", topic="weather")
        author = Author("late")
        author.write(tags=["else"])
        me.ingest(author.raws)
        self.assertFalse(me.gossip.wants(author.key))
        author.write(tags=["weather"])
        me.ingest(author.raws[1:])
        self.assertTrue(me.gossip.wants(author.key))

    def test_what_the_file_selects_no_operation_takes_back(self) -> None:
        me = self.place(follow=(text(ADA),), topics=("weather",))
        me.follow(BOB.identity.public)
        me.call("topics_add", topic="rain")
        follows = {each.author: each.origin for each in me.call("follows_list")}
        topics = {each.topic: each.origin for each in me.call("topics_list")}
        self.assertEqual(follows, {text(ADA): "config", text(BOB): "added"})
        self.assertEqual(topics, {"weather": "config", "rain": "added"})
        for name, fields, setting in (
            ("follows_remove", {"author": text(ADA)}, "gossip.follow"),
            ("topics_remove", {"topic": "weather"}, "gossip.topics"),
        ):
            with self.assertRaises(SelectionConfigured) as caught:
                me.call(name, **fields)
            self.assertIn(setting, str(caught.exception))
        self.assertEqual(me.call("follows_add", author=text(ADA)).origin, "config")
        self.assertEqual(me.call("topics_add", topic="weather").origin, "config")
        self.assertTrue(me.gossip.wants(ADA.key))

    def test_what_was_selected_is_known_after_a_restart(self) -> None:
        me = self.place()
        me.ingest([EVE.write(tags=["weather"]).raw])
        me.follow(ADA.identity.public)
        me.call("topics_add", topic="weather")
        before = me.gossip.interest()
        backing = me.context.database._backing
        me.stop()
        self.places.remove(me)
        again = self.place(backing=backing)
        self.assertEqual(again.gossip.interest(), before)

    def test_blocks_win(self) -> None:
        me = self.place(follow=(text(ADA),))
        me.block(ADA.identity.public)
        self.assertFalse(me.gossip.wants(ADA.key))
        self.assertEqual(me.gossip.interest(), Interest(False, (me.key.raw,)))
        self.assertFalse(me.gossip.authorize(ADA.identity.public, "gossip"))
        self.assertTrue(me.gossip.authorize(BOB.identity.public, "gossip"))

    def test_there_are_limits(self) -> None:
        me = self.place()
        self.patch(selection, "MAX_TOPICS", 1)
        self.patch(selection, "MAX_AUTHORS", 1)
        me.call("topics_add", topic="a")
        me.call("topics_add", topic="a")
        self.assertRaises(InvalidRequest, me.call, "topics_add", topic="b")
        me.follow(ADA.identity.public)
        self.assertRaises(InvalidRequest, me.follow, BOB.identity.public)
        # More than can be told: everything is offered.
        self.assertEqual(me.gossip.interest(), Interest(all=True))
        self.assertFalse(me.gossip.wants(BOB.key))


class WhileTheStoreLooks(MeshCase):
    """
    The store tells who uses a topic as it was when it looked.  What happens until then, and which
    of two answers comes first, is for threads to decide.
    """

    def setUp(self) -> None:
        super().setUp()
        self.me = self.place("me")
        self.user, self.late = Author("user"), Author("late")
        self.me.ingest([self.user.write(tags=["weather"]).raw])
        # What was found and is not told yet.
        self.found: list[tuple[Deferred[Any], Any]] = []
        look = self.me.feed.authors_with_tags

        def slowly(*args: Any) -> Deferred[Any]:
            answer: Deferred[Any] = Deferred()
            look(*args).addCallback(lambda page: self.found.append((answer, page)))
            return answer

        self.patch(self.me.feed, "authors_with_tags", slowly)

    def begin(self, name: str, topic: str) -> Deferred[Any]:
        (bound,) = [b for b in self.me.gossip.operations() if b.operation.name == name]
        done = declared.handler(bound)(bound.operation.request(topic=topic))
        self.assertIsInstance(done, Deferred)
        self.run_for()
        return done

    def end(self, *begun: Deferred[Any]) -> None:
        """The store tells what it has found, the last first."""
        while self.found:
            answer, page = self.found.pop()
            answer.callback(page)
            self.run_for()
        for done in begun:
            self.successResultOf(done)

    def selected(self) -> Sequence[Author]:
        return [each for each in (self.user, self.late) if self.me.gossip.wants(each.key)]

    def test_topics_that_are_added_at_the_same_time_are_all_selected(self) -> None:
        """The answer about one of them came last, and took back what the other one had found."""
        self.end(*[self.begin("topics_add", topic) for topic in ("rain", "weather")])
        self.assertEqual(self.selected(), [self.user])

    def test_a_topic_is_added_while_another_one_is_removed(self) -> None:
        self.me.ingest([self.late.write(tags=["rain"]).raw])
        self.end(self.begin("topics_add", "weather"))
        self.end(self.begin("topics_add", "rain"), self.begin("topics_remove", "weather"))
        self.assertEqual(self.selected(), [self.late])

    def test_who_uses_a_topic_meanwhile_is_selected(self) -> None:
        adding = self.begin("topics_add", "weather")
        self.me.ingest([self.late.write(tags=["weather"]).raw])
        self.end(adding)
        self.assertEqual(self.selected(), [self.user, self.late])

    def test_who_was_selected_for_one_topic_and_uses_the_other_meanwhile_stays(self) -> None:
        for topic in ("weather", "rain"):
            self.end(self.begin("topics_add", topic))
        removing = self.begin("topics_remove", "weather")
        self.me.ingest([self.user.write(tags=["rain"]).raw])
        self.end(removing)
        self.assertEqual(self.selected(), [self.user])

    def test_a_topic_is_removed_as_somebody_uses_it(self) -> None:
        self.end(self.begin("topics_add", "rain"))
        adding = self.begin("topics_add", "weather")
        self.me.ingest([self.late.write(tags=["rain"]).raw])
        self.end(adding, self.begin("topics_remove", "rain"))
        self.assertEqual(self.selected(), [self.user])

    def test_a_look_that_fails_holds_up_no_other(self) -> None:
        failing, adding = [self.begin("topics_add", topic) for topic in ("rain", "weather")]
        self.found.pop(0)[0].errback(StorageFailed("the disk is gone"))
        self.run_for()
        self.failureResultOf(failing, StorageFailed)
        self.end(adding)
        self.assertEqual(self.selected(), [self.user])

    def test_no_more_are_selected_than_there_may_be(self) -> None:
        adding = self.begin("topics_add", "weather")
        self.patch(selection, "MAX_AUTHORS", 1)
        self.me.ingest([self.late.write(tags=["weather"]).raw])
        self.end(adding)
        self.assertEqual(self.me.gossip.status().tagged, 1)

    def test_a_peer_that_has_other_topics_by_then_is_not_offered_those_before(self) -> None:
        liar = self.lie_to(self.me)
        for topic in ("weather", "rain"):
            liar.say(codec.Interest(False, [], [topic], False))
            self.run_for()
        self.end()
        (link,) = self.me.links
        self.assertEqual(link.interest.topics, ("rain",))
        self.assertNotIn(self.user.key, link.interest)


class Settings(SynchronousTestCase):
    def test_what_cannot_be_used_is_named(self) -> None:
        for config, setting in (
            (Config(follow=("@ada",)), "gossip.follow"),
            (Config(topics=("",)), "gossip.topics"),
            (Config(topics=("x" * 257,)), "gossip.topics"),
            (Config(topics=tuple(map(str, range(1_001)))), "gossip.topics"),
        ):
            with self.assertRaises(ConfigError) as caught:
                config.followed()
                config.subscribed()
            self.assertIn(setting, str(caught.exception))


class OfPeers(SynchronousTestCase):
    def test_authors_who_use_a_topic_are_forgotten_with_it(self) -> None:
        interest = PeerInterest()
        interest.page(False, [ADA.key], ["weather"], False)
        interest.tagged[BOB.key] = None
        self.assertEqual([a.key in interest for a in (ADA, BOB, EVE)], [True, True, False])
        self.assertEqual([interest.names(a.key) for a in (ADA, BOB)], [True, False])
        interest.page(False, [ADA.key], ["weather"], False)
        self.assertIn(BOB.key, interest)
        interest.page(False, [ADA.key], ["rain"], False)
        self.assertNotIn(BOB.key, interest)


class Between(MeshCase):
    """Nodes that select."""

    def test_the_whole_feeds_of_those_who_use_a_topic_come_and_no_others(self) -> None:
        a, b = self.mesh(2)
        user, other = Author("user"), Author("stranger")
        user.write_many(3)
        user.write(tags=["weather"])
        user.write_many(3)
        other.write(tags=["else"])
        b.ingest([*user.raws, *other.raws])
        a.call("topics_add", topic="weather")
        self.connect(a, b)
        self.run_for(10)
        self.assertEqual(a.heads(), {user.key: 7})
        # In step, and no difference is left to talk of.
        sent = b.links[0].sent
        a.gossip._compare_all()
        self.run_for(10)
        self.assertEqual(b.links[0].sent, sent)
        for place in (a, b):
            self.assertEqual(place.gossip.status().broken, {})
            for account in place.gossip.ledger.accounts():
                self.assertEqual(list(account.reasons), [])

    def test_who_uses_a_topic_while_they_are_connected_is_found_as_well(self) -> None:
        a, b = self.mesh(2)
        a.call("topics_add", topic="weather")
        self.connect(b, a)
        self.run_for(5)
        user = Author("user")
        user.write_many(2)
        b.ingest(user.raws)
        self.run_for(5)
        self.assertEqual(a.heads(), {})
        b.ingest([user.write(tags=["weather"]).raw])
        self.run_for(10)
        self.assertEqual(a.heads(), {user.key: 3})
        b.ingest(user.write_many(1))
        self.run_for(2)
        self.assertEqual(a.heads(), {user.key: 4})

    def test_a_topic_that_is_subscribed_to_while_they_are_connected(self) -> None:
        a, b = self.mesh(2)
        a.follow(ADA.identity.public)
        user = Author("user")
        user.write(tags=["weather"])
        b.ingest(user.raws)
        self.connect(a, b)
        self.run_for(5)
        self.assertEqual(a.heads(), {})
        a.call("topics_add", topic="weather")
        self.run_for(10)
        self.assertEqual(a.heads(), {user.key: 1})

    def test_a_blocked_author_is_neither_asked_for_nor_served(self) -> None:
        a, b, c = self.mesh(3)
        author = Author("author")
        a.ingest(author.write_many(5))
        b.block(author.identity.public)
        self.connect(a, b)
        self.connect(b, c)
        self.run_for(20)
        self.assertEqual((b.heads(), c.heads()), ({}, {}))
        b.unblock(author.identity.public)
        self.run_for(20)
        self.assertEqual((b.heads(), c.heads()), ({author.key: 5}, {author.key: 5}))
        b.block(author.identity.public)
        a.ingest(author.write_many(1))
        self.run_for(20)
        self.assertEqual(c.heads(), {author.key: 5})
        for place in (a, b, c):
            self.assertEqual(place.gossip.status().broken, {})
            for account in place.gossip.ledger.accounts():
                self.assertEqual(list(account.reasons), [])

    def test_a_peer_that_is_blocked_is_parted_from(self) -> None:
        a, b = self.mesh(2)
        self.connect(a, b)
        self.run_for(2)
        self.assertEqual((len(a.links), len(b.links)), (1, 1))
        a.block(b.key)
        self.run_for(2)
        self.assertEqual((a.links, b.links), ([], []))

    def test_at_a_limit_the_peer_is_not_blamed_nor_asked_in_a_loop(self) -> None:
        a = Place(self.clock, "a", feed={"max_author_messages": 3})
        self.places.append(a)
        (b,) = self.mesh(1)
        author = Author("author")
        b.ingest(author.write_many(200))
        self.connect(a, b)
        self.run_for(300)
        self.assertEqual(a.heads(), {author.key: 3})
        self.assertEqual(a.gossip.status().refused.keys(), {"FEED_LIMIT"})
        refused = a.gossip.status().refused["FEED_LIMIT"]
        for account in a.gossip.ledger.accounts():
            self.assertEqual(list(account.reasons), [])
        self.assertEqual(len(a.links), 1)
        b.ingest(author.write_many(5))
        self.run_for(200)
        self.assertEqual(a.gossip.status().refused["FEED_LIMIT"], refused)
        self.run_for(3_600)
        # After 10 minutes, 20, 40 ...
        self.assertLess(a.gossip.status().refused["FEED_LIMIT"], 5 * refused + 1)
        self.assertEqual(len(a.links), 1)

    def test_retention_makes_room_for_the_rest_of_a_feed(self) -> None:
        """A window of what is new, of a feed that is three times as long as the limit."""
        window = {"max_author_messages": 20, "retention_author_messages": 10}
        a = self.place("a", feed=window)
        places = self.mesh(2)
        author = Author("author")
        for place in places:
            place.ingest(author.raws or author.write_many(60))
            self.connect(a, place)
        self.run_for(30)
        self.assertEqual(a.heads(), {author.key: 60})
        for place in places:
            place.ingest(author.write_many(1) if len(author.raws) == 60 else author.raws[60:])
        self.run_for(30)
        self.assertEqual(a.heads(), {author.key: 61})
        kept = a.result(a.feed.read(author.key, 51, 2**20, 100))
        self.assertEqual(kept, author.raws[51:])
        status = a.feed.status()
        self.assertLessEqual(status.messages - status.gone, 20)
        for account in a.gossip.ledger.accounts():
            self.assertEqual(list(account.reasons), [])
