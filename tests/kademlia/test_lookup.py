"""
Tests of L{meshkit.kademlia.lookup}.

The nodes that are asked are tables of the same package, and liars of every kind; whose
answer comes next is chosen by the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from random import Random
from typing import Any, Final

from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import closest, flipped, number, shared_bits
from meshkit.kademlia.estimate import MAX_REGION
from meshkit.kademlia.lookup import (
    ALPHA,
    MAX_ASKED,
    MAX_BAD_NAMES,
    MAX_LATE,
    MAX_LEVEL,
    MAX_NAMERS,
    PATHS,
    SAFE_PATHS,
    SWEPT_LEVELS,
    Ask,
    Lookup,
)
from meshkit.kademlia.routing import K, RoutingTable
from tests.kademlia.support import contact, contact_at, host_of

OWN: Final = contact(0)
TARGET: Final = bytes(32)

Answer = tuple[Sequence[Contact], bytes | None]
#: What a node says; L{None} if it says nothing.
Behaviour = Callable[[Ask], Answer | None]


def spread(n: int) -> Contact:
    return contact(n, host_of(n * 40_503 % 2**24 & 0xF5FFFF))


class Town:
    """Honest nodes that all know some of the others, and whom they are replaced by."""

    def __init__(self, size: int, seed: int = 1) -> None:
        rng = Random(seed)
        self.contacts = [spread(n) for n in range(1, size + 1)]
        self.tables = {each.id: RoutingTable(each.id) for each in (OWN, *self.contacts)}
        ordered = sorted(self.contacts, key=lambda each: each.number)
        for at, each in enumerate(ordered):
            neighbours = ordered[max(0, at - 30) : at + 30]
            for other in (*neighbours, *rng.sample(self.contacts, min(size, 150))):
                self.tables[each.id].answered(other, 0.0)
        for other in self.contacts:
            self.tables[OWN.id].answered(other, 0.0)

    def honest(self, ask: Ask) -> Answer:
        return self.tables[ask.contact.id].told(ask.target, 1.0), None

    def lookup(self, target: bytes = TARGET, paths: int = PATHS, **changed: Any) -> Lookup[bytes]:
        starts = self.tables[OWN.id].closest(target, max(K, ALPHA * paths))
        return Lookup(target, starts, own=OWN.id, paths=paths, **changed)


@cache
def town(size: int = 300) -> Town:
    return Town(size)


@define
class Run:
    """
    A lookup under way.

    @ivar behaviours: of those that are not honest.
    @ivar asks: all questions, in their order.
    @ivar open: those that are not answered.
    @ivar late: who of those asked is late.
    @ivar before_crowded: how many were asked before it saw that it is crowded there.
    """

    lookup: Lookup[bytes]
    town: Town
    behaviours: dict[bytes, Behaviour] = field(factory=dict)
    asks: list[Ask] = field(factory=list)
    open: list[Ask] = field(factory=list)
    late: list[Contact] = field(factory=list)
    before_crowded: int = 0

    def start(self) -> None:
        self.take(self.lookup.start())

    def take(self, asks: list[Ask]) -> None:
        if not self.lookup.crowded:
            self.before_crowded = len(self.asks) + len(asks)
        self.asks += asks
        self.open += asks

    def step(self, choice: int = 0) -> None:
        ask = self.open.pop(choice % len(self.open))
        if ask.contact in self.late:
            self.late.remove(ask.contact)
        answer = self.behaviours.get(ask.contact.id, self.town.honest)(ask)
        if answer is None:
            self.take(self.lookup.failed(ask.contact))
        else:
            named, value = answer
            value = value if ask.target == self.lookup.target else None
            self.take(self.lookup.answered(ask.contact, named, value))

    def finish(self, choices: Iterable[int] = ()) -> None:
        self.start()
        chosen = iter(choices)
        while not self.lookup.finished:
            self.step(next(chosen, 0))

    def be_late(self, choice: int) -> None:
        ask = self.open[choice % len(self.open)]
        late = sum(each.path == ask.path for each in self.open if each.contact in self.late)
        if ask.contact not in self.late and late < MAX_LATE:
            self.late.append(ask.contact)
        self.take(self.lookup.late(ask.contact))

    def in_flight(self) -> dict[int, int]:
        """@return: path -> how many are awaited, but for those that are late."""
        counts: dict[int, int] = {}
        for ask in self.open:
            if ask.contact not in self.late:
                counts[ask.path] = counts.get(ask.path, 0) + 1
        return counts


def silent(_: Ask) -> None:
    return None


def naming(*named: Contact) -> Behaviour:
    return lambda _: (named, None)


class Honest(SynchronousTestCase):
    def test_it_finds_the_nearest_of_all(self) -> None:
        rng = Random(1)
        for paths in (1, PATHS, SAFE_PATHS):
            for _ in range(5):
                target = rng.randbytes(32)
                run = Run(town().lookup(target, paths), town())
                run.finish()
                nearest = closest([each.id for each in town().contacts], target, K)
                self.assertEqual([each.id for each in run.lookup.closest()], nearest)
                self.assertEqual(run.lookup.holders(), run.lookup.closest())
                self.assertFalse(run.lookup.crowded)
                self.assertEqual(run.lookup.asked, len(run.asks))

    def test_all_nearest_have_answered_and_few_others_were_asked(self) -> None:
        run = Run(town().lookup(paths=1), town())
        run.finish()
        self.assertLess(len(run.asks), 2 * K)

    def test_it_hops(self) -> None:
        # A path begins at the far end: each node knows but those next to it in the ring.
        ring = sorted(town().contacts, key=lambda each: each.number)[:60]
        run = Run(Lookup(TARGET, [ring[-1]], own=OWN.id, paths=1), town())
        for at, each in enumerate(ring):
            run.behaviours[each.id] = naming(*ring[max(0, at - 5) : at])
        run.finish()
        self.assertEqual(run.lookup.closest(), ring[:K])
        self.assertEqual(run.lookup.hops, 13)

    def test_a_network_of_three_is_asked_whole(self) -> None:
        small = Town(3)
        run = Run(small.lookup(), small)
        run.finish()
        self.assertEqual(set(run.lookup.closest()), set(small.contacts))

    def test_with_nobody_to_ask_it_ends_at_once(self) -> None:
        lookup: Lookup[bytes] = Lookup(TARGET, [], own=OWN.id)
        self.assertEqual(lookup.start(), [])
        self.assertTrue(lookup.finished)
        self.assertEqual((lookup.closest(), lookup.holders(), lookup.hops), ([], [], 0))

    def test_it_ends_while_those_that_are_slow_and_far_have_not_answered(self) -> None:
        some = [contact(n) for n in range(1, K + 3)]
        far, *near = sorted(some, key=lambda each: -each.number)
        slow = near.pop(0)
        lookup: Lookup[bytes] = Lookup(TARGET, [far, slow], own=OWN.id, paths=1)
        self.assertEqual([ask.contact for ask in lookup.start()], [slow, far])
        asks = lookup.answered(far, near)
        while asks:
            asks += lookup.answered(asks.pop().contact, near)
        self.assertTrue(lookup.finished)
        self.assertEqual(lookup.closest(), near[::-1])
        self.assertEqual(lookup.answered(slow, [contact(1)], b"late"), [])
        self.assertEqual(lookup.failed(slow), [])
        self.assertEqual((lookup.closest(), lookup.values), (near[::-1], []))


class Credit(SynchronousTestCase):
    def test_who_has_none_takes_none_from_those_whom_we_know_ourselves(self) -> None:
        ours = [contact(n) for n in range(1, 11)]
        ours.sort(key=lambda each: each.number)
        made = [contact_at(bytes(31) + bytes([n]), 100 + n) for n in range(MAX_BAD_NAMES)]
        lookup: Lookup[bytes] = Lookup(TARGET, ours, own=OWN.id, paths=1)
        liar, *others = ours
        asks = lookup.start()
        while asks:
            ask = asks.pop(0)
            if ask.contact == liar:
                asks += lookup.answered(liar, [*made, *others])
            elif ask.contact in made:
                asks += lookup.failed(ask.contact)
            else:
                asks += lookup.answered(ask.contact, [])
        self.assertEqual(lookup.closest(), ours)


class Values(SynchronousTestCase):
    @staticmethod
    def keep(value: bytes, ask: Ask) -> Answer:
        return town().honest(ask)[0], value

    def run_with(self, keepers: dict[bytes, bytes], paths: int = PATHS) -> Run:
        run = Run(town().lookup(paths=paths), town())
        for place, value in keepers.items():
            run.behaviours[place] = partial(self.keep, value)
        run.finish()
        return run

    def test_it_does_not_end_with_the_first_value(self) -> None:
        nearest = closest([each.id for each in town().contacts], TARGET, K)
        run = self.run_with(dict.fromkeys(nearest[:-1], b"old") | {nearest[-1]: b"new"})
        self.assertEqual(len(run.lookup.values), K)
        self.assertEqual({value for _, value in run.lookup.values}, {b"old", b"new"})
        self.assertEqual({who.id for who, _ in run.lookup.values}, set(nearest))

    def test_values_are_there_as_they_come(self) -> None:
        nearest = closest([each.id for each in town().contacts], TARGET, 1)
        run = Run(town().lookup(), town())
        run.behaviours[nearest[0]] = lambda ask: (town().honest(ask)[0], b"value")
        run.start()
        while not run.lookup.values:
            run.step()
        self.assertFalse(run.lookup.finished)
        run.lookup.cancel()
        self.assertEqual([value for _, value in run.lookup.values], [b"value"])


class Paths(SynchronousTestCase):
    def test_they_begin_at_different_nodes_the_nearest_first(self) -> None:
        lookup = town().lookup(paths=SAFE_PATHS)
        asks = lookup.start()
        self.assertEqual(len(asks), SAFE_PATHS * ALPHA)
        self.assertEqual(len({ask.contact for ask in asks}), len(asks))
        starts = town().tables[OWN.id].closest(TARGET, len(asks))
        first = {ask.path: ask.contact for ask in reversed(asks)}
        self.assertEqual([first[path] for path in range(SAFE_PATHS)], starts[:SAFE_PATHS])

    def test_one_begins_only_at_those_with_a_history(self) -> None:
        starts = town().tables[OWN.id].closest(TARGET, K)
        elders = [starts[0], town().contacts[-1]]
        lookup: Lookup[bytes] = Lookup(TARGET, starts, elders, own=OWN.id)
        asks = lookup.start()
        self.assertEqual([ask.contact for ask in asks if ask.path == 0], elders)
        others = [ask.contact for ask in asks if ask.path]
        self.assertEqual(others, [starts[1], starts[3], starts[5], starts[2], starts[4], starts[6]])

    def test_without_others_a_single_path_begins_at_all(self) -> None:
        starts = town().tables[OWN.id].closest(TARGET, K)
        lookup: Lookup[bytes] = Lookup(TARGET, starts, starts[:1], own=OWN.id, paths=1)
        self.assertEqual([ask.contact for ask in lookup.start()], starts[:ALPHA])
        self.assertRaises(ValueError, Lookup, TARGET, starts, own=OWN.id, paths=0)

    def test_what_one_has_heard_of_does_not_make_another_go_there(self) -> None:
        # Whoever path 0 asks names a crowd of its own, nearer than all others; whoever it
        # does not ask never hears of them.
        crowd = [contact_at(bytes(31) + bytes([n + 1]), 500 + n) for n in range(K)]
        run = Run(town().lookup(paths=2), town())
        run.start()
        for ask in run.open:
            if ask.path == 0:
                run.behaviours[ask.contact.id] = naming(*crowd)
        for each in crowd:
            run.behaviours[each.id] = naming(*crowd)
        while not run.lookup.finished:
            run.step()
        self.assertTrue({ask.path for ask in run.asks if ask.contact in crowd} <= {0})
        honest = {ask.contact.id for ask in run.asks if ask.path == 1}
        nearest = closest([each.id for each in town().contacts], TARGET, K)
        self.assertTrue(set(nearest) <= honest | {ask.contact.id for ask in run.asks})


class Liars(SynchronousTestCase):
    def test_of_an_answer_no_more_than_twenty_are_looked_at(self) -> None:
        start = contact(1)
        many = [contact(n) for n in range(2, 3 * K)]
        lookup: Lookup[bytes] = Lookup(TARGET, [start], own=OWN.id, paths=1)
        lookup.start()
        lookup.answered(start, many)
        self.assertEqual(len(lookup._nodes), 1 + K)

    def test_we_are_not_asked_and_nobody_names_himself(self) -> None:
        start = contact(1)
        lookup: Lookup[bytes] = Lookup(TARGET, [start, OWN], own=OWN.id, paths=1)
        self.assertEqual([ask.contact for ask in lookup.start()], [start])
        self.assertEqual(lookup.answered(start, [OWN, start]), [])
        self.assertTrue(lookup.finished)

    def test_who_names_nodes_that_do_not_answer_loses_credit(self) -> None:
        liar, honest = contact(1), contact(2)
        ghosts = [contact_at(bytes(30) + bytes([1, n]), 500 + n) for n in range(K)]
        run = Run(Lookup(TARGET, [liar, honest], own=OWN.id, paths=1), town())
        run.behaviours = {each.id: silent for each in ghosts}
        run.behaviours[liar.id] = naming(*ghosts)
        run.behaviours[honest.id] = naming(contact(3), ghosts[-1])
        run.behaviours[contact(3).id] = naming()
        run.finish()
        asked = [ask.contact for ask in run.asks if ask.contact in ghosts]
        # Those in flight when the credit was spent, and the one that another named as well.
        self.assertLessEqual(len(asked), MAX_BAD_NAMES + ALPHA)
        self.assertIn(ghosts[-1], asked)
        self.assertEqual(set(run.lookup.closest()), {liar, honest, contact(3)})

    def test_records_that_nobody_signed_cost_the_same_credit(self) -> None:
        liar = contact(1)
        lookup: Lookup[bytes] = Lookup(TARGET, [liar], own=OWN.id, paths=1)
        lookup.start()
        self.assertEqual(lookup.answered(liar, [contact(2)], refused=MAX_BAD_NAMES), [])
        self.assertEqual(lookup.closest(), [liar])
        other: Lookup[bytes] = Lookup(TARGET, [liar], own=OWN.id, paths=1)
        other.start()
        asks = other.answered(liar, [contact(2)], refused=MAX_BAD_NAMES - 1)
        self.assertEqual([ask.contact for ask in asks], [contact(2)])

    def test_whom_a_liar_named_is_asked_when_another_names_it(self) -> None:
        liar, honest, named = contact(1), contact(2), contact(3)
        lookup: Lookup[bytes] = Lookup(TARGET, [liar, honest], own=OWN.id, paths=1)
        lookup.start()
        self.assertEqual(lookup.answered(liar, [named], refused=MAX_BAD_NAMES), [])
        self.assertEqual([ask.contact for ask in lookup.answered(honest, [named])], [named])

    def test_what_liars_named_takes_no_place(self) -> None:
        # Two liars fill a level; what the third tells of there is farther than all that.
        level = [contact_at((2**200 + n).to_bytes(32, "big"), 500 + n) for n in range(2 * K)]
        last = contact_at((2**200 + 99).to_bytes(32, "big"), 600)
        namers = [contact(n) for n in range(1, 4)]
        lookup: Lookup[bytes] = Lookup(TARGET, namers, own=OWN.id, paths=1)
        lookup.start()
        for n, liar in enumerate(namers[:2]):
            named = level[n * K : (n + 1) * K]
            self.assertEqual(lookup.answered(liar, named, refused=MAX_BAD_NAMES), [])
        asks = lookup.answered(namers[2], [last])
        self.assertEqual([ask.contact for ask in asks], [last])

    def test_who_names_as_many_that_answer_keeps_it(self) -> None:
        namer = contact(1)
        named = [contact(n) for n in range(2, 22)]
        run = Run(Lookup(TARGET, [namer], own=OWN.id, paths=1), town())
        run.behaviours = {each.id: silent if n % 2 else naming() for n, each in enumerate(named)}
        run.behaviours[namer.id] = naming(*sorted(named, key=lambda each: each.number))
        nearest = sorted(named, key=lambda each: each.number)
        for n, each in enumerate(nearest):
            run.behaviours[each.id] = silent if n % 2 else naming()
        run.finish()
        self.assertEqual(len(run.asks), 21)

    def test_few_of_one_address_block_count(self) -> None:
        crowd = [contact_at(bytes(31) + bytes([n + 1]), 500 + n, "9.9.9.9") for n in range(K)]
        run = Run(town().lookup(), town())
        for each in town().contacts:
            run.behaviours[each.id] = lambda ask: ([*crowd[:10], *town().honest(ask)[0][:10]], None)
        for each in crowd:
            run.behaviours[each.id] = naming(*crowd)
        run.finish()
        found = run.lookup.closest()
        self.assertEqual(found[:3][:2], crowd[:2])
        self.assertEqual([each for each in found if each in crowd], crowd[:2])
        self.assertEqual(len(found), K)

    def test_an_old_record_does_not_hide_a_node(self) -> None:
        liar, honest, third, victim = contact(1), contact(2), contact(4), contact(3)
        newer = contact(3, sequence=2)
        lookup: Lookup[bytes] = Lookup(TARGET, [liar, honest, third], own=OWN.id, paths=1)
        lookup.start()
        self.assertEqual([ask.contact for ask in lookup.answered(liar, [victim])], [victim])
        lookup.failed(victim)
        (again,) = lookup.answered(honest, [newer])
        self.assertEqual(again.contact.record.sequence, 2)
        # Once, however many records it makes.
        lookup.failed(again.contact)
        self.assertEqual(lookup.answered(third, [contact(3, sequence=3)]), [])
        self.assertTrue(lookup.finished)

    def test_a_newer_record_counts_however_many_have_told_the_old_one(self) -> None:
        numbers = sorted(range(1, 12), key=lambda n: contact(n).number)
        *starts, last = numbers
        lookup: Lookup[bytes] = Lookup(TARGET, map(contact, starts), own=OWN.id, paths=1)
        lookup.start()
        for n, start in enumerate(starts):
            told = contact(last, sequence=1 if n < MAX_NAMERS else 2)
            asks = lookup.answered(contact(start), [told])
            for ask in asks:
                if ask.contact == contact(last):
                    self.assertGreater(n, MAX_NAMERS)
                    self.assertEqual(ask.contact.record.sequence, 2)
                    return
        self.fail("it was never asked")

    def test_where_it_answered_is_what_counts_in_the_end(self) -> None:
        claimed = [contact(n, "9.9.9.9") for n in (1, 2, 3)]
        lookup: Lookup[bytes] = Lookup(TARGET, claimed, own=OWN.id, paths=1)
        asks = lookup.start()
        self.assertEqual(len(asks), 2, "the third is of the same block")
        for ask in asks:
            moved = evolve(ask.contact, blocks=contact(ask.contact.number % 99).blocks)
            lookup.answered(moved, [])
        # Now there is room for the third.
        self.assertFalse(lookup.finished)


class Late(SynchronousTestCase):
    def setUp(self) -> None:
        contacts = [contact(n) for n in range(1, 3 * K)]
        self.nodes = sorted(contacts, key=lambda each: each.number)
        self.lookup: Lookup[bytes] = Lookup(TARGET, self.nodes, own=OWN.id, paths=1)

    def test_others_are_asked_in_the_place_of_those_that_take_long(self) -> None:
        self.lookup.start()
        for n in range(MAX_LATE):
            (other,) = self.lookup.late(self.nodes[n])
            self.assertEqual(other.contact, self.nodes[ALPHA + n])
            self.assertEqual(self.lookup.late(self.nodes[n]), [], "it is late already")
        # So many at most; the others are waited for.
        self.assertEqual(self.lookup.late(self.nodes[MAX_LATE]), [])
        self.assertEqual(self.lookup.answered(self.nodes[0], []), [])
        (other,) = self.lookup.late(self.nodes[MAX_LATE])
        self.assertEqual(other.contact, self.nodes[MAX_LATE + ALPHA])

    def test_it_ends_without_those_that_are_late(self) -> None:
        asks = self.lookup.start()
        late = asks.pop(0).contact
        asks += self.lookup.late(late)
        while asks:
            asks += self.lookup.answered(asks.pop(0).contact, [])
        self.assertTrue(self.lookup.finished)
        self.assertEqual(self.lookup.closest(), self.nodes[1 : K + 1])
        self.assertEqual(self.lookup.answered(late, [], b"late"), [])
        self.assertEqual(self.lookup.values, [])

    def test_an_answer_that_comes_late_counts_as_any(self) -> None:
        asks = self.lookup.start()
        late = asks.pop(0).contact
        asks += self.lookup.late(late)
        asks += self.lookup.answered(late, [], b"value")
        while asks:
            asks += self.lookup.answered(asks.pop(0).contact, [])
        self.assertEqual(self.lookup.closest(), self.nodes[:K])
        self.assertEqual(self.lookup.values, [(late, b"value")])

    def test_who_failed_after_being_late_frees_a_place(self) -> None:
        for ask in self.lookup.start():
            self.lookup.late(ask.contact)
            self.lookup.failed(ask.contact)
        path = self.lookup._paths[0]
        self.assertEqual((path.in_flight, path.late), (ALPHA, 0))

    def test_where_there_are_few_the_late_are_waited_for(self) -> None:
        one, other = self.nodes[:2]
        lookup: Lookup[bytes] = Lookup(TARGET, [one, other], own=OWN.id, size=2.0)
        lookup.start()
        self.assertEqual((lookup.late(one), lookup.late(other)), ([], []))
        self.assertFalse(lookup.finished)
        lookup.answered(one, [])
        self.assertFalse(lookup.finished)
        lookup.failed(other)
        self.assertTrue(lookup.finished)
        self.assertEqual(lookup.closest(), [one])

    def test_who_was_not_asked_is_not_late(self) -> None:
        self.lookup.start()
        self.assertEqual(self.lookup.late(self.nodes[-1]), [])
        self.lookup.cancel()
        self.assertEqual(self.lookup.late(self.nodes[0]), [])


class Crowds(SynchronousTestCase):
    SIZE = 300.0

    def crowd(self, count: int) -> list[Contact]:
        return [
            contact_at((n + 1).to_bytes(32, "big"), 1_000 + n, host_of(n << 16 | 0xFF))
            for n in range(count)
        ]

    def eclipsed(self, count: int, paths: int = PATHS, lookup: Lookup[bytes] | None = None) -> Run:
        """Everybody tells of the crowd, and who is of it of others there."""
        crowd = self.crowd(count)
        run = Run(lookup or town().lookup(paths=paths, size=self.SIZE), town())

        def honest(ask: Ask) -> Answer:
            known = [*crowd, *town().tables[ask.contact.id].closest(ask.target, K)]
            here = number(ask.target)
            return sorted(known, key=lambda each: each.number ^ here)[:K], None

        for each in town().contacts:
            run.behaviours[each.id] = honest
        rng = Random(1)
        for each in crowd:
            run.behaviours[each.id] = naming(*rng.sample(crowd, min(count, K)))
        run.finish()
        return run

    def test_behind_a_crowd_the_whole_region_is_found(self) -> None:
        run = self.eclipsed(60)
        self.assertTrue(run.lookup.crowded)
        self.assertEqual(set(run.lookup.closest()), set(self.crowd(K)))
        region = [each for each in town().contacts if shared_bits(each.id, TARGET) >= 3]
        self.assertGreater(len(region), K)
        self.assertEqual(set(region) - set(run.lookup.holders()), set())

    def test_those_outside_of_the_region_are_asked_for_those_in_it(self) -> None:
        # All that we know of the region is the crowd, and that is all that others name there.
        starts = [each for each in town().contacts if shared_bits(each.id, TARGET) == 0][:30]
        lookup: Lookup[bytes] = Lookup(
            TARGET, [*self.crowd(K), *starts], own=OWN.id, size=self.SIZE
        )
        run = self.eclipsed(K, lookup=lookup)
        self.assertTrue(lookup.crowded)
        region = {each for each in town().contacts if shared_bits(each.id, TARGET) >= 3}
        self.assertGreater(len(region & set(lookup.holders())), 0.85 * len(region))
        asked = [shared_bits(ask.target, TARGET) for ask in run.asks if ask.contact in starts]
        self.assertLessEqual(set(range(3, 3 + SWEPT_LEVELS)), set(asked))
        # Each of them for one place besides the target.
        self.assertLessEqual(len(asked), 2 * len(starts))

    def test_in_our_own_table_there_are_others_behind_the_crowd(self) -> None:
        known = sorted(town().contacts, key=lambda each: each.number)
        given: list[int] = []

        def more() -> list[Contact]:
            given.append(1)
            return [*self.crowd(K), *known]

        for paths in (1, PATHS):
            alone: Lookup[bytes] = Lookup(
                TARGET, self.crowd(K), own=OWN.id, paths=paths, size=self.SIZE
            )
            self.eclipsed(K, lookup=alone)
            self.assertEqual(set(alone.holders()), set(self.crowd(K)))
            lookup: Lookup[bytes] = Lookup(
                TARGET, self.crowd(K), own=OWN.id, paths=paths, size=self.SIZE, more=more
            )
            self.eclipsed(K, lookup=lookup)
            region = {each for each in known if shared_bits(each.id, TARGET) >= 3}
            self.assertEqual(region - set(lookup.holders()), set())
        self.assertEqual(given, [1, 1], "once each")

    def test_more_are_not_asked_for_where_there_is_no_crowd(self) -> None:
        def more() -> list[Contact]:
            raise AssertionError("there is no crowd")

        run = Run(town().lookup(size=self.SIZE, more=more), town())
        run.finish()
        self.assertFalse(run.lookup.crowded)

    def test_more_do_not_come_between_elders(self) -> None:
        elder = town().contacts[0]
        lookup: Lookup[bytes] = Lookup(
            TARGET,
            self.crowd(K),
            [elder],
            own=OWN.id,
            paths=2,
            size=self.SIZE,
            more=lambda: town().contacts[1:60],
        )
        run = Run(lookup, town(), {each.id: naming() for each in self.crowd(K)})
        for each in town().contacts:
            run.behaviours[each.id] = naming()
        run.finish()
        self.assertTrue(lookup.crowded)
        self.assertEqual({ask.contact for ask in run.asks if ask.path == 0}, {elder})
        self.assertGreater(len({ask.contact for ask in run.asks if ask.path == 1}), K)

    def test_what_a_crowd_makes_us_ask_is_limited(self) -> None:
        run = self.eclipsed(1_000)
        self.assertTrue(run.lookup.crowded)
        holders = run.lookup.holders()
        self.assertEqual(len(holders), MAX_REGION)
        region = {each for each in town().contacts if shared_bits(each.id, TARGET) >= 3}
        self.assertLessEqual(region, set(holders))
        after = [ask for ask in run.asks[run.before_crowded :] if ask.target == TARGET]
        inside = [ask for ask in after if shared_bits(ask.contact.id, TARGET) >= 3]
        self.assertEqual(len(inside), MAX_REGION)
        # The crowd is nearest, so the farther half is asked first.
        for path in range(PATHS):
            bits = [shared_bits(ask.contact.id, TARGET) for ask in inside if ask.path == path]
            self.assertLess(max(bits[:ALPHA]), 247)
        self.assertLessEqual(len(run.asks), 2 * (MAX_REGION + PATHS * MAX_ASKED))

    def test_fewer_than_twenty_cannot_hide_the_others(self) -> None:
        run = self.eclipsed(10)
        self.assertFalse(run.lookup.crowded)
        nearest = closest([each.id for each in town().contacts], TARGET, K - 10)
        self.assertEqual([each.id for each in run.lookup.closest()[10:]], nearest)

    def test_without_the_size_of_the_network_nothing_seems_crowded(self) -> None:
        run = Run(town().lookup(), town())
        run.behaviours = {
            each.id: naming(*self.crowd(K)) for each in (*town().contacts, *self.crowd(K))
        }
        run.finish()
        self.assertFalse(run.lookup.crowded)

    def test_the_nodes_of_the_region_are_asked_for_their_own_neighbours(self) -> None:
        run = self.eclipsed(60)
        swept = [ask for ask in run.asks if ask.target != TARGET]
        self.assertTrue(swept)
        for ask in swept:
            self.assertEqual(ask.target, flipped(TARGET, shared_bits(ask.contact.id, TARGET)))
            self.assertGreaterEqual(shared_bits(ask.contact.id, TARGET), 3)


class Bounds(SynchronousTestCase):
    def test_a_hundred_thousand_ids_near_one_key_take_little(self) -> None:
        # Each answer names twenty that are nearer than all before, without end.
        lookup: Lookup[bytes] = Lookup(
            TARGET, [contact(n) for n in range(1, K)], own=OWN.id, size=10_000.0
        )
        asks = lookup.start()
        made = 0
        most = 0
        while asks and made < 100_000:
            ask = asks.pop()
            named = []
            for _ in range(K):
                made += 1
                place = (2**225 - made).to_bytes(32, "big")
                named.append(contact_at(place, made % 5_000, host_of(made % 5_000 << 16)))
            asks += lookup.answered(ask.contact, named, b"value")
            most = max(most, len(lookup._nodes))
        self.assertTrue(lookup.finished)
        self.assertLess(made, 100_000, "it went on without end")
        self.assertLessEqual(lookup.asked, 2 * (PATHS * MAX_ASKED + MAX_REGION))
        self.assertLessEqual(most, 2 * PATHS * (MAX_ASKED + MAX_LEVEL))

    def test_a_way_that_always_leads_nearer_comes_to_an_end(self) -> None:
        lookup: Lookup[bytes] = Lookup(TARGET, [contact(1)], own=OWN.id, paths=1)
        asks = lookup.start()
        for bits in range(20, 256):
            if not asks:
                break
            named = [contact_at(flipped(TARGET, bits)[:-1] + bytes([n]), 500 + n) for n in range(K)]
            asks = [more for ask in asks for more in lookup.answered(ask.contact, named)]
        self.assertTrue(lookup.finished)
        self.assertEqual(lookup.asked, MAX_ASKED)

    def test_silent_nodes_do_not_take_the_places_of_others(self) -> None:
        # More than fit into one level, all nearer than the one that answers.
        level = [contact_at((2**200 + n).to_bytes(32, "big"), 500 + n) for n in range(60)]
        last = contact_at((2**200 + 99).to_bytes(32, "big"), 600)
        namers = [contact(n) for n in range(1, 31)]
        run = Run(Lookup(TARGET, namers, own=OWN.id, paths=1), town())
        for n, each in enumerate(namers):
            run.behaviours[each.id] = naming(*level[2 * n : 2 * n + 2], last)
        run.behaviours |= {each.id: silent for each in level}
        run.behaviours[last.id] = naming()
        run.finish()
        self.assertEqual(run.lookup.closest(1), [last])

    def test_who_failed_takes_no_place_however_often_it_is_named(self) -> None:
        some = [contact(n) for n in range(1, K + 5)]
        ghost = contact_at(bytes(32), 500)
        lookup: Lookup[bytes] = Lookup(TARGET, [ghost, *some], own=OWN.id, paths=1)
        asks = lookup.start()
        asks = [ask for ask in asks if ask.contact != ghost] + lookup.failed(ghost)
        while asks:
            asks += lookup.answered(asks.pop(0).contact, [ghost])
        self.assertEqual(len(lookup.closest()), K)

    def test_after_a_cancellation_nothing_is_left(self) -> None:
        rng = Random(1)
        for steps in range(40):
            run = Run(town().lookup(), town())
            run.start()
            for _ in range(steps):
                if run.open:
                    run.step(rng.randrange(100))
            lookup = run.lookup
            lookup.cancel()
            self.assertTrue(lookup.finished)
            found = lookup.closest()
            for ask in run.open:
                self.assertEqual(lookup.answered(ask.contact, [contact(1)], b"late"), [])
                self.assertEqual(lookup.failed(ask.contact), [])
            self.assertEqual(lookup.closest(), found)
            self.assertEqual(lookup.values, [])
            self.assertEqual(
                {each.id for each in found}, set(lookup._nodes) & {e.id for e in found}
            )
            self.assertTrue(all(not path.known and not path.levels for path in lookup._paths))
            lookup.cancel()

    def test_it_starts_once(self) -> None:
        lookup = town().lookup()
        lookup.start()
        self.assertRaises(ValueError, lookup.start)

    def test_who_was_not_asked_is_not_heard(self) -> None:
        lookup = town().lookup(paths=1)
        asks = lookup.start()
        other = contact(999)
        self.assertEqual(lookup.answered(other, [contact(998)], b"value"), [])
        self.assertEqual(lookup.failed(other), [])
        lookup.answered(asks[0].contact, [])
        self.assertEqual(lookup.answered(asks[0].contact, [other], b"twice"), [])
        self.assertEqual(lookup.values, [])


class Anything(SynchronousTestCase):
    """What holds whatever the nodes say, in whatever order."""

    @given(
        st.integers(0, 2**32),
        st.sampled_from([1, 2, PATHS, SAFE_PATHS]),
        st.sampled_from([0.0, 0.1, 0.3, 0.9]),
        st.sampled_from([None, 300.0, 5_000.0]),
        st.integers(0, 200),
    )
    def test_it_ends_and_keeps_its_rules(
        self, seed: int, paths: int, liars: float, size: float | None, cancel: int
    ) -> None:
        rng = Random(seed)
        target = rng.randbytes(32)
        here = number(target)
        elders = rng.sample(town(120).contacts, rng.randrange(4))
        starts = town(120).tables[OWN.id].closest(target, K)
        lookup: Lookup[bytes] = Lookup(target, starts, elders, own=OWN.id, paths=paths, size=size)
        run = Run(lookup, town(120))
        made = [
            contact_at((here ^ rng.getrandbits(rng.choice([8, 240, 256]))).to_bytes(32, "big"), n)
            for n in range(500, 560)
        ]

        def any_answer(ask: Ask) -> Answer | None:
            kind = rng.randrange(5)
            if kind == 0:
                return None
            if kind == 1:
                return rng.choices(made, k=rng.randrange(50)), rng.choice([None, b"value"])
            if kind == 2:
                return [OWN, ask.contact, *rng.choices(town(120).contacts, k=30)], b"value"
            if kind == 3:
                return [], b"value"
            return town(120).honest(ask) if ask.contact.id in town(120).tables else None

        for each in (*town(120).contacts, *made):
            if rng.random() < liars or each in made:
                run.behaviours[each.id] = any_answer
        run.start()
        steps = 0
        while not lookup.finished and steps < cancel * 10:
            self.assertLessEqual(max(run.in_flight().values(), default=0), ALPHA)
            if rng.randrange(4):
                run.step(rng.randrange(1_000))
            else:
                run.be_late(rng.randrange(1_000))
            steps += 1
            self.assertLess(steps, 5_000, "it does not end")
            self.assertTrue(lookup.finished or run.open, "it waits for nobody")
        lookup.cancel()
        questions = [(ask.contact.id, ask.target) for ask in run.asks]
        self.assertEqual(len(questions), len(set(questions)), "somebody was asked twice")
        self.assertNotIn(OWN.id, {ask.contact.id for ask in run.asks})
        asked_on: dict[bytes, set[int]] = {}
        for ask in run.asks:
            asked_on.setdefault(ask.contact.id, set()).add(ask.path)
        self.assertTrue(all(len(on) == 1 for on in asked_on.values()), "paths cross")
        for path in range(paths):
            plain = [ask for ask in run.asks if ask.path == path and ask.target == target]
            self.assertLessEqual(len(plain), MAX_ASKED + MAX_REGION)
        found = lookup.closest()
        self.assertLessEqual(len(found), K)
        self.assertEqual(found, sorted(found, key=lambda each: each.number ^ here))
        self.assertTrue({each.id for each in found} <= set(asked_on))
