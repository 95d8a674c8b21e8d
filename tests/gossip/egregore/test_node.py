"""Nodes of ours beside independent nodes of theirs: what arrives, and what never does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.protocol import Factory

from meshkit.errors import ConfigError
from meshkit.gossip.egregore.link import KEEP_ALIVE, PATIENCE, SILENCE
from meshkit.gossip.egregore.part import FIRST_PAUSE, LAST_PAUSE, MAX_LINKS_PER_PEER, NOTICE
from meshkit.testing.identities import Author
from meshkit.testing.nodes import MESH_PORT, MemoryNode
from tests.gossip.egregore.stage import NETWORK, EgregoreCase, Theirs, id_of, notes
from tests.interop.egregore_peer import Peer, Replica, chain, write

SEED = b"t" * 32
OTHER = b"o" * 32
THIRD = b"3" * 32


class ReplicationTests(EgregoreCase):
    """Both directions, in both roles."""

    def test_they_dial_and_both_have_everything(self) -> None:
        node = self.ours()
        self.publish(node, *({"type": "note", "n": n} for n in range(3)))
        theirs = self.replica("client", pushes=False)
        theirs.hold(notes(SEED, 5))
        connection = self.dials(node, theirs)
        self.mesh.run(5)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5])
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1, 2, 3])
        self.assertEqual((theirs.refused, theirs.peer.remote), ([], node.identity.public.text))
        self.assertIsNotNone(connection.lost)
        self.assertTrue(theirs.peer.ended)
        self.assertEqual(self.status(node)["broken"], {})

    def test_we_dial_and_both_have_everything(self) -> None:
        theirs: list[Replica] = []

        def make() -> Replica:
            theirs.append(self.replica("server", pushes=False))
            theirs[-1].hold(notes(SEED, 5))
            return theirs[-1]

        place, _ = self.listens(make)
        node = self.ours("ada", place)
        self.mesh.run(5)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5])
        (shown,) = self.status(node)["places"]
        self.assertEqual((shown["failures"], shown["last_error"]), (0, None))
        self.assertEqual(shown["peer"], id_of(SEED))
        self.publish(node, {"type": "note"})
        # The next exchange comes by itself.
        self.mesh.run(330)
        self.assertEqual(len(theirs), 2)
        self.assertEqual(sorted(theirs[1].feeds[node.identity.public.text]), [1])

    def test_large_messages_and_optional_fields(self) -> None:
        node = self.ours()
        self.publish(
            node, {"type": "note", "text": "é" * 30_000}, tags=["b", "a"], relates="0" * 64
        )
        theirs = self.replica("client", pushes=False)
        theirs.hold(
            chain(
                SEED,
                [{"type": "note", "z": ["x" * 60_000], "a": None}] * 2,
                schema_id="note/v1",
                tags=["t"],
                trace_id="t",
                span_id="s",
                expires_at="2030-01-01T00:00:00Z",
            )
        )
        self.dials(node, theirs)
        self.mesh.run(5)
        self.assertEqual((self.feed(node, id_of(SEED)), theirs.refused), ([1, 2], []))
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1])

    def test_two_wires_side_by_side_on_one_port(self) -> None:
        ada = self.ours()
        bob = self.mesh.node("bob", f'peers = ["{ada.address}"]')
        bob.start()
        theirs = self.replica("client")
        theirs.hold(notes(SEED, 2))
        connection = self.dials(ada, theirs)
        self.publish(bob, {"type": "note", "text": "from bob"})
        self.mesh.run(5)
        # What came by one wire went on by the other.
        self.assertEqual(self.feed(bob, id_of(SEED)), [1, 2])
        self.mesh.run(301)
        connection.hang_up()
        again = self.replica("client", pushes=False)
        self.dials(ada, again)
        self.mesh.run(5)
        self.assertEqual(sorted(again.feeds[bob.identity.public.text]), [1])

    def test_what_they_have_of_our_own_feed_counts(self) -> None:
        """A node that has forgotten its feed writes on when two of them have shown it."""
        node = self.ours()
        before = Author("ada")
        self.assertEqual(before.identity.public, node.identity.public)
        before.write_many(3)
        for number, answer in ((1, "FEED_READ_ONLY"), (2, None)):
            theirs = self.replica("client", bytes([number]) * 32, pushes=False)
            theirs.hold([json.loads(raw) for raw in before.raws])
            self.dials(node, theirs)
            self.mesh.run(5)
            own = node.ask("GET", "/v1/own-feed").json["data"]
            self.assertEqual((own["sequence"], own["read_only"] is None), (3, answer is None))
            published = node.ask("POST", "/v1/publish", {"content": {"type": "note"}})
            self.assertEqual(published.code, answer)
        self.assertEqual(published.json["data"]["sequence"], 4)

    def test_more_feeds_than_one_exchange_names(self) -> None:
        # Theirs cannot be sent from some hundreds of feeds on (C4).
        seeds = [number.to_bytes(32, "big") for number in range(1, 621)]
        theirs: list[Replica] = []
        held: dict[str, dict[int, Any]] = {}

        def make() -> Replica:
            theirs.append(self.replica("server", pushes=False))
            theirs[-1].feeds = held
            return theirs[-1]

        for seed in seeds:
            (message,) = notes(seed, 1)
            held[message["author"]] = {1: message}
        place, _ = self.listens(make)
        ada = self.ours("ada", place)
        self.mesh.run(60)
        status = ada.ask("GET", "/v1/status").json["data"]["parts"]["feed"]
        self.assertEqual(status["feeds"], len(seeds))
        # And on to a node of theirs that has none, a bounded number in each have.
        held = {}
        theirs.clear()
        bob = self.ours("bob", self.listens(make)[0])
        mesh = self.mesh.node("cleo", f'peers = ["{ada.address}", "{bob.address}"]')
        mesh.start()
        self.mesh.run(700)
        self.assertEqual(len(held), len(seeds))
        assert theirs[-1].have is not None
        self.assertLessEqual(max(len(t.have["feeds"]) for t in theirs if t.have), 500)


class PushTests(EgregoreCase):
    """Live connections."""

    def pair(self, role: str) -> tuple[MemoryNode, Replica, Theirs]:
        theirs = self.replica(role)
        if role == "client":
            node = self.ours(role)
            return node, theirs, self.dials(node, theirs)
        made: list[Replica] = []

        def make() -> Replica:
            # Later ones are for catching up, and hold the same.
            made.append(self.replica("server") if made else theirs)
            made[-1].feeds = theirs.feeds
            return made[-1]

        place, connections = self.listens(make)
        node = self.ours(role, place)
        self.mesh.run(1)
        return node, theirs, connections[0]

    def test_both_push_as_it_comes(self) -> None:
        for role in ("client", "server"):
            node, theirs, connection = self.pair(role)
            self.assertTrue(theirs.live, role)
            self.publish(node, {"type": "note", "text": "from ours"})
            for message in notes(SEED, 2):
                self.assertTrue(theirs.push(message))
            connection.flush()
            self.mesh.run(1)
            self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1])
            self.assertEqual(self.feed(node, id_of(SEED)), [1, 2])
            self.assertEqual([link["phase"] for link in self.status(node)["links"]], ["live"])
            node.stop()

    def test_far_more_than_a_hundred_pushes_each_way(self) -> None:
        # Between two of theirs it ends after exactly 100 (C1).
        node, theirs, connection = self.pair("client")
        author = node.identity.public.text
        contents = [{"type": "note", "n": n} for n in range(350)]
        node.ask("POST", "/v1/publish/batch", {"contents": contents[:1]})
        self.mesh.run(1)
        for n in range(1, 350):
            node.ask("POST", "/v1/publish", {"content": contents[n]})
        self.mesh.run(30)
        self.assertEqual(sorted(theirs.feeds[author]), [*range(1, 351)])
        # Nothing twice, and none by another exchange.
        self.assertEqual((len(theirs.got), theirs.said.count("messages")), (350, 0))
        for message in notes(SEED, 350):
            self.assertTrue(theirs.push(message), message["sequence"])
            connection.flush()
            self.mesh.run(0.05)
        self.mesh.run(5)
        self.assertEqual(len(self.feed_all(node, id_of(SEED))), 350)
        self.assertIsNone(connection.lost)

    def feed_all(self, node: MemoryNode, author: str) -> list[int]:
        found: list[int] = []
        target = f"/v1/feed/{author.replace('/', '_').replace('+', '-')}?limit=200"
        for offset in (0, 200):
            page = node.ask("GET", f"{target}&offset={offset}").json["data"]
            found += [message["sequence"] for message in page]
        return found

    def test_an_hour_of_silence(self) -> None:
        # Between two of theirs it ends after 15 seconds (C2).  A day: tests/slow.
        node, theirs, connection = self.pair("server")
        self.mesh.run(3_600)
        self.assertIsNone(connection.lost)
        self.publish(node, {"type": "note", "text": "after an hour"})
        theirs.push(notes(SEED, 1)[0])
        connection.flush()
        self.mesh.run(0.2)
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1])
        self.assertEqual(self.feed(node, id_of(SEED)), [1])
        # A sign of life costs next to nothing, and the memory of it nothing.
        signs = theirs.said.count("credit_request")
        self.assertLess(abs(signs - 3_600 / KEEP_ALIVE), 10)

    def test_a_connection_that_dies_is_made_again_soon(self) -> None:
        place, connections = self.listens(lambda: self.replica("server"))
        node = self.ours("ada", place)
        self.mesh.run(100)
        self.assertEqual(len(connections), 1)
        connections[0].hang_up()
        self.mesh.run(6)
        self.assertEqual(len(connections), 2)
        self.assertTrue(connections[1].replica.live)
        self.assertEqual(self.status(node)["broken"], {})

    def test_a_peer_that_gives_no_sign_of_life_is_given_up(self) -> None:
        node, theirs, connection = self.pair("client")
        theirs._live = lambda message: None  # type: ignore[method-assign]
        self.mesh.run(SILENCE + 2 * KEEP_ALIVE)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(self.status(node)["broken"], {"PEER_TOO_SLOW": 1})

    def test_received_messages_go_on_once_and_never_back(self) -> None:
        # HEAD forwards nothing, its predecessor forwarded back as well (C3).
        node = self.ours()
        one = self.replica("client", SEED)
        other = self.replica("client", OTHER)
        first, second = notes(SEED, 3), notes(OTHER, 3)
        one.hold(first[:1])
        one.hold(second[:1])
        other.hold(first[:1])
        other.hold(second[:1])
        connections = [self.dials(node, one), self.dials(node, other)]
        self.mesh.run(2)
        one.got.clear()
        other.got.clear()
        for message in first[1:]:
            one.push(message)
        for message in second[1:]:
            other.push(message)
        for connection in connections:
            connection.flush()
        self.mesh.run(20)
        self.assertEqual([m["hash"] for m in other.got], [m["hash"] for m in first[1:]])
        self.assertEqual([m["hash"] for m in one.got], [m["hash"] for m in second[1:]])

    def test_what_was_skipped_is_fetched_soon(self) -> None:
        held = notes(SEED, 6)
        made: list[Replica] = []

        def make() -> Replica:
            made.append(self.replica("server", pushes=not made))
            made[-1].hold(held[:2] if len(made) == 1 else held)
            return made[-1]

        place, connections = self.listens(make)
        node = self.ours("ada", place)
        self.mesh.run(60)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2])
        # As theirs do at random when credits run low.
        made[0].push(held[5])
        connections[0].flush()
        self.mesh.run(10)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5, 6])
        self.assertEqual(len(connections), 2)
        self.assertIsNone(connections[0].lost)

    def test_a_feed_that_is_new_is_offered_soon(self) -> None:
        made: list[Replica] = []

        def make() -> Replica:
            made.append(self.replica("server"))
            made[-1].feeds = made[0].feeds
            return made[-1]

        place, _ = self.listens(make)
        ada = self.ours("ada", place)
        self.mesh.run(30)
        bob = self.mesh.node("bob", f'peers = ["{ada.address}"]')
        bob.start()
        self.publish(bob, {"type": "note"})
        self.mesh.run(10)
        self.assertEqual(sorted(made[0].feeds[bob.identity.public.text]), [1])
        self.publish(bob, {"type": "note"})
        self.mesh.run(1)
        self.assertEqual(sorted(made[0].feeds[bob.identity.public.text]), [1, 2])
        self.assertEqual([replica.live for replica in made], [True, False])

    def test_without_push_nothing_stays_open(self) -> None:
        node = self.ours("ada", push=False)
        theirs = self.replica("client")
        connection = self.dials(node, theirs)
        self.mesh.run(5)
        self.assertIs(theirs.accepted, False)
        self.assertIsNotNone(connection.lost)

    def test_of_two_live_connections_with_one_peer_one_is_enough(self) -> None:
        node = self.ours()
        first, second = self.replica("client"), self.replica("client")
        self.dials(node, first)
        self.mesh.run(1)
        self.dials(node, second)
        self.mesh.run(1)
        self.assertEqual((first.accepted, second.accepted), (True, False))


class SelectionTests(EgregoreCase):
    def test_we_ask_for_those_whom_we_follow(self) -> None:
        node = self.ours()
        author = id_of(SEED).replace("/", "%2F").replace("+", "%2B")
        self.assertEqual(node.ask("POST", f"/v1/follows/{author}", {}).status, 201)
        theirs = self.replica("client", THIRD)
        theirs.hold(notes(SEED, 2))
        theirs.hold(notes(OTHER, 2))
        connection = self.dials(node, theirs)
        self.mesh.run(2)
        self.assertEqual(
            (self.feed(node, id_of(SEED)), self.feed(node, id_of(OTHER))), ([1, 2], [])
        )
        # Pushes of others are not kept either.
        theirs.push(notes(OTHER, 3)[2])
        theirs.push(notes(SEED, 3)[2])
        connection.flush()
        self.mesh.run(1)
        self.assertEqual(
            (self.feed(node, id_of(SEED)), self.feed(node, id_of(OTHER))), ([1, 2, 3], [])
        )

    def test_whom_we_follow_from_now_on_is_fetched_soon(self) -> None:
        held: list[Any] = []

        def make() -> Replica:
            theirs = self.replica("server", THIRD)
            theirs.hold(held)
            return theirs

        place, _ = self.listens(make)
        node = self.ours("ada", place)
        self.follow(node, SEED)
        node.stop()
        held += notes(SEED, 2) + notes(OTHER, 2)
        node.start()
        self.mesh.run(20)
        had = self.feed(node, id_of(OTHER))
        self.follow(node, OTHER)
        self.mesh.run(8)
        self.assertEqual((had, self.feed(node, id_of(OTHER))), ([], [1, 2]))

    def follow(self, node: MemoryNode, seed: bytes) -> None:
        author = id_of(seed).replace("/", "%2F").replace("+", "%2B")
        self.assertEqual(node.ask("POST", f"/v1/follows/{author}", {}).status, 201)

    def test_they_get_those_whom_they_follow(self) -> None:
        ada = self.ours()
        bob = self.mesh.node("bob", f'peers = ["{ada.address}"]')
        bob.start()
        self.publish(ada, {"type": "note"})
        self.publish(bob, {"type": "note"})
        self.mesh.run(2)
        theirs = self.replica("client")
        theirs.follows = {ada.identity.public.text}
        self.dials(ada, theirs)
        self.mesh.run(2)
        self.publish(ada, {"type": "note"})
        self.publish(bob, {"type": "note"})
        self.mesh.run(10)
        # Their own nodes push past the list of who follows whom.
        self.assertEqual({m["author"] for m in theirs.got}, {ada.identity.public.text})
        self.assertEqual(len(theirs.got), 2)

    def test_their_topics(self) -> None:
        node = self.ours()
        self.publish(node, {"type": "note", "n": 1}, tags=["a"])
        self.publish(node, {"type": "note", "n": 2}, tags=["b"])
        theirs = self.replica("client")
        theirs.topics = ["a", "c"]
        self.dials(node, theirs)
        self.mesh.run(2)
        self.publish(node, {"type": "note", "n": 3})
        self.publish(node, {"type": "note", "n": 4}, tags=["b", "c"])
        self.mesh.run(5)
        self.assertEqual([m["content"]["n"] for m in theirs.got], [1, 4])


class RefusedTests(EgregoreCase):
    """Messages that one side takes and the other does not."""

    def exchange(self, node: MemoryNode, theirs: Replica) -> Replica:
        self.dials(node, theirs)
        self.mesh.run(10)
        return theirs

    def test_what_they_refuse_is_left_out_and_the_publisher_told(self) -> None:
        node = self.ours()
        author = node.identity.public.text
        answers = self.publish(node, {"type": "note"}, {"no": "type"}, {"type": "note"})
        told = [answer.get("metadata", {}).get("warnings") for answer in answers]
        self.assertEqual((told[0], told[2]), (None, None))
        self.assertIn("Egregore", told[1][0])
        self.assertIn("'type'", told[1][0])
        theirs = self.exchange(node, self.replica("client", pushes=False))
        self.assertEqual((sorted(theirs.feeds[author]), theirs.refused), ([1, 3], []))
        status = self.status(node)
        self.assertEqual((status["warned"], status["withheld"]), (1, 1))

    def test_what_is_behind_it_goes_once(self) -> None:
        # Theirs send it with every exchange, for ever (C5).
        node = self.ours()
        author = node.identity.public.text
        self.publish(node, {"type": "note"}, {"no": "type"}, {"type": "note"})
        feeds: dict[str, Any] = {}
        counts = []
        for _ in range(4):
            theirs = self.replica("client", pushes=False)
            theirs.feeds = feeds
            self.exchange(node, theirs)
            self.assertEqual(theirs.contiguous(author), 1)
            counts.append(len(theirs.got))
        self.assertEqual(counts, [2, 0, 0, 0])
        self.publish(node, {"type": "note"})
        theirs = self.replica("client", pushes=False)
        theirs.feeds = feeds
        self.assertEqual([m["sequence"] for m in self.exchange(node, theirs).got], [4])

    def test_behind_a_message_that_we_refuse_everything_comes_once(self) -> None:
        node = self.ours()
        held = notes(SEED, 6)
        # Altered after it was signed: no honest node has it, but one of theirs may lack it.
        held[2] = {**held[2], "content": {"type": "note", "text": "altered"}}
        wanted = []
        for _ in range(3):
            theirs = self.replica("client", pushes=False)
            theirs.hold(held)
            self.exchange(node, theirs)
            wanted.append(theirs.wanted)
        self.assertEqual(wanted, [[(id_of(SEED), 0)], [], []])
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 4, 5, 6])
        self.assertEqual(self.status(node)["refused"], {"HASH_MISMATCH": 1})

    def test_what_there_was_no_room_for_comes_when_there_is(self) -> None:
        """A window of what is new, of a feed that is three times as long as the limit."""

        def make() -> Replica:
            theirs = self.replica("server", THIRD, pushes=False)
            theirs.hold(notes(SEED, 60))
            return theirs

        place, connections = self.listens(make)
        limits = "max_author_messages = 20\nretention_author_messages = 10"
        node = self.ours("ada", place, feed=limits)
        self.mesh.run(200)
        self.assertEqual(self.feed(node, id_of(SEED))[-10:], [*range(51, 61)])
        self.assertGreaterEqual(len(connections), 5)
        self.assertLess(len(connections), 10)

    def test_behind_a_message_that_nobody_has_likewise(self) -> None:
        node = self.ours()
        held = notes(SEED, 5)
        for _ in range(2):
            theirs = self.replica("client", pushes=False)
            theirs.hold(held[:2] + held[3:])
            self.exchange(node, theirs)
        self.assertEqual((theirs.wanted, self.feed(node, id_of(SEED))), ([], [1, 2, 4, 5]))
        # A node that has it closes the gap, whatever others lack.
        whole = self.replica("client", OTHER, pushes=False)
        whole.hold(held)
        self.exchange(node, whole)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5])

    def test_a_stranger_cannot_end_a_feed_by_a_rotation(self) -> None:
        # Their nodes refuse the victim's messages from then on (S3).
        node = self.ours()
        theirs = self.replica("client", THIRD, pushes=False)
        rotation = {
            "type": "key_rotation",
            "old_key": id_of(SEED),
            "new_key": id_of(OTHER),
        }
        theirs.hold(chain(OTHER, [rotation]))
        theirs.hold(notes(SEED, 1))
        self.exchange(node, theirs)
        again = self.replica("client", THIRD, pushes=False)
        again.hold(notes(SEED, 3))
        self.exchange(node, again)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3])

    def test_a_message_without_measure_ends_no_feed(self) -> None:
        # With unbounded tags a message can be too large to be sent at all (S11).
        node = self.ours()
        feed = notes(SEED, 1)
        feed.append(write(SEED, 2, feed[0]["hash"], {"type": "note"}, tags=["t"] * 1_000))
        feed.append(write(SEED, 3, feed[1]["hash"], {"type": "note"}))
        theirs = self.replica("client", pushes=False)
        theirs.hold(feed)
        self.exchange(node, theirs)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 3])
        self.assertEqual(self.status(node)["refused"], {"MALFORMED_MESSAGE": 1})


class HostileTests(EgregoreCase):
    """Peers that do not follow the protocol."""

    def dropped(self, code: str, *said: Any) -> Theirs:
        node = self.ours(f"node-{len(self.mesh.nodes)}")
        peer = Peer("client", NETWORK, SEED, self.ephemeral())
        replica = Replica(peer)
        replica.feed = self.by_hand(peer, said)  # type: ignore[method-assign]
        connection = self.dials(node, replica)
        self.mesh.run(1)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(self.status(node)["broken"], {code: 1})
        return connection

    def by_hand(self, peer: Peer, said: Any) -> Callable[[bytes], bytes]:
        left = list(said)

        def feed(data: bytes) -> bytes:
            peer.feed(data)
            while peer.open and left:
                message = left.pop(0)
                if isinstance(message, bytes):
                    peer.say_bytes(message)
                else:
                    peer.say(message)
            return peer.take()

        return feed

    def test_what_is_no_message_of_theirs(self) -> None:
        self.dropped("FRAME_MALFORMED", b"{nope")
        self.dropped("FRAME_MALFORMED", b"")
        self.dropped("FRAME_MALFORMED", {"type": "gossip"})
        self.dropped("FRAME_MALFORMED", b"[" * 100_000)

    def test_what_is_out_of_turn(self) -> None:
        self.dropped("FRAME_MALFORMED", {"type": "want", "requests": []})
        self.dropped("FRAME_MALFORMED", {"type": "have", "feeds": []}, {"type": "done"})

    def test_messages_that_were_not_asked_for(self) -> None:
        self.dropped(
            "FRAME_MALFORMED",
            {"type": "have", "feeds": [{"author": id_of(SEED), "latest_sequence": 3}]},
            {"type": "want", "requests": []},
            {"type": "messages", "messages": notes(OTHER, 1)},
        )

    def dropped_live(self, code: str, *said: Any) -> None:
        node = self.ours()
        theirs = self.replica("client")
        connection = self.dials(node, theirs)
        self.assertTrue(theirs.live)
        for message in said:
            theirs.peer.say(message)
        connection.flush()
        self.mesh.run(1)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(self.status(node)["broken"], {code: 1})

    def test_more_pushes_than_were_granted(self) -> None:
        pushes = [{"type": "push", "message": message} for message in notes(SEED, 160)]
        self.dropped_live("FRAME_MALFORMED", *pushes)

    def test_a_flood_of_small_messages(self) -> None:
        self.dropped_live("PEER_TOO_SLOW", *([{"type": "credit_grant", "amount": 1}] * 2_500))

    def test_a_forger_is_shut_out_for_a_while(self) -> None:
        node = self.ours()
        theirs = self.replica("client")
        forged = [{**m, "signature": notes(OTHER, 1)[0]["signature"]} for m in notes(SEED, 120)]
        theirs.hold(forged)
        connection = self.dials(node, theirs)
        self.mesh.run(2)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(self.status(node)["broken"], {"SIGNATURE_INVALID": 1})
        refused = self.dials(node)
        self.mesh.run(1)
        self.assertIsNotNone(refused.lost)
        self.assertIsNone(refused.replica.peer.remote)
        self.mesh.run(601)
        self.assertIsNone(self.dials(node).lost)

    def test_the_ledger_says_why_and_too_much_of_it_shuts_out(self) -> None:
        node = self.ours()
        for number in range(1, 6):
            theirs = self.replica("client")
            connection = self.dials(node, theirs)
            self.assertTrue(theirs.live, number)
            theirs.peer.say_bytes(b"{nope")
            connection.flush()
            self.mesh.run(1)
        (account,) = node.ask("GET", "/v1/peers/ledger").json["data"]
        self.assertEqual(account["public_id"], id_of(SEED))
        self.assertEqual({r["code"] for r in account["reasons"]}, {"FRAME_MALFORMED"})
        self.assertEqual(len(account["reasons"]), 5)
        self.assertFalse(self.dials(node).replica.live)

    def test_the_ledger_counts_what_was_exchanged(self) -> None:
        node = self.ours()
        self.publish(node, {"type": "note"}, {"type": "note"})
        theirs = self.replica("client")
        held = notes(SEED, 4)
        held[2] = {**held[2], "content": {"type": "note", "text": "altered"}}
        theirs.hold(held)
        self.dials(node, theirs)
        self.mesh.run(1)
        (account,) = node.ask("GET", "/v1/peers/ledger").json["data"]
        counts = [account[name] for name in ("received", "sent", "refused", "duplicates")]
        self.assertEqual(counts, [3, 2, 1, 0])

    def test_one_who_stops_in_the_middle(self) -> None:
        node = self.ours()
        theirs = self.replica("client")
        theirs._tell = lambda: None  # type: ignore[method-assign]
        connection = self.dials(node, theirs)
        connection.be_patient()
        self.mesh.run(PATIENCE - 1)
        self.assertIsNone(connection.lost)
        self.mesh.run(2)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(self.status(node)["broken"], {"PEER_TOO_SLOW": 1})

    def test_who_comes_too_often_has_to_wait(self) -> None:
        node = self.ours()
        remotes = []
        for _ in range(14):
            theirs = self.replica("client", pushes=False)
            self.dials(node, theirs)
            remotes.append(theirs.peer.remote is not None)
        self.assertEqual(remotes, [True] * 10 + [False] * 4)
        self.mesh.run(30)
        self.assertTrue(self.dials(node).replica.live)

    def test_one_peer_has_a_few_connections(self) -> None:
        node = self.ours()
        first = self.dials(node)
        self.assertTrue(first.replica.live)
        silent = []
        for _ in range(MAX_LINKS_PER_PEER + 1):
            theirs = self.replica("client")
            # It sits there and says nothing.
            theirs._tell = lambda: None  # type: ignore[method-assign]
            silent.append(self.dials(node, theirs))
            silent[-1].be_patient()
        self.assertEqual(len(self.status(node)["links"]), MAX_LINKS_PER_PEER)
        # The oldest are cut, but for the live one.
        self.assertIsNone(first.lost)
        self.assertEqual([each.lost is None for each in silent], [False, False, True, True])

    def test_no_more_connections_than_the_setting_says(self) -> None:
        node = self.ours("ada", max_links=2)
        seeds = [bytes([n]) * 32 for n in (1, 2, 3)]
        connections = [self.dials(node, self.replica("client", seed)) for seed in seeds]
        self.mesh.run(1)
        self.assertEqual([c.lost is None for c in connections], [True, True, False])

    def test_another_network_string(self) -> None:
        node = self.ours()
        replica = Replica(Peer("client", "another network", SEED, self.ephemeral()))
        connection = self.dials(node, replica)
        self.mesh.run(1)
        self.assertIsNotNone(connection.lost)
        refused = node.ask("GET", "/v1/status").json["data"]["refused"]
        self.assertEqual(refused, {"NETWORK_KEY_REFUSED": 1})


class DiallingTests(EgregoreCase):
    def test_a_place_where_nobody_is_is_tried_with_growing_pauses(self) -> None:
        tries: list[float] = []
        endpoint = self.mesh.network.server_endpoint(9999, "10.0.9.9")

        class Refusing(Factory):
            noisy = False

            def buildProtocol(factory, addr: Any) -> Any:
                tries.append(self.mesh.clock.seconds())
                return None

        endpoint.listen(Refusing())
        node = self.ours("ada", "10.0.9.9:9999", "10.0.9.9:9998")
        self.mesh.run(3_000)
        pauses = [after - before for before, after in zip(tries, tries[1:], strict=False)]
        self.assertGreater(pauses[0], FIRST_PAUSE / 2 - 0.1)
        self.assertLessEqual(pauses[0], FIRST_PAUSE + 0.1)
        for pause in pauses[-3:]:
            self.assertGreater(pause, LAST_PAUSE / 2 - 0.1)
            self.assertLessEqual(pause, LAST_PAUSE + 0.1)
        # Different ones: many nodes do not come at once.
        self.assertGreater(len({round(pause) for pause in pauses[-5:]}), 3)
        shown = self.status(node)["places"]
        self.assertGreater(min(place["failures"] for place in shown), 8)
        self.assertTrue(all(place["last_error"] for place in shown))

    def test_a_live_connection_that_never_lasts_is_made_less_and_less(self) -> None:
        connections: list[Theirs] = []

        def make() -> Replica:
            self.mesh.clock.callLater(1.0, lambda: connections[-1].hang_up())
            return self.replica("server")

        place, connections = self.listens(make)
        node = self.ours("ada", place)
        self.mesh.run(1_800)
        # Every two seconds it would be 600 times.
        self.assertLess(len(connections), 16)
        self.assertGreater(len(connections), 5)
        (shown,) = self.status(node)["places"]
        self.assertGreater(shown["failures"], 4)

    def test_several_at_once(self) -> None:
        seeds = [bytes([n]) * 32 for n in range(1, 5)]
        places = [self.listens(partial(self.replica, "server", seed))[0] for seed in seeds]
        node = self.ours("ada", "10.0.9.9:9998", *places)
        # Less than any of them would have to wait for the first, where nobody is.
        self.mesh.run(1)
        shown = self.status(node)["places"]
        self.assertEqual([place["live"] for place in shown], [False] + [True] * 4)
        self.assertEqual([place["failures"] for place in shown], [1, 0, 0, 0, 0])

    def test_places_that_lead_to_one_peer(self) -> None:
        places = [self.listens(lambda: self.replica("server"))[0] for _ in range(3)]
        node = self.ours("ada", *places)
        self.mesh.run(2)
        live = [place["live"] for place in self.status(node)["places"]]
        self.assertEqual(live.count(True), 1)
        self.assertEqual([place["failures"] for place in self.status(node)["places"]], [0] * 3)

    def test_our_own_address(self) -> None:
        node = self.ours("ada", f"10.0.0.1:{MESH_PORT}")
        self.mesh.run(2)
        (place,) = self.status(node)["places"]
        self.assertIn("PEER_KEY_REFUSED", place["last_error"])

    def test_two_of_ours_over_their_wire(self) -> None:
        ada = self.ours("ada")
        bob = self.ours("bob", f"10.0.0.1:{MESH_PORT}")
        self.publish(ada, {"type": "note"})
        self.publish(bob, {"type": "note"})
        self.mesh.run(400)
        self.assertEqual(self.feed(bob, ada.identity.public.text), [1])
        self.assertEqual(self.feed(ada, bob.identity.public.text), [1])
        self.publish(bob, {"type": "note"})
        self.mesh.run(1)
        self.assertEqual(self.feed(ada, bob.identity.public.text), [1, 2])
        self.assertEqual(len(self.status(ada)["links"]), 1)


class SettingsTests(EgregoreCase):
    def test_it_is_off_unless_it_is_asked_for(self) -> None:
        node = self.mesh.node("ada", f'[egregore]\nnetwork = "{NETWORK}"\n')
        node.start()
        self.assertNotIn("egregore", node.ask("GET", "/v1/status").json["data"]["parts"])
        connection = self.dials(node)
        self.mesh.run(1)
        self.assertIsNotNone(connection.lost)

    def test_status_says_what_it_means(self) -> None:
        self.assertEqual(self.status(self.ours())["notice"], NOTICE)

    def refused(self, network: str) -> str:
        node = self.mesh.node(
            f"refused-{len(self.mesh.nodes)}",
            f'compat = ["egregore"]\n[egregore]\nnetwork = "{network}"\n',
        )
        error = self.assertRaises(ConfigError, node.start)
        node.make()  # so that stopping finds nothing begun
        return str(error)

    def test_without_a_network_string_the_node_does_not_start(self) -> None:
        self.assertIn("egregore.network", self.refused(""))

    def test_nor_with_the_secret_of_its_own_network(self) -> None:
        self.assertIn("own network", self.refused(self.mesh.network_secret.text))

    def test_nor_with_the_passphrase_of_its_own_network(self) -> None:
        from meshkit.identity.network import NetworkSecret

        self.mesh.network_secret = NetworkSecret.from_passphrase("correct horse")
        self.assertIn("own network", self.refused("correct horse"))
        node = self.ours()
        self.assertTrue(node.service.ready)

    def test_a_place_has_a_form(self) -> None:
        node = self.mesh.node(
            "ada",
            f'compat = ["egregore"]\n[egregore]\nnetwork = "{NETWORK}"\npeers = ["nowhere"]\n',
        )
        error = self.assertRaises(ConfigError, node.start)
        self.assertIn("HOST:PORT", str(error))

    def test_stopping_ends_every_connection(self) -> None:
        place, connections = self.listens(lambda: self.replica("server"))
        node = self.ours("ada", place, "10.0.9.9:9998")
        accepted = self.dials(node, self.replica("client", OTHER))
        self.mesh.run(2)
        node.stop()
        self.mesh.run(1)
        self.assertTrue(all(c.replica.peer.ended for c in (accepted, connections[0])))
        before = len(connections)
        self.mesh.run(1_000)
        self.assertEqual(len(connections), before)
