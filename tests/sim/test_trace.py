from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.clock import SimClock
from meshkit.sim.trace import Trace


class TraceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = SimClock()

    def test_an_event_is_a_line_with_its_moment(self) -> None:
        trace = Trace(self.clock)
        self.clock.run_until(1_500)
        trace.event("link.cut", "ada", to="bob", bytes=3)
        self.assertEqual(trace.lines, [b'[1500,"link.cut","ada",{"bytes":3,"to":"bob"}]\n'])

    def test_the_order_of_details_does_not_matter_and_that_of_events_does(self) -> None:
        one, same, other = (Trace(self.clock) for _ in range(3))
        one.event("x", a=1, b=2)
        one.event("y")
        same.event("x", b=2, a=1)
        same.event("y")
        other.event("y")
        other.event("x", a=1, b=2)
        self.assertEqual(one.digest, same.digest)
        self.assertNotEqual(one.digest, other.digest)

    def test_of_bytes_length_and_digest_are_shown(self) -> None:
        trace = Trace(self.clock)
        trace.event("frame", data=b"secret")
        expected = f"6:{sha256(b'secret').hexdigest()[:16]}"
        self.assertIn(expected.encode(), trace.lines[0])

    def test_the_digest_stands_for_lines_that_are_not_kept_too(self) -> None:
        written: list[bytes] = []
        trace = Trace(self.clock, kept=2, write=written.append)
        for number in range(5):
            trace.event("tick", number=number)
        self.assertEqual((trace.lines, trace.events), (written[-2:], 5))
        self.assertEqual(trace.digest, sha256(b"".join(written)).hexdigest())

    def test_watchers_get_what_happened_itself(self) -> None:
        trace = Trace(self.clock)
        seen: list[Any] = []
        trace.watch(lambda *event: seen.append(event))
        trace.event("frame", "ada", data=b"x")
        self.assertEqual(seen, [("frame", "ada", {"data": b"x"})])
