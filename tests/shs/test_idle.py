"""
What an open channel keeps: there may be thousands that say nothing.
"""

from __future__ import annotations

import gc
from weakref import ref

from twisted.trial.unittest import SynchronousTestCase

from tests.shs.common import Pair, new_client, new_server


class IdleTests(SynchronousTestCase):
    def test_the_handshake_is_forgotten_once_it_has_served(self) -> None:
        handshakes = [new_client(), new_server()]
        pair = Pair(client_handshake=handshakes[0], server_handshake=handshakes[1])  # type: ignore[arg-type]
        kept = [ref(handshake) for handshake in handshakes]
        handshakes.clear()
        self.assertNotIn(None, [handshake() for handshake in kept])
        pair.open()
        gc.collect()
        self.assertEqual([handshake() for handshake in kept], [None, None])

    def test_it_has_no_dict_and_runs_no_timer(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(b"hello")
        pair.pump()
        for channel in (pair.client_channel, pair.server_channel):
            for thing in (channel, channel._outflow, channel._boxer, channel._unboxer):
                self.assertFalse(hasattr(thing, "__dict__"), thing)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_received_bytes_that_were_read_take_no_room(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(bytes(60_000))
        pair.pump()
        self.assertEqual(len(pair.server.received), 60_000)
        unboxer = pair.server_channel._unboxer
        assert unboxer is not None
        self.assertLess(unboxer._buffer.__sizeof__(), 200)  # type: ignore[attr-defined]
