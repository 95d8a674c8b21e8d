"""Tests of L{meshkit.kademlia.node} where its life, clock or peers are out of the ordinary."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotReady
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.kademlia.blocks import blocks_of
from meshkit.kademlia.node import KademliaNode
from tests.kademlia.mesh import PORT, Mesh, place_of
from tests.kademlia.recording import owner
from tests.kademlia.test_node_keeping import Disk


class EdgesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()

    def disk(self) -> Disk:
        disk = Disk()
        self.addCleanup(disk.connection.close)
        return disk

    def end(self) -> None:
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)


class SlowDisk(Disk):
    """Reading takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: list[Deferred[Any]] = []

    def read(self, job: Any) -> Deferred[Any]:
        reading: Deferred[Any] = Deferred()
        self.reading.append(reading)
        return reading.addCallback(lambda _: job(self.connection))


class Lives(EdgesCase):
    """A node is started and stopped at any time."""

    def known(self, disk: Disk) -> int:
        (count,) = disk.connection.execute("SELECT count(*) FROM kademlia_contacts").fetchone()
        return int(count)

    def test_who_is_stopped_while_it_starts_forgets_nobody(self) -> None:
        self.mesh.add(1)
        disk = self.disk()
        node = self.mesh.make(database=disk)
        self.mesh.result(node.start())
        self.mesh.result(node.bootstrap([self.mesh.address(0)]))
        self.mesh.result(node.stop())
        self.assertEqual(self.known(disk), 1)
        slow = SlowDisk()
        slow.connection.close()
        slow.connection = disk.connection
        again = self.mesh.make(1, database=slow)
        starting = again.start()
        self.mesh.result(again.stop())
        self.failureResultOf(starting, NotReady)
        self.assertEqual(self.known(disk), 1)
        self.end()

    def test_who_is_started_again_counts_what_it_keeps_once(self) -> None:
        node, other = self.mesh.make(database=self.disk()), self.mesh.make()
        for each in (node, other):
            self.mesh.result(each.start())
        self.mesh.result(other.bootstrap([self.mesh.address(0)]))
        self.mesh.result(other.put("topic", b"birds", b"a wren"))
        size, share = node.holdings.size, node.holdings.share(other.identity.public)
        for _ in range(3):
            self.mesh.result(node.stop())
            self.mesh.result(node.start())
        self.assertEqual(node.holdings.size, size)
        self.assertEqual(node.holdings.share(other.identity.public), share)
        self.end()

    def test_who_is_started_while_it_stops_is_refused_and_the_end_is_told(self) -> None:
        node, other = self.mesh.add(2)
        self.mesh.run(1.0)
        first, second = node.stop(), node.stop()
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.failureResultOf(node.start(), ValueError)
        self.mesh.result(first)
        self.mesh.result(second)
        self.mesh.result(node.start())
        self.end()


class Clocks(EdgesCase):
    """A clock that was a day ahead is set right."""

    def test_who_is_known_by_a_clock_that_was_ahead_is_found_again_at_once(self) -> None:
        nodes = self.mesh.add(3)
        right = self.mesh.wall_clock
        nodes[2]._wall_clock = lambda: right() + 86_400 * 1_000_000_000
        self.mesh.run(200)
        ahead = nodes[2].own_address()
        assert ahead is not None
        self.assertGreater(ahead.sequence, nodes[0].wall_ms() + 80_000_000)
        nodes[2]._wall_clock = right
        self.mesh.run(200)
        now = nodes[0].wall_ms()
        record = nodes[2].own_address()
        assert record is not None
        record.check_time(now)
        self.assertEqual(nodes[2].own_address(), record)
        found = self.mesh.result(nodes[0].find_peer(nodes[2].identity.public))
        self.assertEqual(found.places, (self.mesh.place(nodes[2]),))
        placed = self.mesh.result(nodes[2].put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.refused), (3, {}))
        self.end()

    def test_where_others_took_what_is_ahead_a_little_it_is_replaced(self) -> None:
        (node, _) = self.mesh.add(2)
        right = self.mesh.wall_clock
        self.mesh.result(node.put("topic", b"birds", b"a wren"))
        node._wall_clock = lambda: right() - 300 * 1_000_000_000
        placed = self.mesh.result(node.put("topic", b"birds", b"a robin"))
        self.assertEqual((placed.accepted, placed.refused), (2, {}))
        self.end()


class Names(EdgesCase):
    """A peer is dialled by the name of its host."""

    def test_how_near_it_is_is_seen_where_the_name_leads(self) -> None:
        near = [HostPort("192.168.1.7", PORT), HostPort("192.168.1.8", PORT)]
        for each in near:
            self.mesh.result(self.mesh.make(places=[each], source=each.host).start())
        self.mesh.result(self.mesh.nodes[1].bootstrap([self.at(near[0], 0)]))
        self.mesh.names["nas.example"] = near[0].host
        self.mesh.listening[HostPort("nas.example", PORT)] = self.mesh.listening[near[0]]
        node = self.mesh.make(places=[HostPort("192.168.1.9", PORT)])
        self.mesh.result(node.start())
        named = self.at(HostPort("nas.example", PORT), 0)
        self.assertEqual(self.mesh.result(node.bootstrap([named])), 2)
        self.assertEqual(sorted(each.places[0].host for each in node.table), [p.host for p in near])
        self.end()

    def test_who_has_a_name_counts_for_the_block_where_it_leads(self) -> None:
        (first,) = self.mesh.add()
        self.mesh.names["far.example"] = place_of(0).host
        self.mesh.listening[HostPort("far.example", PORT)] = (owner(0).public, first.server)
        node = self.mesh.make()
        self.mesh.result(node.start())
        self.mesh.result(node.bootstrap([self.at(HostPort("far.example", PORT), 0)]))
        (contact,) = node.table
        self.assertEqual(contact.blocks, blocks_of(place_of(0).host))
        self.assertEqual(contact.places, (place_of(0),))
        self.end()

    def at(self, place: HostPort, n: int) -> MeshAddress:
        return MeshAddress(place.host, place.port, owner(n).public)


class Publishing(EdgesCase):
    def test_what_is_published_before_anybody_is_known_is_stored_when_somebody_is(self) -> None:
        for client in (False, True):
            early = self.mesh.make(client=client)
            self.mesh.result(early.start())
            name = b"birds %d" % client
            placed = self.mesh.result(early.put("topic", name, b"a wren"))
            self.assertEqual((placed.accepted, placed.questions), (int(not client), 0))
            self.mesh.run(200)
            (other,) = self.mesh.add(count=1)
            self.mesh.result(early.bootstrap([self.at(other)]))
            self.mesh.run(80)
            (found,) = self.mesh.result(other.get("topic", name))
            self.assertEqual(found.value, b"a wren")
        self.end()

    def at(self, node: KademliaNode) -> MeshAddress:
        place = self.mesh.place(node)
        return MeshAddress(place.host, place.port, node.identity.public)

    def test_a_swap_does_not_take_the_place_of_what_is_put_meanwhile(self) -> None:
        nodes = self.mesh.add(3)
        self.mesh.result(nodes[0].put_mutable(b"one"))
        (read,) = self.mesh.result(nodes[0].get("mutable", nodes[0].identity.public.raw))
        swap = nodes[0].swap_mutable(b"two", read)
        self.mesh.run(0.001)
        put = nodes[0].put_mutable(b"three")
        self.mesh.result(swap)
        self.mesh.result(put)
        published = nodes[0].publications.find("mutable", read.key)
        assert published is not None
        self.assertEqual(published.record.value, b"three")
        self.end()

    def test_a_swap_does_not_bring_back_what_is_withdrawn_meanwhile(self) -> None:
        nodes = self.mesh.add(3)
        self.mesh.result(nodes[0].put_mutable(b"one"))
        name = nodes[0].identity.public.raw
        (read,) = self.mesh.result(nodes[0].get("mutable", name))
        swap = nodes[0].swap_mutable(b"two", read)
        self.mesh.run(0.001)
        withdrawn = nodes[0].withdraw("mutable", name)
        self.mesh.result(swap)
        self.mesh.result(withdrawn)
        self.assertIsNone(nodes[0].publications.find("mutable", read.key))
        self.end()
