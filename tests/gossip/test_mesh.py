"""
Whole meshes of places, in memory and virtual time: everybody ends with everything, and no
more is sent than has to be.

The least possible is one copy of each message for each place but the one it comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from meshkit.gossip import comparing, reconcile, spread
from meshkit.gossip.codec import Messages, Note, Proof, Ranges
from meshkit.gossip.link import GossipLink
from meshkit.gossip.spread import GRAFT_AFTER
from meshkit.interfaces import Gap
from meshkit.runtime.container import MemoryFile
from meshkit.testing.identities import Author
from meshkit.testing.transports import MemoryWire
from tests.gossip.support import GossipCase, Place


class MeshCase(GossipCase):
    def mesh(self, count: int) -> list[Place]:
        return [self.place(f"place {n}") for n in range(count)]

    def line(self, places: Sequence[Place]) -> None:
        for first, second in zip(places, places[1:], strict=False):
            self.connect(first, second)

    def clique(self, places: Sequence[Place]) -> None:
        for n, first in enumerate(places):
            for second in places[:n]:
                self.connect(first, second)

    def assert_same(self, places: Sequence[Place]) -> None:
        """
        What has a gap before it is nobody's but the store's that it came to: also that it
        contradicts what the others have, as long as nobody has the two of one place.
        """
        first, *others = ([evolve(f, disputed=None) for f in p.frontier()] for p in places)
        for place, other in zip(places[1:], others, strict=True):
            self.assertEqual(other, first, place.name)

    def ratio(self, what: str, places: Sequence[Place], messages: int) -> float:
        """Messages sent, over the least possible."""
        sent = sum(account.sent for place in places for account in place.gossip.ledger.accounts())
        ratio = sent / (messages * (len(places) - 1))
        print(f"{what}: {sent} copies, {ratio:.3f} of the least possible", file=sys.stderr)
        return ratio

    def watch(self, place: Place, kind: type[Any]) -> list[Any]:
        """The frames of one kind that a place sends from now on."""
        seen: list[Any] = []
        for link in place.links:
            send = link.send

            def record(frame: Any, send: Any = send) -> None:
                if isinstance(frame, kind):
                    seen.append(frame)
                send(frame)

            self.patch(link, "send", record)
        return seen


class Spreading(MeshCase):
    def test_a_line_of_ten(self) -> None:
        places = self.mesh(10)
        self.line(places)
        self.run_for(1)
        for _ in range(6):
            for n in (0, 4, 9):
                places[n].publish()
            self.run_for(0.5)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        self.assertEqual(places[0].heads(), {places[n].key.raw: 6 for n in (0, 4, 9)})
        self.assertEqual(self.ratio("line of ten", places, 18), 1.0)

    def test_a_clique_of_ten(self) -> None:
        places = self.mesh(10)
        self.clique(places)
        self.run_for(1)
        for n in range(3):
            for place in places[:: 1 + n]:
                place.publish()
            self.run_for(0.5)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        total = sum(places[0].heads().values())
        self.assertEqual(self.ratio("clique of ten", places, total), 1.0)

    def test_a_clique_of_ten_and_a_feed_of_nobody_in_it(self) -> None:
        places = self.mesh(10)
        self.clique(places)
        self.run_for(1)
        author = Author("somebody")
        for _ in range(8):
            places[3].ingest([author.write().raw])
            self.run_for(0.2)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        self.assertEqual(places[0].heads(), {author.key: 8})
        self.assertEqual(self.ratio("clique of ten, a foreign feed", places, 8), 1.0)

    def test_all_start_with_something_else(self) -> None:
        places = self.mesh(6)
        for n, place in enumerate(places):
            place.ingest(Author(f"author {n}").write_many(10))
        self.clique(places)
        self.run_for(5)
        self.assert_same(places)
        self.assertEqual(len(places[0].heads()), 6)
        self.assertLess(self.ratio("clique of six, all different", places, 60), 1.05)

    def test_any_mesh_heals_when_links_break(self) -> None:
        """... and what the others said meanwhile shows from whom to have the rest."""
        places = self.mesh(6)
        rng = Random(5)
        wires: dict[tuple[int, int], MemoryWire] = {}
        for _ in range(12):
            one, other = sorted(rng.sample(range(6), 2))
            if (one, other) in wires and rng.random() < 0.5:
                wires.pop((one, other)).cut()
            elif (one, other) not in wires:
                wires[one, other] = self.connect(places[one], places[other])
            rng.choice(places).publish(2)
            self.run_for(rng.random())
        for one in range(5):
            if (one, one + 1) not in wires:
                self.connect(places[one], places[one + 1])
        self.run_for(10)
        self.assert_same(places)
        self.assertEqual(sum(places[0].heads().values()), 24)
        self.assertLess(self.ratio("six with links that break", places, 24), 1.2)

    def test_a_silent_source_is_replaced_within_seconds(self) -> None:
        """The links of a ring: one of them carries nothing any more, and nobody said so."""
        places = self.mesh(4)
        self.line(places)
        closing = self.connect(places[3], places[0])
        self.run_for(1)
        places[0].publish()
        self.run_for(1)
        closing.first.pauseProducing()
        closing.second.pauseProducing()
        places[0].publish()
        self.run_for(GRAFT_AFTER + 1)
        self.assertEqual(places[3].heads(), {places[0].key.raw: 2})
        closing.cut()

    def test_a_link_that_is_idle_for_an_hour_still_pushes(self) -> None:
        places = self.mesh(3)
        self.line(places)
        places[0].publish()
        self.run_for(3600)
        compared = self.watch(places[0], Ranges)
        pushed = self.watch(places[0], Messages)
        places[0].publish()
        self.run_for(0.01)
        self.assertEqual(places[2].heads(), {places[0].key.raw: 2})
        self.assertEqual((len(pushed), compared), (1, []))

    def test_pushes_go_on_far_beyond_the_first_credit(self) -> None:
        """See tests/slow for a hundred thousand."""
        a, b = self.mesh(2)
        self.connect(a, b)
        self.run_for(1)
        pushed = self.watch(a, Messages)
        for _ in range(600):
            a.feed.publish({"type": "note"})
            self.run_for(0)
        self.run_for(1)
        self.assertEqual(b.heads(), {a.key.raw: 600})
        self.assertGreater(len(pushed), 300)

    def test_byte_by_byte(self) -> None:
        a, b = self.mesh(2)
        a.publish(2)
        b.publish(1)
        self.connect(a, b, chunk=lambda waiting: 1)
        self.run_for(60)
        self.assert_same([a, b])
        self.assertEqual(sum(a.heads().values()), 3)

    def test_a_link_that_drops_every_fifty_frames(self) -> None:
        a, b = self.mesh(2)
        for n in range(80):
            a.ingest(Author(f"at a {n}").write_many(2))
            b.ingest(Author(f"at b {n}").write_many(2))
        expected = a.feed.status().messages + b.feed.status().messages
        drops = 0
        frames = count(1)
        send = GossipLink.send

        def counted(link: GossipLink, frame: Any) -> None:
            send(link, frame)
            if next(frames) % 50 == 0:
                self.clock.callLater(0, self.wires[-1].cut)

        self.patch(GossipLink, "send", counted)
        for drops in range(50):
            self.connect(a, b) if drops % 2 else self.connect(b, a)
            self.run_for(2)
            if a.feed.status().messages == b.feed.status().messages == expected:
                break
        self.assert_same([a, b])
        self.assertGreater(drops, 2)
        self.assertLess(self.ratio("dropped every 50 frames", [a, b], expected), 1.6)


class Comparisons(MeshCase):
    def test_what_costs_nothing_to_say_in_step(self) -> None:
        a, b = self.mesh(2)
        raws = [raw for n in range(50) for raw in Author(n).write_many(1)]
        a.ingest(raws)
        b.ingest(raws)
        wire = self.connect(a, b)
        self.run_for(1)
        before = (wire.first.sent, wire.second.sent)
        a.gossip._compare_all()
        self.run_for(1)
        self.assertLess(wire.first.sent - before[0], 60)
        self.assertLess(wire.second.sent - before[1], 60)

    def test_many_windows_when_there_is_more_than_goes_into_one(self) -> None:
        self.patch(reconcile, "WINDOW", 20)
        self.patch(comparing, "WINDOW", 20)
        a, b = self.mesh(2)
        for n in range(60):
            (a if n % 3 else b).ingest(Author(n).write_many(1))
        a.ingest(Author("both").write_many(2))
        self.connect(a, b)
        self.run_for(5)
        self.assert_same([a, b])
        self.assertEqual(len(a.heads()), 61)

    def test_what_does_not_fit_into_the_tables_is_found_when_there_is_room(self) -> None:
        for module, name, value in (
            (spread, "MAX_CLAIMS", 12),
            (comparing, "MAX_LEFT", 4),
            (spread, "MAX_CATCHING", 3),
        ):
            self.patch(module, name, value)
        for dials in ("has", "lacks"):
            with self.subTest(dials=dials):
                has, lacks = self.place(f"has, {dials} dials"), self.place(f"lacks, {dials} dials")
                for n in range(50):
                    has.ingest(Author(n).write_many(2))
                self.connect(*((has, lacks) if dials == "has" else (lacks, has)))
                self.run_for(60)
                self.assert_same([has, lacks])
                self.assertEqual(len(lacks.heads()), 50)

    def test_feeds_that_are_on_make_room_for_others(self) -> None:
        self.patch(spread, "MAX_ON", 20)
        self.patch(spread, "MAX_CATCHING", 4)
        a, b = self.mesh(2)
        authors = [Author(n) for n in range(60)]
        for author in authors:
            a.ingest(author.write_many(2))
        self.connect(b, a)
        self.run_for(30)
        self.assert_same([a, b])
        (at_b,), (at_a,) = b.links, a.links
        self.assertLessEqual(len(at_b.partner.on), 20)
        self.assertLessEqual(len(at_a.partner.wanted), 20)
        # Those that are off are told of, and turned on again.
        for author in authors:
            a.ingest(author.write_many(1))
        self.run_for(10)
        self.assert_same([a, b])
        self.assertEqual(b.gossip.status().broken, {})

    def test_followers_of_different_authors_are_in_step(self) -> None:
        a, b = self.mesh(2)
        one, both, other = Author("one"), Author("both"), Author("other")
        for place, mine in ((a, (one, both)), (b, (both, other))):
            for author in (one, both, other):
                place.ingest(author.write_many(1) if len(author.raws) == 0 else author.raws)
            for author in mine:
                place.follow(author.identity.public)
        self.connect(a, b)
        self.run_for(1)
        steps = self.watch(a, Ranges)
        a.gossip._compare_all()
        self.run_for(1)
        # Each has a feed that the other does not follow: that is no difference.
        self.assertEqual(len(steps), 1)

    def test_a_selection_that_changes_all_the_time(self) -> None:
        places = self.mesh(4)
        self.clique(places)
        rng = Random(2)
        authors = [place.key for place in places]
        for _ in range(30):
            place, author = rng.choice(places), rng.choice(authors)
            rng.choice((place.follow, place.unfollow))(author)
            rng.choice(places).publish()
            self.run_for(rng.random() / 5)
        for place in places:
            for author in authors:
                place.follow(author)
        self.run_for(GRAFT_AFTER + 5)
        self.assert_same(places)
        self.assertEqual(sum(places[0].heads().values()), 30)


class Forks(MeshCase):
    def branches(self, common: int, one: int, other: int) -> tuple[list[bytes], list[bytes]]:
        """Two branches of one feed, and how many messages each has after what is common."""
        first, second = Author("fork"), Author("fork")
        for author, own in ((first, one), (second, other)):
            author.write_many(common)
            author.write("the one" if author is first else "the other")
            author.write_many(own - 1)
        return first.raws, second.raws

    def test_a_proof_goes_to_everybody_and_the_prefix_is_the_same(self) -> None:
        places = self.mesh(5)
        one, other = self.branches(7, 5, 3)
        places[0].ingest(one)
        places[4].ingest(other)
        self.line(places)
        self.run_for(60)
        self.assert_same(places)
        (frontier,) = places[2].frontier()
        self.assertEqual((frontier.sequence, frontier.forked), (7, 8))
        # ... once.
        proofs = self.watch(places[2], Proof)
        self.run_for(1000)
        self.assertEqual(proofs, [])

    def test_two_who_have_a_branch_each_from_the_author_find_where_they_part(self) -> None:
        """... while the author goes on with both, and is the source of either."""
        for number, (common, more) in enumerate(((7, 5), (0, 1), (3, 20))):
            with self.subTest(common=common, more=more):
                a, b = (self.place(f"{name}{number}", interval=30.0) for name in "ab")
                branches = self.branches(common, more + 40, more + 40)
                here = common + more
                links = []
                for place, raws in zip((a, b), branches, strict=True):
                    author = self.lie_to(place, "fork")
                    author.give(author.key, 1, raws[:here])
                    links.append(author)
                self.run_for(1)
                self.connect(a, b)
                for sequence in range(here + 1, here + 41):
                    for author, raws in zip(links, branches, strict=True):
                        if author.wanted_no_more():
                            author.frames.clear()
                            author.stop(author.key)
                        elif author.of_kind(Note):
                            author.give(author.key, sequence, [raws[sequence - 1]])
                    self.run_for(5)
                self.assert_same([a, b])
                (frontier,) = a.frontier()
                self.assertEqual((frontier.sequence, frontier.forked), (common, common + 1))
                # Nobody is blamed for what lies behind a fork and is not served any more.
                self.run_for(spread.MADE_GOOD)
                for place, other in ((a, b), (b, a)):
                    self.assertEqual(place.gossip.ledger.account(other.key).score, 100.0)

    def test_branches_are_found_of_which_one_is_always_longer(self) -> None:
        """Nobody is ever at the same place; messages come before anybody is grafted."""
        a, b = (self.place(name, interval=30.0) for name in "ab")
        ahead, behind = self.branches(3, 80, 80)
        links = [self.lie_to(place, "fork") for place in (a, b)]
        for author, raws in zip(links, (ahead[:12], behind[:8]), strict=True):
            author.give(author.key, 1, raws)
        self.run_for(1)
        self.connect(b, a)
        for step in range(60):
            for author, raws, sequence in ((links[0], ahead, 13), (links[1], behind, 9)):
                if author.wanted_no_more():
                    author.frames.clear()
                    author.stop(author.key)
                elif author.of_kind(Note):
                    author.give(author.key, sequence + step, [raws[sequence + step - 1]])
            self.run_for(1.5)
        self.assert_same([a, b])
        (frontier,) = a.frontier()
        self.assertEqual((frontier.sequence, frontier.forked), (3, 4))
        self.run_for(spread.MADE_GOOD)
        for place, other in ((a, b), (b, a)):
            self.assertEqual(place.gossip.ledger.account(other.key).score, 100.0)

    def test_wherever_two_branches_part_it_is_found(self) -> None:
        for number, (common, one, other) in enumerate(
            ((0, 1, 1), (0, 20, 3), (1, 1, 40), (30, 1, 1), (12, 33, 33), (40, 40, 1))
        ):
            with self.subTest(common=common, one=one, other=other):
                a, b = self.place(f"a{number}"), self.place(f"b{number}")
                raws = self.branches(common, one, other)
                a.ingest(raws[0])
                b.ingest(raws[1])
                self.connect(a, b)
                self.run_for(60)
                self.assert_same([a, b])
                (frontier,) = a.frontier()
                self.assertEqual((frontier.sequence, frontier.forked), (common, common + 1))

    def test_two_nodes_with_one_key_are_found_out_at_once(self) -> None:
        """Both dial the same place, which takes them for two links of one peer."""
        one, other = Author("twin"), Author("twin")
        for author, length in ((one, 1), (other, 2)):
            author.write_many(5)
            author.write("the one" if author is one else "the other")
            author.write_many(length - 1)
        places = [self.place("twin"), *self.mesh(3)]
        self.clique(places)
        places[0].ingest(one.raws[:5])
        self.run_for(2)
        places[0].ingest(one.raws[5:])
        self.run_for(2)
        copy = self.place("twin")
        copy.ingest(other.raws)
        self.connect(copy, places[1])
        self.run_for(GRAFT_AFTER + 2)
        for place in (*places, copy):
            self.assertEqual([each.forked for each in place.frontier()], [6], place.name)

    def test_a_lower_fork_that_is_found_later_wins_everywhere(self) -> None:
        places = self.mesh(3)
        self.line(places)
        one, other = self.branches(5, 5, 5)
        places[0].ingest(one)
        self.run_for(1)
        late = Author("fork")
        late.write_many(2)
        late.write("still another")
        places[0].ingest(other)
        self.run_for(5)
        places[2].ingest(late.raws)
        self.run_for(60)
        self.assert_same(places)
        (frontier,) = places[0].frontier()
        self.assertEqual(frontier.forked, 3)


class Gaps(MeshCase):
    """Old messages that nobody keeps any more."""

    def test_a_gap_that_everybody_has_is_done_without(self) -> None:
        a, b, c = self.mesh(3)
        author = Author("author")
        raws = author.write_many(8)
        for place in (a, b):
            place.ingest(raws)
            place.empty(1, 2, 3, 4)
        self.connect(c, a)
        self.connect(c, b)
        self.run_for(20)
        self.assertEqual(c.heads(), {})
        self.run_for(90)
        self.assertEqual(c.heads(), {author.key: 8})
        self.assert_same([a, b, c])
        self.assertEqual(c.gossip.status().broken, {})
        for account in c.gossip.ledger.accounts():
            self.assertEqual(list(account.reasons), [])
        # Nothing is asked for again, and what is new comes at once.
        sent = a.links[0].sent + b.links[0].sent
        self.run_for(1000)
        self.assertEqual(a.links[0].sent + b.links[0].sent, sent)
        a.ingest(author.write_many(1))
        self.run_for(2)
        self.assert_same([a, b, c])

    def test_who_still_has_it_is_asked(self) -> None:
        a, b, c = self.mesh(3)
        author = Author("author")
        raws = author.write_many(8)
        for place in (a, b):
            place.ingest(raws)
        a.empty(1, 2, 3, 4, 6)
        self.connect(c, a)
        self.run_for(5)
        self.connect(c, b)
        self.run_for(20)
        self.assertEqual(c.heads(), {author.key: 8})
        self.assertEqual(c.feed.status().gone, 0)
        self.assertEqual(c.result(c.feed.read(author.key, 0, 10**9, 99)), raws)

    def test_several_gaps_one_after_the_other(self) -> None:
        a, c = self.mesh(2)
        author = Author("author")
        a.ingest(author.write_many(10))
        a.empty(1, 2, 4, 5, 7, 9)
        self.connect(c, a)
        self.run_for(600)
        self.assertEqual(c.heads(), {author.key: 10})
        self.assertEqual(c.gossip.status().broken, {})

    def test_a_liar_cannot_make_a_gap_where_its_author_says_otherwise(self) -> None:
        a, c = self.mesh(2)
        author = Author("author")
        a.ingest(author.write_many(6))
        head = bytes.fromhex(author.messages[2].hash)
        wrong = Gap(4, head, author.raws[4])
        self.patch(a.feed, "read", lambda *args: succeed([]))
        a.feed.gone_until = lambda who, after: succeed(wrong)  # type: ignore[method-assign]
        self.connect(c, a)
        self.run_for(300)
        self.assertEqual(c.heads(), {})


#: What may happen to three stores: somebody's messages come, in any order and again and
#: again; two of them meet, and the connection breaks at some moment; one is killed.
_arrives = st.tuples(
    st.just("arrives"),
    st.integers(0, 2),
    st.integers(0, 3),
    st.lists(st.integers(0, 7), min_size=1, max_size=8),
)
_meets = st.tuples(st.just("meets"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 60))
_dies = st.tuples(st.just("dies"), st.integers(0, 2))


class Whatever(MeshCase):
    """The property that the rest is for."""

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.one_of(_arrives, _meets, _dies), max_size=14))
    def test_happens_all_end_with_the_same_and_each_message_was_announced_once(
        self, happens: list[Any]
    ) -> None:
        self.setUp()
        files = [MemoryFile(f"whatever {n}") for n in range(3)]
        try:
            self.check(happens, files)
        finally:
            self.tearDown()
            self.places.clear()
            for file in files:
                file.close()

    def check(self, happens: list[Any], files: list[MemoryFile]) -> None:
        honest = [Author(n) for n in range(2)]
        feeds = [author.write_many(8) for author in honest]
        # The last two are branches of one feed.
        for word in ("heads", "tails"):
            forker = Author("forker")
            forker.write_many(3)
            forker.write(word)
            feeds.append([*forker.raws, *forker.write_many(4)])
        stores = [self.place(f"store {n}", backing=files[n]) for n in range(3)]
        announced: list[list[Any]] = [[], [], []]
        open_wires: list[MemoryWire] = []
        for event in happens:
            match event:
                case ("arrives", at, which, order):
                    stores[at].ingest([feeds[which][n] for n in order])
                case ("meets", one, other, steps) if one != other:
                    open_wires.append(self.connect(stores[one], stores[other]))
                    for _ in range(steps):
                        if self.clock.getDelayedCalls():
                            self.clock.advance(0.001)
                    if steps % 2:
                        open_wires.pop().cut()
                case ("dies", at):
                    for wire in open_wires:
                        wire.cut()
                    open_wires.clear()
                    dead = stores[at]
                    self.places.remove(dead)
                    dead.stop()
                    announced[at] += dead.announced
                    stores[at] = self.place(f"store {at}", backing=files[at])
        for wire in open_wires:
            wire.cut()
        self.run_for(1)
        self.clique(stores)
        self.run_for(400)
        self.assert_same(stores)
        arrived: set[tuple[int, int]] = {
            (event[2], n) for event in happens if event[0] == "arrives" for n in event[3]
        }
        for number, author in enumerate(honest):
            complete = next(n for n in range(9) if (number, n) not in arrived)
            self.assertEqual(stores[0].heads().get(author.key, 0), complete)
        for at, store in enumerate(stores):
            each = announced[at] + store.announced
            self.assertEqual(len(each), len({*each}), "announced twice")
