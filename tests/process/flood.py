"""
Two ends of one secure channel, each a process: C{python -m tests.process.flood ROLE PORT}.

The C{reader} listens, prints its port, and reads nothing until it is told to.  The
C{writer} dials and pours.  Both do what lines on their standard input say, and answer
each with a line: their memory in KiB and how many bytes went through the channel.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from random import Random
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from meshkit.identity.keys import Identity
from meshkit.shs.endpoints import wrap_client, wrap_server
from meshkit.shs.hellos import Capability

reactor: Any = installed

#: What the writer has to give, in pieces.
TOTAL: Final = 1 << 30
PIECE: Final = Random(1).randbytes(64 * 1024)

READER: Final = Identity(b"the reader of the flood's stream"[:32])
WRITER: Final = Identity(b"the writer of the flood's stream"[:32])
CAPABILITY: Final = Capability("flood", 1, bytes(range(32)))


def memory(name: str) -> int:
    """@param name: C{VmRSS} for now, C{VmHWM} for the most since L{forget_peak}.  KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def forget_peak() -> None:
    """Make C{VmHWM} begin anew (proc(5), C{clear_refs})."""
    Path("/proc/self/clear_refs").write_text("5")


class Reader(Protocol):
    """Reads nothing at first; counts and sums up what it reads."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.ended = ""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.sum = zlib.crc32(data, self.sum)

    def connectionLost(self, reason: Any = None) -> None:
        self.ended = reason.type.__name__

    def go(self) -> None:
        assert self.transport is not None
        self.transport.resumeProducing()

    def state(self) -> str:
        return f"{self.count} {self.sum} {self.ended or '-'}"


@implementer(IPushProducer)
class Writer(Protocol):
    """
    A push producer of L{TOTAL} bytes that honours its pause: it writes a piece a turn, and
    none while it is paused.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.pauses = 0
        self.paused = True
        self.ended = ""

    def go(self) -> None:
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        self.resumeProducing()

    def resumeProducing(self) -> None:
        if self.paused:
            self.paused = False
            reactor.callLater(0, self._pour)

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self.paused = True

    def _pour(self) -> None:
        if self.paused:
            return
        self.count += len(PIECE)
        self.sum = zlib.crc32(PIECE, self.sum)
        self.transport.write(PIECE)  # type: ignore[union-attr]
        if self.count < TOTAL:
            reactor.callLater(0, self._pour)
            return
        self.paused = True
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        self.ended = reason.type.__name__

    def state(self) -> str:
        return f"{self.count} {self.sum} {self.pauses} {self.ended or '-'}"


class Orders(LineReceiver):
    """Takes orders from the test, line by line; their end ends the process."""

    delimiter = b"\n"

    def __init__(self, end: Reader | Writer, over: Deferred[None]) -> None:
        self.end = end
        self.over = over

    def lineReceived(self, line: bytes) -> None:
        if line == b"go":
            self.end.go()
        elif line == b"forget":
            forget_peak()
        self.tell(f"{memory('VmRSS')} {memory('VmHWM')} {self.end.state()}")

    def tell(self, line: str) -> None:
        self.sendLine(line.encode())

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(None)


async def main(reactor: Any, role: str, port: str = "") -> None:
    over: Deferred[None] = Deferred()
    if role == "reader":
        end: Any = Reader()
        factory = Factory()
        factory.buildProtocol = lambda addr: end  # type: ignore[method-assign]
        listening = await wrap_server(
            reactor,
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            identity=READER,
            capability=CAPABILITY,
            rng=Random(2),
        ).listen(factory)
        first = str(listening.getHost().port)
    else:
        end = await wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", int(port)),
            identity=WRITER,
            capability=CAPABILITY,
            peer=READER.public,
            rng=Random(3),
        ).connect(Factory.forProtocol(Writer))
        first = "connected"
    orders = Orders(end, over)
    StandardIO(orders)
    orders.tell(first)
    await over


if __name__ == "__main__":
    react(lambda reactor, *args: Deferred.fromCoroutine(main(reactor, *args)), sys.argv[1:])
