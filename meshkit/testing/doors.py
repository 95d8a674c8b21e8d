"""
Calling the door of a node that lives in memory, as a program or an agent on its host does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

__all__ = ["DOOR_PORT", "MCP_VERSION", "Answer", "DoorCall", "DoorCaller"]

#: Port of every node's door, on its own loopback interface.
DOOR_PORT: Final = 7654

#: What L{DoorCaller.agent} speaks: no session is needed for it.
MCP_VERSION: Final = "2026-07-28"

LOOPBACK: Final = "127.0.0.1"


@frozen
class Answer:
    """
    What the door answered.

    @ivar status: of HTTP.
    @ivar body: of the answer.
    """

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str | None:
        """The code of the error, if it is one."""
        error = self.json.get("error")
        return None if error is None else error["code"]


class DoorCall(Protocol):
    """
    One HTTP request on a connection of its own.

    @ivar received: what the door has said so far.
    @ivar ended: the connection is over.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.received = b""
        self.ended = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True

    def answer(self) -> Answer:
        """@raise ConnectionError: if the door never gave one, or not all of it."""
        head, blank, body = self.received.partition(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        lengths = [int(each[15:]) for each in fields if each.startswith(b"content-length:")]
        if not blank or len(body) < sum(lengths):
            raise ConnectionError(f"the door ended the connection after {len(head + body)} bytes")
        return Answer(int(head.split(b" ", 2)[1]), body)


class DoorCaller(ABC):
    """Calls the door of one node.  Whoever inherits says where that is, and waits."""

    def ask(self, method: str, target: str, body: Any = None, **headers: str | None) -> Answer:
        """
        Call its door as a program on its host does, over HTTP.

        @param target: path and query string.
        @param body: what is sent as JSON; bytes are sent as they are.
        @param headers: further ones, or in place of those that are sent anyway, with C{_}
            for C{-}; L{None} leaves one out.
        @raise ConnectionError: if the door gave no answer.
        """
        call = self.call(method, target, body, **headers)
        self._await_answer(call, f"{method} {target}")
        return call.answer()

    def agent(self, method: str, profile: str = "core", **params: Any) -> Any:
        """
        Ask its door as an agent does, over MCP.

        @param method: such as C{tools/list}, or C{tools/call} with C{name} and C{arguments}.
        @param profile: which tools the agent is shown.
        @return: the result.
        """
        about = {"protocolVersion": MCP_VERSION, "clientCapabilities": {}}
        meta = {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}
        named = {"Mcp_Name": params["name"]} if "name" in params else {}
        answer = self.ask(
            "POST",
            f"/mcp?profile={profile}",
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}},
            Accept="application/json, text/event-stream",
            MCP_Protocol_Version=MCP_VERSION,
            Mcp_Method=method,
            **named,
        )
        assert answer.status == 200, answer.body
        return answer.json["result"]

    def call(self, method: str, target: str, body: Any = None, **headers: str | None) -> DoorCall:
        """Like L{ask}, without waiting for the answer."""
        sent: dict[str, str | None] = {
            "Host": f"{LOOPBACK}:{DOOR_PORT}",
            "Authorization": f"Bearer {self._door_token().decode('ascii')}",
            "Connection": "close",
        }
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        call = self._make_call(head + data)
        connecting = self._connect_door(Factory.forProtocol(lambda: call))
        # To be refused is one of the ways in which a call can end.
        connecting.addErrback(call.connectionLost)
        return call

    def _make_call(self, request: bytes) -> DoorCall:
        return DoorCall(request)

    @abstractmethod
    def _door_token(self) -> bytes:
        """What the door wants to see."""

    @abstractmethod
    def _connect_door(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the door, from its own host."""

    @abstractmethod
    def _await_answer(self, call: DoorCall, what: str) -> None:
        """Let time pass until the call has ended."""
