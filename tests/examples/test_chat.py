"""What C{examples/chat.py} does with peers that are not as one would wish."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.channels import ChannelPair, connect_channels
from meshkit.testing.identities import make_identity
from tests.examples.support import load

chat = load("chat.py")


class RoomTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.room = chat.Room()
        self.shown = io.StringIO()
        into = redirect_stdout(self.shown)
        into.__enter__()
        self.addCleanup(into.__exit__, None, None, None)

    def connect(self, name: str, protocol: Any = Protocol) -> ChannelPair:
        """@return: the client is somebody else's program, the server is ours."""
        return connect_channels(
            Factory.forProtocol(protocol),
            Factory.forProtocol(lambda: chat.Link(self.room)),
            clock=Clock(),
            client_identity=make_identity(name),
        )

    @property
    def lines(self) -> list[str]:
        return self.shown.getvalue().splitlines()

    def test_lines_are_shown_with_the_proven_key(self) -> None:
        short = make_identity("ada").public.short
        pair = self.connect("ada")
        pair.client.transport.write(b"hel")
        pair.run()
        pair.client.transport.write(b"lo\n")
        pair.run()
        pair.client.transport.loseConnection()
        pair.run()
        self.assertEqual(
            self.lines, [f"* {short} is here", f"{short}: hello", f"* {short} is gone"]
        )
        self.assertEqual(self.room.links, [])
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_nothing_that_a_terminal_would_obey_is_shown(self) -> None:
        pair = self.connect("ada")
        pair.client.transport.write(b"\x1b[2J\xff\r\n")
        pair.run()
        self.assertTrue(self.lines[-1].isprintable())
        self.assertIn("[2J", self.lines[-1])

    def test_a_line_without_end_is_dropped(self) -> None:
        pair = self.connect("ada")
        pair.client.transport.write(b"x" * (chat.Link.MAX_LENGTH + 1))
        pair.run()
        self.assertIn("is gone", self.lines[-1])

    def test_one_who_does_not_read_is_dropped(self) -> None:
        deaf, good = self.connect("deaf"), self.connect("good")
        deaf.client.transport.pauseProducing()
        deaf.wire.first.pauseProducing()
        for _ in range(1000):
            self.room.say("x" * 250)
            good.run()
        deaf.run()
        self.assertEqual([link.peer for link in self.room.links], [make_identity("good").public])

    def test_who_is_linked_twice_hears_it_once(self) -> None:
        class Keeper(Protocol):
            received = b""

            def dataReceived(self, data: bytes) -> None:
                self.received += data

        one, two = self.connect("ada", Keeper), self.connect("ada", Keeper)
        self.room.say("hello")
        one.run()
        two.run()
        self.assertEqual(one.client.received + two.client.received, b"hello\n")
