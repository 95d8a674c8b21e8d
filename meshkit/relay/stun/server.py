"""
Tell whoever asks from where that has come, at a UDP port.

Nothing is remembered but how much was asked from where lately.  What is no request, or asks too
much, is not answered: the sender of a datagram is whoever its sender likes.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol

from meshkit.errors import MalformedFrame
from meshkit.relay.stun.message import MAX_MESSAGE, decode_request, encode_answer
from meshkit.runtime.limits import PeerBuckets
from meshkit.shs.listener import ip_of, origin_of

#: Requests that one IPv4 address or IPv6 /64 may send each second and at once.
ASK_RATE: Final = 4.0
ASK_BURST: Final = 64.0
#: Of a datagram this is kept: one byte more than what may be a message.
MAX_DATAGRAM: Final = MAX_MESSAGE + 1


class StunServer(DatagramProtocol):
    """
    See the module.  Listen with C{reactor.listenUDP(port, server, maxPacketSize=MAX_DATAGRAM)}.

    @ivar answered: requests that were answered.
    @ivar refused: datagrams that are no requests.
    @ivar limited: those that were too many.
    @ivar unsent: answers that this machine could not send.
    """

    noisy = False
    transport: Any

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._buckets = PeerBuckets(ASK_RATE, ASK_BURST)
        self.answered = self.refused = self.limited = self.unsent = 0

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        host, port = addr[:2]
        source = IPv4Address("UDP", host, port)
        ip = ip_of(source)
        if self._buckets.take(origin_of(source), 1.0, self._reactor.seconds()):
            self.limited += 1
            return
        try:
            request = decode_request(data)
        except MalformedFrame:
            self.refused += 1
            return
        if ip is None or not port:
            # Nobody can be answered there.
            self.refused += 1
            return
        try:
            self.transport.write(encode_answer(request, ip, port), addr)
        except OSError:
            # Such as to an address to which this machine knows no way; anybody can write it.
            self.unsent += 1
        else:
            self.answered += 1
