"""
The protocols in which a router is asked, in one form: L{Mapper}.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Any, Final, Protocol

from meshkit.mapping import natpmp, pcp
from meshkit.mapping.asking import ask
from meshkit.mapping.values import Granted, outside

#: Seconds that are waited for the answer to what ends a mapping, each time: we are leaving.
_END_WAITS: Final = (0.25, 0.5, 1.0)

#: Times that NAT-PMP is asked, of the nine that its RFC has: the rest would take a minute more,
#: of a router which has never answered.
_NATPMP_TRIES: Final = 6


class Mapper(Protocol):
    """
    A way to ask.  Its methods raise L{MappingFailed <meshkit.errors.MappingFailed>}.

    @ivar name: what the setting C{mapping.protocol} calls it.
    @ivar finds_router: it need not be told who the router is; the others have to be.
    """

    name: str
    finds_router: bool

    async def map(
        self, router: IPv4Address | None, port: int, wanted: int, lifetime: int
    ) -> Granted:
        """
        Have a port passed on, or for longer.

        @param port: TCP port of this host.
        @param wanted: the router's port that we would like.
        @param lifetime: seconds that we would like.
        """

    async def unmap(self, router: IPv4Address | None, granted: Granted) -> None:
        """Have it passed on no more."""


class NatPmp:
    """See L{meshkit.mapping.natpmp}."""

    name = "natpmp"
    finds_router = False

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def map(
        self, router: IPv4Address | None, port: int, wanted: int, lifetime: int
    ) -> Granted:
        waits = natpmp.WAITS[:_NATPMP_TRIES]
        address = await ask(
            self._reactor, router, lambda own: natpmp.ask_address(), natpmp.read_address, waits
        )
        question = natpmp.ask_port(port, wanted, lifetime)
        read = partial(natpmp.read_port, port=port)
        mapped = await ask(self._reactor, router, lambda own: question, read, waits)
        return Granted(port, outside(address, mapped.outside), mapped.lifetime)

    async def unmap(self, router: IPv4Address | None, granted: Granted) -> None:
        question = natpmp.ask_end(granted.port)
        read = partial(natpmp.read_port, port=granted.port)
        await ask(self._reactor, router, lambda own: question, read, _END_WAITS)


class Pcp:
    """See L{meshkit.mapping.pcp}."""

    name = "pcp"
    finds_router = False

    def __init__(self, reactor: Any, nonce: Callable[[], bytes]) -> None:
        """
        @param nonce: gives the nonce of this node's mappings, the same after a restart: else the
            router would take the node for another one, until its old mapping has ended.
        """
        self._reactor = reactor
        self._nonce = nonce

    async def map(
        self, router: IPv4Address | None, port: int, wanted: int, lifetime: int
    ) -> Granted:
        nonce = self._nonce()
        mapped = await ask(
            self._reactor,
            router,
            lambda own: pcp.ask_port(nonce, own, port, wanted, lifetime),
            partial(pcp.read_port, nonce=nonce, port=port),
            pcp.WAITS,
        )
        return Granted(port, outside(mapped.address, mapped.outside), mapped.lifetime)

    async def unmap(self, router: IPv4Address | None, granted: Granted) -> None:
        nonce = self._nonce()
        await ask(
            self._reactor,
            router,
            lambda own: pcp.ask_end(nonce, own, granted.port),
            partial(pcp.read_port, nonce=nonce, port=granted.port),
            _END_WAITS,
        )
