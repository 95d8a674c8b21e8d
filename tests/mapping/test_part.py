"""Tests of L{meshkit.mapping.part}, with routers in memory."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, MappingFailed
from meshkit.identity.addresses import HostPort
from meshkit.mapping.gateway import ROUTES
from meshkit.mapping.part import (
    FIRST_PAUSE,
    LAST_PAUSE,
    LEAST_PAUSE,
    LOOK_EVERY,
    STOP_SECONDS,
    Config,
    MappingPart,
    MappingStatus,
)
from meshkit.mapping.values import Granted
from meshkit.runtime.whereabouts import Whereabouts
from meshkit.testing.nodes import MemoryFiles, make_context
from tests.mapping.support import ROUTER
from tests.mapping.test_gateway import NAMES, route

OUTSIDE = "5.2.0.1"
LEASE = 1_800


@define(eq=False)
class Router:
    """
    One that is asked in some protocol.

    @ivar problem: why it refuses.
    @ivar asked: for which port outside, each time.
    @ivar ended: what it was told to pass on no more.
    @ivar silent: it says nothing to what ends something.
    """

    name: str
    finds_router: bool = False
    problem: str | None = None
    address: str = OUTSIDE
    lifetime: int | None = LEASE
    asked: list[int] = field(factory=list)
    ended: list[Granted] = field(factory=list)
    silent: bool = False

    async def map(
        self, router: IPv4Address | None, port: int, wanted: int, lifetime: int
    ) -> Granted:
        self.asked.append(wanted)
        if self.problem is not None:
            raise MappingFailed(self.problem)
        return Granted(port, HostPort(self.address, wanted), self.lifetime)

    async def unmap(self, router: IPv4Address | None, granted: Granted) -> None:
        if self.silent:
            await Deferred()
        if self.problem is not None:
            raise MappingFailed(self.problem)
        self.ended.append(granted)


class PartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.listening = [HostPort("0.0.0.0", 7655)]
        self.whereabouts = Whereabouts((), lambda: self.listening)
        self.files = MemoryFiles()
        self.routes(route(ROUTER))
        self.one, self.two = Router("one"), Router("two")

    def routes(self, text: str) -> None:
        self.files.content[ROUTES] = (NAMES + text).encode()

    def start(self, *, mappers: Sequence[Any] | None = None, **settings: Any) -> MappingPart:
        context = make_context(self.clock, config=Config(**settings))
        context = evolve(
            context,
            files=self.files,
            listening=lambda: self.listening,
            whereabouts=self.whereabouts,
        )
        self.part = MappingPart(context, (self.one, self.two) if mappers is None else mappers)
        self.part.startService()
        self.clock.advance(0)
        return self.part

    @property
    def status(self) -> MappingStatus:
        status = self.part.status()
        assert status is not None
        return status

    def stop(self) -> None:
        stopping = self.part.stopService()
        self.clock.advance(STOP_SECONDS)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def told(self) -> list[str]:
        return [place.text for place in self.whereabouts.places()]

    # --- what is asked for ----------------------------------------------------------------

    def test_what_is_granted_is_told_renewed_at_half_and_given_back(self) -> None:
        self.start()
        self.assertEqual(self.told(), [f"{OUTSIDE}:7655"])
        self.assertEqual(
            self.status,
            MappingStatus("mapped", "one", ROUTER, [f"{OUTSIDE}:7655"], LEASE // 2, None),
        )
        self.clock.advance(LEASE / 2 - 1)
        self.assertEqual(len(self.one.asked), 1)
        self.clock.advance(1)
        self.assertEqual(self.one.asked, [7655, 7655])
        self.assertEqual(self.two.asked, [])
        self.stop()
        self.assertEqual([each.place.text for each in self.one.ended], [f"{OUTSIDE}:7655"])
        self.assertEqual(self.told(), [])

    def test_each_is_asked_in_turn_until_one_works_which_is_asked_first_from_then_on(self) -> None:
        self.one.problem = "it does not answer"
        self.start()
        self.assertEqual(self.status.protocol, "two")
        self.clock.advance(LEASE / 2)
        self.assertEqual((len(self.one.asked), len(self.two.asked)), (1, 2))
        # It was replaced by another one.
        self.one.problem, self.two.problem = None, "it does not answer"
        self.clock.advance(LEASE / 2)
        self.assertEqual(self.status.protocol, "one")
        self.assertEqual((len(self.one.asked), len(self.two.asked)), (2, 3))
        self.stop()
        self.assertEqual((len(self.one.ended), len(self.two.ended)), (1, 0))

    def test_a_port_outside_that_was_given_is_asked_for_again(self) -> None:
        self.start(port=443)
        self.assertEqual(self.told(), [f"{OUTSIDE}:443"])
        self.clock.advance(LEASE / 2)
        self.assertEqual(self.one.asked, [443, 443])
        self.stop()

    def test_an_address_that_has_changed_is_told_at_once(self) -> None:
        self.start()
        self.one.address = "5.3.0.1"
        self.clock.advance(LEASE / 2)
        self.assertEqual(self.told(), ["5.3.0.1:7655"])
        self.stop()

    def test_only_ports_that_a_router_reaches_are_asked_for(self) -> None:
        self.listening[:] = [
            HostPort("192.168.1.2", 7001),
            HostPort("::", 7002),
            HostPort("127.0.0.1", 7003),
            HostPort("2600::1", 7004),
            HostPort("169.254.1.1", 7005),
        ]
        self.start()
        self.assertEqual(self.one.asked, [7001, 7002])
        self.stop()
        self.listening[:] = [HostPort("127.0.0.1", 7003)]
        self.start()
        self.assertEqual(len(self.one.asked), 2)
        self.assertIn("set 'listen' to tcp:7655", str(self.status.problem))
        self.stop()

    # --- what goes wrong ------------------------------------------------------------------

    def test_a_refusal_is_shown_and_asked_about_less_and_less_often(self) -> None:
        self.one.problem, self.two.problem = "its owner has not allowed it", "it does not answer"
        self.start()
        self.assertEqual(self.status.state, "failed")
        self.assertEqual(
            self.status.problem, "one: its owner has not allowed it; two: it does not answer"
        )
        pauses, before = [], self.clock.seconds()
        while len(pauses) < 8:
            self.clock.advance(1)
            if len(self.one.asked) > len(pauses) + 1:
                pauses.append(self.clock.seconds() - before)
                before = self.clock.seconds()
        expected = [min(FIRST_PAUSE * 2**n, LAST_PAUSE) for n in range(8)]
        self.assertEqual(pauses, expected)
        self.one.problem = None
        self.clock.advance(LAST_PAUSE)
        self.assertEqual((self.status.state, self.status.problem), ("mapped", None))
        self.stop()

    def test_one_that_refuses_to_go_on_is_asked_until_the_time_is_over(self) -> None:
        self.start()
        self.one.problem = self.two.problem = "it has no room for more"
        self.clock.advance(LEASE / 2)
        self.assertEqual(self.status.state, "mapped")
        self.assertIn("no room", str(self.status.problem))
        self.assertEqual(self.told(), [f"{OUTSIDE}:7655"])
        for _ in range(LEASE // 2 + int(LEAST_PAUSE)):
            self.clock.advance(1)
        self.assertEqual((self.status.state, self.told()), ("failed", []))
        # At half of what was left, each time.
        self.assertLess(len(self.one.asked), 12)
        self.stop()
        self.assertEqual(self.one.ended, [])

    def test_a_router_with_little_time_is_not_asked_without_end(self) -> None:
        self.one.lifetime = 1
        self.start()
        self.assertEqual(self.status.secs_to_renewal, LEAST_PAUSE)
        self.stop()

    def test_one_that_cannot_forget_is_looked_after_all_the_same(self) -> None:
        self.one.lifetime = None
        self.start()
        self.assertEqual(self.status.secs_to_renewal, LEASE // 2)
        self.clock.advance(LEASE / 2)
        self.assertEqual(len(self.one.asked), 2)
        self.stop()
        self.assertEqual(len(self.one.ended), 1)

    def test_a_router_behind_another_is_told_to_those_near_by_with_a_warning(self) -> None:
        self.one.address = "100.64.0.7"
        self.start()
        self.assertEqual(self.status.state, "mapped")
        self.assertIn("another router stands before it", str(self.status.problem))
        self.assertEqual(self.told(), ["100.64.0.7:7655"])
        self.stop()

    def test_without_a_default_route_it_says_what_to_set(self) -> None:
        self.routes("")
        self.start()
        self.assertIn("there is no default route", str(self.status.problem))
        self.stop()
        del self.files.content[ROUTES]
        self.start()
        self.assertIn("set 'mapping.router'", str(self.status.problem))
        self.stop()
        self.two.finds_router = True
        self.start()
        self.assertEqual((self.status.protocol, self.status.router), ("two", None))
        self.stop()
        self.start(router="10.0.0.1")
        self.assertEqual((self.status.state, self.status.router), ("mapped", "10.0.0.1"))
        self.stop()

    def test_who_is_carried_elsewhere_asks_the_router_there(self) -> None:
        self.start()
        self.routes(route("10.0.0.1"))
        self.one.address = "5.3.0.1"
        self.clock.advance(LOOK_EVERY - 1)
        self.assertEqual(self.told(), [f"{OUTSIDE}:7655"])
        self.clock.advance(1)
        self.assertEqual((self.status.router, self.told()), ("10.0.0.1", ["5.3.0.1:7655"]))
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(len(self.one.asked), 2)
        # The other router may be there still.
        self.assertEqual([each.place.host for each in self.one.ended], [OUTSIDE])
        self.stop()
        self.assertEqual([each.place.host for each in self.one.ended], [OUTSIDE, "5.3.0.1"])

    def test_a_stop_waits_for_what_is_being_given_back(self) -> None:
        self.start()
        self.one.silent = True
        self.routes(route("10.0.0.1"))
        self.clock.advance(LOOK_EVERY)
        self.one.silent = False
        stopping = self.part.stopService()
        self.assertNoResult(stopping)
        self.clock.advance(STOP_SECONDS)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_does_not_wait_for_a_thread_that_hangs(self) -> None:
        part = MappingPart(make_context(self.clock, config=Config(protocol="upnp")))
        assert part._upnp is not None
        workers: Any = part._upnp._workers
        self.assertEqual(workers._stop_seconds, STOP_SECONDS)

    # --- the end --------------------------------------------------------------------------

    def test_a_stop_does_not_wait_for_a_router_that_says_nothing(self) -> None:
        self.listening.append(HostPort("0.0.0.0", 7656))
        self.start()
        self.one.silent = True
        stopping = self.part.stopService()
        self.assertNoResult(stopping)
        self.assertEqual(self.told(), [])
        self.clock.advance(STOP_SECONDS)
        self.successResultOf(stopping)

    def test_a_stop_ends_what_is_being_asked(self) -> None:
        waiting: Deferred[Granted] = Deferred()

        class Waits(Router):
            async def map(self, *_: Any) -> Granted:
                return await waiting

        self.start(mappers=[Waits("one")])
        self.assertEqual(self.status.state, "asking")
        self.stop()
        self.assertTrue(waiting.called)

    def test_a_fault_of_ours_is_logged_and_not_the_end_of_it(self) -> None:
        class Broken(Router):
            async def map(self, *_: Any) -> Granted:
                raise ZeroDivisionError

        self.start(mappers=[Broken("one")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.status.secs_to_renewal, LAST_PAUSE)
        self.stop()

    # --- settings -------------------------------------------------------------------------

    def test_it_does_nothing_unless_it_is_told_to(self) -> None:
        context = make_context(self.clock, config=Config())
        before = self.clock.getDelayedCalls()
        part = MappingPart(context)
        part.startService()
        self.assertIsNone(part.status())
        self.assertEqual(self.clock.getDelayedCalls(), before)
        self.successResultOf(part.stopService())

    def test_a_setting_chooses_the_protocols(self) -> None:
        for protocol, names in (
            ("auto", ["pcp", "natpmp", "upnp"]),
            ("pcp", ["pcp"]),
            ("natpmp", ["natpmp"]),
            ("upnp", ["upnp"]),
        ):
            context = make_context(self.clock, config=Config(protocol=protocol))  # type: ignore[arg-type]
            part = MappingPart(context)
            self.assertEqual([each.name for each in part._mappers], names)

    def test_a_router_has_an_address(self) -> None:
        for text in ("router.lan", "0.0.0.0", "fe80::1", "224.0.0.1", "192.168.1"):
            with self.assertRaisesRegex(ConfigError, "not the IPv4 address of a router"):
                Config(router=text).address()
        self.assertEqual(Config(router=ROUTER).address(), IPv4Address(ROUTER))
        self.assertIsNone(Config().address())

    def test_the_nonce_outlives_a_restart(self) -> None:
        context = evolve(make_context(self.clock, config=Config(protocol="pcp")), files=self.files)
        nonce = MappingPart(context)._nonce()
        self.assertEqual(len(nonce), 12)
        self.assertEqual(MappingPart(context)._nonce(), nonce)
        path = f"{context.data_folder}/pcp.nonce"
        self.files.content[path] = b"cut off"
        mended = MappingPart(context)._nonce()
        self.assertEqual((len(mended), self.files.content[path]), (12, mended))
