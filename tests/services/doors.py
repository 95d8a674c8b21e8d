"""
The doors of a node, each as its users use it: over HTTP, as tools, and by C{meshkit call}.

A door takes an operation and its fields and gives what came of it in one form, L{Answered}
or L{Refused}, so that doors can be compared.  What is sent is made here from the operation's
declaration, and not by the code that is tested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from attrs import field, frozen

from meshkit.operations import Operation

MCP_VERSION: Final = "2026-07-28"
_META: Final = "io.modelcontextprotocol"

#: Seconds after which what happens while a stream is open begins.
AFTER: Final = 1.0

Fields = Mapping[str, Any]


@frozen
class Answered:
    """
    @ivar data: the answer; of a stream its items, of raw bytes these.
    @ivar metadata: what is said beside it.
    """

    data: Any
    metadata: Any = None


@frozen
class Refused:
    """
    @ivar message: left out of comparisons where doors read different texts.
    @ivar details: L{None} also where a door does not show them.
    """

    code: str
    message: str = ""
    details: Any = field(default=None, eq=False)


Outcome = Answered | Refused


@frozen
class Reply:
    """What an HTTP request was answered with."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Node(Protocol):
    """What a door needs of a node.  Everything is done with the owner's token, unless another
    one is shown."""

    def http(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        """One request; C{headers} add to the usual ones."""

    def events(
        self, target: str, count: int, headers: Mapping[str, str]
    ) -> Reply | list[tuple[str | None, Any]]:
        """Read so many items (id, data) of a stream; or the answer, if it is no stream."""

    def command(self, *arguments: str, stdin: bytes) -> tuple[int, bytes, str]:
        """Run C{meshkit}: exit code, standard output, standard error."""


class Rest:
    """The REST routes."""

    name = "REST"

    def __init__(self, node: Node) -> None:
        self._node = node
        #: The last answer; of a stream, a list of the data of its items.
        self.last = Reply(0, b"")

    def target(self, operation: Operation, fields: Fields) -> str:
        """Path and query string."""
        path = operation.path
        rest = dict(fields)
        for name in operation.path_fields:
            path = path.replace(f"{{{name}}}", quote(str(rest.pop(name)), safe=""))
        rest.pop(operation.takes or "", None)
        if operation.method == "POST" and operation.takes is None:
            return path
        query = urlencode([(name, _text(v)) for name, value in rest.items() for v in _each(value)])
        return f"{path}?{query}" if query else path

    def ask(self, operation: Operation, fields: Fields, token: str | None = None) -> Reply:
        """The answer as it comes."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body: bytes | None = None
        if operation.takes is not None:
            body = fields.get(operation.takes, b"")
            headers["Content-Type"] = "application/octet-stream"
        elif operation.method == "POST":
            rest = {k: v for k, v in fields.items() if k not in operation.path_fields}
            body = json.dumps(rest).encode()
        return self._node.http(operation.method, self.target(operation, fields), body, headers)

    def call(
        self, operation: Operation, fields: Fields, token: str | None = None, items: int = 1
    ) -> Outcome:
        if operation.stream:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            found = self._node.events(self.target(operation, fields), items, headers)
            if isinstance(found, list):
                data = [data for _, data in found]
                self.last = Reply(200, json.dumps(data).encode())
                return Answered(data, {"last_id": found[-1][0]})
            self.last = found
            return _of_envelope(found)
        reply = self.last = self.ask(operation, fields, token)
        if reply.status == 204:
            return Answered(None)
        if operation.sends is not None and reply.status < 300:
            return Answered(reply.body)
        return _of_envelope(reply)


class Mcp:
    """The tools, over HTTP in the stateless generation."""

    name = "MCP"

    def __init__(self, node: Node) -> None:
        self._node = node
        #: The last result of a tool.
        self.last: Any = None

    def rpc(
        self, method: str, params: Mapping[str, Any], token: str | None = None, name: str = ""
    ) -> tuple[int, Any]:
        """@return: the HTTP status, and the JSON-RPC answer or the door's."""
        meta = {
            f"{_META}/protocolVersion": MCP_VERSION,
            f"{_META}/clientInfo": {"name": "four-doors", "version": "1"},
            f"{_META}/clientCapabilities": {},
        }
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MCP_VERSION,
            "Mcp-Method": method,
        }
        if name:
            headers["Mcp-Name"] = name
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        reply = self._node.http("POST", "/mcp", json.dumps(message).encode(), headers)
        text = reply.body
        if text.lstrip().startswith(b"{"):
            return reply.status, json.loads(text)
        # Events: the answer is the last one.
        data = [line[5:] for line in text.split(b"\n") if line.startswith(b"data:")]
        return reply.status, json.loads(data[-1])

    def tools(self, token: str | None = None) -> dict[str, Any]:
        """The tools that a token is shown, by name."""
        found: dict[str, Any] = {}
        cursor: dict[str, str] = {}
        while True:
            _, answer = self.rpc("tools/list", cursor, token)
            found |= {tool["name"]: tool for tool in answer["result"]["tools"]}
            if "nextCursor" not in answer["result"]:
                return found
            cursor = {"cursor": answer["result"]["nextCursor"]}

    def use(self, name: str, arguments: Fields, token: str | None = None) -> tuple[int, Any]:
        """Call a tool."""
        return self.rpc("tools/call", {"name": name, "arguments": arguments}, token, name)

    def call(
        self, operation: Operation, fields: Fields, token: str | None = None, items: int = 1
    ) -> Outcome:
        if operation.stream:
            fields = {**fields, "max_items": items, "wait_seconds": 5 * AFTER}
        _, answer = self.use(operation.name, fields, token)
        if answer.get("success") is False:
            # The door refused before MCP began.
            return _refused(answer["error"])
        if "error" in answer:
            return Refused(f"RPC {answer['error']['code']}", answer["error"]["message"])
        result = self.last = answer["result"]
        structured = result["structuredContent"]
        if result.get("isError"):
            return _refused(structured["error"])
        metadata = structured.get("metadata")
        if operation.stream:
            # Agents get it as the field takes it by which the stream is resumed; at the
            # others it is the text that an event has.
            last = metadata["last_id"]
            metadata = {**metadata, "last_id": None if last is None else str(last)}
        return Answered(structured["data"], metadata)


class Command:
    """C{meshkit call}."""

    name = "meshkit call"
    _LINE: Final = re.compile(r"meshkit: (.*) \[([A-Z_]+)\]")

    def __init__(self, node: Node, token_file: Callable[[str], str]) -> None:
        """@param token_file: puts a token into a file and gives its path."""
        self._node = node
        self._token_file = token_file

    def words(self, operation: Operation, fields: Fields) -> tuple[list[str], bytes]:
        """Fields as they are typed, and standard input."""
        words, stdin = [], b""
        for name, value in fields.items():
            if name == operation.takes:
                words.append(f"{name}=@-")
                stdin = value
            elif isinstance(value, list) and all(isinstance(each, str) for each in value):
                words += [f"{name}={each}" for each in value]
            elif isinstance(value, str):
                words.append(f"{name}={value}")
            elif isinstance(value, list):
                words.append(f"{name}:={json.dumps(value)}")
            else:
                words.append(f"{name}={json.dumps(value)}")
        return words, stdin

    def call(
        self, operation: Operation, fields: Fields, token: str | None = None, items: int = 1
    ) -> Outcome:
        words, stdin = self.words(operation, fields)
        options = [] if token is None else ["--token-file", self._token_file(token)]
        if operation.stream:
            options += ["--max-items", str(items)]
        if operation.sends is None:
            options.append("--json")
        arguments = ["call", operation.name, *words, *options]
        code, out, err = self._node.command(*arguments, stdin=stdin)
        if code != 0:
            found = self._LINE.fullmatch(err.strip())
            if code != 1 or out or found is None:
                raise AssertionError(f"meshkit {arguments} ended with {code}: {out!r} {err}")
            return Refused(found[2], found[1])
        if operation.sends is not None:
            return Answered(out)
        if operation.stream:
            lines = [json.loads(line) for line in out.splitlines()]
            shown = [line for line in lines if line["event"] == "message"]
            return Answered([line["data"] for line in shown], {"last_id": shown[-1]["id"]})
        document = json.loads(out)
        return Answered(document["data"], document.get("metadata"))


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _of_envelope(reply: Reply) -> Outcome:
    envelope = reply.json
    if envelope["success"]:
        return Answered(envelope["data"], envelope.get("metadata"))
    return _refused(envelope["error"])


def _refused(error: Mapping[str, Any]) -> Refused:
    return Refused(error["code"], error["message"], error.get("details"))
