"""
Tests of the whole: a relay, a peer that is reached through it, those who reach it, and those who
mean no good.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    CircuitRefused,
    CircuitUnknown,
    MeshkitError,
    OverRate,
    PeerKeyRefused,
    RelayLimitReached,
    RelayNoReservation,
    RelayTargetSilent,
    RemoteError,
    TruncatedStream,
)
from meshkit.identity.network import GUEST_LABEL
from meshkit.identity.vouchers import Voucher
from meshkit.relay.tunnel.ends import CircuitEndpoint, TunnelAddress
from meshkit.relay.tunnel.limits import ORIGIN_SHARE, STRANGERS, TunnelLimits
from meshkit.relay.tunnel.wire import (
    CIRCUIT_LABEL,
    CONTROL_LABEL,
    MAX_FRAME,
    RELEASE,
    RESERVE,
    Join,
    Open,
    Release,
    Reserve,
    encode_frame,
)
from meshkit.rpc.protocol import RPCFactory
from meshkit.shs import wrap_client
from meshkit.shs.channel import CORK_BYTES
from meshkit.testing.identities import make_identity
from meshkit.testing.transports import HIGH_WATER
from tests.relay.tunnel.test_splice import Pusher
from tests.relay.tunnel.world import (
    ASKER,
    EPOCH,
    HIDDEN,
    LATENCY,
    MESH,
    OTHER,
    RELAY,
    RELAY_NETWORK,
    Recorder,
    Recording,
    World,
    capability,
)


class TunnelTestCase(SynchronousTestCase):
    """A relay and a peer that has reserved there."""

    def setUp(self) -> None:
        self.world = self.make()
        self.world.reserve()

    def make(self) -> World:
        return World()

    def refused(self, result: Any, kind: type[Exception]) -> Any:
        assert isinstance(result, Failure), result
        self.assertIsInstance(result.value, kind)
        return result.value

    def assert_nothing_left(self, world: World) -> None:
        """Whatever happened, the relay and the hidden peer hold nothing for it."""
        self.assertEqual(world.relay.status().circuits, 0)
        self.assertEqual(world.relay._legs, {})
        self.assertEqual(world.relay._waiting_for, {})
        self.assertEqual(world.relay._waiting.taken, 0)
        self.assertEqual(world.hidden.joined, 0)


class ReachingTests(TunnelTestCase):
    """Somebody is reached who cannot be dialled."""

    def test_the_secret_handshake_runs_through_the_relay_to_the_targets_key(self) -> None:
        stream = self.world.connect(self.world.through())
        stream.transport.write(b"hello")
        self.world.run()
        self.assertEqual(bytes(stream.received), b"hello")
        self.assertEqual(stream.address.key, HIDDEN.public)
        self.assertEqual(stream.address.inner, TunnelAddress(RELAY.public, HIDDEN.public))
        (served,) = self.world.served.built
        self.assertEqual(served.address.key, ASKER.public)
        self.assertEqual(served.address.inner, TunnelAddress(RELAY.public))

    def test_the_relay_sees_nothing_of_what_is_said(self) -> None:
        seen = bytearray()
        stream = self.world.connect(self.world.through())
        (leg, _) = self.world.relay._legs
        passed = leg.dataReceived
        leg.dataReceived = lambda data: (seen.extend(data), passed(data))  # type: ignore
        stream.transport.write(b"a secret that nobody else may know")
        self.world.run()
        self.assertEqual(bytes(stream.received), b"a secret that nobody else may know")
        self.assertGreater(len(seen), 34)
        self.assertNotIn(b"secret", seen)

    def test_both_sides_see_a_close_in_good_order(self) -> None:
        for side in (0, 1):
            stream = self.world.connect(self.world.through())
            ends = [stream, self.world.served.built[-1]]
            stream.transport.write(b"bye")
            self.world.run()
            ends[side].transport.loseConnection()
            self.world.run(3)
            for end in ends:
                self.assertIsNotNone(end.lost.check(ConnectionDone))
        self.assert_nothing_left(self.world)
        self.assertEqual(self.world.relay.status().opened, 2)

    def test_however_the_streams_are_cut(self) -> None:
        for size in (1, 7):
            world = World(chunk=lambda waiting, size=size: size)
            world.reserve()
            stream = world.connect(world.through())
            stream.transport.write(b"z" * 3000)
            world.run(5)
            self.assertEqual(bytes(stream.received), b"z" * 3000)

    def test_the_relay_cannot_stand_for_the_peer(self) -> None:
        world = self.world
        # It leads to somebody else than was asked for.
        relay = world.relay
        relay._links[OTHER.public] = relay._links[HIDDEN.public]
        relay._reservations.reserve(OTHER.public, "here", False, world.clock.seconds())
        join = relay._table.join
        relay._table.join = (  # type: ignore[method-assign]
            lambda circuit_id, key, now: join(circuit_id, OTHER.public, now)
        )
        self.refused(world.connect(world.through(target=OTHER.public)), PeerKeyRefused)
        self.assertEqual(world.served.built, [])

    def test_both_sides_see_that_the_stream_is_not_whole_if_the_relay_stops(self) -> None:
        stream = self.world.connect(self.world.through())
        self.world.relay.stop()
        self.world.run()
        for end in (stream, self.world.served.built[0]):
            self.assertIsInstance(end.lost.value, TruncatedStream)


class ReservingTests(TunnelTestCase):
    """The hidden peer and its relay."""

    def test_the_voucher_says_what_the_relay_has_promised(self) -> None:
        voucher = self.world.hidden.voucher
        assert voucher is not None
        self.assertEqual(Voucher.open(voucher.raw, EPOCH), voucher)
        self.assertEqual((voucher.relay, voucher.peer), (RELAY.public, HIDDEN.public))
        self.assertEqual(voucher.network, RELAY_NETWORK.key().net_id)
        self.assertEqual(self.world.changes, [voucher])

    def test_it_is_renewed_at_half_for_as_long_as_one_likes(self) -> None:
        first = self.world.hidden.voucher
        self.world.run(1801)
        second = self.world.hidden.voucher
        assert first is not None and second is not None
        # The question takes its time, as does the answer.
        self.assertTrue(0 <= second.expires - first.expires - 1_800_000 < 1000)
        self.world.run(20_000)
        self.assertEqual(self.world.relay.status().reservations, 1)
        self.assertEqual(len(self.world.wires_of(CONTROL_LABEL)), 1)

    def test_who_goes_cannot_be_reached_and_is_told_to_nobody(self) -> None:
        fired: list[None] = []
        self.world.hidden.stop().addCallback(fired.append)
        self.world.run(2)
        self.assertEqual(fired, [None])
        self.assertEqual(self.world.relay.status().reservations, 0)
        self.assertEqual(self.world.changes[-1], None)
        self.refused(self.world.connect(self.world.through()), RelayNoReservation)
        self.world.run(100)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_it_comes_back_when_the_connection_or_the_relay_was_lost(self) -> None:
        self.world.network.wires[0].cut()
        self.world.run(0.1)
        self.assertIsNone(self.world.hidden.voucher)
        self.assertEqual(self.world.relay.status().reservations, 0)
        self.world.run(2)
        self.assertIsNotNone(self.world.hidden.voucher)
        self.world.connect(self.world.through()).transport.write(b"again")

    def test_it_can_be_stopped_at_any_moment_and_started_again(self) -> None:
        for step in range(14):
            world = World()
            world.hidden.start()
            world.run(step * LATENCY)
            world.hidden.stop()
            world.run(20)
            self.assertEqual(world.clock.getDelayedCalls(), [], step)
            self.assert_nothing_left(world)
            world.hidden.start()
            world.run(1)
            self.assertIsNotNone(world.hidden.voucher, step)

    def test_a_voucher_for_somebody_else_or_forged_is_not_shown_to_anybody(self) -> None:
        for forge in (
            lambda raw: Voucher.seal(RELAY, RELAY_NETWORK.key().net_id, OTHER.public, 2**50).raw,
            lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
            lambda raw: (
                Voucher.seal(OTHER, RELAY_NETWORK.key().net_id, HIDDEN.public, EPOCH + 10**6).raw
            ),
            lambda raw: Voucher.seal(RELAY, RELAY_NETWORK.key().net_id, HIDDEN.public, EPOCH).raw,
            lambda raw: Voucher.seal(RELAY, bytes(16), HIDDEN.public, EPOCH + 10**6).raw,
        ):
            world = World()
            reserve = world.relay._reserve
            served = world.relay.control._dispatcher._served["relay.reserve"]  # type: ignore
            world.relay.control._dispatcher._served["relay.reserve"] = evolve(  # type: ignore
                served,
                handler=lambda link, request, reserve=reserve, forge=forge: evolve_answer(
                    reserve(link, request), forge
                ),
            )
            world.hidden.start()
            world.run(5)
            self.assertIsNone(world.hidden.voucher)
            self.assertIsInstance(world.hidden.refused, MeshkitError)
            self.assertEqual(world.changes, [])

    def test_who_is_reached_through_a_relay_cannot_reserve_for_others(self) -> None:
        world = self.world
        # A second relay, at the hidden peer.
        second = World()
        world.inner.register(_capability(CONTROL_LABEL), second.relay.control)
        endpoint = wrap_client(
            world.clock,
            world.circuit(),
            identity=ASKER,
            capability=_capability(CONTROL_LABEL),
            peer=HIDDEN.public,
            rng=world.rng,
        )
        results: list[Any] = []
        endpoint.connect(RPCFactory(world.clock)).addBoth(results.append)
        world.run(2)
        answer: list[Any] = []
        results[0].call(RESERVE, Reserve()).addBoth(answer.append)
        world.run(2)
        error = self.refused(answer[0], RemoteError)
        self.assertEqual(error.code, "RELAY_RESERVATION_REFUSED")
        self.assertEqual(second.relay.status().reservations, 0)

    def test_one_address_reserves_for_so_many_keys(self) -> None:
        world = self.world
        answers: list[Any] = []
        for number in range(STRANGERS.per_origin):
            results: list[Any] = []
            who = make_identity(f"many {number}")
            world.to_relay(who, CONTROL_LABEL).connect(RPCFactory(world.clock)).addBoth(
                results.append
            )
            world.run(0.5)
            results[0].call(RESERVE, Reserve()).addBoth(answers.append)
            world.run(0.5)
        # The hidden peer is one of them.
        self.assertEqual(sum(isinstance(each, Failure) for each in answers), 1)
        self.assertEqual(answers[-1].value.code, "RELAY_LIMIT_REACHED")
        self.assertEqual(world.relay.status().reservations, STRANGERS.per_origin)

    def test_who_reserves_nothing_is_let_go(self) -> None:
        results: list[Any] = []
        factory = RPCFactory(self.world.clock)
        self.world.to_relay(OTHER, CONTROL_LABEL).connect(factory).addBoth(results.append)
        self.world.run(29)
        self.assertTrue(results[0]._open)
        self.assertEqual(self.world.relay._waiting.taken, 1)
        self.world.run(3)
        self.assertFalse(results[0]._open)
        self.assertEqual(self.world.relay._waiting.taken, 0)

    def test_who_releases_is_one_of_those_that_wait_until_it_reserves_again(self) -> None:
        world = self.world
        links: list[Any] = []
        results: list[Any] = []
        world.to_relay(OTHER, CONTROL_LABEL).connect(RPCFactory(world.clock)).addBoth(links.append)
        world.run(0.5)
        for method, request, waiting in (
            (RESERVE, Reserve(), 0),
            (RELEASE, Release(), 1),
            (RELEASE, Release(), 1),
            (RESERVE, Reserve(), 0),
            (RELEASE, Release(), 1),
        ):
            links[0].call(method, request).addBoth(results.append)
            world.run(0.5)
            self.assertNotIsInstance(results[-1], Failure)
            self.assertEqual(world.relay._waiting.taken, waiting, method.name)
        world.run(32)
        self.assertFalse(links[0]._open)
        self.assertEqual(world.relay._waiting.taken, 0)


def evolve_answer(answer: Any, forge: Any) -> Any:
    return type(answer)(forge(answer.voucher), answer.seconds)


def _capability(label: str) -> Any:
    return capability(MESH, label)


class LimitTests(TunnelTestCase):
    """What a circuit may use."""

    def make(self) -> World:
        few = evolve(STRANGERS, seconds=120.0, size=4096, per_peer=3)
        return World(TunnelLimits(strangers=few, idle_seconds=60.0))

    def test_beyond_its_bytes_it_is_cut_for_both(self) -> None:
        stream = self.world.connect(self.world.through())
        served = self.world.served.built[0]
        stream.transport.write(b"x" * 5000)
        self.world.run()
        for end in (stream, served):
            self.assertIsInstance(end.lost.value, TruncatedStream)
        self.assertEqual(self.world.relay.status().reset, 1)
        self.assert_nothing_left(self.world)

    def test_beyond_its_time_it_is_cut_for_both_though_bytes_move(self) -> None:
        stream = self.world.connect(self.world.through())
        for _ in range(11):
            stream.transport.write(b"x")
            self.world.run(10)
        self.assertIsNone(stream.lost)
        self.world.run(11)
        for end in (stream, self.world.served.built[0]):
            self.assertIsInstance(end.lost.value, TruncatedStream)

    def test_one_in_which_nothing_moves_is_cut(self) -> None:
        stream = self.world.connect(self.world.through())
        self.world.run(57)
        self.assertIsNone(stream.lost)
        self.world.run(5)
        self.assertIsInstance(stream.lost.value, TruncatedStream)

    def test_nobody_has_more_circuits_than_he_may(self) -> None:
        for _ in range(3):
            self.world.connect(self.world.through())
        self.refused(self.world.connect(self.world.through()), RelayLimitReached)
        # The target has all it may, whoever asks.
        self.refused(self.world.connect(self.world.through(OTHER)), RelayLimitReached)

    def test_one_address_has_no_more_than_its_part_whatever_its_keys(self) -> None:
        few = evolve(STRANGERS, circuits=2 * ORIGIN_SHARE, per_peer=4)
        world = World(TunnelLimits(members=few))
        keys = [make_identity(f"member {number}") for number in range(6)]
        world.members = {HIDDEN.public, *(each.public for each in keys)}
        # Its own part of the circuits is not what is tested here.
        self.patch(world.relay._table._ends[True], "each", 16)
        world.reserve()
        made = [world.connect(world.through(each, source="10.0.0.8")) for each in keys[:5]]
        self.assertIn("your address", str(self.refused(made.pop(), RelayLimitReached)))
        self.assertEqual(world.relay.status().circuits, 4)
        world.connect(world.through(keys[5], source="10.0.0.9"))
        self.assertEqual(world.relay.status().circuits, 5)
        # What is over counts no more.
        made[0].transport.loseConnection()
        world.run(2)
        world.connect(world.through(keys[4], source="10.0.0.8"))
        self.assertEqual(world.relay.status().circuits, 5)

    def test_members_have_room_when_strangers_have_taken_theirs(self) -> None:
        world = self.make()
        world.members = {HIDDEN.public, OTHER.public}
        world.reserve()
        for _ in range(3):
            world.connect(world.through(ASKER))
        self.refused(world.connect(world.through(ASKER)), RelayLimitReached)
        stream = world.connect(world.through(OTHER))
        stream.transport.write(b"x" * 50_000)
        world.run(3)
        self.assertEqual(len(stream.received), 50_000)

    def test_who_asks_too_often_is_told_to_wait(self) -> None:
        results = [self.world.connect(self.world.circuit(target=OTHER.public)) for _ in range(40)]
        # 16 at once, and one a second: each of these took two.
        self.assertFalse(any(isinstance(each.value, OverRate) for each in results))
        burst: list[Any] = []
        for number in range(40):
            who = make_identity(f"throw-away {number}")
            self.world.circuit(who, OTHER.public).connect(_nobody()).addBoth(burst.append)
        self.world.run(2)
        kinds = [type(each.value) for each in burst]
        self.assertGreater(kinds.count(OverRate), 0, kinds)


def _nobody() -> Any:
    return Recording(Recorder)


class FlowTests(TunnelTestCase):
    """Who does not read costs nothing."""

    def test_a_reader_that_never_reads_holds_up_the_writer_and_nothing_piles_up(self) -> None:
        for writer in (0, 1):
            world = World(serve=Recorder)
            world.members = {HIDDEN.public, ASKER.public}
            world.reserve()
            stream = world.connect(world.through())
            ends = [stream, world.served.built[0]]
            ends[1 - writer].transport.pauseProducing()
            total = 2**20
            pusher = Pusher(ends[writer].transport, total)
            for _ in range(100):
                pusher.push()
                world.run(2 * LATENCY)
            self.assertGreater(pusher.left, 2**19)
            self.assertLessEqual(world.waiting, 2 * (HIGH_WATER + CORK_BYTES) + 8192)
            ends[1 - writer].transport.resumeProducing()
            for _ in range(2000):
                pusher.push()
                world.run(2 * LATENCY)
                if not pusher.left:
                    break
            world.run(1)
            self.assertEqual(len(ends[1 - writer].received), total)


class HostileTests(TunnelTestCase):
    """Those who mean no good."""

    def raw(self, who: Any = OTHER) -> Any:
        """A circuit connection that has said nothing."""
        return self.world.connect(self.world.to_relay(who, CIRCUIT_LABEL))

    def test_who_says_nothing_is_let_go(self) -> None:
        raw = self.raw()
        self.world.run(5)
        self.assertIsNone(raw.lost)
        self.world.run(30)
        self.assertIsNotNone(raw.lost)
        self.assert_nothing_left(self.world)

    def test_what_is_no_opening_is_refused(self) -> None:
        for said in (
            (MAX_FRAME + 1).to_bytes(2, "big"),
            b"\x00\x01x",
            b"\x00\x00",
            encode_frame(Open(HIDDEN.public.raw)) + b"at once",
        ):
            raw = self.raw()
            raw.transport.write(said)
            self.world.run(2)
            self.assertIn(b"FRAME_", bytes(raw.received))
            self.assertIsNotNone(raw.lost)
        self.assert_nothing_left(self.world)

    def test_who_does_not_wait_for_the_answer_has_no_circuit(self) -> None:
        raw = self.raw()
        raw.transport.write(encode_frame(Open(HIDDEN.public.raw)))
        self.world.run(1.5 * LATENCY)
        raw.transport.write(b"more")
        self.world.run(2)
        self.assertIn(b"FRAME_MALFORMED", bytes(raw.received))
        self.world.run(20)
        self.assert_nothing_left(self.world)

    def test_nobody_joins_a_circuit_of_somebody_else(self) -> None:
        raw = self.raw()
        raw.transport.write(encode_frame(Join(bytes(16))))
        self.world.run(2)
        self.assertIn(b"RELAY_CIRCUIT_UNKNOWN", bytes(raw.received))
        endpoint = CircuitEndpoint(
            self.world.clock,
            self.world.to_relay(OTHER, CIRCUIT_LABEL),
            Join(bytes(16)),
            TunnelAddress(RELAY.public),
        )
        self.refused(self.world.connect(endpoint), CircuitUnknown)

    def test_who_asks_for_himself_is_refused(self) -> None:
        self.refused(self.world.connect(self.world.circuit(HIDDEN)), CircuitRefused)

    def test_a_target_that_takes_no_more_says_so_at_once(self) -> None:
        world = World(max_joined=1)
        world.reserve()
        world.connect(world.through())
        self.refused(world.connect(world.through()), RelayTargetSilent)
        self.assertEqual(world.relay.status().circuits, 1)

    def test_a_target_that_does_not_come_is_waited_for_and_no_longer(self) -> None:
        world = self.world
        world.hidden._circuits = world.network.client_endpoint(1)  # nobody listens there
        results: list[Any] = []
        world.through().connect(_nobody()).addBoth(results.append)
        world.run(9)
        self.assertEqual((results, world.relay.status().circuits), ([], 1))
        world.run(3)
        self.refused(results[0], RelayTargetSilent)
        world.run(20)
        self.assert_nothing_left(world)

    def test_one_key_has_so_many_connections_that_wait(self) -> None:
        raws = [self.raw() for _ in range(3)]
        self.assertEqual(self.world.relay._waiting.taken, 3)
        many: list[Any] = []
        for _ in range(30):
            self.world.to_relay(OTHER, CIRCUIT_LABEL).connect(_nobody()).addBoth(many.append)
            self.world.run(0.05)
        self.assertLessEqual(self.world.relay._waiting.taken, 16)
        self.world.run(60)
        self.assert_nothing_left(self.world)
        self.assertTrue(all(raw.lost for raw in raws))


class GuestTests(TunnelTestCase):
    """Those who have an invite, and are no members yet."""

    def make(self) -> World:
        limits = TunnelLimits(strangers=evolve(STRANGERS, size=4_096, circuits=1))
        world = World(limits=limits)
        # By its key anybody would be one.
        world.members = {HIDDEN.public, ASKER.public, OTHER.public}
        return world

    def guest(self, who: Any = ASKER) -> Any:
        return self.world.connect(self.world.through(who, label=GUEST_LABEL))

    def test_they_are_led_to_who_has_reserved(self) -> None:
        stream = self.guest()
        stream.transport.write(b"may I come in?")
        self.world.run()
        self.assertEqual(bytes(stream.received), b"may I come in?")
        failure = self.world.connect(self.world.circuit(ASKER, OTHER.public, label=GUEST_LABEL))
        self.refused(failure, RelayNoReservation)

    def test_they_get_what_strangers_get_whoever_they_are(self) -> None:
        stream = self.guest()
        for _ in range(5):
            stream.transport.write(bytes(1_000))
            self.world.run(1)
        self.assertIsInstance(stream.lost.value, TruncatedStream)
        self.assertEqual(self.world.relay.status().reset, 1)
        # The same key, as a member.
        stream = self.world.connect(self.world.through())
        for _ in range(5):
            stream.transport.write(bytes(1_000))
            self.world.run(1)
        self.assertIsNone(stream.lost)

    def test_they_take_no_room_of_members(self) -> None:
        self.guest()
        self.refused(self.guest(OTHER), RelayLimitReached)
        self.assertIsInstance(self.world.connect(self.world.through(OTHER)), Recorder)

    def test_they_join_and_reserve_nothing(self) -> None:
        to_relay = self.world.to_relay(HIDDEN, GUEST_LABEL)
        joining = CircuitEndpoint(
            self.world.clock, to_relay, Join(bytes(16)), TunnelAddress(RELAY.public)
        )
        self.refused(self.world.connect(joining), CircuitRefused)
        asked: list[Any] = []
        to_relay = self.world.to_relay(OTHER, GUEST_LABEL)
        to_relay.connect(RPCFactory(self.world.clock)).addBoth(asked.append)
        self.world.run(1)
        asked[0].call(RESERVE, Reserve()).addBoth(asked.append)
        self.world.run(60)
        self.refused(asked[1], MeshkitError)
        self.assertEqual(self.world.relay.status().reservations, 1)
        self.assert_nothing_left(self.world)


class LossTests(TunnelTestCase):
    """Anything may be lost, or given up, at any moment."""

    #: Moments from the call to long after the stream is open.
    STEPS = 32

    def attempt(self) -> tuple[World, Deferred[Any], list[Any]]:
        world = World()
        world.reserve()
        results: list[Any] = []
        connecting = world.through().connect(_nobody())
        connecting.addBoth(results.append)
        return world, connecting, results

    def lose(self, which: int) -> None:
        """Cut a connection at each moment: all is cleaned up, and works again."""
        for step in range(self.STEPS):
            world, _, results = self.attempt()
            world.run(step * LATENCY)
            if which < len(world.network.wires):
                world.network.wires[which].cut()
            world.run(60)
            (result,) = results
            if not isinstance(result, Failure):
                result.transport.abortConnection()
            world.run(40)
            self.assert_nothing_left(world)
            self.assertIsNotNone(world.hidden.voucher)
            again = world.connect(world.through())
            self.assertIsInstance(again, Recorder, f"{step} {which}")

    def test_the_control_connection_may_be_lost_at_any_moment(self) -> None:
        self.lose(0)

    def test_the_askers_connection_may_be_lost_at_any_moment(self) -> None:
        self.lose(1)

    def test_the_hidden_peers_connection_may_be_lost_at_any_moment(self) -> None:
        self.lose(2)

    def test_it_can_be_cancelled_at_any_moment(self) -> None:
        for step in range(self.STEPS):
            world, connecting, results = self.attempt()
            world.run(step * LATENCY)
            opened = bool(results)
            connecting.cancel()
            if not opened:
                self.refused(results[0], ConnectingCancelledError)
            else:
                results[0].transport.abortConnection()
            world.run(40)
            self.assert_nothing_left(world)
            (served,) = world.served.built or (None,)
            self.assertTrue(served is None or served.lost is not None)
        self.assertTrue(opened, "the last step is after the stream is open")

    def test_no_timer_is_left_when_all_is_over(self) -> None:
        world, _, results = self.attempt()
        world.run(1)
        results[0].transport.loseConnection()
        world.run(1)
        world.hidden.stop()
        world.run(40)
        self.assertIsInstance(world.clock, Clock)
        self.assertEqual(world.clock.getDelayedCalls(), [])
