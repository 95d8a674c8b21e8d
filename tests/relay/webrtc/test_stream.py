"""Tests of L{meshkit.relay.webrtc.stream}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, MalformedFrame
from meshkit.relay.webrtc.stream import MAX_MESSAGE, WINDOW, Stream

#: What one side does: write so many bytes, deliver so many messages, consume so much.
steps = st.lists(
    st.tuples(st.sampled_from(("write", "deliver", "consume")), st.integers(1, 3 * WINDOW // 2)),
    max_size=30,
)


class Streams(SynchronousTestCase):
    def setUp(self) -> None:
        self.one, self.other = Stream(), Stream()

    def pass_on(self, source: Stream, target: Stream) -> bytes:
        return b"".join(target.feed(message) for message in list(source.take()))

    @given(steps, st.binary(min_size=1, max_size=64))
    def test_what_arrives_is_what_was_sent_and_never_more_than_a_window_is_held(
        self, steps: list[tuple[str, int]], seed: bytes
    ) -> None:
        one, other = Stream(), Stream()
        wire: list[bytes] = []
        back: list[bytes] = []
        sent, got = bytearray(), bytearray()
        for what, size in steps:
            if what == "write":
                data = (seed * (size // len(seed) + 1))[:size]
                one.write(data)
                sent += data
                wire.extend(one.take())
            elif what == "deliver":
                for message in wire[:size]:
                    got += other.feed(message)
                del wire[:size]
            else:
                other.consume(min(size, other.held))
                back.extend(other.take())
                for message in back:
                    self.assertEqual(one.feed(message), b"")
                back.clear()
                wire.extend(one.take())
            self.assertLessEqual(other.held, WINDOW)
            self.assertLessEqual(max(map(len, wire), default=0), MAX_MESSAGE)
        one.end()
        # To the end: nothing is lost, and nobody waits for ever.
        while not other.received_end:
            for message in wire:
                got += other.feed(message)
            wire.clear()
            other.consume(other.held)
            for message in other.take():
                one.feed(message)
            wire.extend(one.take())
        self.assertEqual(got, sent)
        self.assertEqual(one.waiting, 0)

    def test_nobody_gets_more_than_a_window_ahead(self) -> None:
        self.one.write(b"a" * (WINDOW + 1))
        self.assertEqual(len(self.pass_on(self.one, self.other)), WINDOW)
        self.assertEqual(self.one.waiting, 1)
        self.assertEqual(list(self.one.take()), [])
        self.other.consume(WINDOW // 2 - 1)
        self.assertEqual(list(self.other.take()), [])
        self.other.consume(1)
        self.pass_on(self.other, self.one)
        self.assertEqual(self.pass_on(self.one, self.other), b"a")

    def test_one_direction_ends_after_what_was_written(self) -> None:
        self.one.write(b"a" * WINDOW + b"b")
        self.one.end()
        self.pass_on(self.one, self.other)
        self.assertFalse(self.one.sent_end or self.other.received_end)
        self.other.consume(WINDOW)
        self.pass_on(self.other, self.one)
        self.assertEqual(self.pass_on(self.one, self.other), b"b")
        self.assertTrue(self.one.sent_end and self.other.received_end)
        # The other one goes on.
        self.other.write(b"c")
        self.assertFalse(self.one.seen_end)
        self.assertEqual(self.pass_on(self.other, self.one), b"c")
        self.assertTrue(self.one.seen_end)
        self.assertEqual(list(self.one.take()), [])
        with self.assertRaises(ValueError):
            self.one.write(b"more")

    def test_what_a_peer_may_not_send(self) -> None:
        for message in (
            b"",
            b"\x00",
            b"\x01",
            b"\x01" + bytes(7),
            b"\x01" + bytes(9),
            b"\x02\x00",
            b"\x03",
            b"\x04",
            b"\xff" * 10,
        ):
            with self.assertRaises(MalformedFrame):
                Stream().feed(message)
        with self.assertRaises(FrameTooLarge):
            Stream().feed(bytes(MAX_MESSAGE + 1))

    def test_more_than_was_granted(self) -> None:
        message = b"\x00" + bytes(MAX_MESSAGE - 1)
        stream = Stream()
        for _ in range(WINDOW // (MAX_MESSAGE - 1)):
            stream.feed(message)
        with self.assertRaises(FrameTooLarge):
            stream.feed(message)
        self.assertLessEqual(stream.held, WINDOW)

    def test_something_after_the_end(self) -> None:
        self.other.feed(b"\x02")
        for message in (b"\x02", b"\x00more"):
            with self.assertRaises(MalformedFrame):
                self.other.feed(message)

    def test_a_credit_that_cannot_be(self) -> None:
        """One that goes back would be taken back, and a huge one would have us hold all."""
        for total in (WINDOW - 1, WINDOW + 1, 2**63, 2**64 - 1):
            with self.assertRaises(MalformedFrame):
                Stream().feed(b"\x01" + total.to_bytes(8, "big"))

    def test_what_did_not_come_is_not_consumed(self) -> None:
        with self.assertRaises(ValueError):
            self.other.consume(1)

    @given(st.lists(st.binary(max_size=32), max_size=20))
    def test_garbage_ends_in_an_error_of_ours(self, messages: list[bytes]) -> None:
        stream = Stream()
        for message in messages:
            try:
                stream.feed(message)
            except (MalformedFrame, FrameTooLarge):
                break
