"""
The closing table of L{meshkit.shs.channel}, row by row, with either end in either part.

Each L{Row} is played twice, so that the dialler and the listener are both first, and
checks the same each time: what both applications are told, in this order and no more;
C{connectionLost} once and last; nothing left behind.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PeerTooSlow, TamperedStream, TruncatedStream
from meshkit.shs.channel import CLOSE_TIMEOUT
from tests.shs.common import HalfRecorder, Pair, PushProducer, Recorder

#: What an end is told.
READ, WRITE = "read lost", "write lost"
DONE: Final = ("lost", ConnectionDone)
LOST: Final = ("lost", ConnectionLost)
ABORTED: Final = ("lost", ConnectionAborted)
TRUNCATED: Final = ("lost", TruncatedStream)
TAMPERED: Final = ("lost", TamperedStream)
SLOW: Final = ("lost", PeerTooSlow)


@frozen
class Row:
    """
    @ivar ends: C{H} and C{P} as in the table, for the ends a and b.
    @ivar story: what happens, in words that L{TableTests.happen} knows: the end and what it
        does.  C{;} lets everything that follows from it take place, C{+} does not.
    @ivar a: what a is told.
    @ivar b: what b is told.
    """

    ends: str
    story: str
    a: list[Any]
    b: list[Any]


#: Rows that hold whatever the ends are.
EVERY: Final = ("HH", "HP", "PH", "PP")


def _rows() -> list[Row]:
    rows = [
        # loseWriteConnection()
        Row("HH", "a loses writing", [WRITE], [READ]),
        Row("PH", "a loses writing", [], [READ]),
        Row("HP", "a loses writing", [WRITE, READ, DONE], [DONE]),
        Row("PP", "a loses writing", [DONE], [DONE]),
        # ... and then the other
        Row("HH", "a loses writing; b loses writing", [WRITE, READ, DONE], [READ, WRITE, DONE]),
        Row("HH", "a loses writing; b loses", [WRITE, READ, DONE], [READ, DONE]),
        Row("PH", "a loses writing; b loses writing", [DONE], [READ, WRITE, DONE]),
        Row("PH", "a loses writing; b loses", [DONE], [READ, DONE]),
        Row("HH", "a loses writing; b aborts", [WRITE, TRUNCATED], [READ, ABORTED]),
        Row("PH", "a loses writing; b aborts", [TRUNCATED], [READ, ABORTED]),
        Row("HH", "a loses writing; b ends beneath", [WRITE, TRUNCATED], [READ, LOST]),
        # ... and then the same
        Row("HH", "a loses writing; a loses writing", [WRITE], [READ]),
        Row("HH", "a loses writing; a loses", [WRITE], [READ]),
        Row("HH", "a loses writing; a loses; b loses", [WRITE, DONE], [READ, DONE]),
        Row("HH", "a loses writing; a loses; time", [WRITE, SLOW], [READ, LOST]),
        Row("HH", "a loses writing; a aborts", [WRITE, ABORTED], [READ, LOST]),
        Row("HH", "a loses writing; a ends beneath; b loses", [WRITE, READ, DONE], [READ, DONE]),
        Row("HH", "a loses writing; cut", [WRITE, TRUNCATED], [READ, LOST]),
        Row("PH", "a loses writing; cut", [TRUNCATED], [READ, LOST]),
        Row("HH", "a loses writing; time; b loses", [WRITE, READ, DONE], [READ, DONE]),
        # ... at the same time
        Row("HH", "a loses writing + b loses writing", [WRITE, READ, DONE], [WRITE, READ, DONE]),
        Row("HH", "a loses writing + b loses", [WRITE, READ, DONE], [DONE]),
        Row("HH", "a loses writing + a loses; b loses", [DONE], [READ, DONE]),
        Row("PP", "a loses writing + b loses writing", [DONE], [DONE]),
        # while a producer is registered
        Row("HH", "a produces; a loses writing", [], []),
        Row("HH", "a produces; a loses writing; a is finished", [WRITE], [READ]),
        Row("HP", "b produces; a loses writing", [WRITE, READ, DONE], [DONE]),
        Row("HH", "b produces; a loses writing", [WRITE], [READ]),
        Row("HH", "a produces; a loses writing; b loses writing", [READ], [WRITE]),
        # loseConnection() of an end whose peer may go on
        Row("HH", "a loses", [], [READ]),
        Row("PH", "a loses", [], [READ]),
        Row("HH", "a loses; b loses", [DONE], [READ, DONE]),
        Row("PH", "a loses; b loses writing", [DONE], [READ, WRITE, DONE]),
        Row("HH", "a loses; time", [SLOW], [READ, LOST]),
        Row("PH", "a loses; time", [SLOW], [READ, LOST]),
        Row("HH", "a loses; a aborts", [ABORTED], [READ, LOST]),
        Row("HH", "a loses; b aborts", [TRUNCATED], [READ, ABORTED]),
        Row("HH", "a loses; b ends beneath", [TRUNCATED], [READ, LOST]),
        Row("HH", "a loses; cut", [TRUNCATED], [READ, LOST]),
        Row("HH", "a produces; a loses; time", [], []),
        Row("HH", "a produces; a loses; a is finished; b loses", [DONE], [READ, DONE]),
        Row("HH", "b produces; a loses; b loses; b is finished", [DONE], [READ, DONE]),
        Row("HH", "b produces; a loses; b loses; time", [SLOW], [READ, LOST]),
    ]
    for ends in EVERY:
        rows += [
            Row(ends, "a loses + b loses", [DONE], [DONE]),
            # abortConnection()
            Row(ends, "a aborts", [ABORTED], [TRUNCATED]),
            Row(ends, "a aborts + a loses", [ABORTED], [TRUNCATED]),
            Row(ends, "a loses + a aborts", [ABORTED], [TRUNCATED]),
            Row(ends, "a aborts + b aborts", [ABORTED], [ABORTED]),
            Row(ends, "a aborts + b loses", [ABORTED], [TRUNCATED]),
            Row(ends, "a produces; a aborts", [ABORTED], [TRUNCATED]),
            # without goodbye
            Row(ends, "cut", [TRUNCATED], [TRUNCATED]),
            Row(ends, "a ends beneath", [TRUNCATED], [TRUNCATED]),
            Row(ends, "a ends beneath + b ends beneath", [TRUNCATED], [TRUNCATED]),
            Row(ends, "a pauses; b ends beneath; a resumes", [TRUNCATED], [TRUNCATED]),
            Row(ends, "a produces; cut", [TRUNCATED], [TRUNCATED]),
            # what is no box
            Row(ends, "a is tampered with", [TAMPERED], [TRUNCATED]),
            Row(ends, "a is tampered with + a aborts", [TAMPERED], [TRUNCATED]),
            Row(ends, "a pauses; a loses + b loses", [DONE], [DONE]),
        ]
        if ends[1] == "P":
            rows += [
                Row(ends, "a loses", [DONE], [DONE]),
                Row(ends, "b produces; a loses", [DONE], [DONE]),
                Row(ends, "a loses; time", [DONE], [DONE]),
            ]
    return rows


class TableTests(SynchronousTestCase):
    def test_row_by_row_with_either_end_first(self) -> None:
        for row in _rows():
            for first in (0, 1):
                try:
                    self.play(row, first)
                except Exception as error:
                    who = ("the dialler", "the listener")[first]
                    raise AssertionError(
                        f"{row.ends} {row.story!r}, a is {who}: {error}"
                    ) from error

    def play(self, row: Row, first: int) -> None:
        kinds: Any = [HalfRecorder if kind == "H" else Recorder for kind in row.ends]
        apps = [kind() for kind in kinds]
        placed = apps if first == 0 else apps[::-1]
        self.pair = Pair(*placed).open()
        ends = (self.pair.wire.first, self.pair.wire.second)
        self.apps = dict(zip("ab", apps, strict=True))
        self.raw = dict(zip("ab", ends if first == 0 else ends[::-1], strict=True))
        self.producers: dict[str, PushProducer] = {}
        for step in row.story.split("; "):
            for action in step.split(" + "):
                self.happen(action)
            self.settle()
        self.assertEqual((apps[0].events[1:], apps[1].events[1:]), (row.a, row.b))
        if isinstance((row.a or [""])[-1], tuple):
            self.assert_nothing_is_left()
        self.pair.client_channel.abortConnection()
        self.pair.server_channel.abortConnection()
        self.settle()
        for app in apps:
            lost = [event for event in app.events if isinstance(event, tuple)]
            self.assertEqual(lost, app.events[-1:])
        self.assert_nothing_is_left()

    def happen(self, action: str) -> None:
        if action == "cut":
            self.pair.wire.cut()
            return
        if action == "time":
            self.pair.clock.advance(CLOSE_TIMEOUT + 0.1)
            return
        name, what = action[0], action[2:]
        transport: Any = self.apps[name].transport
        before = list(self.apps[name].events)
        match what:
            case "loses writing":
                transport.loseWriteConnection()
            case "loses":
                transport.loseConnection()
            case "aborts":
                transport.abortConnection()
            case "pauses":
                transport.pauseProducing()
            case "resumes":
                transport.resumeProducing()
            case "produces":
                self.producers[name] = PushProducer()
                transport.registerProducer(self.producers[name], True)
            case "is finished":
                transport.unregisterProducer()
            case "ends beneath":
                self.raw[name].loseWriteConnection()
            case "is tampered with":
                self.raw[name].protocol.dataReceived(bytes(34))
            case _:
                raise ValueError(action)
        self.assertEqual(self.apps[name].events, before, "told from within its own call")

    def settle(self) -> None:
        """As a reactor does: what is due, then what came, and again until all is quiet."""
        clock, wire = self.pair.clock, self.pair.wire
        busy = True
        while busy:
            busy = any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls())
            clock.advance(0)
            busy = wire.step() or busy

    def assert_nothing_is_left(self) -> None:
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])
        for end in self.raw.values():
            self.assertFalse(end.connected)
            self.assertIsNone(end.producer)
        for owner in (self.pair.client_owner, self.pair.server_owner):
            self.assertEqual(owner.events, ["opened", "lost"])
        for name, producer in self.producers.items():
            # Stopped at the end, unless it had unregistered.
            self.assertLessEqual(producer.events.count("stop"), 1, name)
