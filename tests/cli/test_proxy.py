"""
Tests of L{meshkit.cli.proxy}: a client on one side, a whole node on the other, in memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import define
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.bearer import Bearer
from meshkit.cli.proxy import (
    ANSWER_SECONDS,
    FINISH_SECONDS,
    GRACE_SECONDS,
    HOLD_SECONDS,
    MAX_LINE,
    RETRY_SECONDS,
    STOP_SECONDS,
    NodePlace,
    Proxy,
)
from meshkit.cli.pump import MAX_WAITING
from meshkit.cli.starting import LOOK_EVERY, Starter
from meshkit.errors import DoorUnreachable, MeshkitError, NotFound, RemoteError
from meshkit.runtime.folder import DataFolder
from meshkit.testing.nodes import MemoryMesh

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "x", "version": "1"},
}
CHANGED = "notifications/tools/list_changed"


class Wire:
    """
    Standard input and output.

    @ivar reading: is the client read?
    @ivar takes: does it read what is written?
    """

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.producer: Any = None
        self.reading = True
        self.open = True
        self.written = b""
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        self.written += data

    def writeSequence(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        if self.open:
            self.open = False
            self.protocol.connectionLost()


@define
class Launched:
    """A node that was started at once, or failed with a reason."""

    code: int

    def poll(self) -> int:
        return self.code


class ProxyCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.node = self.mesh.node("a", makers=())
        self.folder = DataFolder(self.node.folder, self.node.files)
        self.token = ""
        self.launches = 0
        self.launchable = True
        self.number = 0
        self.done: list[MeshkitError | None] = []

    def launch(self, folder: DataFolder, flags: Sequence[str]) -> Launched:
        self.launches += 1
        if not self.launchable:
            return Launched(1)
        service = self.node.make()
        service.privilegedStartService()
        service.startService()
        return Launched(0)

    def stop_node(self) -> None:
        self.node.stop()
        self.wait(0)

    def restart(self) -> None:
        self.node.start()
        self.wait(1)

    def begin(self, *, may_start: bool = True, profile: str | None = None) -> None:
        """Start the proxy."""
        starter = Starter(
            self.node.host,
            DataFolder(self.node.folder, self.node.files),
            pid=1,
            environ={},
            may_start=may_start,
            launch=self.launch,
        )

        def token() -> Bearer:
            owners = self.folder.read_secret("door.token").decode("ascii").strip()
            return Bearer(self.token or owners, "the test", "give another")

        place = NodePlace(
            self.node.host, DataFolder(self.node.folder, self.node.files), starter, token
        )
        self.proxy = Proxy(self.node.host, place, profile)
        self.wire = Wire(self.proxy.client)
        self.proxy.start()
        self.proxy.done.addCallback(self.done.append)

    def wait(self, seconds: float) -> None:
        self.mesh.run(seconds)

    def say(self, message: Any) -> None:
        self.proxy.client.dataReceived(json.dumps(message).encode() + b"\n")

    def ask(self, method: str, **params: Any) -> int:
        self.number += 1
        self.say({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        return self.number

    def heard(self) -> list[Any]:
        """What came since this was asked last."""
        written, self.wire.written = self.wire.written, b""
        self.assertTrue(written == b"" or written.endswith(b"\n"))
        return [json.loads(line) for line in written.splitlines()]

    def shake_hands(self) -> None:
        self.ask("initialize", **HELLO)
        self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.wait(3)
        (welcome,) = self.heard()
        self.assertEqual(welcome["result"]["serverInfo"]["name"], "meshkit")

    def answer_to(self, number: int, heard: list[Any]) -> Any:
        (answer,) = (each for each in heard if each.get("id") == number)
        return answer

    def assert_works(self) -> None:
        number = self.ask("tools/list")
        self.wait(1)
        names = [tool["name"] for tool in self.answer_to(number, self.heard())["result"]["tools"]]
        self.assertIn("node_status", names)

    def assert_refused(self, answer: Any, *parts: str) -> None:
        for part in parts:
            self.assertIn(part, answer["error"]["message"])

    def hang_up(self) -> None:
        """The client is done."""
        self.proxy.client.readConnectionLost()

    def end(self) -> None:
        self.hang_up()
        self.wait(FINISH_SECONDS + STOP_SECONDS)
        self.assertEqual(len(self.done), 1)


class FirstTests(ProxyCase):
    """The client is there, and perhaps a node."""

    def test_a_node_that_runs(self) -> None:
        self.node.start()
        self.begin()
        self.shake_hands()
        self.assert_works()
        self.assertEqual(self.launches, 0)
        self.end()
        self.assertEqual(self.done, [None])

    def test_one_is_started_and_what_was_said_meanwhile_reaches_it(self) -> None:
        self.begin()
        self.shake_hands()
        self.assertEqual(self.launches, 1)
        self.assert_works()

    def test_the_profile_is_the_nodes_to_judge(self) -> None:
        self.node.start()
        self.begin(profile="nonsense")
        number = self.ask("initialize", **HELLO)
        self.wait(1)
        self.assert_refused(self.answer_to(number, self.heard()), "nonsense")
        self.assertIsInstance(self.done[0], RemoteError)

    def test_a_token_that_is_refused(self) -> None:
        self.node.start()
        self.token = "wrong"
        self.begin()
        self.wait(1)
        # The client has asked nothing yet; it is told when it does.
        self.assertEqual(self.done, [])
        self.assertEqual(self.heard(), [])
        number = self.ask("initialize", **HELLO)
        self.wait(0)
        self.assert_refused(self.answer_to(number, self.heard()), "[UNAUTHORIZED]")
        (error,) = self.done
        assert error is not None
        self.assertEqual(error.code, "UNAUTHORIZED")
        self.assertEqual(str(error), "the node does not take the token in the test: give another")

    def test_a_client_that_asks_nothing_is_not_waited_for(self) -> None:
        self.node.files.remove(f"{self.node.folder}/secret.key")
        self.begin()
        self.wait(STOP_SECONDS - 0.1)
        self.assertEqual(self.done, [])
        self.wait(0.2)
        self.assertIsInstance(self.done[0], NotFound)
        self.assertEqual(self.heard(), [])

    def test_the_code_is_that_of_the_error(self) -> None:
        self.node.files.remove(f"{self.node.folder}/secret.key")
        self.begin()
        number = self.ask("initialize", **HELLO)
        self.wait(0)
        refused = self.answer_to(number, self.heard())
        self.assert_refused(refused, "[NOT_FOUND]")
        self.assertEqual(refused["error"]["data"], {"code": "NOT_FOUND"})

    def test_none_is_to_be_started(self) -> None:
        self.begin(may_start=False)
        number = self.ask("initialize", **HELLO)
        self.wait(0)
        self.assert_refused(self.answer_to(number, self.heard()), "[DOOR_UNREACHABLE]")
        self.assertIsInstance(self.done[0], DoorUnreachable)
        self.assertEqual(self.launches, 0)

    def test_a_door_that_is_busy_is_tried_again(self) -> None:
        self.node.start()
        site: Any = self.node.service._door.site  # type: ignore[union-attr]
        self.patch(site, "_max_connections", 0)
        self.begin()
        number = self.ask("initialize", **HELLO)
        self.wait(5 * RETRY_SECONDS)
        self.assertEqual(self.heard(), [])
        site._max_connections = 5
        self.wait(2 * RETRY_SECONDS)
        self.assertIn("result", self.answer_to(number, self.heard()))

    def test_a_door_that_stays_busy(self) -> None:
        self.node.start()
        self.patch(self.node.service._door.site, "_max_connections", 0)  # type: ignore[union-attr]
        self.begin()
        number = self.ask("initialize", **HELLO)
        self.wait(HOLD_SECONDS + 1)
        self.assert_refused(self.answer_to(number, self.heard()), "[OVERLOADED]")
        self.assertEqual(len(self.done), 1)


class AgainTests(ProxyCase):
    """The node goes."""

    def setUp(self) -> None:
        super().setUp()
        self.node.start()
        self.begin()
        self.shake_hands()

    def test_it_comes_back_and_the_client_is_told(self) -> None:
        self.stop_node()
        self.wait(60)
        self.assertEqual(self.heard(), [])
        self.restart()
        self.assertEqual([each["method"] for each in self.heard()][:1], [CHANGED])
        self.assert_works()
        self.assertEqual(self.launches, 0)

    def test_nobody_wants_it(self) -> None:
        self.stop_node()
        self.wait(600)
        self.assertEqual((self.launches, self.heard(), self.done), (0, [], []))

    def test_a_request_has_it_started_but_not_at_once(self) -> None:
        self.stop_node()
        number = self.ask("tools/list")
        self.wait(GRACE_SECONDS - 2 * LOOK_EVERY)
        self.assertEqual(self.launches, 0)
        self.wait(4 * LOOK_EVERY + 1)
        self.assertEqual(self.launches, 1)
        self.assertIn("result", self.answer_to(number, self.heard()))

    def test_who_has_the_folder_to_himself_is_left_alone(self) -> None:
        self.stop_node()
        self.folder.lock(7)
        number = self.ask("tools/list")
        self.wait(HOLD_SECONDS - 1)
        self.assertEqual((self.launches, self.heard()), (0, []))
        self.wait(2)
        self.assert_refused(self.answer_to(number, self.heard()), "not running")
        self.folder.unlock()
        self.restart()
        self.heard()
        self.assert_works()

    def test_one_that_comes_back_without_a_door(self) -> None:
        self.stop_node()
        self.folder.lock(7)
        self.folder.write_endpoints({"api": [], "mesh": []})
        number = self.ask("tools/list")
        self.wait(HOLD_SECONDS + 1)
        self.assert_refused(self.answer_to(number, self.heard()), "--api none")
        self.folder.unlock()
        self.restart()
        self.heard()
        self.assert_works()

    def test_one_that_cannot_be_started_is_no_reason_to_end(self) -> None:
        self.stop_node()
        self.launchable = False
        number = self.ask("tools/list")
        self.wait(GRACE_SECONDS + 1)
        self.assert_refused(self.answer_to(number, self.heard()), "[NODE_NOT_STARTED]")
        self.assertEqual(self.launches, 1)
        self.wait(600)
        self.assertEqual((self.launches, self.done), (1, []))
        self.launchable = True
        self.restart()
        self.heard()
        self.assert_works()
        self.flushLoggedErrors()

    def test_what_was_under_way_is_refused(self) -> None:
        link: Any = self.proxy._link
        link.transport.pauseProducing()
        number = self.ask("tools/list")
        self.wait(1)
        self.assertEqual(self.heard(), [])
        link.abort()
        self.wait(0)
        self.assert_refused(self.answer_to(number, self.heard()), "restarted while it worked")

    def test_a_new_node_that_says_nothing_is_left(self) -> None:
        self.stop_node()
        silent: list[Protocol] = []

        class Silent(Protocol):
            def connectionMade(self) -> None:
                silent.append(self)

        port = self.node.host.listenTCP(7999, Factory.forProtocol(Silent), interface="127.0.0.1")
        self.folder.lock(7)
        self.folder.write_endpoints({"api": ["http://127.0.0.1:7999"]})
        self.wait(ANSWER_SECONDS - 1)
        self.assertEqual(len(silent), 1)
        self.wait(2)
        self.assertEqual(len(silent), 2)
        self.folder.unlock()
        port.stopListening()
        self.restart()
        self.wait(ANSWER_SECONDS)
        self.heard()
        self.assert_works()

    def test_a_new_node_that_hangs_up_at_once_is_not_called_all_the_time(self) -> None:
        self.stop_node()
        calls: list[bytes] = []

        class Rude(Protocol):
            def dataReceived(self, data: bytes) -> None:
                calls.append(data)
                if len(calls) > 1000:
                    raise AssertionError("it does not stop")
                transport: Any = self.transport
                transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: mcp-lines\r\n\r\n")
                transport.loseConnection()

        port = self.node.host.listenTCP(7999, Factory.forProtocol(Rude), interface="127.0.0.1")
        self.folder.lock(7)
        self.folder.write_endpoints({"api": ["http://127.0.0.1:7999"]})
        self.wait(100 * RETRY_SECONDS)
        self.assertGreater(len(calls), 20)
        self.assertLess(len(calls), 101)
        self.folder.unlock()
        port.stopListening()

    def test_a_new_node_that_does_not_take_the_handshake_is_left(self) -> None:
        self.stop_node()
        asked: list[bytes] = []

        class Mute(Protocol):
            def dataReceived(self, data: bytes) -> None:
                asked.append(data)
                if data.startswith(b"GET "):
                    self.transport.write(  # type: ignore[union-attr]
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: mcp-lines\r\n\r\n"
                    )

        port = self.node.host.listenTCP(7999, Factory.forProtocol(Mute), interface="127.0.0.1")
        self.folder.lock(7)
        self.folder.write_endpoints({"api": ["http://127.0.0.1:7999"]})
        self.wait(ANSWER_SECONDS - 1)
        self.assertEqual(len(asked), 2)
        self.assertIn(b'"initialize"', asked[1])
        self.wait(2)
        self.assertEqual(len(asked), 4)
        self.folder.unlock()
        port.stopListening()
        self.wait(ANSWER_SECONDS)
        self.restart()
        self.heard()
        self.assert_works()


class PressureTests(ProxyCase):
    """Somebody does not read."""

    def setUp(self) -> None:
        super().setUp()
        self.node.start()
        self.begin()
        self.shake_hands()

    def test_the_client(self) -> None:
        link: Any = self.proxy._link
        self.wire.producer.pauseProducing()
        self.assertEqual((self.wire.reading, link.transport.reading), (False, False))
        self.wire.producer.resumeProducing()
        self.assertEqual((self.wire.reading, link.transport.reading), (True, True))
        self.assert_works()

    def test_the_client_and_meanwhile_another_node_comes(self) -> None:
        self.wire.producer.pauseProducing()
        self.stop_node()
        self.restart()
        link: Any = self.proxy._link
        self.assertFalse(link.transport.reading)
        self.wire.producer.resumeProducing()
        self.wait(1)
        self.heard()
        self.assert_works()

    def test_the_node(self) -> None:
        link: Any = self.proxy._link
        link.transport.producer.pauseProducing()
        self.assertFalse(self.wire.reading)
        link.transport.producer.resumeProducing()
        self.assertTrue(self.wire.reading)

    def test_both(self) -> None:
        link: Any = self.proxy._link
        link.transport.producer.pauseProducing()
        self.wire.producer.pauseProducing()
        link.transport.producer.resumeProducing()
        self.assertFalse(self.wire.reading)
        self.wire.producer.resumeProducing()
        self.assertTrue(self.wire.reading)

    def test_a_node_that_was_full_goes(self) -> None:
        link: Any = self.proxy._link
        link.transport.producer.pauseProducing()
        self.stop_node()
        self.assertTrue(self.wire.reading)

    def test_so_much_is_read_for_a_node_that_is_not_there(self) -> None:
        self.stop_node()
        self.folder.lock(7)
        self.ask("tools/call", name="x", arguments={"text": "y" * MAX_WAITING})
        self.assertFalse(self.wire.reading)
        self.wait(HOLD_SECONDS + 1)
        self.assertEqual(len(self.heard()), 1)
        self.assertTrue(self.wire.reading)
        self.folder.unlock()

    def test_a_line_that_is_too_long(self) -> None:
        self.proxy.client.dataReceived(b'{"id":77,"x":"')
        piece = b"y" * 65_536
        for _ in range(MAX_LINE // len(piece) + 1):
            self.proxy.client.dataReceived(piece)
        self.proxy.client.dataReceived(b'"}\n')
        (refused,) = self.heard()
        self.assertEqual((refused["id"], refused["error"]["code"]), (77, -32600))
        self.assert_works()


class LastTests(ProxyCase):
    """It ends."""

    def setUp(self) -> None:
        super().setUp()
        self.node.start()
        self.begin()
        self.shake_hands()

    def test_nothing_is_owed(self) -> None:
        self.hang_up()
        self.assertEqual(self.done, [None])
        self.wait(1)
        self.assertEqual(self.node.service._door.site.connections, 0)  # type: ignore[union-attr]

    def test_what_is_owed_is_delivered(self) -> None:
        number = self.ask("tools/list")
        self.hang_up()
        self.assertEqual(self.done, [])
        self.wait(1)
        self.assertIn("result", self.answer_to(number, self.heard()))
        self.assertEqual(self.done, [None])

    def test_it_is_not_waited_for_ever(self) -> None:
        link: Any = self.proxy._link
        link.transport.pauseProducing()
        self.ask("tools/list")
        self.hang_up()
        self.wait(FINISH_SECONDS - 1)
        self.assertEqual(self.done, [])
        self.wait(1)
        self.assertEqual(self.done, [None])

    def test_somebody_wants_it_to_end_sooner(self) -> None:
        link: Any = self.proxy._link
        link.transport.pauseProducing()
        self.ask("tools/list")
        self.hang_up()
        self.proxy.finish(STOP_SECONDS)
        self.wait(STOP_SECONDS)
        self.assertEqual(self.done, [None])

    def test_what_was_written_is_not_taken(self) -> None:
        self.patch(self.wire, "loseConnection", lambda: None)
        self.hang_up()
        self.wait(STOP_SECONDS - 0.1)
        self.assertEqual(self.done, [])
        self.wait(0.2)
        self.assertEqual(self.done, [None])

    def test_nobody_hears_the_answers(self) -> None:
        self.ask("tools/list")
        self.proxy.client.writeConnectionLost()
        self.assertEqual(self.done, [None])

    def test_there_is_no_node(self) -> None:
        self.stop_node()
        self.wait(10)
        self.hang_up()
        self.assertEqual(self.done, [None])

    def tearDown(self) -> None:
        self.wait(STOP_SECONDS + 1)
        # Of all that was begun, nothing goes on.
        if self.node.running:
            self.node.stop()
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])
