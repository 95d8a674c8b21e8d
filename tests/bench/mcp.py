"""
Calls of one tool over MCP: our library, the official Python SDK with the same tool, and a
bare klein route that gives the same bytes and knows no protocol.

Both servers check the arguments against the tool's schema and answer in JSON.
"""

from __future__ import annotations

import itertools
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, Final

import msgspec
from attrs import define, field

from tests.bench.children import PEERS, ROOT, Child, ChildFailed, child, python
from tests.bench.doors import Answer, Door, closed_loop
from tests.bench.figures import percentile, ratio, spread, table

_SDK: Final = ROOT / ".tools" / "mcp" / "bin" / "python"
_CLIENTS: Final = (1, 20)
_HANDSHAKE: Final = "2025-11-25"
STATELESS: Final = "2026-07-28"
_ABOUT: Final = "io.modelcontextprotocol/"


@define
class _Server:
    """
    One of the three.

    @ivar rates: calls per second of each round, by protocol and number of clients.
    @ivar late: seconds that each call took.
    @ivar absent: why there are no figures.
    """

    name: str
    child: Child | None = None
    door: Door | None = None
    session: str = ""
    absent: str | None = None
    rates: defaultdict[Any, list[float]] = field(factory=lambda: defaultdict(list))
    late: defaultdict[Any, list[float]] = field(factory=lambda: defaultdict(list))


def post(door: Door, message: dict[str, Any], **headers: str) -> bytes:
    """A whole request that sends a message."""
    body = msgspec.json.encode({"jsonrpc": "2.0", **message})
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: {door.url.removeprefix('http://')}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _ask(door: Door, request: bytes) -> tuple[bytes, bytes]:
    """@return: head and body of an answer that is good."""
    with closing(door.connect()) as connection:
        connection.sendall(request)
        answer = Answer()
        while (whole := answer.feed(_receive(connection))) is None:
            pass
        if not 200 <= whole[0] < 300:
            raise RuntimeError(f"HTTP {whole[0]}: {whole[1][:300]!r}")
        return bytes(answer.buffer).partition(b"\r\n\r\n")[0], whole[1]


def _receive(connection: socket.socket) -> bytes:
    return connection.recv(256 * 1024)


def _open_session(door: Door) -> str:
    about = {"name": "bench", "version": "1"}
    params = {"protocolVersion": _HANDSHAKE, "capabilities": {}, "clientInfo": about}
    head, _ = _ask(door, post(door, {"id": 1, "method": "initialize", "params": params}))
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "mcp-session-id":
            session = value.strip()
            break
    else:
        raise RuntimeError("the server gave no session")
    said = {"method": "notifications/initialized"}
    _ask(door, post(door, said, Mcp_Session_Id=session, MCP_Protocol_Version=_HANDSHAKE))
    return session


def call(
    door: Door, protocol: str, tool: str, arguments: dict[str, Any], id: int, **headers: str
) -> bytes:
    """A whole request that calls a tool."""
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    headers = {"MCP_Protocol_Version": protocol, **headers}
    if protocol == STATELESS:
        params["_meta"] = {
            f"{_ABOUT}protocolVersion": protocol,
            f"{_ABOUT}clientCapabilities": {},
        }
        headers |= {"Mcp_Method": "tools/call", "Mcp_Name": tool}
    return post(door, {"id": id, "method": "tools/call", "params": params}, **headers)


def _call(it: _Server, protocol: str, id: int = 2) -> bytes:
    assert it.door is not None
    own = {} if protocol == STATELESS else {"Mcp_Session_Id": it.session}
    return call(it.door, protocol, "add", {"a": 7, "b": 35}, id, **own)


def _begin(it: _Server) -> None:
    assert it.child is not None
    it.door = Door(it.child.ask("listen"))
    it.session = _open_session(it.door)
    for protocol in (_HANDSHAKE, STATELESS):
        answer = msgspec.json.decode(_ask(it.door, _call(it, protocol))[1])
        if answer["result"]["structuredContent"] != {"result": 42}:
            raise RuntimeError(f"{it.name} adds otherwise: {answer!r}")


def _requests(it: _Server, protocol: str) -> Iterator[bytes]:
    # Of one session, no two that are under way may have the same id.
    return itertools.cycle([_call(it, protocol, id) for id in range(1_000, 1_256)])


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, seconds = (2, 0.5) if quick else (5, 1.0)
    ours, sdk, bare = _Server("meshkit.web.mcp"), _Server("PyPI mcp, uvicorn"), _Server("klein")
    with ExitStack() as stack:
        ours.child = stack.enter_context(child("our server", python("mcp_ours")))
        _begin(ours)
        try:
            if not _SDK.exists():
                raise ChildFailed("it is not installed: run .ci/tools bench")
            command = [str(_SDK), str(PEERS / "mcp_sdk.py")]
            sdk.child = stack.enter_context(child("the SDK's server", command))
            _begin(sdk)
        except ChildFailed as error:
            sdk.absent = str(error)
        bare.child = stack.enter_context(child("klein", python("klein_route")))
        assert ours.door is not None
        body = _ask(ours.door, _call(ours, STATELESS))[1].decode()
        bare.door = Door(bare.child.ask("listen", routes={"/mcp": body}))
        for _ in range(rounds):
            for protocol, clients in itertools.product((_HANDSHAKE, STATELESS), _CLIENTS):
                for it in (ours, sdk, bare):
                    if it.absent is not None:
                        continue
                    assert it.door is not None
                    latencies, took = closed_loop(
                        it.door, clients, _requests(it, protocol), lambda since: since < seconds
                    )
                    it.rates[protocol, clients].append(len(latencies) / took)
                    it.late[protocol, clients] += latencies
    rows = []
    for key in itertools.product((_HANDSHAKE, STATELESS), _CLIENTS):
        p99 = [
            f"{percentile(it.late[key], 0.99) * 1000:.2f} ms" if it.late[key] else "absent"
            for it in (ours, sdk)
        ]
        rows.append(
            [
                *map(str, key),
                *(spread(it.rates[key], "/s") for it in (ours, sdk, bare)),
                ratio(ours.rates[key], sdk.rates[key]),
                ratio(ours.rates[key], bare.rates[key]),
                *p99,
            ]
        )
    heads = [
        *("protocol", "clients", "ours", sdk.name, "bare klein", "ours/SDK", "ours/klein"),
        *("our p99", "SDK's p99"),
    ]
    text = "\n\n".join(["## Calls of one tool over MCP", table(heads, rows)])
    return text + (f"\nabsent: {sdk.name}: {sdk.absent}" if sdk.absent else "")
