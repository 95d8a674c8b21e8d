"""
MessagePack-RPC between two peers that both may ask.

C{codec}, C{methods} and C{table} are pure; C{protocol} is the Twisted protocol.  The
wire is described in C{docs/protocol/rpc.md}::

    class Greeting(msgspec.Struct, array_like=True, frozen=True):
        name: str

    GREET = Method("greet", Greeting, str, doc="Says hello.")

    dispatcher = Dispatcher()
    dispatcher.serve(GREET, lambda peer, request: f"hello {request.name}")
    factory = RPCFactory(reactor, dispatcher)

    answer = await connected.call(GREET, Greeting("Ada"))
"""

from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.rpc.table import RPCLimits

__all__ = ["Dispatcher", "Method", "RPCFactory", "RPCLimits", "RPCProtocol"]
