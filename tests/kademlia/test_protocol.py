"""Tests of L{meshkit.kademlia.protocol}: what is read of others' address records."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import AddressRecordInvalid
from meshkit.identity.addresses import HostPort, PeerAddress
from meshkit.identity.records import MAX_LIFETIME, AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia.contacts import DialRules
from meshkit.kademlia.protocol import AddressReader, reached_from
from tests.kademlia.mesh import Mesh, place_of
from tests.kademlia.recording import NETWORK, NOW, owner


def record(n: int, *places: HostPort, sequence: int = NOW) -> bytes:
    expires = sequence + MAX_LIFETIME
    where = places or (place_of(n),)
    return AddressRecord.seal(owner(n), NETWORK, where, sequence=sequence, expires=expires).raw


class Reading(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader = AddressReader(NETWORK, DialRules(), limit=3)

    def test_a_record_is_verified_once(self) -> None:
        raw = record(1)
        first = self.reader.record(raw, NOW)
        self.assertIs(self.reader.record(bytes(bytearray(raw)), NOW), first)

    def test_only_so_many_are_remembered_those_that_were_asked_for_last(self) -> None:
        raws = [record(n) for n in range(4)]
        first = self.reader.record(raws[0], NOW)
        for raw in (raws[1], raws[2], raws[0], raws[3]):
            self.reader.record(raw, NOW)
            self.reader.contact(raw, Scope.WORLD, NOW)
        self.assertEqual(len(self.reader), 3)
        self.assertIs(self.reader.record(raws[0], NOW), first)

    def test_what_is_none_is_refused_and_what_is_late_is_nobody(self) -> None:
        raw = record(1)
        self.assertIsNotNone(self.reader.contact(raw, Scope.WORLD, NOW))
        self.assertIsNone(self.reader.contact(raw, Scope.WORLD, NOW + MAX_LIFETIME))
        self.assertRaises(AddressRecordInvalid, self.reader.record, raw, NOW + MAX_LIFETIME)
        forged = raw[:-1] + bytes([raw[-1] ^ 1])
        for _ in range(2):
            with self.assertRaises(AddressRecordInvalid):
                self.reader.contact(forged, Scope.WORLD, NOW)

    def test_of_what_somebody_gave_those_that_are_none_are_counted_and_the_others_read(
        self,
    ) -> None:
        good, late = record(1), record(2, sequence=NOW - MAX_LIFETIME)
        early = record(3, sequence=NOW + MAX_LIFETIME)
        for _ in range(2):  # verified, and remembered
            found, refused = self.reader.contacts([late, b"none", good, early], Scope.WORLD, NOW)
            self.assertEqual([each.key for each in found], [owner(1).public])
            self.assertEqual(refused, 1)

    def test_a_record_is_good_from_where_it_does_not_come_out_of_the_future(self) -> None:
        for made, lasts in ((NOW, MAX_LIFETIME), (NOW, 1), (NOW - MAX_LIFETIME, 2 * MAX_LIFETIME)):
            it = AddressRecord.seal(
                owner(1), NETWORK, [place_of(1)], sequence=made, expires=made + lasts
            )
            self.assertRaises(AddressRecordInvalid, it.check_time, it.good_from - 1)
            if it.good_from < it.expires:
                it.check_time(it.good_from)

    def test_near_places_are_for_those_that_are_near(self) -> None:
        near, far = HostPort("10.0.0.7", 7655), place_of(1)
        both, only = record(1, near, far), record(2, near)
        found = self.reader.contact(both, Scope.WORLD, NOW)
        assert found is not None
        self.assertEqual(found.places, (far,))
        found = self.reader.contact(both, Scope.SITE, NOW)
        assert found is not None
        self.assertEqual(found.places, (near, far))
        self.assertIsNone(self.reader.contact(only, Scope.WORLD, NOW))

    def test_how_near_somebody_is(self) -> None:
        key = owner(1).public
        for host, scope in (
            ("127.0.0.1", Scope.MACHINE),
            ("10.1.2.3", Scope.SITE),
            ("11.0.0.1", Scope.WORLD),
            ("localhost", Scope.WORLD),
        ):
            inner = IPv4Address("TCP", host, 1)
            self.assertIs(reached_from(inner), scope)
            self.assertIs(reached_from(PeerAddress(key, inner)), scope)
        self.assertIs(reached_from(UNIXAddress(b"/socket")), Scope.WORLD)
        self.assertIs(reached_from(None), Scope.WORLD)


class Weapon(SynchronousTestCase):
    """Nobody has others dial what only they can reach."""

    def test_who_comes_from_afar_is_not_dialled_at_near_places(self) -> None:
        mesh = Mesh()
        asked, stranger = mesh.make(), mesh.make()
        for node in (asked, stranger):
            mesh.result(node.start())
        near = record(1, HostPort("127.0.0.1", 7655), HostPort("10.0.0.7", 7655))
        stranger.client._own_record = lambda: near
        before = len(mesh.dials)
        mesh.result(stranger.client.ping(asked.identity.public, [place_of(0)]))
        mesh.run(1.0)
        self.assertEqual([each.place for each in mesh.dials[before:]], [place_of(0)])
        self.assertEqual(len(asked.table), 0)
        mesh.stop()
        self.assertEqual(mesh.clock.waiting, 0)
