"""Tests of L{meshkit.relay.forwarding.part}: a relay and its peers, whole nodes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer
from zope.interface.verify import verifyObject

import meshkit_plugins
from meshkit.errors import MissingProvider, StorageFailed
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IMeshPart, IMeshProtocol, IRegistrations, RegistrationChanged
from meshkit.parts import Part, PartContext
from meshkit.relay.forwarding import part
from meshkit.relay.forwarding.part import APART, AT_ONCE, GATHER
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.identities import Author
from meshkit.testing.nodes import MemoryMesh, MemoryNode

#: Parts of the nodes here; what else is installed does not concern them.
PARTS = ("feed", "forwarding", "gossip", "relays")


#: Seconds between looks for feeds to drop, in place of an hour.
SOON = 120.0


class _NoSettings(msgspec.Struct, frozen=True):
    """None."""


class Registered(Part):
    """Who is registered, as a test says: as much of it as is asked for here."""

    def __init__(self, keys: dict[PublicKey, None]) -> None:
        self._keys = keys
        alsoProvides(self, IRegistrations)

    def registered(self) -> Sequence[PublicKey]:
        return sorted(self._keys)


@implementer(IMeshProtocol)
class RegistryMaker:
    """The part C{registry}, as a test has it; it remembers over restarts."""

    name = "registry"
    provides = (IRegistrations,)
    requires = wants = ()

    def __init__(self) -> None:
        self.keys: dict[PublicKey, None] = {}

    def config_type(self) -> Any:
        return _NoSettings

    def migrations(self) -> Sequence[str]:
        return ()

    def create(self, context: PartContext) -> Registered:
        return Registered(self.keys)


class RelayCase(SynchronousTestCase):
    """A relay, and nodes that use it and know nobody else."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.end)
        self.patch(part, "SWEEP", SOON)
        self.registry = RegistryMaker()
        found = [each for each in discover_parts(meshkit_plugins) if each.name in PARTS]
        self.makers = [*found, self.registry]

    def end(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def relay(self, config: str = "") -> MemoryNode:
        node = self.mesh.node("relay", config, makers=self.makers, program=MESH_RELAY)
        node.start()
        return node

    def peer(self, name: str, relay: MemoryNode, *, registered: bool = True) -> MemoryNode:
        config = f'[relays]\nuse = ["{relay.address}"]\n'
        makers = [each for each in self.makers if each.name not in ("forwarding", "registry")]
        node = self.mesh.node(name, config, makers=makers)
        if registered:
            self.register(relay, node.identity.public)
        node.start()
        return node

    def register(self, relay: MemoryNode, key: PublicKey, *, registered: bool = True) -> None:
        if registered:
            self.registry.keys[key] = None
        else:
            del self.registry.keys[key]
        if relay.service.running:
            relay.service.events.publish(RegistrationChanged(key, registered))

    def publish(self, node: MemoryNode, count: int = 1) -> None:
        contents = [{"type": "note", "text": f"of {node.name}, {n}"} for n in range(count)]
        answer = node.ask("POST", "/v1/publish/batch", {"contents": contents})
        self.assertEqual(answer.status, 201, answer.body)

    def heads(self, node: MemoryNode) -> dict[str, int]:
        """How far each feed is complete at a node, by the names of their authors."""
        names = {each.identity.public.raw: each.name for each in self.mesh.nodes}
        found: list[tuple[bytes, int]] = self.result(node.service._parts["feed"].heads())
        return {names[author]: sequence for author, sequence in found if sequence}

    def kept(self, node: MemoryNode, author: MemoryNode) -> list[int]:
        """The places of which a node has the text."""

        def read(connection: Any) -> list[int]:
            rows = connection.execute(
                "SELECT sequence FROM feed_messages WHERE length(raw) > 0 AND author = "
                "(SELECT id FROM feed_authors WHERE key = ?) ORDER BY sequence",
                (author.identity.public.raw,),
            )
            return [sequence for (sequence,) in rows]

        found: list[int] = self.result(node.service._database.read(read))
        return found

    def result(self, deferred: Any) -> Any:
        self.mesh.run(0)
        return self.successResultOf(deferred)

    def status(self, relay: MemoryNode) -> Any:
        return relay.ask("GET", "/v1/status").json["data"]["parts"]["forwarding"]


class WhoseTests(RelayCase):
    def test_it_is_a_part_that_needs_to_be_told_who_is_registered(self) -> None:
        relay = self.relay()
        verifyObject(IMeshPart, relay.service._parts["forwarding"])
        node = self.mesh.node(
            "other", 'disable = ["registry"]', makers=self.makers, program=MESH_RELAY
        )
        with self.assertRaisesRegex(MissingProvider, "'forwarding' requires IRegistrations"):
            node.start()

    def test_what_a_peer_has_published_is_there_for_others_when_it_is_away(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay)
        self.publish(ada, 5)
        self.mesh.run(10)
        self.assertEqual(self.heads(relay), {"ada": 5})
        ada.stop()
        bob = self.peer("bob", relay)
        self.mesh.run(10)
        self.assertEqual(self.heads(bob), {"ada": 5})
        # And what was published while it was away is there when it comes back.
        self.publish(bob, 2)
        self.mesh.run(5)
        bob.stop()
        ada.start()
        self.mesh.run(10)
        self.assertEqual(self.heads(ada), {"ada": 5, "bob": 2})

    def test_feeds_of_others_than_registered_peers_are_not_taken(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay)
        eve = self.peer("eve", relay, registered=False)
        for node in (ada, eve):
            self.publish(node, 3)
        self.mesh.run(60)
        self.assertEqual(self.heads(relay), {"ada": 3})
        self.assertEqual(self.heads(eve), {"ada": 3, "eve": 3})
        self.assertEqual(self.heads(ada), {"ada": 3})
        self.assertEqual(self.status(relay)["authors"], 1)

    def test_a_relay_at_which_nobody_is_registered_keeps_nothing(self) -> None:
        relay = self.relay()
        eve = self.peer("eve", relay, registered=False)
        self.publish(eve, 3)
        self.mesh.run(60)
        self.assertEqual(self.heads(relay), {})

    def test_who_registers_later_is_replicated_from_then_on(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay, registered=False)
        self.publish(ada, 3)
        self.mesh.run(10)
        self.assertEqual(self.heads(relay), {})
        self.register(relay, ada.identity.public)
        self.mesh.run(GATHER + 5)
        self.assertEqual(self.heads(relay), {"ada": 3})

    def test_many_who_come_together_are_told_of_once(self) -> None:
        relay = self.relay()
        told: list[None] = []
        relay.service._parts["gossip"].watch(lambda: told.append(None))
        for number in range(50):
            self.register(relay, Author(number).identity.public)
            self.mesh.run(GATHER / 100)
        self.mesh.run(GATHER)
        self.assertEqual(len(told), 1)
        self.assertEqual(self.status(relay)["authors"], 50)

    def test_who_comes_and_goes_has_all_told_no_more_than_ten_times_and_once_a_minute(self) -> None:
        relay = self.relay()
        told: list[None] = []
        relay.service._parts["gossip"].watch(lambda: told.append(None))
        eve = Author("eve").identity.public
        for _ in range(100):
            self.register(relay, eve)
            self.mesh.run(GATHER + 1)
            self.register(relay, eve, registered=False)
            self.mesh.run(GATHER + 1)
        expected = AT_ONCE + 200 * (GATHER + 1) / APART
        self.assertLessEqual(len(told), expected + 1)
        self.assertGreaterEqual(len(told), expected - 2)
        # And who comes when it has been quiet does not wait.
        self.mesh.run(3 * APART)
        told.clear()
        self.register(relay, eve)
        self.mesh.run(GATHER)
        self.assertEqual(len(told), 1)

    def test_a_feed_is_dropped_when_its_author_is_registered_no_more(self) -> None:
        relay = self.relay()
        ada, bob = self.peer("ada", relay), self.peer("bob", relay)
        self.publish(ada, 3)
        self.publish(bob, 2)
        self.mesh.run(10)
        self.register(relay, ada.identity.public, registered=False)
        self.mesh.run(60)
        # Though she is still there, and has it.
        self.assertEqual(self.heads(relay), {"bob": 2})
        self.assertEqual(self.kept(relay, ada), [])
        self.assertEqual(self.status(relay)["feeds_dropped"], 1)
        self.register(relay, ada.identity.public)
        self.mesh.run(60)
        self.assertEqual(self.heads(relay), {"ada": 3, "bob": 2})

    def test_who_went_while_the_relay_did_not_run_is_dropped_when_it_does(self) -> None:
        relay = self.relay()
        ada, bob = self.peer("ada", relay), self.peer("bob", relay)
        for node in (ada, bob):
            self.publish(node, 2)
        self.mesh.run(10)
        relay.stop()
        self.register(relay, ada.identity.public, registered=False)
        relay.start()
        self.mesh.run(10)
        self.assertEqual(self.heads(relay), {"bob": 2})
        self.assertEqual(self.kept(relay, bob), [1, 2])

    def test_its_own_feed_those_it_follows_and_the_blocked_ones_stay(self) -> None:
        relay = self.relay()
        ada, bob, cat = (self.peer(name, relay) for name in ("ada", "bob", "cat"))
        for node in (ada, bob, cat, relay):
            self.publish(node, 2)
        self.mesh.run(10)
        for kind, node in (("follows", ada), ("blocks", bob)):
            key = quote(node.identity.public.text, safe="")
            answer = relay.ask("POST", f"/v1/{kind}/{key}", {})
            self.assertLess(answer.status, 300, answer.body)
        for node in (ada, bob, cat):
            self.register(relay, node.identity.public, registered=False)
        self.mesh.run(SOON + 10)
        self.assertEqual(self.kept(relay, ada), [1, 2])
        self.assertEqual(self.kept(relay, bob), [1, 2])
        self.assertEqual(self.kept(relay, relay), [1, 2])
        self.assertEqual(self.kept(relay, cat), [])

    def test_a_disk_that_is_full_is_tried_again(self) -> None:
        relay = self.relay()
        ada = self.peer("ada", relay)
        self.publish(ada, 2)
        self.mesh.run(10)
        feed = relay.service._parts["feed"]
        real, feed.forget = feed.forget, lambda author: fail(StorageFailed("the disk is full"))
        self.register(relay, ada.identity.public, registered=False)
        self.mesh.run(10)
        self.assertEqual(self.kept(relay, ada), [1, 2])
        feed.forget = real
        self.mesh.run(SOON)
        self.assertEqual(self.kept(relay, ada), [])


class HowMuchTests(RelayCase):
    def test_what_is_gone_is_told_and_nobody_asks_for_it_for_ever(self) -> None:
        relay = self.relay("[forwarding]\nauthor_messages = 5\n")
        ada = self.peer("ada", relay)
        self.publish(ada, 40)
        self.mesh.run(30)
        self.assertEqual(self.heads(relay), {"ada": 40})
        self.assertEqual(self.kept(relay, ada), [36, 37, 38, 39, 40])
        ada.stop()

        bob = self.peer("bob", relay)
        self.mesh.run(200)
        # He goes on without what nobody has.
        self.assertEqual(self.heads(bob), {"ada": 40})
        self.assertEqual(self.kept(bob, ada), [36, 37, 38, 39, 40])
        feed = relay.service._parts["feed"]
        asked: list[Any] = []
        for name in ("read", "gone_until"):
            real = getattr(feed, name)
            self.patch(feed, name, lambda *a, real=real, **k: asked.append(a) or real(*a, **k))
        # Feeds are compared every five minutes.
        self.mesh.run(700)
        self.assertEqual(asked, [])

        # Who has all of it agrees with who has not, and nothing goes back and forth.
        ada.start()
        self.mesh.run(700)
        self.assertEqual(asked, [])
        self.assertEqual(self.kept(relay, ada), [36, 37, 38, 39, 40])
        self.assertEqual(self.heads(relay), {"ada": 40})
        for node in (ada, bob, relay):
            gossip = node.ask("GET", "/v1/status").json["data"]["parts"]["gossip"]
            self.assertEqual((gossip["broken"], gossip["refused"]), ({}, {}))

        # And what is new comes as ever.
        self.publish(ada, 1)
        self.mesh.run(10)
        self.assertEqual(self.heads(bob), {"ada": 41})
        self.assertEqual(self.heads(relay), {"ada": 41})

    def test_it_is_kept_for_as_long_as_the_operator_says_since_it_came(self) -> None:
        relay = self.relay("[forwarding]\nttl = 600\n[feed]\nretention_interval = 60\n")
        ada = self.peer("ada", relay)
        self.publish(ada, 3)
        self.mesh.run(300)
        self.publish(ada, 2)
        self.mesh.run(290)
        self.assertEqual(self.kept(relay, ada), [1, 2, 3, 4, 5])
        self.mesh.run(120)
        self.assertEqual(self.kept(relay, ada), [4, 5])
        # The newest stays: others join what follows to it.
        self.mesh.run(600)
        self.assertEqual(self.kept(relay, ada), [5])

    def test_one_who_publishes_much_takes_no_room_of_others(self) -> None:
        relay = self.relay("[forwarding]\nauthor_messages = 10\nmessages = 20\n")
        ada = self.peer("ada", relay)
        self.publish(ada, 5)
        self.mesh.run(10)
        eve = self.peer("eve", relay)
        for _ in range(5):
            self.publish(eve, 50)
            self.mesh.run(20)
        self.assertEqual(self.kept(relay, ada), [1, 2, 3, 4, 5])
        self.assertEqual(len(self.kept(relay, eve)), 10)

    def test_all_together_have_no_more_than_is_lent_and_nobody_is_crowded_out(self) -> None:
        relay = self.relay("[forwarding]\nmessages = 12\n")
        peers = [self.peer(name, relay) for name in ("ada", "bob", "cat")]
        for node, count in zip(peers, (2, 8, 30), strict=True):
            self.publish(node, count)
            self.mesh.run(10)
        kept = [self.kept(relay, node) for node in peers]
        self.assertEqual(kept, [[1, 2], [4, 5, 6, 7, 8], [26, 27, 28, 29, 30]])

    def test_status_says_what_is_lent(self) -> None:
        relay = self.relay(
            "[forwarding]\nttl = 60\nauthor_bytes = '1 MB'\nbytes = '2 MB'\nmessages = 0\n"
        )
        self.assertEqual(
            self.status(relay),
            {
                "authors": 0,
                "ttl_secs": 60,
                "author_bytes": 10**6,
                "total_bytes": 2 * 10**6,
                "feeds_dropped": 0,
            },
        )
