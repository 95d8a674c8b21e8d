"""Tests of L{meshkit.kademlia.connections}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.errors import CallTimedOut, NotReady, Overloaded, PeerUnreachable
from meshkit.identity.addresses import HostPort
from meshkit.kademlia.connections import Connections, Limits, Reached
from meshkit.kademlia.contacts import MAX_FAILED_DIALS
from meshkit.kademlia.wire import PING, Ping
from tests.kademlia.mesh import Mesh, place_of
from tests.kademlia.recording import owner

FEW = Limits(connections=2, dials=2, waiting=2)


class Asking(SynchronousTestCase):
    """One asker, and nodes that answer."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        for _ in range(5):
            self.mesh.result(self.mesh.make().start())
        self.opened: list[Any] = []
        self.connections = self.connect()

    def connect(self, limits: Limits | None = None) -> Connections:
        return Connections(
            self.mesh.clock,
            self.mesh.endpoint(99, owner(99)),
            self.opened.append,
            limits=Limits() if limits is None else limits,
        )

    def ask(self, n: int, *places: HostPort) -> Deferred[Reached]:
        where = places or (place_of(n),)
        return self.connections.call(owner(n).public, where, PING, Ping(), 5.0)

    def black_hole(self, n: int) -> None:
        self.mesh.black_holes.add(place_of(n))

    def end(self) -> None:
        """Nothing is left."""
        self.mesh.result(self.connections.stop())
        self.mesh.stop()
        self.mesh.run(1.0)
        self.assertEqual(self.mesh.clock.waiting, 0)

    def test_those_that_ask_the_same_peer_share_its_dial_and_its_connection(self) -> None:
        answers = [self.ask(1) for _ in range(3)]
        self.assertEqual(len(self.mesh.dials), 1)
        for answer in answers:
            self.assertEqual(self.mesh.result(answer).place, place_of(1))
        self.mesh.result(self.ask(1))
        self.assertEqual((len(self.mesh.dials), len(self.opened)), (1, 1))
        self.end()

    def test_who_gives_up_does_not_end_a_dial_that_others_wait_for(self) -> None:
        one, other = self.ask(1), self.ask(1)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.mesh.result(other)
        self.end()

    def test_the_last_who_gives_up_ends_the_dial(self) -> None:
        self.black_hole(1)
        one, other = self.ask(1), self.ask(1)
        one.cancel()
        self.assertEqual(self.connections.dialling, 1)
        other.cancel()
        for each in (one, other):
            self.failureResultOf(each, CancelledError)
        self.assertEqual(self.connections.dialling, 0)
        self.assertEqual(len(self.connections.failed_dials), 0)
        self.end()

    def test_a_call_can_be_given_up_while_it_waits_for_its_answer(self) -> None:
        self.mesh.result(self.ask(1))
        asked = self.ask(1)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.mesh.result(self.ask(1))
        self.assertEqual(len(self.mesh.dials), 1)
        self.end()

    def test_all_places_are_tried(self) -> None:
        answer = self.ask(1, place_of(77), place_of(1))
        self.assertEqual(self.mesh.result(answer).place, place_of(1))
        self.assertEqual([each.place for each in self.mesh.dials], [place_of(77), place_of(1)])
        self.end()

    def test_a_dial_takes_so_long_at_most(self) -> None:
        self.black_hole(1)
        asked = self.ask(1)
        self.mesh.run(3.99)
        self.assertNoResult(asked)
        self.mesh.run(0.02)
        self.failureResultOf(asked, PeerUnreachable)
        self.end()

    def test_a_host_at_which_nobody_answers_rests_for_a_minute(self) -> None:
        # One host, under three names.
        for n in (20, 21, 22):
            with self.assertRaises(Exception):  # noqa: B017
                self.mesh.result(self.ask(n, place_of(66)))
        dials = len(self.mesh.dials)
        with self.assertRaises(PeerUnreachable):
            self.mesh.result(self.ask(23, HostPort(place_of(66).host, 9_999)))
        self.assertEqual(len(self.mesh.dials), dials)
        self.mesh.run(61)
        with self.assertRaises(Exception):  # noqa: B017
            self.mesh.result(self.ask(23, place_of(66)))
        self.assertEqual(len(self.mesh.dials), dials + 1)
        self.end()

    def test_one_host_is_not_dialled_by_many_at_once(self) -> None:
        # Twenty keys, each of which says that it is at another port of one host.
        for n in range(20):
            self.mesh.black_holes.add(HostPort(place_of(66).host, 8_000 + n))
        asked = [self.ask(20 + n, HostPort(place_of(66).host, 8_000 + n)) for n in range(20)]
        other = self.ask(1)
        self.assertEqual(self.mesh.result(other).place, place_of(1))
        self.mesh.run(59)
        self.assertEqual(len(self.mesh.dials), MAX_FAILED_DIALS + 1)
        for each in asked:
            self.failureResultOf(each, PeerUnreachable)
        self.assertEqual((self.connections.dialling, self.connections.queued), (0, 0))
        self.assertEqual(self.connections.failed_dials._under_way, {})
        self.end()

    def test_many_nodes_of_one_host_are_all_reached(self) -> None:
        places = [HostPort(place_of(66).host, 8_000 + n) for n in range(12)]
        for n, place in enumerate(places):
            self.mesh.result(self.mesh.make(20 + n, places=[place]).start())
        # Some are tried elsewhere first.
        asked = [
            self.ask(20 + n, *([place_of(77)] if n % 4 == 0 else []), place)
            for n, place in enumerate(places)
        ]
        self.assertEqual([self.mesh.result(each).place for each in asked], places)
        self.end()

    def test_a_dial_that_is_given_up_is_none_any_more(self) -> None:
        hole = place_of(66)
        self.mesh.black_holes.add(hole)
        for _ in range(2 * MAX_FAILED_DIALS):
            asked = [self.ask(20 + n, hole) for n in range(MAX_FAILED_DIALS + 2)]
            for each in asked:
                each.cancel()
                self.failureResultOf(each, CancelledError)
        self.assertEqual(self.connections.failed_dials._under_way, {})
        self.assertEqual(self.connections.queued, 0)
        self.end()

    def test_nobody_waits_for_ever_for_his_turn(self) -> None:
        self.connections = self.connect(Limits(dials=1, dial=60.0))
        self.black_hole(1)
        first, second = self.ask(1), self.ask(2)
        self.assertEqual((self.connections.dialling, self.connections.queued), (1, 1))
        self.mesh.run(10.01)
        self.failureResultOf(first, CallTimedOut)
        self.failureResultOf(second, CallTimedOut)
        self.assertEqual((self.connections.dialling, self.connections.queued), (0, 0))
        self.end()

    def test_there_are_only_so_many_connections_and_the_longest_unused_makes_room(self) -> None:
        self.connections = self.connect(FEW)
        for n in (1, 2):
            self.mesh.result(self.ask(n))
            self.mesh.run(1.0)
        self.mesh.result(self.ask(1))
        self.mesh.result(self.ask(3))
        self.assertEqual(len(self.connections), 2)
        dials = len(self.mesh.dials)
        self.mesh.result(self.ask(1))
        self.assertEqual(len(self.mesh.dials), dials)  # 2 has gone
        self.mesh.result(self.ask(2))
        self.assertEqual(len(self.mesh.dials), dials + 1)
        self.end()

    def test_who_does_not_let_go_does_not_hold_up_the_others(self) -> None:
        self.connections = self.connect(Limits(connections=3, dials=2, waiting=9))
        for n in (1, 2, 3):
            self.mesh.result(self.ask(n))
        for wire in self.mesh.wires[-3:-1]:
            wire.second.pauseProducing()
            wire.first.write(b"x")
        asked = [self.ask(0), self.ask(4)]
        self.mesh.run(2.9)
        self.assertEqual(len(self.connections), 3)
        self.mesh.run(0.5)
        for each in asked:
            self.successResultOf(each)
        self.assertEqual(len(self.connections), 3)
        self.end()

    def test_one_that_is_being_closed_is_not_used(self) -> None:
        self.mesh.result(self.ask(1))
        self.opened[0].close()
        self.mesh.result(self.ask(1))
        self.assertEqual(len(self.mesh.dials), 2)
        self.end()

    def test_a_dial_that_nobody_waits_for_is_stopped(self) -> None:
        before = self.mesh.clock.waiting
        asked = self.ask(1)
        self.assertGreater(self.mesh.clock.waiting, before)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.mesh.clock.waiting, before)
        self.end()

    def test_a_dial_that_cannot_be_stopped_comes_to_nothing(self) -> None:
        way = _Stubborn()
        self.connections = Connections(self.mesh.clock, lambda _: way, self.opened.append)
        asked = self.ask(1)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertIsNone(way.factory.buildProtocol(None))
        self.end()

    def test_only_so_many_wait(self) -> None:
        self.connections = self.connect(FEW)
        for n in (1, 2, 3, 4):
            self.black_hole(n)
        asked = [self.ask(n) for n in (1, 2, 3, 4)]
        self.assertEqual((self.connections.dialling, self.connections.queued), (2, 2))
        self.failureResultOf(self.ask(0), Overloaded)
        # Who joins those that wait is no more to be dialled.
        joined = self.ask(4)
        self.assertNoResult(joined)
        for each in (*asked, joined):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.end()

    def test_what_is_not_used_is_closed(self) -> None:
        self.mesh.result(self.ask(1))
        self.mesh.run(400)
        self.mesh.result(self.ask(1))
        self.mesh.run(400)
        self.assertEqual(len(self.connections), 1)
        self.mesh.run(250)
        self.assertEqual(len(self.connections), 0)
        self.mesh.result(self.ask(1))
        self.assertEqual(len(self.mesh.dials), 2)
        self.end()

    def test_a_connection_that_is_cut_is_made_anew(self) -> None:
        self.mesh.result(self.ask(1))
        asked = self.ask(1)
        self.mesh.wires[-1].cut()
        self.mesh.run(1.0)
        self.failureResultOf(asked)
        self.assertEqual(len(self.connections), 0)
        self.mesh.result(self.ask(1))
        self.assertEqual(len(self.mesh.dials), 2)
        self.end()

    def test_stopping_ends_dials_calls_and_turns(self) -> None:
        self.connections = self.connect(FEW)
        self.mesh.result(self.ask(1))
        self.black_hole(2)
        asked = [self.ask(1), self.ask(2), self.ask(3)]
        self.mesh.result(self.connections.stop(), 6.0)
        for each in asked:
            self.failureResultOf(each)
        self.failureResultOf(self.ask(1), NotReady)
        self.end()

    def test_who_does_not_let_go_is_cut_off(self) -> None:
        self.mesh.result(self.ask(1))
        # The other side reads nothing any more, not even the end.
        wire = self.mesh.wires[-1]
        wire.second.pauseProducing()
        wire.first.write(b"x")
        stopped = self.connections.stop()
        self.mesh.run(2.9)
        self.assertNoResult(stopped)
        self.mesh.run(0.2)
        self.successResultOf(stopped)
        self.end()

    def test_many_that_fail_at_once_fail_without_depth(self) -> None:
        self.connections = Connections(
            self.mesh.clock, _raise, self.opened.append, limits=Limits(waiting=5_000)
        )
        asked = [self.ask(n) for n in range(2_000)]
        for each in asked:
            self.failureResultOf(each, OSError, PeerUnreachable)
        self.end()


@implementer(IStreamClientEndpoint)
class _Stubborn:
    """An endpoint that goes on whatever it is told."""

    factory: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        return Deferred(lambda _: None)


def _raise(_address: object) -> Any:
    raise OSError("there is no network")
