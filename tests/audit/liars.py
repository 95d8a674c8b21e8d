"""Peers that are audited, and do not play fair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from meshkit.audit.factory import AuditFactory
from meshkit.audit.wire import AgainRequest, LeavesRequest, OpenRequest, Page, RevealRequest
from meshkit.rpc.protocol import RPCProtocol


class Liar(AuditFactory):
    """
    Does as it should, but for what a test says.

    @ivar silent: methods that it never answers.
    @ivar leaves: methods at which it ends the connection.
    @ivar change_answer: is given the answer, returns what is sent.
    @ivar change_page: is given the number of the page and the page, likewise.
    @ivar calls: methods that were called, in order.
    """

    silent: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    change_answer: Callable[[bytes], bytes] = staticmethod(lambda raw: raw)
    change_page: Callable[[Page], Page] = staticmethod(lambda page: page)
    calls: list[str]

    async def _meet(self, connection: RPCProtocol, method: str) -> None:
        self.calls.append(method)
        if method in self.silent:
            await Deferred()
        if method in self.leaving:
            connection.abort()

    async def _open(self, connection: RPCProtocol, request: OpenRequest) -> bytes:
        await self._meet(connection, "open")
        return self.change_answer(await super()._open(connection, request))

    async def _reveal(self, connection: RPCProtocol, request: RevealRequest) -> Page:
        await self._meet(connection, "reveal")
        return self.change_page(await super()._reveal(connection, request))

    async def _again(self, connection: RPCProtocol, request: AgainRequest) -> Page:
        await self._meet(connection, "again")
        return self.change_page(await super()._again(connection, request))

    async def _leaves(self, connection: RPCProtocol, request: LeavesRequest) -> Page:
        await self._meet(connection, "leaves")
        return self.change_page(await super()._leaves(connection, request))


def make_liar(world: Any, kind: type[Liar] = Liar, **lies: Any) -> Liar:
    """The peer of a world lies from now on."""
    honest = world.factory
    liar: Liar = world.make_factory(kind=kind, sampler=lies.pop("sampler", world.sampler))
    liar.calls = []
    for name, lie in lies.items():
        getattr(liar, name)
        setattr(liar, name, lie)
    honest.stop()
    world.factory = liar
    # To what is connected already, the honest one would answer.
    for wire in world.network.wires:
        wire.cut()
    world.advance(0)
    return liar
