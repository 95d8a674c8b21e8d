"""Tests of L{meshkit.services.reaching}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.errors import PeerKeyRefused, PeerUnreachable, RelayNoReservation
from meshkit.identity.addresses import HostPort, MeshAddress, Via
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IDetours
from meshkit.services.reaching import Reaching
from meshkit.testing.identities import make_identity

PEER: Final = make_identity("peer").public
RELAYS: Final = [make_identity(f"relay {number}").public for number in range(3)]
ADDRESS: Final = MeshAddress("192.0.2.1", 7655, PEER)
WAYS: Final = [MeshAddress("192.0.2.2", 7661, PEER, Via(key, "member")) for key in RELAYS]
HEAD_START: Final = 2.0


@implementer(IStreamClientEndpoint)
class Way:
    """A way that does what the test says."""

    def __init__(self, name: object) -> None:
        self.name = name
        self.dialled: list[tuple[Any, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        connecting: Deferred[Any] = Deferred(self._cancel)
        self.dialled.append((protocolFactory, connecting))
        protocolFactory.doStart()
        return connecting

    def _cancel(self, connecting: Deferred[Any]) -> None:
        self.cancelled += 1
        connecting.errback(ConnectingCancelledError(None))

    def answer(self) -> Any:
        """The peer proves its key: a protocol is built, if any is."""
        factory, connecting = self.dialled[-1]
        protocol = factory.buildProtocol(None)
        if protocol is not None:
            connecting.callback(protocol)
        return protocol

    def fail(self, error: Exception) -> None:
        self.dialled[-1][1].errback(error)


@implementer(IDetours)
class Detours:
    """Ways through relays."""

    head_start = HEAD_START

    def __init__(self, ways: Sequence[MeshAddress]) -> None:
        self.found: Any = list(ways)
        self.ways_to: dict[MeshAddress, Way] = {}
        self.known: HostPort | None = None
        self.asked = 0

    def direct(self, key: PublicKey) -> HostPort | None:
        return self.known

    def ways(self, address: MeshAddress) -> Deferred[list[MeshAddress]]:
        self.asked += 1
        return self.found if isinstance(self.found, Deferred) else succeed(self.found)

    def to_us(self) -> list[MeshAddress]:
        return []

    def through(self, address: MeshAddress) -> Way:
        return self.ways_to.setdefault(address, Way(address))


class ReachingTests(SynchronousTestCase):
    """By which way a peer is reached."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.detours: Any = Detours(WAYS)
        self.places: dict[HostPort, Way] = {}
        self.built = 0

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, address: MeshAddress = ADDRESS) -> Deferred[Any]:
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self.build  # type: ignore[assignment,method-assign]
        endpoint = Reaching(
            self.clock,
            address,
            lambda place: self.places.setdefault(place, Way(place)),
            lambda bare: bare,
            lambda: self.detours,
        )
        verifyObject(IStreamClientEndpoint, endpoint)
        return endpoint.connect(factory)

    def build(self, _address: Any) -> Protocol:
        self.built += 1
        return Protocol()

    @property
    def direct(self) -> Way:
        return self.places[ADDRESS.place]

    def relay(self, number: int) -> Way:
        way: Way = self.detours.ways_to[WAYS[number]]
        return way

    def failed(self, connecting: Deferred[Any], kind: type[Exception]) -> str:
        return str(self.failureResultOf(connecting, kind).value)

    def test_an_address_that_answers_is_all_that_is_dialled(self) -> None:
        verifyObject(IDetours, self.detours)
        connecting = self.connect()
        protocol = self.direct.answer()
        self.assertIs(self.successResultOf(connecting), protocol)
        self.assertEqual((self.detours.asked, self.detours.ways_to), (0, {}))

    def test_one_that_fails_is_gone_around_at_once(self) -> None:
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        protocol = self.relay(0).answer()
        self.assertIs(self.successResultOf(connecting), protocol)
        self.assertEqual(self.built, 1)

    def test_relays_are_tried_one_after_the_other(self) -> None:
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        self.relay(0).fail(RelayNoReservation("not here"))
        self.assertNotIn(WAYS[2], self.detours.ways_to)
        self.relay(1).fail(ConnectionRefusedError())
        protocol = self.relay(2).answer()
        self.assertIs(self.successResultOf(connecting), protocol)

    def test_one_that_says_nothing_has_a_head_start_and_then_competes(self) -> None:
        connecting = self.connect()
        self.clock.advance(HEAD_START - 0.1)
        self.assertEqual(self.detours.asked, 0)
        self.clock.advance(0.1)
        self.assertEqual(len(self.relay(0).dialled), 1)
        protocol = self.relay(0).answer()
        self.assertIs(self.successResultOf(connecting), protocol)
        self.assertEqual(self.direct.cancelled, 1)

    def test_the_address_may_still_answer_first(self) -> None:
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        protocol = self.direct.answer()
        self.assertIs(self.successResultOf(connecting), protocol)
        self.assertEqual(self.relay(0).cancelled, 1)

    def test_when_all_relays_have_failed_the_address_is_waited_for(self) -> None:
        self.detours = Detours(WAYS[:1])
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        self.relay(0).fail(RelayNoReservation("not here"))
        self.assertNoResult(connecting)
        protocol = self.direct.answer()
        self.assertIs(self.successResultOf(connecting), protocol)

    def test_only_the_first_to_answer_builds_a_protocol(self) -> None:
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        relay = self.relay(0)
        factory, _ = relay.dialled[-1]
        self.direct.answer()
        # Its handshake ended in the same turn, before it could be stopped.
        self.assertIs(factory.buildProtocol(None), None)
        self.successResultOf(connecting)
        self.assertEqual(self.built, 1)

    def test_it_says_why_neither_way_led_there(self) -> None:
        self.detours = Detours(WAYS[:1])
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        self.relay(0).fail(RelayNoReservation("the peer is not here"))
        said = self.failed(connecting, PeerUnreachable)
        self.assertIn(ADDRESS.place.text, said)
        self.assertIn("through a relay: the peer is not here", said)

    def test_another_key_at_the_address_is_told_as_it_is(self) -> None:
        self.detours = Detours(WAYS[:1])
        connecting = self.connect()
        self.direct.fail(PeerKeyRefused("somebody else"))
        self.relay(0).fail(RelayNoReservation("the peer is not here"))
        self.assertEqual(self.failed(connecting, PeerKeyRefused), "somebody else")

    def test_without_relays_it_fails_as_the_address_does(self) -> None:
        self.detours = None
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        self.failed(connecting, ConnectionRefusedError)
        self.detours = Detours([])
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        self.failed(connecting, ConnectionRefusedError)

    def test_an_address_that_leads_through_a_relay_is_gone_by_that(self) -> None:
        self.detours = Detours(WAYS[:1])
        connecting = self.connect(WAYS[0])
        self.assertEqual(self.places.keys() - {WAYS[0].place}, set())
        protocol = self.relay(0).answer()
        self.assertIs(self.successResultOf(connecting), protocol)

    def test_where_such_a_peer_has_answered_directly_it_is_dialled_first(self) -> None:
        self.detours.known = HostPort("192.0.2.9", 7655)
        connecting = self.connect(WAYS[0])
        protocol = self.places[self.detours.known].answer()
        self.assertIs(self.successResultOf(connecting), protocol)
        self.assertEqual(self.detours.asked, 0)

    def test_such_an_address_needs_the_part_that_leads_there(self) -> None:
        self.detours = None
        self.assertIn("'tunnel'", self.failed(self.connect(WAYS[0]), PeerUnreachable))

    def test_a_new_address_of_the_peer_is_a_way_as_well(self) -> None:
        moved = MeshAddress("192.0.2.7", 7655, PEER)
        self.detours = Detours([moved])
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        protocol = self.places[moved.place].answer()
        self.assertIs(self.successResultOf(connecting), protocol)

    def test_who_looks_for_ways_may_fail(self) -> None:
        self.detours.found = Deferred()
        connecting = self.connect()
        self.direct.fail(ConnectionRefusedError())
        self.detours.found.errback(PeerUnreachable("nobody knows it"))
        self.assertIn("nobody knows it", self.failed(connecting, PeerUnreachable))

    def test_it_can_be_cancelled_at_any_moment(self) -> None:
        for stage in range(4):
            self.setUp()
            if stage == 1:
                self.detours.found = Deferred()
            connecting = self.connect()
            if stage == 1:
                self.direct.fail(ConnectionRefusedError())
            if stage >= 2:
                self.clock.advance(HEAD_START)
            if stage == 3:
                self.direct.fail(ConnectionRefusedError())
            connecting.cancel()
            self.failureResultOf(connecting, ConnectingCancelledError)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            dialled = [*self.places.values(), *self.detours.ways_to.values()]
            for way in dialled:
                under_way = [each for each in way.dialled if not each[1].called]
                self.assertEqual(under_way, [])
            self.assertEqual(self.built, 0)
