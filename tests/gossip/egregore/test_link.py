"""Tests of L{meshkit.gossip.egregore.link}: a store that is slow or fails, a peer that is slow."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, succeed

from meshkit.errors import StorageFailed
from meshkit.gossip.egregore.link import MAX_UNDIGESTED, PATIENCE
from meshkit.shs.egregore_stream import MAX_MESSAGE
from tests.gossip.egregore.stage import EgregoreCase, Theirs, id_of
from tests.interop.egregore_peer import chain

SEED = b"t" * 32


def long_notes(count: int) -> list[dict[str, Any]]:
    return chain(SEED, [{"type": "note", "n": n, "text": "x" * 40_000} for n in range(count)])


class StoreTests(EgregoreCase):
    def test_a_slow_store_holds_up_the_peer_and_nothing_is_lost(self) -> None:
        node = self.ours()
        feed = node.service._parts["feed"]
        ingest, waiting = feed.ingest, []
        feed.ingest = lambda texts: waiting.append((texts, Deferred())) or waiting[-1][1]
        theirs = self.replica("client")
        theirs.hold(long_notes(100))
        self.dials(node, theirs).be_patient()
        self.mesh.run(5)
        (link,) = node.service._parts["egregore"]._links
        taken = sum(len(text) for texts, _ in waiting for text in texts)
        self.assertGreater(taken, MAX_UNDIGESTED)
        # What one read of the channel gives is still taken.
        self.assertLess(taken, MAX_UNDIGESTED + MAX_MESSAGE + 64 * 1024)
        # The peer is not late while it is we who do not read.
        self.mesh.run(PATIENCE + 1)
        self.assertTrue(link.open)
        feed.ingest = ingest
        for texts, told in waiting:
            ingest(texts).chainDeferred(told)
        self.mesh.run(10)
        self.assertEqual(self.feed(node, id_of(SEED)), [*range(1, 101)])
        self.assertTrue(theirs.live)

    def test_a_store_that_fails_is_not_the_peers_fault(self) -> None:
        node = self.ours()
        feed = node.service._parts["feed"]
        ingest = feed.ingest
        # It fails when all of it has come already, and they have nothing more to say.
        late: list[Deferred[Any]] = []
        feed.ingest = lambda texts: late.append(Deferred()) or late[-1]
        theirs = self.replica("client", pushes=False)
        theirs.hold(long_notes(3))
        connection = self.dials(node, theirs)
        self.mesh.run(2)
        self.assertIsNotNone(connection.lost)
        for told in late:
            told.errback(StorageFailed())
        status = self.status(node)
        self.assertEqual((status["broken"], status["refused"]), ({}, {}))
        accounts = node.ask("GET", "/v1/peers/ledger").json["data"]
        self.assertEqual([each for each in accounts if each["reasons"]], [])
        # What was not stored is asked for again.
        feed.ingest = ingest
        theirs = self.replica("client", pushes=False)
        theirs.hold(long_notes(3))
        self.dials(node, theirs)
        self.mesh.run(2)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3])

    def test_what_is_not_kept_any_more_is_passed_over(self) -> None:
        node = self.ours()
        self.publish(node, *({"type": "note", "n": n} for n in range(1, 6)))
        feed = node.service._parts["feed"]
        read = feed.read
        feed.read = lambda author, after, *rest: (
            succeed([]) if after < 3 else read(author, after, *rest)
        )
        feed.gone_until = lambda author, after: succeed(Gap(3) if after < 3 else None)
        theirs = self.replica("client")
        self.dials(node, theirs)
        self.mesh.run(2)
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [4, 5])
        self.assertTrue(theirs.live)


@frozen
class Gap:
    """What a store that forgets says of it."""

    until: int


class ReaderTests(EgregoreCase):
    def test_a_peer_that_does_not_read_is_not_served_into_memory(self) -> None:
        node = self.ours()
        texts = [{"type": "note", "n": n, "text": "x" * 40_000} for n in range(100)]
        node.ask("POST", "/v1/publish/batch", {"contents": texts})
        theirs = self.replica("client")
        reads: list[int] = []
        feed = node.service._parts["feed"]
        read = feed.read
        feed.read = lambda *args: reads.append(args[1]) or read(*args)
        connection = self.dials(node, theirs)
        self.assertIsNone(connection.lost)
        self.mesh.run(1)
        self.assertGreater(len(reads), 50)
        # Again, and this one stops reading when it has said what it wants.
        reads.clear()
        slow = self.replica("client", b"s" * 32)
        serve = slow._ask

        def ask() -> None:
            serve()
            assert slow_connection.transport is not None
            slow_connection.transport.pauseProducing()  # type: ignore[attr-defined]

        slow._ask = ask  # type: ignore[method-assign]
        slow_connection = Theirs(self, slow)
        self.connect(node, slow_connection)
        self.mesh.run(0.1)
        slow_connection.be_patient()
        self.mesh.run(PATIENCE - 1)
        self.assertLess(len(reads), 10)
        self.assertIsNone(slow_connection.lost)
        self.mesh.run(3)
        self.assertIn("PEER_TOO_SLOW", self.status(node)["broken"])
