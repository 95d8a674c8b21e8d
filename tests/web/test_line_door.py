"""Tests of L{meshkit.web.line_door}: agents that want a connection of lines, at a whole node."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.nodes import DOOR_PORT, MemoryMesh
from meshkit.web.line_door import MAX_LINES, MAX_OF_ONE

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


class Client(Protocol):
    def __init__(self, first: bytes) -> None:
        self._first = first
        self.received = b""
        self.ended = False

    def connectionMade(self) -> None:
        self.send(self._first)

    def send(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def error(self) -> str:
        return str(json.loads(self.received.partition(b"\r\n\r\n")[2])["error"]["code"])

    def lines(self) -> list[Any]:
        """What came as lines since this was asked last."""
        head, _, rest = self.received.partition(b"\r\n\r\n")
        self.received = head + b"\r\n\r\n"
        return [json.loads(line) for line in rest.splitlines()]


class LineDoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.node = self.mesh.node("a", makers=())
        self.node.start()

    def token(self) -> str:
        return self.node.files.content[f"{self.node.folder}/door.token"].decode().strip()

    def connect(self, path: str = "/mcp", more: bytes = b"", **headers: str | None) -> Client:
        sent: dict[str, str | None] = {
            "Host": f"127.0.0.1:{DOOR_PORT}",
            "Authorization": f"Bearer {self.token()}",
            "Connection": "keep-alive, Upgrade",
            "Upgrade": "mcp-lines",
            **headers,
        }
        lines = [f"GET {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
        client = Client("\r\n".join([*lines, "", ""]).encode() + more)
        network, host = self.node.host._where("127.0.0.1")
        endpoint = network.client_endpoint(DOOR_PORT, host)
        endpoint.connect(Factory.forProtocol(lambda: client))
        self.mesh.run(0.1)
        return client

    def test_lines_are_spoken_from_then_on(self) -> None:
        for path in ("/mcp", "/mcp/", "/mcp?profile=egregore"):
            client = self.connect(path)
            self.assertEqual(client.status, 101)
            self.assertEqual(client.lines(), [])
            for piece in (PING[:10], PING[10:] + PING):
                client.send(piece)
            self.mesh.run(0.1)
            self.assertEqual(client.lines(), [{"jsonrpc": "2.0", "id": 1, "result": {}}] * 2)

    def test_what_was_sent_in_advance_is_not_lost(self) -> None:
        client = self.connect(more=PING)
        self.assertEqual(len(client.lines()), 1)

    def test_who_may_come_in_is_judged_as_always(self) -> None:
        for code, change in (
            ("UNAUTHORIZED", {"Authorization": None}),
            ("UNAUTHORIZED", {"Authorization": "Bearer x"}),
            ("FORBIDDEN_ORIGIN", {"Host": "evil.example"}),
            ("FORBIDDEN_ORIGIN", {"Origin": "http://evil.example"}),
        ):
            client = self.connect(more=PING, **change)
            self.assertGreaterEqual(client.status, 400)
            self.assertEqual(client.error, code)

    def test_a_profile_that_is_none(self) -> None:
        client = self.connect("/mcp?profile=nonsense")
        self.assertEqual((client.status, client.error), (400, "INVALID_REQUEST"))

    def test_who_asks_for_something_else_is_answered_in_http(self) -> None:
        for change in ({"Upgrade": "websocket"}, {"Connection": "close"}):
            self.assertGreaterEqual(self.connect(**change).status, 400)

    def test_so_many_at_a_time_and_not_all_of_them_for_one_token(self) -> None:
        tokens = []
        for name in ("one", "two", "three"):
            answer = self.node.ask("POST", "/v1/tokens", {"name": name, "scopes": ["read"]})
            tokens.append(f"Bearer {answer.json['data']['token']}")
        clients = [self.connect(Authorization=tokens[0]) for _ in range(MAX_OF_ONE)]
        self.assertEqual({client.status for client in clients}, {101})
        refused = self.connect(Authorization=tokens[0])
        self.assertEqual((refused.status, refused.error), (503, "OVERLOADED"))
        while len(clients) < MAX_LINES:
            clients.append(self.connect(Authorization=tokens[1]))
            self.assertEqual(clients[-1].status, 101)
        refused = self.connect(Authorization=tokens[2])
        self.assertEqual((refused.status, refused.error), (503, "OVERLOADED"))
        # One goes, and there is room.
        transport: Any = clients[0].transport
        transport.loseConnection()
        self.mesh.run(0.1)
        self.assertEqual(self.connect(Authorization=tokens[2]).status, 101)

    def test_a_token_that_is_revoked_ends_what_is_open_by_it(self) -> None:
        answer = self.node.ask("POST", "/v1/tokens", {"name": "one", "scopes": ["read"]})
        client = self.connect(Authorization=f"Bearer {answer.json['data']['token']}")
        other = self.connect()
        self.node.ask("DELETE", "/v1/tokens/one")
        self.mesh.run(0.1)
        self.assertEqual((client.ended, other.ended), (True, False))

    def test_a_node_that_stops_says_goodbye_to_all(self) -> None:
        clients = [self.connect() for _ in range(3)]
        self.node.stop()
        self.mesh.run(0.1)
        self.assertEqual([client.ended for client in clients], [True] * 3)
