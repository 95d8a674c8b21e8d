"""
Every operation of every part, called through all four doors, which have to agree.

Three nodes are made that are the same to the last bit, each with its peer: same seed, same
clock, same history.  What is asked of the first through REST is asked of the second as a
tool and of the third by C{meshkit call}; so what is written can be compared as exactly as
what is read.  The OpenAPI document has to have an entry for each operation, and the answers
have to be what it says.

What is compared is L{tests.services.calls}: an operation without a line there fails, as does
one that a door cannot reach.
"""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from jsonschema import Draft202012Validator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.operations import BoundOperation
from meshkit.parts import PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.services.programs import MESH_RELAY
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from meshkit.web.sse import EventReader
from tests.cli.memory import run_command
from tests.examples.support import CUSTOM_PART, load
from tests.servers import authority, document_of, options_for, pem
from tests.services.calls import (
    CALLS,
    OBJECT_FILE,
    PEERS_MESSAGES,
    Facts,
    Fields,
    Given,
    given,
    prepare,
)
from tests.services.doors import (
    AFTER,
    Answered,
    Command,
    Mcp,
    Outcome,
    Refused,
    Reply,
    Rest,
)

#: Where there is a web server.
WEB: Final = "10.8.8.8"

#: Seconds between two operations: what one has begun has ended before the next one.
STEP: Final = 30.0

CONFIG: Final = """
compat = ["egregore"]
peers = ["{peer}"]
advertise = ["{own}"]

[wellknown]
publish = true
allow_addresses = ["{web}"]
ca_file = "/ca.pem"

[[hooks.webhook]]
name = "web"
url = "http://10.9.9.9/nobody"
plain_http = true
allow_addresses = ["10.9.9.9"]
begin = "beginning"
types = ["insight"]
max_attempts = 1

[egregore]
network = "a network of Egregore's"

[relays]
use = ["{relay}"]

[roundtrip]
probes = 2

[storage]
scheme = "1+0"
peers = ["{peer}"]

[audit]
enabled = false
"""

PEERS_PARTS: Final = ("audit", "dht", "exchange", "feed", "gossip", "keeper", "roundtrip")
#: Of somebody whose object others look after.
OTHERS_PARTS: Final = ("dht", "storage")
#: Of a relay that the node can use.
RELAYS_PARTS: Final = ("mailboxes", "registry")
OTHERS_CONFIG: Final = """
peers = ["{peer}"]

[storage]
scheme = "1+0"
peers = ["{peer}"]
"""
KEEPER: Final = """
[keeper]
max_storage = 1000000000
"""


def makers() -> list[Any]:
    """All that is installed, and somebody else's part."""
    part = load("custom_part/meshkit_roundtrip/part.py", with_path=CUSTOM_PART)
    found = {maker.name: maker for maker in discover_parts(meshkit_plugins)}
    found["roundtrip"] = PartMaker("roundtrip", part.__name__)
    return [found[name] for name in sorted(found)]


class _Page(Protocol):
    """Answers everything alike."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._body))
        self.transport.write(self._body)


class World:
    """A node and its peer, for one door."""

    def __init__(self, folder: Path) -> None:
        """@param folder: for files that are got."""
        self.mesh = MemoryMesh(seed=4, latency=0.01)
        self._steps = 0
        parts = makers()
        few = [maker for maker in parts if maker.name in PEERS_PARTS]
        bob = self.mesh.node("bob", KEEPER, makers=few)
        bob.start()
        for message in PEERS_MESSAGES:
            bob.ask("POST", "/v1/publish", message)
        few = [maker for maker in parts if maker.name in RELAYS_PARTS]
        relay = self.mesh.node("relay", makers=few, program=MESH_RELAY)
        relay.start()
        own = f"10.0.0.{len(self.mesh.nodes) + 1}:7655"
        config = CONFIG.format(peer=bob.address, relay=relay.address, web=WEB, own=own)
        self.node: MemoryNode = self.mesh.node("ada", config, makers=parts)
        self.node.files.write_atomic("/ca.pem", pem(authority("ours")[0]))
        self.node.start()
        self._serve_document(bob)
        few = [maker for maker in parts if maker.name in OTHERS_PARTS]
        other = self.mesh.node("cat", OTHERS_CONFIG.format(peer=bob.address), makers=few)
        other.start()
        self.operations: dict[str, BoundOperation] = {
            bound.operation.name: bound for bound in self.node.service._door.operations
        }
        self.rest = Rest(self)
        prepare(self.good)
        self.step()
        exported = self.good("feed_export", {"author": bob.identity.public.text})
        self.facts = {
            "bob": bob.identity.public.text,
            "bob_address": bob.address,
            "message": exported["messages"][0]["hash"],
            "exported": exported["messages"],
            "copy": str(folder / "copy"),
            "relay_address": relay.address,
            "domain": WEB,
        }
        self.facts["transfer"], self.facts["object"] = self._put_object()
        _, self.facts["doomed"] = self._put_object()
        other.ask("POST", "/v1/objects", {"path": OBJECT_FILE})
        self.step()
        (theirs,) = other.ask("GET", "/v1/objects").json["data"]
        path = f"/v1/objects/{theirs['object']}/capabilities"
        self.facts["repair"] = other.ask("GET", path).json["data"]["repair"]
        self.facts["watched"] = theirs["object"]
        self.facts["run"] = self.good("audit_run", {})["run"]
        self.step()
        self.facts["invite"] = self.good("invites_make", {})["id"]
        self.facts["audit"] = self.good("audit_receipts", {})[0]["id"]
        note = {"to": self.node.identity.public.text, "text": "feed the herons"}
        self.facts["posted"] = self.good("mailbox_send", note)["id"]
        self.good("mailbox_send", note)
        self.step()
        letters = self.good("mailbox_list", {})
        self.facts["letter"], self.facts["doomed_letter"] = [each["number"] for each in letters]
        made = self.good("tokens_add", {"name": "other", "scopes": ["read:no_such_operation"]})
        self.other_token: str = made["token"]

    def _serve_document(self, node: MemoryNode) -> None:
        """Have a web server tell where a node is."""
        body = document_of(node.address, self.node.service._network.net_id.hex())
        factory = Factory.forProtocol(lambda: _Page(body))
        secure = TLSMemoryBIOFactory(options_for(WEB), False, factory, clock=self.mesh.clock)
        self.mesh.network.server_endpoint(443, WEB).listen(secure)

    def step(self) -> None:
        """Let it be the next moment at which something is asked, in all worlds alike."""
        self._steps += 1
        moment = STEP * self._steps
        if self.mesh.clock.seconds() >= moment:
            raise AssertionError(f"the last step took {STEP} s and more")
        self.mesh.run(moment - self.mesh.clock.seconds())

    def good(self, name: str, fields: Fields) -> Any:
        """Call an operation through REST."""
        outcome = self.rest.call(self.operations[name].operation, fields)
        if isinstance(outcome, Refused):
            raise AssertionError(f"{name} was refused: {outcome}")
        return outcome.data

    def _put_object(self) -> tuple[str, str]:
        """@return: id of a transfer that was done, and of the object that came of it."""
        transfer: str = self.good("object_put", {"path": OBJECT_FILE})["id"]
        self.step()
        return transfer, self.good("transfer", {"id": transfer})["object"]

    # --- for the doors ---------------------------------------------------------------

    def http(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        answer = self.node.ask(method, target, body, **headers)
        return Reply(answer.status, answer.body)

    def events(
        self, target: str, count: int, headers: Mapping[str, str]
    ) -> Reply | list[tuple[str | None, Any]]:
        call = self.node.call("GET", target, None, **headers)
        self.mesh.until(
            lambda: call.ended or len(_items(call.received)) >= count, f"{count} items of {target}"
        )
        if call.ended:
            answer = call.answer()
            return Reply(answer.status, answer.body)
        call.transport.abortConnection()
        return _items(call.received)[:count]

    def command(self, *arguments: str, stdin: bytes) -> tuple[int, bytes, str]:
        done = run_command(self.mesh, self.node, *arguments, stdin=stdin)
        return done.code, done.out, done.err

    def begin_later(self, name: str, fields: Given) -> None:
        """Call an operation in a while, and wait for nothing."""
        operation = self.operations[name].operation
        wanted = given(fields, self.facts)
        assert operation.method == "POST" and not operation.path_fields
        self.mesh.clock.callLater(AFTER, self.node.call, "POST", operation.path, wanted)


def _items(received: bytes) -> list[tuple[str | None, Any]]:
    """The items of a stream, out of an answer that comes in chunks."""
    body = received.partition(b"\r\n\r\n")[2]
    # Before each piece stands a line with its length; an event has other line ends.
    events = EventReader().feed(b"".join(body.split(b"\r\n")[1::2]))
    return [(e.id or None, json.loads(e.data)) for e in events if e.event == "message"]


class Worlds:
    """One for each door.  They are the same until something is asked."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="meshkit-doors-"))
        self.by_rest, self.by_mcp, self.by_command = self.all = [
            World(self.folder) for _ in range(3)
        ]
        self.rest = self.by_rest.rest
        self.mcp = Mcp(self.by_mcp)
        self.command = Command(self.by_command, self._token_file)
        self.tools = self.mcp.tools()
        self.openapi = json.loads(self.by_rest.http("GET", "/v1/openapi.json", None, {}).body)

    def _token_file(self, token: str) -> str:
        path = self.folder / "token"
        path.touch(0o600)
        path.write_text(token, encoding="ascii")
        return str(path)

    def close(self) -> None:
        for world in self.all:
            world.mesh.stop()
        shutil.rmtree(self.folder)


_worlds: Worlds | None = None


def worlds() -> Worlds:
    global _worlds
    if _worlds is None:
        _worlds = Worlds()
        # For trial, which knows no tearDownModule.
        atexit.register(tearDownModule)
    return _worlds


def setUpModule() -> None:
    worlds()


def tearDownModule() -> None:
    global _worlds
    if _worlds is not None:
        _worlds.close()
        _worlds = None


class FourDoorsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.worlds = worlds()
        self.operations = {
            name: bound.operation for name, bound in self.worlds.by_rest.operations.items()
        }


class CompleteTests(FourDoorsCase):
    """There is nothing that is not compared."""

    def test_there_is_a_way_to_call_each_operation(self) -> None:
        self.assertEqual(
            sorted(set(self.operations) ^ set(CALLS)), [], "add it to tests/services/calls.py"
        )

    def test_no_part_has_an_operation_that_the_doors_do_not_know(self) -> None:
        service = self.worlds.by_rest.node.service
        declared = {
            bound.operation.name for part in service._parts.values() for bound in part.operations()
        }
        self.assertLessEqual(declared, set(self.operations))
        for part in ("feed", "gossip", "dht", "hooks", "egregore", "roundtrip"):
            self.assertIn(part, service._parts)
        listed = self.worlds.by_rest.good("operations_list", {})
        self.assertEqual({each["name"] for each in listed}, set(self.operations))

    def test_each_kind_is_among_them(self) -> None:
        theirs = [each for name, each in self.operations.items() if name.startswith("roundtrip")]
        self.assertTrue(any(each.stream for each in theirs))
        self.assertTrue(any(each.sends for each in theirs))
        self.assertTrue(any(each.takes for each in theirs))

    def test_each_has_a_tool_unless_it_is_bytes(self) -> None:
        raw = {name for name, each in self.operations.items() if each.raw}
        self.assertEqual(set(self.worlds.tools), set(self.operations) - raw)

    def test_each_has_an_entry_in_the_openapi_document(self) -> None:
        entries = {
            entry["operationId"]
            for item in self.worlds.openapi["paths"].values()
            for entry in item.values()
        }
        self.assertEqual(entries, set(self.operations))


class AgreementTests(FourDoorsCase):
    """
    One test for each operation, made below.

    What is refused is tried first, as it changes nothing.
    """

    def compare(self, name: str) -> None:
        self.name, self.operation = name, self.operations[name]
        self.call = CALLS[name]
        self.refuse_who_may_not()
        self.refuse_what_is_no_field()
        self.refuse_what_is_missing()
        for fields, code in self.call.refused:
            self.refuse(fields, code, code != "INVALID_REQUEST")
        self.answer()

    # --- refusals --------------------------------------------------------------------

    def refuse(self, fields: Given, code: str, same_words: bool) -> None:
        """All refuse, for the same reason."""
        found = self.outcomes(
            lambda facts: {**given(self.call.fields, facts), **given(fields, facts)}
        )
        for door, outcome in found.items():
            self.assertIsInstance(outcome, Refused, f"{door}, {fields}")
            self.assertEqual(outcome.code, code, f"{door}: {outcome}")
        self.check_reply()
        if same_words:
            self.assertEqual(len({outcome.message for outcome in found.values()}), 1, found)
        if "MCP" in found:
            self.assertEqual(found["MCP"].details, found["REST"].details)
            self.check_result()

    def refuse_who_may_not(self) -> None:
        each = self.worlds
        doors: list[tuple[Any, World]] = [
            (each.rest, each.by_rest),
            (each.command, each.by_command),
        ]
        found = {
            door.name: door.call(
                self.operation, given(self.call.fields, world.facts), world.other_token
            )
            for door, world in doors
        }
        if self.operation.public or self.operation.granted:
            for outcome in found.values():
                self.assertIsInstance(outcome, Answered)
            self.no_tool(each.by_mcp.other_token, self.operation.raw)
            return
        for outcome in found.values():
            self.assertIsInstance(outcome, Refused)
            self.assertEqual(outcome.code, "PERMISSION_DENIED")
        self.assertEqual(len(set(found.values())), 1)
        self.check_reply()
        # A tool that is not for a token is not shown, and so it is not there.
        self.assertNotIn(self.name, each.mcp.tools(each.by_mcp.other_token))
        self.no_tool(each.by_mcp.other_token)

    def no_tool(self, token: str | None, expected: bool = True) -> None:
        fields = given(self.call.fields, self.worlds.by_mcp.facts)
        shown = {k: v for k, v in fields.items() if not isinstance(v, bytes)}
        _, answer = self.worlds.mcp.use(self.name, shown, token)
        if expected:
            self.assertEqual(answer["error"]["code"], -32602, answer)
        else:
            self.assertNotIn("error", answer)

    def refuse_what_is_no_field(self) -> None:
        self.refuse({"no_such_field": "x"}, "INVALID_REQUEST", False)
        for field in self.fields():
            if field["schema"].get("type") == "integer" and field["place"] != "path":
                self.refuse({field["name"]: "many"}, "INVALID_REQUEST", False)

    def refuse_what_is_missing(self) -> None:
        for field in self.fields():
            if not field["required"] or field["place"] == "raw":
                continue

            def without(facts: Facts, name: str = field["name"]) -> dict[str, Any]:
                return {k: v for k, v in given(self.call.fields, facts).items() if k != name}

            found = self.outcomes(without, rest=field["place"] != "path")
            for door, outcome in found.items():
                self.assertIsInstance(outcome, Refused, door)
                self.assertEqual(outcome.code, "INVALID_REQUEST", door)
                self.assertIn(field["name"], outcome.message)

    def fields(self) -> list[dict[str, Any]]:
        (listed,) = (
            each
            for each in self.worlds.by_rest.good("operations_list", {})
            if each["name"] == self.name
        )
        properties = listed["request"]["properties"]
        return [{**field, "schema": properties[field["name"]]} for field in listed["fields"]]

    # --- answers ---------------------------------------------------------------------

    def answer(self) -> None:
        """All answer, and with the same."""
        for world in self.worlds.all:
            for name, fields in self.call.before:
                world.good(name, given(fields, world.facts))
            world.step()
            if self.call.meanwhile is not None:
                world.begin_later(*self.call.meanwhile)
        found = self.outcomes(self.call.fields)
        for door, outcome in found.items():
            self.assertIsInstance(outcome, Answered, f"{door}: {outcome}")
        self.check_reply()
        if self.operation.raw:
            # So that the worlds stay the same.
            self.worlds.by_mcp.good(self.name, given(self.call.fields, self.worlds.by_mcp.facts))
        expected = self.comparable(found["REST"])
        for door, outcome in found.items():
            self.assertEqual(self.comparable(outcome), expected, f"{door} differs from REST")
        if self.operation.raw:
            self.no_tool(None)
        else:
            self.check_arguments()
            self.check_result()
        for world in self.worlds.all:
            for name, fields in self.call.after:
                world.good(name, given(fields, world.facts))
            world.step()

    def outcomes(self, fields: Given, rest: bool = True) -> dict[str, Any]:
        """What comes of it at each door that the operation has."""
        each = self.worlds
        doors: list[tuple[Any, World]] = [(each.command, each.by_command)]
        if not self.operation.raw:
            doors.insert(0, (each.mcp, each.by_mcp))
        if rest:
            doors.insert(0, (each.rest, each.by_rest))
        return {
            door.name: door.call(self.operation, given(fields, world.facts), None, self.call.items)
            for door, world in doors
        }

    def comparable(self, outcome: Outcome) -> Any:
        def told(value: Any) -> Any:
            if isinstance(value, list):
                return [told(member) for member in value]
            if isinstance(value, dict):
                return {
                    key: "(differs)" if key in self.call.differs else told(member)
                    for key, member in value.items()
                }
            return value

        assert isinstance(outcome, Answered)
        return told(self.call.compared(outcome.data)), told(outcome.metadata)

    # --- what tools say of themselves ---

    def check_arguments(self) -> None:
        """What a tool was just asked is what its schema says that it takes."""
        fields = given(self.call.fields, self.worlds.by_mcp.facts)
        self.conforms(fields, self.worlds.tools[self.name]["inputSchema"])

    def check_result(self) -> None:
        """What a tool has just answered is what its schema says that it gives."""
        result = self.worlds.mcp.last
        self.conforms(result["structuredContent"], self.worlds.tools[self.name]["outputSchema"])
        if not result.get("isError"):
            (block,) = result["content"]
            self.assertEqual(json.loads(block["text"]), result["structuredContent"])

    def conforms(self, value: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator.check_schema(schema)
        problems = [str(e) for e in Draft202012Validator(schema).iter_errors(value)]
        self.assertEqual(problems, [])

    # --- OpenAPI ---------------------------------------------------------------------

    def check_reply(self) -> None:
        """What REST has just answered is what the document says."""
        reply, document = self.worlds.rest.last, self.worlds.openapi
        entry = document["paths"][self.operation.path][self.operation.method.lower()]
        self.assertEqual(entry["operationId"], self.name)
        self.assertIn(str(reply.status), entry["responses"])
        response = entry["responses"][str(reply.status)]
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        if reply.status == 204:
            self.assertNotIn("content", response)
            return
        if self.operation.sends is not None and reply.status < 300:
            self.assertIn(self.operation.sends, response["content"])
            return
        # What it refers to is found in the same document.
        rest = {"components": document["components"]}
        if self.operation.stream and reply.status < 300:
            schema = response["content"]["text/event-stream"]["x-event-data"]
            for data in reply.json:
                self.conforms(data, {**schema, **rest})
        else:
            schema = response["content"]["application/json"]["schema"]
            self.conforms(reply.json, {**schema, **rest})
            if not reply.json["success"]:
                self.assertIn(reply.json["error"]["code"], response["description"])


def _make_tests() -> None:
    for name in CALLS:

        def test(case: AgreementTests, name: str = name) -> None:
            case.compare(name)

        test.__name__ = f"test_{name}"
        setattr(AgreementTests, test.__name__, test)


_make_tests()
