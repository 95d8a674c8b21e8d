"""Tests of how a node of L{meshkit.kademlia.node} keeps what many bring at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RemoteError
from meshkit.kademlia import protocol
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.holdings import Quota
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.opening import STEP, Opened, Opener, _open
from meshkit.kademlia.records import Record
from meshkit.kademlia.wire import Expected, Store
from tests.kademlia.mesh import Mesh
from tests.kademlia.recording import NOW, mutable, owner, topic


class Slow(Opener):
    """What is more than a step takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.waiting: list[Deferred[Any]] = []

    def open(
        self, raws: Sequence[bytes], verify: Callable[[bytes], Record]
    ) -> Deferred[list[Opened]]:
        if len(raws) <= STEP:
            return super().open(raws, verify)
        waiting: Deferred[Any] = Deferred(self.waiting.remove)
        self.waiting.append(waiting)
        return waiting.addCallback(lambda _: [_open(raw, verify) for raw in raws])

    def go_on(self) -> None:
        """Verify what came first."""
        self.waiting.pop(0).callback(None)


class Storing(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.slow = Slow()
        quota = Quota(each_records=STEP + 4)
        (self.keeper,) = self.mesh.add(quota=quota)
        self.keeper.opener = self.keeper.client._opener = self.slow
        self.one, self.other = self.mesh.add(2)

    def end(self) -> None:
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)
        self.assertEqual((self.keeper.server._turns, self.keeper.server._storing), ({}, 0))

    def store(self, node: KademliaNode, *raws: bytes, **more: Any) -> Deferred[Any]:
        contact: Contact = node.table.closest(self.keeper.id, 1)[0]
        self.assertEqual(contact.id, self.keeper.id)
        stored = node.client.store(contact, Store(list(raws), **more))
        self.mesh.run(0.1)
        return stored

    def codes(self, stored: Deferred[Any]) -> list[str]:
        self.mesh.run(0.1)
        return [each.code for each in self.successResultOf(stored).outcomes]

    def test_each_is_verified_once(self) -> None:
        verified: list[bytes] = []
        kinds_open = self.keeper.kinds.open

        def verify(raw: bytes, network: bytes, now: int) -> Record:
            verified.append(raw)
            return kinds_open(raw, network, now)

        self.patch(self.keeper.kinds, "open", verify)
        raws = [topic(owner(n)).raw for n in range(STEP + 1)]
        many = self.store(self.one, *raws)
        self.slow.go_on()
        self.codes(many)
        self.codes(self.store(self.other, raws[0], raws[0]))
        self.assertEqual(verified, raws)
        self.end()

    def test_many_take_their_time_and_few_do_not_wait_for_them(self) -> None:
        many = self.store(self.one, *(topic(owner(n)).raw for n in range(STEP + 1)))
        self.assertNoResult(many)
        self.assertEqual(len(self.slow.waiting), 1)
        few = self.store(self.other, *(topic(owner(50 + n)).raw for n in range(STEP)))
        self.assertEqual(self.codes(few), [""] * STEP)
        forged = bytearray(topic(owner(80)).raw)
        forged[-1] ^= 1
        self.assertEqual(self.codes(self.store(self.other, bytes(forged))), ["RECORD_FORGED"])
        self.slow.go_on()
        self.assertEqual(self.codes(many), [""] * (STEP + 1))
        # What is known is not verified again.
        again = self.store(self.one, *(topic(owner(n)).raw for n in range(STEP + 1)))
        self.assertEqual(self.codes(again), [""] * (STEP + 1))
        self.end()

    def test_those_of_many_that_are_forged_are_refused(self) -> None:
        raws = [bytearray(topic(owner(n)).raw) for n in range(STEP + 4)]
        raws[3][-1] ^= 1
        raws[STEP + 1][-1] ^= 1
        many = self.store(self.one, *map(bytes, raws))
        self.slow.go_on()
        expected = [""] * (STEP + 4)
        expected[3] = expected[STEP + 1] = "RECORD_FORGED"
        self.assertEqual(self.codes(many), expected)
        self.end()

    def test_what_one_brings_is_kept_in_the_order_in_which_it_came(self) -> None:
        who = owner(7)
        topics = [topic(who, name=f"birds {n}").raw for n in range(STEP + 4)]
        many = self.store(self.one, *topics)
        # It has all that it may have, if the other comes first.
        one_more = self.store(self.one, topic(who, name="bees").raw)
        self.assertNoResult(one_more)
        self.slow.go_on()
        self.assertEqual(self.codes(many), [""] * (STEP + 4))
        self.assertEqual(self.codes(one_more), ["RECORD_QUOTA"])
        self.assertEqual(self.keeper.holdings.share(who.public)[0], STEP + 4)
        self.end()

    def test_a_swap_is_judged_by_what_came_before_it(self) -> None:
        who = owner(7)
        first, second = mutable(who, b"1"), mutable(who, b"2", sequence=NOW + 1)
        filler = [topic(owner(n)).raw for n in range(STEP)]
        many = self.store(self.one, *filler, first.raw)
        swap = self.store(self.one, second.raw, expected=Expected(first.sequence, first.digest))
        self.slow.go_on()
        self.assertEqual(self.codes(many)[-1], "")
        self.assertEqual(self.codes(swap), [""])
        found = self.keeper.holdings.find("mutable", first.key, NOW)
        self.assertEqual(found.records, (second.raw,))
        self.end()

    def test_two_bring_the_same_at_the_same_time(self) -> None:
        raws = [topic(owner(n)).raw for n in range(STEP + 1)]
        stores = [self.store(node, *raws) for node in (self.one, self.other)]
        self.assertEqual(len(self.slow.waiting), 2)
        for _ in range(2):
            self.slow.go_on()
        for store in stores:
            self.assertEqual(self.codes(store), [""] * (STEP + 1))
        # Those of ours and their addresses are there beside.
        held = self.keeper.holdings.find("topic", record_key("topic", b"birds"), NOW)
        self.assertEqual(held.held, STEP + 1)
        self.end()

    def test_who_leaves_in_the_middle_leaves_nothing(self) -> None:
        raws = [topic(owner(n)).raw for n in range(STEP + 1)]
        stores = [self.store(self.one, *raws), self.store(self.one, topic(owner(60)).raw)]
        self.one.connections.close(self.keeper.identity.public)
        self.mesh.run(5.0)
        for store in stores:
            self.failureResultOf(store)
        self.assertEqual(self.slow.waiting, [])
        self.assertEqual((self.keeper.server._turns, self.keeper.server._storing), ({}, 0))
        self.assertEqual(self.codes(self.store(self.one, raws[0])), [""])
        self.end()

    def test_only_so_much_is_stored_at_the_same_time(self) -> None:
        raws = [topic(owner(n)).raw for n in range(STEP + 1)]
        size = sum(map(len, raws))
        single = topic(owner(60)).raw
        self.patch(protocol, "MAX_STORING", size + len(single) - 1)
        many = self.store(self.one, *raws)
        error = self.failureResultOf(self.store(self.other, single), RemoteError)
        self.assertEqual(error.value.code, "OVERLOADED")
        self.slow.go_on()
        self.codes(many)
        self.assertEqual(self.codes(self.store(self.other, single)), [""])
        self.assertEqual(self.keeper.server._storing, 0)
        self.end()

    def test_many_that_are_found_take_their_time(self) -> None:
        for n in range(STEP + 2):
            record = topic(owner(n))
            for node in (self.one, self.other):
                node.holdings.store(record.raw, NOW, owner(n).public)
        got = self.keeper.get("topic", b"birds")
        self.mesh.run(0.5)
        self.assertNoResult(got)
        while not got.called:
            self.slow.go_on()
            self.mesh.run(0.5)
        self.assertEqual(len(self.successResultOf(got)), STEP + 2)
        self.end()
