"""
A client in the same process, for tests of what a server offers.

It takes and gives the very texts that go over a wire, at once and without a reactor::

    client = connect(server)
    client.initialize()
    result = self.successResultOf(client.call("add", {"a": 1, "b": 2}))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire
from meshkit.web.mcp.catalogue import schema_validator
from meshkit.web.mcp.server import Server


class MemoryClient:
    """
    @ivar sent: every message that came from the server, as it was written.
    @ivar notifications: those of them that are notifications.
    @ivar questions: those that are requests of the server's; see L{reply}.
    @ivar closed: the server has ended the session.
    @ivar last_id: the id of the last request, for L{cancel}.
    """

    def __init__(
        self,
        server: Server,
        caller: Any,
        view: Any,
        stateless: bool,
        capabilities: Mapping[str, Any],
    ) -> None:
        self.sent: list[bytes] = []
        self.notifications: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []
        self.closed = False
        self.last_id = 0
        self._stateless = stateless
        self._capabilities = dict(capabilities)
        self._waiting: dict[Any, Deferred[dict[str, Any]]] = {}
        self._schemas: dict[str, Any] = {}
        self.session = server.session(self._receive, caller, view, self._ended)

    def initialize(self, version: str = wire.NEWEST_HANDSHAKE) -> dict[str, Any]:
        """
        Introduce ourselves, as the handshake generation does.

        @return: what the server says of itself.
        """
        told: dict[str, Any] = {}
        self.request(
            "initialize",
            {
                "protocolVersion": version,
                "capabilities": self._capabilities,
                "clientInfo": {"name": "memory", "version": "1"},
            },
        ).addCallback(told.update)
        self.notify("notifications/initialized")
        return told

    def request(
        self, method: str, params: Mapping[str, Any] | None = None
    ) -> Deferred[dict[str, Any]]:
        """@return: Deferred of the result; fails with L{McpRefused}, data and all."""
        self.last_id += 1
        id = self.last_id
        given = dict(params or {})
        if self._stateless:
            meta = {
                wire.META_VERSION: wire.STATELESS_VERSIONS[-1],
                wire.META_CAPABILITIES: self._capabilities,
            }
            given["_meta"] = meta | given.get("_meta", {})
        answered: Deferred[dict[str, Any]] = Deferred(lambda _: self.cancel(id))
        self._waiting[id] = answered
        self.session.receive(wire.request(id, method, given))
        return answered

    def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, **meta: Any
    ) -> Deferred[dict[str, Any]]:
        """
        Call a tool.

        @param meta: for C{_meta}, such as C{progressToken}.
        @return: Deferred of the result.  If L{tools} was asked for before, what is
            structured in it has been checked against the tool's schema.
        """
        params: dict[str, Any] = {"name": tool, "arguments": dict(arguments or {})}
        if meta:
            params["_meta"] = meta
        return self.request("tools/call", params).addCallback(self._checked, tool)

    def _checked(self, result: dict[str, Any], tool: str) -> dict[str, Any]:
        schema = self._schemas.get(tool)
        if schema is not None and not result.get("isError"):
            wrong = schema_validator(schema)(result.get("structuredContent"))
            if wrong is not None:
                raise AssertionError(f"the result of {tool} is not of its schema: {wrong}")
        return result

    def tools(self) -> list[dict[str, Any]]:
        """@return: every tool that is shown, page by page."""
        found = self.listed("tools/list", "tools")
        self._schemas = {tool["name"]: tool.get("outputSchema") for tool in found}
        return found

    def listed(self, method: str, key: str) -> list[dict[str, Any]]:
        """@return: a whole list, page by page."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        while True:
            pages: list[dict[str, Any]] = []
            self.request(method, params).addCallback(pages.append)
            if not pages:
                raise AssertionError(f"{method} was refused: {self.sent[-1]!r}")
            found += pages[0][key]
            if "nextCursor" not in pages[0]:
                return found
            params = {"cursor": pages[0]["nextCursor"]}

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Tell the server something."""
        self.session.receive(wire.notification(method, params))

    def cancel(self, id: int) -> None:
        """Want no answer any more to a request."""
        self.notify("notifications/cancelled", {"requestId": id})

    def reply(self, result: Mapping[str, Any]) -> None:
        """Answer the oldest of L{questions}."""
        question = self.questions.pop(0)
        self.session.receive(wire.answer(question["id"], result))

    def close(self) -> None:
        """Go."""
        self.session.close()

    def _receive(self, text: bytes) -> None:
        self.sent.append(text)
        message = msgspec.json.decode(text)
        if "method" in message:
            (self.questions if "id" in message else self.notifications).append(message)
            return
        waiting = self._waiting.pop(message["id"], None)
        if waiting is None:
            return
        if "error" in message:
            error = message["error"]
            waiting.errback(McpRefused(error["code"], error["message"], error.get("data")))
        else:
            waiting.callback(message["result"])

    def _ended(self) -> None:
        self.closed = True


def connect(
    server: Server,
    caller: Any = None,
    view: Any = None,
    *,
    stateless: bool = False,
    capabilities: Mapping[str, Any] | None = None,
) -> MemoryClient:
    """
    @param stateless: speak the stateless generation; then L{MemoryClient.initialize} is not
        needed.
    @param capabilities: what the client says that it can do.
    @return: a client of a server.
    """
    return MemoryClient(server, caller, view, stateless, capabilities or {})
