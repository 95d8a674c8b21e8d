"""
The two villains: a member of the network who forges messages, and somebody on the wire
who changes one byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.protocol import Protocol
from twisted.protocols import portforward

from meshkit.gossip.codec import (
    FrameDecoder,
    Hello,
    Interest,
    Messages,
    Note,
    Ping,
    Pong,
    encode,
)
from meshkit.gossip.reconcile import NONCE_BYTES
from meshkit.gossip.spread import RECEIVE, REPLICATE

#: Bytes that a listener sends in the handshake: its hello, its proof.
LISTENER_HANDSHAKE: Final = 64 + 80
#: Of the stream after it, the byte that is changed: inside the body of the first box,
#: behind its header of 34 bytes.
CHANGED: Final = LISTENER_HANDSHAKE + 34 + 7


class Forger(Protocol):
    """
    Claims to have more of somebody's feed than there is, and serves forgeries when
    asked for it.

    @ivar served: the victim asked, and was given them.
    """

    def __init__(self, author: bytes, claimed: int, texts: Sequence[bytes]) -> None:
        """
        @param author: whose feed.
        @param claimed: up to which sequence.
        @param texts: the forgeries.
        """
        self._author = author
        self._claimed = claimed
        self._texts = list(texts)
        self._decoder = FrameDecoder()
        self.served = False

    def connectionMade(self) -> None:
        self._send(Hello(bytes(NONCE_BYTES)))
        self._send(Interest(True, [], [], False))
        self._send(Note([(self._author, self._claimed, REPLICATE)]))

    def dataReceived(self, data: bytes) -> None:
        self._decoder.feed(data)
        while (frame := self._decoder.next_frame()) is not None:
            match frame:
                case Note():
                    for author, after, flags in frame.entries:
                        if author == self._author and flags & RECEIVE and not self.served:
                            self._send(Messages(author, after + 1, self._texts))
                            self.served = True
                case Ping():
                    self._send(Pong(frame.token))

    def _send(self, frame: Any) -> None:
        transport: Any = self.transport
        transport.write(encode(frame))


class _ToListener(portforward.ProxyClient):
    """The half of a connection that leads to the listener; changes what comes from it."""

    peer: Any
    _seen = 0

    def dataReceived(self, data: bytes) -> None:
        owner: FlippingProxy = self.peer.factory
        at = CHANGED - self._seen
        self._seen += len(data)
        if not owner.flipped and 0 <= at < len(data):
            owner.flipped = True
            data = data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]
        super().dataReceived(data)


class _ToListenerFactory(portforward.ProxyClientFactory):
    protocol = _ToListener
    noisy = False


class _FromDialler(portforward.ProxyServer):
    clientProtocolFactory = _ToListenerFactory


class FlippingProxy(portforward.ProxyFactory):
    """
    Passes bytes on both ways, and in the first connection that lives long enough
    changes one bit of one byte.

    @ivar flipped: it has.
    """

    protocol = _FromDialler
    noisy = False

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        super().__init__(host, port)
        self._reactor = reactor
        self.flipped = False

    def buildProtocol(self, addr: Any) -> Any:
        protocol: Any = super().buildProtocol(addr)
        protocol.reactor = self._reactor
        return protocol
