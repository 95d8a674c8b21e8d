"""Tests of L{meshkit.storage.client.client}: objects, put and read whole."""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotEnoughPeers
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import BytesSink, IteratorSource
from meshkit.storage.client.values import ClientConfig, Stored
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.scheme import Scheme
from tests.storage.client.peers import Crowd, at_now, run_until
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of

SECRET = b"s" * 32


class ClientCase(SynchronousTestCase):
    """A client among some peers."""

    count = 9
    scheme = SMALL
    config = ClientConfig()

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.crowd = Crowd(self.clock, self.count)
        self.client = self.new_client()

    def tearDown(self) -> None:
        run_until(self.clock, self.client.quiet())
        run_until(self.clock, self.workers.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def new_client(self, seed: int = 1) -> StorageClient:
        return StorageClient(
            SECRET,
            reactor=self.clock,
            workers=self.workers,
            rng=Random(seed),
            wall_clock=at_now,
            codec=ZfecCodec(),
            config=self.config,
        )

    def run_until(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def begin_put(self, text: bytes, scheme: Scheme | None = None, **more: Any) -> Deferred[Stored]:
        chunks = [text[at : at + 10_000] for at in range(0, len(text), 10_000)]
        source = IteratorSource(self.workers, chunks)
        return self.client.put(source, self.crowd.offers(), scheme or self.scheme, **more)

    def put(self, text: bytes, scheme: Scheme | None = None, **more: Any) -> Stored:
        stored: Stored = self.run_until(self.begin_put(text, scheme, **more))
        return stored

    def get(self, stored: Stored, holders: Any = None, **more: Any) -> bytes:
        sink = BytesSink()
        holders = holders_of(stored.document, self.crowd.find) if holders is None else holders
        getting = self.client.get(stored.manifest, stored.capability.key, holders, sink, **more)
        self.fetched = self.run_until(getting)
        return bytes(sink.data)


class WholeObjects(ClientCase):
    def test_what_was_put_is_read(self) -> None:
        text = text_of(100_000)
        stored = self.put(text)
        self.assertEqual(self.get(stored), text)
        self.assertEqual(stored.missing, ())
        self.assertEqual(stored.flags, ())
        self.assertEqual(stored.problems, ())
        self.assertEqual(self.crowd.kept, 9)

    def test_every_length_at_an_edge_comes_back(self) -> None:
        width = SMALL.text_bytes
        for length in (0, 1, 15, 16, width - 1, width, width + 1, 2 * width, 3 * width + 7):
            text = text_of(length)
            self.assertEqual(self.get(self.put(text)), text, length)

    def test_any_shares_that_suffice_are_enough(self) -> None:
        scheme = Scheme(3, 5, 4096)
        text = text_of(30_000)
        stored = self.put(text, scheme)
        everybody = holders_of(stored.document, self.crowd.find)
        for some in combinations(range(5), 3):
            holders = {number: everybody[number] for number in some}
            self.assertEqual(self.get(stored, holders), text)
            self.assertEqual(self.fetched.shares, some)

    def test_fewer_peers_than_shares_are_refused(self) -> None:
        self.crowd.peers.pop()
        self.assertRaises(NotEnoughPeers, self.put, b"text")
        self.assertTrue(self.crowd.untouched)

    def test_one_peer_may_be_given_several_shares_if_that_is_asked_for(self) -> None:
        del self.crowd.peers[4:]
        stored = self.put(b"text", repeat=True)
        self.assertEqual(self.get(stored), b"text")
        self.assertIn("several-shares-at-one-peer", stored.flags)
