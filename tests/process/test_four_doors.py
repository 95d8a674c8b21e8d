"""
Every operation of a real node, once through each door: over sockets and as child processes.

What the doors answer is compared to the last bit in C{tests/services/test_four_doors.py}.
Here it is seen that nothing in between, neither C{twistd}, nor TCP, nor the command's own
process, makes one of them fail; and that a part that lies on the path of the node, and
nowhere else, is at all of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import Operation
from meshkit.web.sse import EventReader
from tests.examples.support import CUSTOM_PART
from tests.ports import free_ports
from tests.process.mesh import PATIENCE, Mesh, Node, Shared, wait_for
from tests.process.relays import RelayNode
from tests.process.web_server import WebServer
from tests.servers import document_of
from tests.services.calls import CALLS, OBJECT_FILE, PEERS_MESSAGES, Call, Fields, given, prepare
from tests.services.doors import AFTER, Answered, Command, Mcp, Refused, Reply, Rest

CONFIG = """
compat = ["egregore"]
advertise = ["127.0.0.1:{port}"]

[wellknown]
publish = true
allow_addresses = ["127.0.0.1"]
ca_file = "{authorities}"

[[hooks.webhook]]
name = "web"
url = "http://127.0.0.1:9/nobody"
plain_http = true
allow_addresses = ["127.0.0.1"]
begin = "beginning"
types = ["insight"]
max_attempts = 1

[egregore]
network = "a network of Egregore's"

[roundtrip]
probes = 2
"""

#: Where files are kept: at one peer, which lends room for them.
STORAGE = """
[storage]
scheme = "1+0"
peers = ["{peer}"]

[audit]
enabled = false
"""
KEEPER = """
[keeper]
max_storage = 1000000000
"""


class RealNode:
    """What a door needs of a node, of a real one."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def http(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        host, port = self.node.door
        sent = {"Authorization": f"Bearer {self.node.token}"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with closing(HTTPConnection(str(host), int(port), timeout=PATIENCE)) as connection:
            connection.request(method, target, body, {**sent, **headers})
            response = connection.getresponse()
            return Reply(response.status, response.read())

    def events(
        self, target: str, count: int, headers: Mapping[str, str]
    ) -> Reply | list[tuple[str | None, Any]]:
        host, port = self.node.door
        sent = {"Authorization": f"Bearer {self.node.token}", **headers}
        with closing(HTTPConnection(str(host), int(port), timeout=PATIENCE)) as connection:
            connection.request("GET", target, headers=sent)
            response = connection.getresponse()
            if response.status != 200:
                return Reply(response.status, response.read())
            items: list[tuple[str | None, Any]] = []
            reader = EventReader()
            while len(items) < count:
                for event in reader.feed(response.read1()):
                    if event.event == "message":
                        items.append((event.id or None, json.loads(event.data)))
            return items

    def command(self, *arguments: str, stdin: bytes) -> tuple[int, bytes, str]:
        done = self.node.cli(*arguments, stdin=stdin)
        return done.code, done.out.encode("utf-8", "surrogateescape"), done.err


class World:
    """Two nodes with everything that is installed, and somebody else's part."""

    def __init__(self, mesh: Mesh) -> None:
        path = {"PYTHONPATH": str(CUSTOM_PART)}
        bob = mesh.node("bob")
        (bob.data / "meshkit.toml").write_text(KEEPER)
        bob.start(more=path)
        for message in PEERS_MESSAGES:
            bob.ask("POST", "/v1/publish", message)
        relay = mesh.node("relay", network=bob, kind=RelayNode)
        relay.start()
        (port,) = free_ports(1)
        dialled = ("--peer", bob.address, "--relays-use", relay.address)
        listening = ("--listen", f"tcp:{port}:interface=127.0.0.1")
        ada = mesh.node("ada", *dialled, *listening, network=bob)
        self.web = WebServer(mesh.folder, document_of(bob.address, bob.status["network"]))
        config = CONFIG.format(port=port, authorities=self.web.authorities)
        (ada.data / "meshkit.toml").write_text(config + STORAGE.format(peer=bob.address))
        ada.start(more=path)
        self.real = RealNode(ada)
        self.rest = Rest(self.real)
        self.mcp = Mcp(self.real)
        folder = mesh.folder

        def token_file(token: str) -> str:
            path = folder / "token"
            path.touch(0o600)
            path.write_text(token)
            return str(path)

        self.command = Command(self.real, token_file)
        self.operations = {each["name"]: declared(each) for each in ada.get("/v1/operations")}
        prepare(self.good)
        bobs = str(bob.good("id").lines[0])

        def exported() -> Any:
            messages = self.good("feed_export", {"author": bobs})["messages"]
            return messages if len(messages) == len(PEERS_MESSAGES) else None

        messages = wait_for("messages of bob's", exported)
        self.facts = {
            "bob": bobs,
            "bob_address": bob.address,
            "message": messages[0]["hash"],
            "exported": messages,
            "copy": str(folder / "copy"),
            "relay_address": relay.address,
            "domain": self.web.domain,
        }
        self.facts["transfer"], self.facts["object"] = self._put_object()
        _, self.facts["doomed"] = self._put_object()
        self.facts["watched"], self.facts["repair"] = self._others_object(mesh, bob)
        self.facts["run"] = self.good("audit_run", {})["run"]
        ended = self.good("audit_run_show", {"run": "latest", "wait": 30})
        assert ended["state"] == "done", ended
        self.facts["invite"] = self.good("invites_make", {})["id"]
        self.facts["audit"] = self.good("audit_receipts", {})[0]["id"]
        self._write_letters(str(ada.good("id").lines[0]))

    def _write_letters(self, to: str) -> None:
        """Have the node write to itself."""
        note = {"to": to, "text": "feed the herons"}
        self.facts["posted"] = self.good("mailbox_send", note)["id"]
        self.good("mailbox_send", note)

        def both() -> Any:
            letters = self.good("mailbox_list", {})
            return letters if len(letters) == 2 else None

        numbers = [each["number"] for each in wait_for("messages for itself", both)]
        self.facts["letter"], self.facts["doomed_letter"] = numbers

    def _others_object(self, mesh: Mesh, bob: Node) -> tuple[str, str]:
        """@return: an object of somebody else's, who is there, and its repair capability."""
        cat = mesh.node("cat", "--peer", bob.address, network=bob)
        (cat.data / "meshkit.toml").write_text(STORAGE.format(peer=bob.address))
        cat.start()
        # Before that there is nobody to publish it with, and it is tried again minutes later.
        wait_for("others in its hash table", lambda: cat.get("/v1/dht/stats")["contacts"])
        put = cat.good("put", OBJECT_FILE, "--json").json["object"]
        wait_for(
            "its object to be published", lambda: not cat.status["parts"]["storage"]["publishing"]
        )
        shown = cat.good("object", "stat", put, "--capabilities", "--json").json
        capability = str(shown["capabilities"]["repair"])
        # Those who keep what was published may not be those yet whom this node asks.
        wanted = {"capability": capability}
        wait_for("the object to be found", lambda: self._is_possible("audit_watch", wanted))
        self.good("audit_unwatch", {"object": put})
        return str(put), capability

    def _is_possible(self, name: str, fields: Fields) -> bool:
        return isinstance(self.rest.call(self.operations[name], fields), Answered)

    def _put_object(self) -> tuple[str, str]:
        """@return: id of a transfer that was done, and of the object that came of it."""
        transfer: str = self.good("object_put", {"path": OBJECT_FILE})["id"]
        ended = self.good("transfer", {"id": transfer, "wait": 30})
        return transfer, ended["object"]

    @contextmanager
    def meanwhile(self, call: Call) -> Iterator[None]:
        """
        While a stream is read, have something happen that it tells of; again and again, as
        nobody knows when a child process has begun to read.
        """
        if call.meanwhile is None:
            yield
            return
        (name, fields), done = call.meanwhile, threading.Event()

        def repeat() -> None:
            while not done.wait(AFTER):
                self.good(name, given(fields, self.facts))

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def good(self, name: str, fields: Fields) -> Any:
        outcome = self.rest.call(self.operations[name], fields)
        if isinstance(outcome, Refused):
            raise AssertionError(f"{name} was refused: {outcome}")
        return outcome.data


def declared(shown: Mapping[str, Any]) -> Operation:
    """What the doors need to know of an operation, by what the node says of it."""
    raw = [field["name"] for field in shown["fields"] if field["place"] == "raw"]
    fields = [(field["name"], Any, None) for field in shown["fields"] if field["name"] not in raw]
    request = msgspec.defstruct("Request", [*fields, *((name, bytes, b"") for name in raw)])
    return Operation(
        name=shown["name"],
        method=shown["method"],
        path=shown["path"],
        request=request,
        answer=Any,
        doc=shown["doc"],
        permission=shown["permission"],
        stream=shown["kind"] == "stream",
        sends=shown["sends"],
        takes=raw[0] if raw else None,
    )


_shared = Shared(World)


def tearDownModule() -> None:
    _shared.close()


class RealDoorsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world: World = _shared.get()

    def test_each_operation_answers_at_each_door(self) -> None:
        world = self.world
        self.assertEqual(set(world.operations), set(CALLS))
        tools = world.mcp.tools()
        for name, call in CALLS.items():
            operation = world.operations[name]
            found: dict[str, Any] = {}
            for door in (world.rest, world.mcp, world.command):
                if door is world.mcp and operation.raw:
                    self.assertNotIn(name, tools)
                    continue
                for other, fields in call.before:
                    world.good(other, given(fields, world.facts))
                wanted = given(call.fields, world.facts)
                with world.meanwhile(call):
                    found[door.name] = door.call(operation, wanted, None, call.items)
                for other, fields in call.after:
                    world.good(other, given(fields, world.facts))
            for door_name, outcome in found.items():
                with self.subTest(operation=name, door=door_name):
                    if _was_there(operation, found["REST"], outcome):
                        continue
                    self.assertIsInstance(outcome, Answered, str(outcome))
                    self.assertEqual(form(outcome.data), form(found["REST"].data))

    def test_what_is_refused_is_refused_at_each_door(self) -> None:
        operation = self.world.operations["feed_message"]
        for door in (self.world.rest, self.world.mcp, self.world.command):
            outcome = door.call(operation, {"hash": "0" * 64})
            self.assertIsInstance(outcome, Refused)
            assert isinstance(outcome, Refused)
            self.assertEqual(outcome.code, "NOT_FOUND")


def _was_there(operation: Operation, first: Any, outcome: Any) -> bool:
    """Is what the first door has taken away no longer there for another?"""
    return (
        operation.method == "DELETE"
        and outcome is not first
        and isinstance(outcome, Refused)
        and outcome.code == "NOT_FOUND"
    )


def form(value: Any) -> Any:
    """What an answer is like, however often it was asked for: the names of its members."""
    return sorted(value) if isinstance(value, dict) else type(value).__name__
