"""The relay's side of the registry, on connections that prove who calls."""

from __future__ import annotations

from typing import Any

from meshkit.errors import PermissionDenied
from meshkit.identity.keys import PublicKey
from meshkit.relay.registry.registry import Registry
from meshkit.relay.registry.wire import (
    DIRECTORY,
    REGISTER,
    STANDING,
    DirectoryRequest,
    Listed,
    RegisterRequest,
    Standing,
    StandingRequest,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCProtocol

__all__ = ["serve_registry"]


def serve_registry(registry: Registry, dispatcher: Dispatcher) -> None:
    """
    Offer the methods of L{meshkit.relay.registry.wire}.

    @raise ValueError: if one of their names is served already.
    """

    async def register(caller: RPCProtocol, request: RegisterRequest) -> bytes:
        return (await registry.enter(request.statement, _key_of(caller))).raw

    async def standing(caller: RPCProtocol, request: StandingRequest) -> Standing:
        key, figures = _key_of(caller), registry.figures()
        registry.saw(key)
        peer = registry.find(key)
        if peer is None:
            return Standing(None, 0, figures.peers, figures.max_peers)
        return Standing(peer.registration.raw, peer.since, figures.peers, figures.max_peers)

    async def directory(caller: RPCProtocol, request: DirectoryRequest) -> Listed:
        registry.saw(_key_of(caller))
        found = await registry.directory(request.after, request.limit)
        statements = [peer.registration.raw for peer in found.peers]
        return Listed(statements, found.total, found.more)

    handlers: tuple[tuple[Any, Any], ...] = (
        (REGISTER, register),
        (STANDING, standing),
        (DIRECTORY, directory),
    )
    for method, handler in handlers:
        dispatcher.serve(method, handler)


def _key_of(caller: RPCProtocol) -> PublicKey:
    if caller.key is None:
        raise PermissionDenied("who registers proves a key: connect by a secure channel")
    return caller.key
