"""
Who says again what was said before.

B{On the wire.}  It is honest, writes a feed, and remembers all that it sends.  Ways:

  - C{hello}: it connects and sends what it sent on an earlier connection, from the first
    byte of the handshake on;
  - C{answer}: to who dials it answers with what it answered on an earlier connection;
  - C{box}: a piece of the encrypted stream goes out twice;
  - C{pages}: each page of messages is sent again, and all are at each act;
  - C{notes}: at each act it says again what it has said of its feeds;
  - C{steps}: a frame of a comparison that is over is sent again.

B{What honest nodes must do.}  Refuse the hello (C{HELLO_REPLAYED}, or C{PEER_KEY_REFUSED}
for the proof after it, when they have forgotten it), the answer (C{PEER_KEY_REFUSED}) and the
box (C{TAMPERED_STREAM}).  Messages that nobody asked for cost 20 each time, and are not
stored; a step out of turn costs 40 and the connection.  Old notes change nothing, and too
many are a flood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Protocol

from meshkit.gossip.codec import Frame, Messages, Note, Ranges
from meshkit.identity.addresses import MeshAddress
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["Replayed"]

#: Bytes of a connection that are remembered, from the first on.
RECORDED: Final = 16 * 1024
#: Frames of each sort that are remembered of a connection: the last ones.
_FRAMES: Final = 8
#: Bytes that a whole handshake has at least, from either side.
_HANDSHAKE: Final = 144
#: Seconds that it stays with a node to which it has played something back.
_WAITS: Final = 30.0


class _Peer(LiarPeer):
    liar: Replayed

    def __init__(self, liar: Replayed, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        self._pages: deque[Frame] = deque(maxlen=_FRAMES)
        self._notes: deque[Frame] = deque(maxlen=_FRAMES)
        self._steps: deque[Frame] = deque(maxlen=_FRAMES)

    def send(self, frame: Frame) -> None:
        super().send(frame)
        match frame:
            case Messages():
                self._pages.append(frame)
                if self.way == "pages":
                    self._again([frame])
            case Note():
                self._notes.append(frame)
            case Ranges():
                self._steps.append(frame)

    def _again(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if self.open:
                self.liar.lied(self.way)
                super().send(frame)

    def act(self) -> None:
        if self.way == "pages":
            self._again(list(self._pages))
        elif self.way == "notes":
            self._again(list(self._notes))
        elif self.way == "steps":
            self._again(list(self._steps)[:1])
        elif self.way == "box":
            self.liar.lied(self.way)
            assert isinstance(self.wire, _Wire)
            self.wire.again()


class _Wire(Wire):
    """@ivar outgoing: what was sent, up to L{RECORDED} bytes."""

    def __init__(self, factory: Any, inner: Any, dialled: bool, way: str, liar: Liar) -> None:
        super().__init__(factory, inner, dialled, way, liar)
        self.outgoing = b""
        self._last = b""
        self._played: bytes | None = None

    def makeConnection(self, transport: Any) -> None:
        liar = self.liar
        assert isinstance(liar, Replayed)
        if self.way == "answer" and not self.dialled:
            self._played = liar.recorded.get(False)
        super().makeConnection(transport)

    def write(self, data: bytes) -> None:
        if self._played is None:
            self._record(data)
            super().write(data)
        elif self._played:
            self.liar.lied(self.way)
            played, self._played = self._played, b""
            super().write(played)

    def again(self) -> None:
        """Send what was sent last once more."""
        super().write(self._last)

    def _record(self, data: bytes) -> None:
        self._last = data
        if len(self.outgoing) < RECORDED:
            self.outgoing += data[: RECORDED - len(self.outgoing)]
            liar = self.liar
            assert isinstance(liar, Replayed)
            if len(self.outgoing) > _HANDSHAKE:
                liar.recorded[self.dialled] = self.outgoing


class _Playback(Protocol):
    def __init__(self, liar: Replayed) -> None:
        self._liar = liar

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._liar.lied("hello")
        transport.write(self._liar.recorded[True])
        self._liar.process.callLater(_WAITS, transport.abortConnection)


class _PlaybackFactory(ClientFactory):
    noisy = False

    def __init__(self, liar: Replayed) -> None:
        self._liar = liar

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Playback(self._liar)


class Replayed(Liar):
    """
    See the module.

    @ivar recorded: what it sent last on a connection that it had dialled (C{True}) or
        accepted (C{False}), from the first byte on.
    """

    kind: ClassVar[str] = "replayed"
    ways: tuple[str, ...] = ("pages", "box", "answer", "notes", "steps", "hello")
    peer: ClassVar[type[LiarPeer]] = _Peer
    wire: ClassVar[type[Wire]] = _Wire

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self.recorded: dict[bool, bytes] = {}

    def act(self) -> None:
        self.write("once more")
        if self.dials and True in self.recorded:
            address = MeshAddress.parse(self.rng.choice(self.dials))
            self.process.connectTCP(address.host, address.port, _PlaybackFactory(self))
        super().act()
