"""Tests of L{meshkit.mapping.upnp}, with a library in memory.  C{tests/netns} has a real one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MappingFailed
from meshkit.identity.addresses import HostPort
from meshkit.mapping.upnp import Upnp
from meshkit.mapping.values import Granted
from meshkit.runtime.workers import InlineWorkers
from tests.mapping.support import OWN, ROUTER

#: It finds the router by itself.
ANY = IPv4Address(ROUTER)


class Library:
    """
    What C{miniupnpc} is for one router.

    @ivar mapped: its port -> who and for how long.
    @ivar taken: ports that others have.
    """

    def __init__(self) -> None:
        self.address = "5.2.0.1"
        self.mapped: dict[int, tuple[str, int, int]] = {}
        self.taken: set[int] = set()
        self.everything_is_taken = False
        self.for_ever_only = False
        self.found = 0
        self.while_looking: Callable[[], object] = lambda: None
        self.while_adding: Callable[[], object] = lambda: None

    def UPnP(self) -> Library:
        return self

    lanaddr = OWN
    discoverdelay = 0

    def discover(self) -> int:
        self.found += 1
        self.while_looking()
        return 1

    def selectigd(self) -> str:
        if self.found < 0:
            raise Exception("No UPnP device discovered")
        return "http://192.168.1.1/"

    def externalipaddress(self) -> str:
        return self.address

    def addportmapping(
        self, outer: int, kind: str, host: str, port: int, what: str, who: str, lifetime: int
    ) -> bool:
        if self.everything_is_taken or outer in self.taken:
            raise Exception("ConflictInMappingEntry")
        if lifetime and self.for_ever_only:
            raise Exception("OnlyPermanentLeasesSupported")
        assert (kind, what, who) == ("TCP", "meshkit", "")
        self.mapped[outer] = (host, port, lifetime)
        self.while_adding()
        return True

    def deleteportmapping(self, outer: int, kind: str) -> bool:
        if outer not in self.mapped:
            raise Exception("NoSuchEntryInArray")
        del self.mapped[outer]
        return True


class UpnpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.library = Library()
        self.upnp = Upnp(self.clock, Random(1), InlineWorkers, lambda: self.library)

    def begin(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        done = Deferred.fromCoroutine(work)
        self.clock.pump([0.0] * 4)
        return done

    def map(self) -> Granted:
        granted: Granted = self.successResultOf(self.begin(self.upnp.map(ANY, 7655, 7655, 600)))
        return granted

    def refused(self, work: Coroutine[Any, Any, Any]) -> str:
        return str(self.failureResultOf(self.begin(work), MappingFailed).value)

    def test_a_port_is_granted_renewed_and_given_back(self) -> None:
        granted = self.map()
        self.assertEqual(granted, Granted(7655, HostPort("5.2.0.1", 7655), 600))
        self.assertEqual(self.library.mapped, {7655: (OWN, 7655, 600)})
        self.assertEqual(self.map(), granted)
        self.successResultOf(self.begin(self.upnp.unmap(ANY, granted)))
        self.assertEqual(self.library.mapped, {})
        self.assertIn("NoSuchEntryInArray", self.refused(self.upnp.unmap(ANY, granted)))
        self.successResultOf(self.begin(self.upnp.stop()))
        self.successResultOf(self.begin(self.upnp.stop()))

    def test_a_port_of_somebody_else_is_left_to_him(self) -> None:
        self.library.taken = {7655}
        granted = self.map()
        self.assertTrue(20_000 <= granted.place.port < 60_000)
        self.assertEqual(list(self.library.mapped), [granted.place.port])
        self.library.everything_is_taken = True
        self.assertIn("to others", self.refused(self.upnp.map(ANY, 7655, 7655, 600)))

    def test_one_that_cannot_forget_is_told_at_the_stop(self) -> None:
        self.library.for_ever_only = True
        self.assertIsNone(self.map().lifetime)
        self.assertEqual(self.library.mapped, {7655: (OWN, 7655, 0)})

    def test_what_nobody_waits_for_any_more_is_taken_away_at_the_stop(self) -> None:
        self.library.for_ever_only = True
        asking = Deferred.fromCoroutine(self.upnp.map(ANY, 7655, 7655, 600))
        # The thread is about it.
        self.library.while_adding = asking.cancel
        self.clock.pump([0.0] * 4)
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(list(self.library.mapped), [7655])
        self.successResultOf(self.begin(self.upnp.stop()))
        self.assertEqual(self.library.mapped, {})

    def test_nothing_is_added_while_it_is_stopped(self) -> None:
        stopping: list[Deferred[None]] = []

        def stop() -> None:
            stopping.append(Deferred.fromCoroutine(self.upnp.stop()))

        for when in ("while_looking", "while_adding"):
            library = self.library = Library()
            setattr(library, when, stop)
            asking = self.begin(self.upnp.map(ANY, 7655, 7655, 600))
            self.assertEqual(library.mapped, {}, when)
            self.successResultOf(stopping.pop())
            asking.addErrback(lambda failure: failure.trap(MappingFailed))
            self.successResultOf(asking)

    def test_what_a_router_keeps_is_no_fault_of_the_stop(self) -> None:
        self.map()
        self.library.mapped.clear()
        self.successResultOf(self.begin(self.upnp.stop()))
        self.assertEqual(self.upnp._added, {})

    def test_a_router_without_an_address_is_given_nothing_to_do(self) -> None:
        for address, words in (("0.0.0.0", "no connection"), ("", "does not tell its address")):
            self.library.address = address
            self.assertIn(words, self.refused(self.upnp.map(ANY, 7655, 7655, 600)))
        self.assertEqual(self.library.mapped, {})

    def test_without_a_router_or_the_library_it_says_so(self) -> None:
        self.library.found = -5
        self.assertIn("No UPnP device", self.refused(self.upnp.map(ANY, 7655, 7655, 600)))

        def load() -> Any:
            raise ImportError("miniupnpc")

        upnp = Upnp(self.clock, Random(1), InlineWorkers, load)
        self.assertIn("pip install 'meshkit[upnp]'", self.refused(upnp.map(ANY, 7655, 7655, 600)))
