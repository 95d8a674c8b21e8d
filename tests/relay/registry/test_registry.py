"""The peers of a relay: what is kept, over crashes too, and who is told."""

from __future__ import annotations

import sqlite3
from itertools import count
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    NotRegistered,
    RegistrationInvalid,
    RegistrationStale,
    RegistryFull,
    StorageFailed,
)
from meshkit.identity.keys import Identity
from meshkit.interfaces import RegistrationChanged
from meshkit.relay.registry.registration import Entered, Registration, proof_of
from meshkit.relay.registry.registry import SEEN_SECONDS, SWEEP_SECONDS, Registry
from meshkit.relay.registry.rules import KEPT, MAX_AGE, Rules
from meshkit.relay.registry.schema import MIGRATIONS
from meshkit.runtime.database import Database
from meshkit.runtime.events import EventBus
from meshkit.runtime.workers import InlineWorkers
from meshkit.sim.databases import SimMemory
from meshkit.sim.seeds import Seeds
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from tests.relay.registry.people import (
    ADA,
    BOB,
    MALLORY,
    NETWORK,
    NETWORKS,
    NOW,
    OTHER_NETWORK,
    OTHER_RELAY,
    RELAY,
    registration,
)

_names = count()
DAY = 86_400


class Relay:
    """
    A relay that can be stopped at any moment.

    @ivar registry: of the process that runs now.
    @ivar told: what it has told the other parts.
    """

    registry: Registry

    def __init__(self, rules: Rules | None = None, idle: int | None = 90 * DAY) -> None:
        self.rules = Rules() if rules is None else rules
        self.idle = idle
        self.clock = Clock()
        self.backing = SimMemory(f"registry-{next(_names)}", Seeds(0).stream("relay", "database"))
        self.told: list[RegistrationChanged] = []
        self.start()

    def start(self, relay: Identity = RELAY, networks: Any = NETWORKS) -> None:
        self.database = Database(
            self.clock, "/mesh.db", threads=InlineWorkers, backing=lambda _: self.backing
        )
        self.database.open_and_migrate({"registry": MIGRATIONS})
        self.database.startService()
        events = EventBus()
        events.subscribe(RegistrationChanged, self.told.append)
        self.registry = Registry(
            relay,
            networks,
            self.database,
            events,
            reactor=self.clock,
            wall_clock=self.now,
            rules=self.rules,
            idle_seconds=self.idle,
        )
        self.wait(self.registry.start())

    def now(self) -> int:
        return NOW * 10**6 + int(self.clock.seconds() * 10**9)

    @property
    def ms(self) -> int:
        return self.now() // 10**6

    def crash(self) -> None:
        self.backing.crash()
        self.start()

    def stop(self) -> None:
        self.wait(self.registry.stop())
        self.wait(self.database.stopService())

    def wait(self, awaited: Any) -> Any:
        found: list[Any] = []
        ensureDeferred(awaited).addBoth(found.append)
        run_clock(self.clock, 0)
        if not found:
            raise AssertionError("nothing came of it")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, SWEEP_SECONDS)
            run_clock(self.clock, step)
            seconds -= step

    def enter(self, new: Registration) -> Entered:
        found: Entered = self.wait(self.registry.enter(new.raw, new.peer))
        return found

    def say(self, peer: Identity = ADA, **more: Any) -> Registration:
        """A peer says something new, which counts."""
        new = registration(peer, self.ms, **more)
        self.enter(new)
        return new

    def listed(self) -> list[Registration]:
        found, after, more = [], b"", True
        while more:
            listing = self.wait(self.registry.directory(after, 2))
            found += [peer.registration for peer in listing.peers]
            more, after = listing.more, found[-1].peer.raw if found else b""
        assert listing.total == len(found)
        return found


class RegistryTests(SynchronousTestCase):
    def test_who_registers_is_known_and_gets_the_word_of_the_relay(self) -> None:
        relay = Relay()
        new = registration()
        word = relay.enter(new)
        self.assertEqual(Entered.open(word.raw, new), word)
        self.assertEqual(word.entered, NOW)
        self.assertTrue(relay.registry.is_registered(ADA.public))
        self.assertEqual(list(relay.registry.registered()), [ADA.public])
        self.assertEqual(relay.told, [RegistrationChanged(ADA.public, True)])

    def test_what_was_acknowledged_is_there_after_a_crash(self) -> None:
        relay = Relay()
        ada = relay.say(listed=True, nickname="ada")
        relay.say(BOB)
        relay.pass_time(1)
        changed = relay.say(listed=True, nickname="Ada")
        relay.crash()
        self.assertEqual(
            list(relay.registry.registered()),
            sorted([ADA.public, BOB.public], key=lambda key: key.raw),
        )
        self.assertEqual(relay.listed(), [changed])
        with self.assertRaises(RegistrationStale):
            relay.enter(ada)

    def test_a_failing_disk_registers_nobody(self) -> None:
        relay = Relay()
        relay.backing.fail("COMMIT", sqlite3.SQLITE_FULL, "database or disk is full", times=1)
        with self.assertRaises(StorageFailed):
            relay.enter(registration())
        self.assertFalse(relay.registry.is_registered(ADA.public))
        relay.backing.mend()
        relay.enter(registration())
        self.assertTrue(relay.registry.is_registered(ADA.public))

    def test_who_has_left_does_not_come_back_by_what_was_overheard(self) -> None:
        relay = Relay()
        came = relay.say(listed=True)
        relay.pass_time(1)
        relay.say(stays=False)
        self.assertFalse(relay.registry.is_registered(ADA.public))
        for _ in range(2):
            with self.assertRaises(RegistrationStale):
                relay.enter(came)
            relay.crash()
        # When nothing of it is kept any more, its age refuses it.
        relay.pass_time(KEPT / 1000 + SWEEP_SECONDS)
        with self.assertRaisesRegex(RegistrationStale, "ago"):
            relay.enter(came)
        self.assertEqual(
            relay.wait(
                relay.database.read(
                    lambda c: c.execute("SELECT count(*) FROM registrations").fetchone()
                )
            ),
            (0,),
        )
        self.assertEqual(
            relay.told,
            [RegistrationChanged(ADA.public, True), RegistrationChanged(ADA.public, False)],
        )

    def test_a_restored_backup_takes_nothing_that_is_older_than_it(self) -> None:
        relay = Relay()
        first = relay.say(listed=True)
        relay.pass_time(1)
        relay.say(listed=False)
        # The backup is of before: the database is empty again.
        other = Relay()
        other.clock.advance(MAX_AGE / 1000 + 1)
        with self.assertRaises(RegistrationStale):
            other.enter(first)

    def test_somebody_elses_registration_is_refused_over_a_channel(self) -> None:
        relay = Relay()
        with self.assertRaisesRegex(RegistrationInvalid, "shows it"):
            relay.wait(relay.registry.enter(registration(ADA).raw, MALLORY.public))
        self.assertFalse(relay.registry.is_registered(ADA.public))

    def test_elsewhere_it_takes_a_proof_of_the_network(self) -> None:
        relay = Relay()
        raw = registration().raw
        stranger = proof_of(OTHER_NETWORK.capability("registry"), raw)
        for proof in (b"", stranger, proof_of(NETWORKS[NETWORK.net_id], b"other")):
            with self.assertRaisesRegex(RegistrationInvalid, "proof"):
                relay.wait(relay.registry.enter_proved(raw, proof))
        self.assertFalse(relay.registry.is_registered(ADA.public))
        relay.wait(relay.registry.enter_proved(raw, proof_of(NETWORKS[NETWORK.net_id], raw)))
        self.assertTrue(relay.registry.is_registered(ADA.public))
        self.assertEqual(relay.registry.figures().refused, {"REGISTRATION_INVALID": 3})

    def test_the_limit_holds_for_those_who_are_not_listed_too(self) -> None:
        relay = Relay(Rules(max_peers=3))
        for number in range(3):
            relay.say(make_identity(number), listed=number == 0)
        with self.assertRaises(RegistryFull):
            relay.say(ADA)
        relay.crash()
        with self.assertRaises(RegistryFull):
            relay.say(ADA)
        self.assertEqual(relay.registry.figures().peers, 3)
        # Whoever makes keys, registers and leaves gains no place by it, and none is lost.
        relay.pass_time(1)
        relay.say(make_identity(0), stays=False)
        with self.assertRaises(RegistryFull):
            relay.say(ADA)
        relay.pass_time(KEPT / 1000 + SWEEP_SECONDS)
        relay.say(ADA)

    def test_many_at_once_are_not_more_than_the_limit(self) -> None:
        relay = Relay(Rules(max_peers=3))
        outcomes: list[Any] = []
        for number in range(10):
            new = registration(make_identity(number))
            relay.registry.enter(new.raw, new.peer).addBoth(outcomes.append)
        run_clock(relay.clock, 0)
        self.assertEqual(sum(isinstance(each, Entered) for each in outcomes), 3)
        self.assertEqual(len(outcomes), 10)
        self.assertEqual(relay.registry.figures().peers, 3)

    def test_the_directory_has_those_who_want_it_page_by_page(self) -> None:
        relay = Relay()
        peers = [make_identity(number) for number in range(9)]
        said = [relay.say(peer, listed=number % 2 == 0) for number, peer in enumerate(peers)]
        wanted = sorted(said[::2], key=lambda new: new.peer.raw)
        self.assertEqual(relay.listed(), wanted)
        relay.pass_time(1)
        relay.say(peers[0], listed=False)
        relay.say(peers[2], stays=False)
        gone = {peers[0].public, peers[2].public}
        self.assertEqual(relay.listed(), [new for new in wanted if new.peer not in gone])
        self.assertEqual(relay.registry.figures().listed, 3)

    def test_who_does_not_come_for_long_is_forgotten_and_who_comes_is_not(self) -> None:
        relay = Relay(idle=2 * DAY)
        relay.say(ADA)
        relay.say(BOB)
        for _ in range(3):
            relay.pass_time(DAY)
            relay.registry.saw(BOB.public)
        self.assertEqual(list(relay.registry.registered()), [BOB.public])
        self.assertIn(RegistrationChanged(ADA.public, False), relay.told)
        relay.stop()
        relay.start()
        self.assertEqual(list(relay.registry.registered()), [BOB.public])
        self.assertEqual(relay.registry.seen(BOB.public), NOW // 1000 + 3 * DAY)
        self.assertEqual(relay.registry.seen(ADA.public), 0)

    def test_without_an_end_nobody_is_forgotten(self) -> None:
        relay = Relay(idle=None)
        relay.say(ADA)
        relay.pass_time(SWEEP_SECONDS)
        relay.clock.advance(1_000 * DAY)
        relay.pass_time(SWEEP_SECONDS)
        self.assertTrue(relay.registry.is_registered(ADA.public))

    def test_that_somebody_was_there_is_noted_once_an_hour(self) -> None:
        relay = Relay()
        relay.say(ADA)
        relay.pass_time(SEEN_SECONDS - 1)
        relay.registry.saw(ADA.public)
        self.assertEqual(relay.registry.seen(ADA.public), NOW // 1000)
        relay.pass_time(1)
        relay.registry.saw(ADA.public)
        relay.registry.saw(MALLORY.public)
        self.assertEqual(relay.registry.seen(ADA.public), NOW // 1000 + SEEN_SECONDS)
        self.assertEqual(relay.registry.seen(MALLORY.public), 0)

    def test_the_operator_removes_a_peer_which_can_come_again(self) -> None:
        relay = Relay()
        old = relay.say(ADA, listed=True)
        relay.wait(relay.registry.remove(ADA.public))
        self.assertFalse(relay.registry.is_registered(ADA.public))
        self.assertEqual(relay.listed(), [])
        with self.assertRaises(NotRegistered):
            relay.wait(relay.registry.remove(ADA.public))
        with self.assertRaises(RegistrationStale):
            relay.enter(old)
        self.assertFalse(relay.registry.is_registered(ADA.public))
        relay.pass_time(1)
        relay.say(ADA)
        self.assertTrue(relay.registry.is_registered(ADA.public))

    def test_a_relay_with_another_key_or_network_begins_anew(self) -> None:
        relay = Relay()
        relay.say(ADA)
        relay.say(BOB)
        relay.stop()
        both = {**NETWORKS, OTHER_NETWORK.net_id: OTHER_NETWORK.capability("registry")}
        relay.start(networks=both)
        self.assertEqual(relay.registry.figures().peers, 2)
        relay.stop()
        relay.start(networks={OTHER_NETWORK.net_id: both[OTHER_NETWORK.net_id]})
        self.assertEqual(relay.registry.figures().peers, 0)
        relay.stop()
        relay.start(relay=OTHER_RELAY)
        self.assertEqual(relay.registry.figures().peers, 0)
