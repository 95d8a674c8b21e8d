"""An agent: an MCP client of the handshake generation, without a transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from meshkit.web.callers import OWNER, Caller
from meshkit.web.mcp.server import Server


class Agent:
    """
    @ivar told: the notifications that came, in order.
    @ivar instructions: what it was told when it began.
    """

    def __init__(
        self,
        server: Server,
        caller: Caller = OWNER,
        view: str | None = None,
        run: Callable[[Callable[[], bool]], None] | None = None,
    ) -> None:
        """@param run: lets time pass until something is so."""
        self._run = run
        self._last = 0
        self._answers: dict[int, Any] = {}
        self.told: list[Any] = []
        self.session = server.session(self._got, caller, view)
        begun = self.ask(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "test", "version": "1"},
        )
        self.instructions: str = begun["result"].get("instructions", "")

    def _got(self, text: bytes) -> None:
        message = json.loads(text)
        if "id" in message:
            self._answers[message["id"]] = message
        else:
            self.told.append(message)

    def begin(self, method: str, text: str) -> int:
        """@param text: the JSON text of the parameters."""
        self._last += 1
        head = f'{{"jsonrpc": "2.0", "id": {self._last}, "method": "{method}", "params": '
        self.session.receive((head + text + "}").encode("utf-8"))
        return self._last

    def answer(self, id: int) -> Any:
        """@return: the whole message that answered a request."""
        if id not in self._answers and self._run is not None:
            self._run(lambda: id in self._answers)
        return self._answers.pop(id)

    def ask(self, method: str, **params: Any) -> Any:
        """A request and its answer."""
        return self.answer(self.begin(method, json.dumps(params)))

    def call(self, tool: str, arguments: str | None = None, /, **given: Any) -> Any:
        """
        Call a tool.

        @param arguments: their JSON text, in place of C{given}.
        @return: the result.
        """
        text = json.dumps(given) if arguments is None else arguments
        id = self.begin("tools/call", f'{{"name": {json.dumps(tool)}, "arguments": {text}}}')
        message = self.answer(id)
        assert "result" in message, message
        return message["result"]

    def tools(self) -> dict[str, Any]:
        """@return: all that it is shown, by name."""
        found: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.ask("tools/list", **cursor)["result"]
            found += page["tools"]
            if "nextCursor" not in page:
                return {tool["name"]: tool for tool in found}
            cursor = {"cursor": page["nextCursor"]}
