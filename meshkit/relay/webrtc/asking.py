"""Ask STUN servers, in the thread of aiortc: which one is to be used is found before it begins."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final

from meshkit.errors import InvalidAnswer, MalformedFrame
from meshkit.identity.addresses import HostPort
from meshkit.relay.stun.message import IP, decode_answer, encode_request
from meshkit.relay.webrtc.servers import Question, Seen

#: Seconds in which one has to answer.
STUN_SECONDS: Final = 3.0
#: Seconds after which a request is sent again: datagrams are lost.
_AGAIN: Final = (0.25, 0.5, 1.0)


async def ask_servers(
    questions: Sequence[Question], seconds: float = STUN_SECONDS
) -> tuple[HostPort, Seen] | None:
    """
    Ask all of them at once.

    @return: where the first to answer was reached, by its IPv4 address, and what it has said;
        L{None} if none answers within C{seconds}, can be found, or says something of use.
    """
    if not questions:
        return None
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_datagram_endpoint(_Asking, local_addr=("0.0.0.0", 0))
    tasks = [asyncio.create_task(asking.ask(each)) for each in questions]
    try:
        for answered in asyncio.as_completed(tasks, timeout=seconds):
            try:
                return await answered
            except TimeoutError:
                return None
            except (OSError, UnicodeError, InvalidAnswer):
                # There is no such host, or it does something else at that port.
                continue
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        transport.close()


class _Asking(asyncio.DatagramProtocol):
    """One socket for all questions: what comes there is known by its transaction."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._waiting: dict[bytes, asyncio.Future[tuple[IP, int]]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for transaction, waiting in self._waiting.items():
            if waiting.done():
                continue
            try:
                waiting.set_result(decode_answer(data, transaction))
            except MalformedFrame:
                # It answers another question, or none; anybody can send it.
                continue
            except InvalidAnswer as e:
                waiting.set_exception(e)

    def error_received(self, exc: Exception) -> None:
        """Whoever is not there does not answer, and that is what counts."""

    async def ask(self, question: Question) -> tuple[HostPort, Seen]:
        """@raise OSError: there is no such host."""
        loop = asyncio.get_running_loop()
        place = question.place
        found = await loop.getaddrinfo(
            place.host, place.port, family=socket.AF_INET, type=socket.SOCK_DGRAM
        )
        host, port = found[0][4][:2]
        waiting = self._waiting[question.transaction] = loop.create_future()
        try:
            for pause in (*_AGAIN, None):
                self._transport.sendto(encode_request(question.transaction), (host, port))
                await asyncio.wait([waiting], timeout=pause)
                if waiting.done():
                    break
            ip, _ = waiting.result()
        finally:
            # If it is given up, nobody hears of what comes later.
            waiting.cancel()
        return HostPort(str(host), int(port)), Seen(place, ip)
