"""Tests of L{meshkit.services.node}: starting, stopping, and what can go wrong with both."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, directlyProvides, implementer

import meshkit_plugins
from meshkit.errors import (
    BrokenPart,
    CannotListen,
    ConfigError,
    DataFolderLocked,
    InvalidAddress,
    InvalidKeyFile,
    InvalidNetworkSecret,
    MeshkitError,
    NewerSchema,
    PartConflict,
    StartError,
    UnsafePermissions,
)
from meshkit.identity.network import NetworkSecret
from meshkit.interfaces import IWantsFiles
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.parts import PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.services.node import STOP_DEADLINE, all_sections
from meshkit.testing.nodes import DOOR_PORT, MESH_PORT, MemoryMesh, MemoryNode, run_clock
from tests.runtime.support import scratch
from tests.services.toys import Toy, Toys


class IThing(Interface):
    """What one toy provides and another uses."""


class NodeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.toys = Toys(self)
        self.diary = self.toys.diary

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def node(self, *makers: Any, config: str = "") -> MemoryNode:
        """A node of toys."""
        return self.mesh.node(f"node{len(self.mesh.nodes)}", config, makers=makers)

    def file(self, node: MemoryNode, name: str) -> str:
        return f"{node.folder}/{name}"

    def refuse(self, node: MemoryNode, error: type[MeshkitError]) -> str:
        """It does not start, and gives back what it took."""
        found = self.assertRaises(error, node.start)
        self.assertIsInstance(found, StartError)
        if not node.failures:
            self.assert_given_back(node)
        return str(found)

    def assert_given_back(self, node: MemoryNode) -> None:
        self.assertFalse(node.service.ready)
        self.assertEqual(self.listening(node), [])
        self.assertNotIn(self.file(node, "endpoints.json"), node.files.content)
        node.files.lock(self.file(node, "lock"), "somebody else")()

    def listening(self, node: MemoryNode) -> list[int]:
        """On which of its ports somebody listens."""
        probes = {
            MESH_PORT: (self.mesh.network, node.host.address),
            DOOR_PORT: node.host._where("127.0.0.1"),
        }
        found = []
        for port, (network, host) in probes.items():
            results: list[Any] = []
            network.server_endpoint(port, host).listen(Factory.forProtocol(Protocol)).addBoth(
                results.append
            )
            if hasattr(results[0], "stopListening"):
                results[0].stopListening()
            else:
                found.append(port)
        return found


class Starting(NodeCase):
    def test_parts_start_one_after_another_in_the_order_of_need(self) -> None:
        gate: Deferred[None] = Deferred()

        def prepare(part: Any) -> Any:
            part.starting = gate
            directlyProvides(part, *list(_provided(part)), IThing)
            return part

        node = self.node(
            self.toys.maker("a", requires=(IThing,)),
            self.toys.maker("z", prepare, provides=(IThing,)),
        )
        service = node.make()
        service.privilegedStartService()
        self.assertEqual(self.diary, [])
        service.startService()
        self.mesh.run(5)
        self.assertEqual(self.diary, ["start z"])
        self.assertFalse(service.ready)
        gate.callback(None)
        self.mesh.run(0)
        self.assertEqual(self.diary, ["start z", "started z", "start a"])
        self.assertTrue(service.ready)
        self.assertIs(self.toys.made["a"].context.find(IThing), self.toys.made["z"])

    def test_the_door_says_not_ready_until_all_parts_are_started(self) -> None:
        gate: Deferred[None] = Deferred()
        node = self.node(self.toys.maker("slow", lambda part: _set(part, starting=gate)))
        service = node.make()
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        answer = node.ask("GET", "/v1/status")
        self.assertEqual((answer.status, answer.code), (503, "NOT_READY"))
        self.assertNotIn(self.file(node, "endpoints.json"), node.files.content)
        gate.callback(None)
        self.mesh.run(1)
        self.assertEqual(node.ask("GET", "/v1/status").status, 200)

    def test_nothing_is_opened_before_it_is_started(self) -> None:
        node = self.node()
        before = dict(node.files.content)
        node.make()
        self.assertEqual((node.files.content, self.listening(node)), (before, []))

    def test_privileged_start_may_be_left_out_and_repeated(self) -> None:
        """C{twist} leaves it out; C{twistd} calls it before."""
        node = self.node()
        service = node.make()
        service.startService()
        self.mesh.run(1)
        self.assertTrue(service.ready)
        node.stop()
        service = node.make()
        service.privilegedStartService()
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        self.assertTrue(service.ready)

    def test_where_it_listens_is_written_down_and_removed(self) -> None:
        node = self.node(config='listen = "tcp:0"\napi = "tcp:0:interface=127.0.0.1"')
        node.start()
        written = json.loads(node.files.content[self.file(node, "endpoints.json")])
        key = node.identity.public.base64
        self.assertEqual(
            written,
            {
                "mesh": [f"net:{node.host.address}:20001~shs:{key}"],
                "api": ["http://127.0.0.1:20002"],
                "network": [node.service._network.net_id.hex()],
            },
        )
        self.assertEqual(node.files.modes[self.file(node, "endpoints.json")], 0o600)
        node.stop()
        self.assertNotIn(self.file(node, "endpoints.json"), node.files.content)

    def test_a_wildcard_is_shown_as_an_address_that_can_be_dialled(self) -> None:
        node = self.node(config='listen = "tcp:7655:interface=0.0.0.0"')
        node.start()
        written = json.loads(node.files.content[self.file(node, "endpoints.json")])
        self.assertTrue(written["mesh"][0].startswith("net:127.0.0.1:7655~shs:"))

    def test_it_tells_others_what_its_operator_says_and_writes_down_where_it_listens(self) -> None:
        node = self.node(config='advertise = ["mesh.example:443"]')
        node.start()
        told = [f"net:mesh.example:443~shs:{node.identity.public.base64}"]
        status = node.ask("GET", "/v1/status").json["data"]
        self.assertEqual((status["advertised"], status["mesh"]), (told, [node.address]))
        self.assertEqual(node.ask("GET", "/v1/identity").json["data"]["addresses"], told)
        written = json.loads(node.files.content[self.file(node, "endpoints.json")])
        self.assertEqual(written["mesh"], [node.address])

    def test_a_wildcard_is_never_told_to_others(self) -> None:
        node = self.node(config='listen = "tcp:7655:interface=0.0.0.0"')
        node.start()
        status = node.ask("GET", "/v1/status").json["data"]
        self.assertEqual(status["advertised"], [])
        # Whoever asks on this machine is here himself.
        shown = node.ask("GET", "/v1/identity").json["data"]["addresses"]
        self.assertEqual(shown, status["mesh"])
        with self.assertRaisesRegex(ConfigError, "no host can be reached at 0.0.0.0:7655"):
            self.node(config='advertise = ["0.0.0.0:7655"]').make()

    def doors(self, node: MemoryNode) -> list[str]:
        written = json.loads(node.files.content[self.file(node, "endpoints.json")])
        doors: list[str] = written["api"]
        return doors

    def test_a_door_that_finds_a_port_keeps_it(self) -> None:
        node = self.node(config='api = "auto"')
        node.start()
        first = self.doors(node)
        self.assertEqual(first, ["http://127.0.0.1:20001"])
        node.stop()
        node.start()
        self.assertEqual(self.doors(node), first)

    def test_a_door_whose_port_was_taken_meanwhile_finds_another(self) -> None:
        node = self.node(config='api = "auto"')
        node.start()
        node.stop()
        taken = node.host.listenTCP(20001, Factory.forProtocol(Protocol), interface="127.0.0.1")
        node.start()
        self.assertEqual(self.doors(node), ["http://127.0.0.1:20002"])
        node.stop()
        taken.stopListening()
        # The other one is the one of the last time now.
        node.start()
        self.assertEqual(self.doors(node), ["http://127.0.0.1:20002"])

    def test_a_node_without_a_door(self) -> None:
        node = self.node(config='api = "none"')
        node.start()
        self.assertEqual(self.listening(node), [MESH_PORT])
        written = json.loads(node.files.content[self.file(node, "endpoints.json")])
        self.assertEqual(written["api"], [])

    def test_secrets_are_made_once_and_for_the_owner_only(self) -> None:
        node = self.node()
        for name in ("secret.key", "network.secret"):
            node.files.remove(self.file(node, name))
        node.start()
        names = ("secret.key", "network.secret", "door.token")
        first = {name: node.files.content[self.file(node, name)] for name in names}
        self.assertEqual({node.files.modes[self.file(node, name)] for name in names}, {0o600})
        who = node.service.identity.public
        self.assertNotEqual(who, node.identity.public)
        node.stop()
        node.start()
        self.assertEqual(node.service.identity.public, who)
        self.assertEqual({n: node.files.content[self.file(node, n)] for n in names}, first)

    def test_a_network_that_is_configured_is_used(self) -> None:
        other = NetworkSecret(bytes(32))
        node = self.node(config=f'network-key = "{other.text}"'.replace("-key", "_key"))
        stored = node.files.content[self.file(node, "network.secret")]
        node.start()
        status = node.ask("GET", "/v1/status").json["data"]
        self.assertEqual(status["network"], other.key().net_id.hex())
        self.assertFalse(status["network_weak"])
        self.assertEqual(node.files.content[self.file(node, "network.secret")], stored)

    def test_a_weak_network_is_shown_as_weak(self) -> None:
        node = self.node()
        weak = NetworkSecret(bytes(32), weak=True)
        node.files.write_atomic(self.file(node, "network.secret"), weak.encode())
        node.start()
        self.assertTrue(node.ask("GET", "/v1/status").json["data"]["network_weak"])

    def test_it_can_be_stopped_and_started_again(self) -> None:
        node = self.node(self.toys.maker("a"), self.toys.maker("b"))
        service = node.make()
        for _ in range(2):
            service.privilegedStartService()
            service.startService()
            self.mesh.run(1)
            self.assertTrue(service.ready)
            stopped = service.stopService()
            self.mesh.run(1)
            self.successResultOf(stopped)
        self.assertEqual(self.diary, ["start a", "start b", "stop b", "stop a"] * 2)


def _set(part: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(part, name, value)
    return part


def _provided(part: Any) -> Any:
    from zope.interface import directlyProvidedBy

    return directlyProvidedBy(part)


class Files(NodeCase):
    """Peers who take all that is there for them leave the door and the database alone."""

    def allot(self, allowed: int | None, more: int = 0) -> tuple[int, int, int]:
        """@return: files that it wants; what it gives the door and those who connect to it."""

        def prepare(part: Any) -> Any:
            part.files = more
            directlyProvides(part, *list(_provided(part)), *([IWantsFiles] if more else []))
            return part

        service = self.node(self.toys.maker("a", prepare)).make()
        asked: list[int] = []

        def allow(wanted: int) -> int:
            asked.append(wanted)
            return wanted if allowed is None else allowed

        service._open_files = allow
        self.addCleanup(lambda: self.mesh.run(1))
        with capturedLogs() as logs:
            service.privilegedStartService()
        service.startService()
        warnings = [formatEvent(e) for e in logs if e["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), asked[0] > (allowed or asked[0]))
        door, peers = service._door.site._max_connections, service._listener
        given = peers._max_live + peers._max_waiting
        for said in warnings:
            self.assertIn(f"can have {allowed} files open", said)
            self.assertIn(f"the door takes {door} connections, and {given} peers", said)
        return asked[0], door, given

    def test_where_there_are_enough_all_get_what_they_want(self) -> None:
        self.assertEqual(self.allot(None), (4_096, 2_304, 1_024))
        self.assertEqual(self.allot(None, 10_000), (14_096, 2_304, 11_024))

    def test_a_system_that_allows_more_has_room_for_more_peers(self) -> None:
        self.assertEqual(self.allot(65_536), (4_096, 2_304, 62_464))

    def test_where_there_are_fewer_it_says_so_and_some_are_kept_for_the_node(self) -> None:
        self.assertEqual(self.allot(4_000), (4_096, 2_000, 1_232))
        self.assertEqual(self.allot(256), (4_096, 128, 64))
        # With many peers the door gets less.
        self.assertEqual(self.allot(10_000, 10_000), (14_096, 2_304, 6_928))
        self.assertEqual(self.allot(1_024, 10_000), (14_096, 256, 512))
        # It starts, whatever good that does.
        self.assertEqual(self.allot(4), (4_096, 2, 4))


class Refusing(NodeCase):
    """Starts that fail: one sentence that names the thing, and nothing stays taken."""

    def test_a_port_in_use(self) -> None:
        node = self.node()
        taken = node.host.listenTCP(MESH_PORT, Factory(), interface=node.host.address)
        self.assertIn("'tcp:7655", self.assertRaises(CannotListen, node.start).args[0])
        taken.stopListening()
        self.assert_given_back(node)
        taken = node.host.listenTCP(DOOR_PORT, Factory(), interface="127.0.0.1")
        self.assertIn("--api", self.assertRaises(CannotListen, node.start).args[0])
        taken.stopListening()
        self.assert_given_back(node)
        node.start()

    def test_a_bad_endpoint(self) -> None:
        for text in ("nonsense:1", "tcp:abc", "tcp", "", "tcp:1:2:3:4:5:6:7", "tcp:1:nonsense=1"):
            for setting in ("listen", "api"):
                with self.subTest(text=text, setting=setting):
                    node = self.node(config=f'{setting} = "{text}"\n')
                    error = self.assertRaises(ConfigError, node.make)
                    self.assertIn(setting, str(error))

    def test_a_port_that_is_none(self) -> None:
        node = self.node(config='listen = "tcp:99999"')
        self.patch(
            node.host, "listenTCP", lambda *a, **kw: _raise(OverflowError("must be 0-65535"))
        )
        self.assertIn("tcp:99999", self.refuse(node, CannotListen))

    def test_a_bad_peer_address(self) -> None:
        node = self.node(config='peers = ["10.0.0.1"]')
        self.assertRaises(InvalidAddress, node.make)

    def test_a_second_daemon(self) -> None:
        node = self.node()
        node.start()
        first = node.service
        error = self.assertRaises(DataFolderLocked, node.make().privilegedStartService)
        self.assertIn(node.folder, str(error))
        node.service = first
        self.assertEqual(node.ask("GET", "/v1/status").status, 200)
        self.assertIn(self.file(node, "endpoints.json"), node.files.content)

    def test_secrets_that_others_can_read(self) -> None:
        for name in ("secret.key", "network.secret", "door.token"):
            for mode in (0o640, 0o604, 0o660, 0o777):
                with self.subTest(name=name, mode=mode):
                    node = self.node()
                    node.files.write_atomic(self.file(node, name), b"?")
                    node.files.modes[self.file(node, name)] = mode
                    self.assertIn(name, self.refuse(node, UnsafePermissions))

    def test_a_folder_that_others_can_read(self) -> None:
        node = self.node()
        node.files.modes[node.folder] = 0o755
        self.assertIn("chmod 700", str(self.assertRaises(UnsafePermissions, node.start)))

    def test_files_that_are_damaged(self) -> None:
        for name, error in (
            ("secret.key", InvalidKeyFile),
            ("network.secret", InvalidNetworkSecret),
            ("door.token", StartError),
        ):
            for content in (b"", b"\xff\x00", b"two words"):
                with self.subTest(name=name, content=content):
                    node = self.node()
                    node.files.write_atomic(self.file(node, name), content)
                    self.assertIn(name, self.refuse(node, error))

    def test_files_that_cannot_be_read(self) -> None:
        for name in ("secret.key", "network.secret", "door.token"):
            with self.subTest(name=name):
                node = self.node()
                read = node.files.read_secret

                def failing(path: str, limit: int, name: str = name, read: Any = read) -> bytes:
                    if path.endswith(name):
                        raise PermissionError(13, "Permission denied", path)
                    content: bytes = read(path, limit)
                    return content

                self.patch(node.files, "read_secret", failing)
                message = self.refuse(node, StartError)
                self.assertIn(f"{self.file(node, name)}: Permission denied", message)

    def test_a_database_from_a_newer_version(self) -> None:
        tables = ["CREATE TABLE toy_one (x) ", "CREATE TABLE toy_two (x)"]
        node = self.node(self.toys.maker("toy", migrations=tables))
        node.start()
        node.stop()
        node._makers = (self.toys.maker("toy", migrations=tables[:1]),)
        self.refuse(node, NewerSchema)

    def test_a_part_that_cannot_be_made(self) -> None:
        def fail(part: Any) -> Any:
            raise ZeroDivisionError("oops")

        message = self.refuse(self.node(self.toys.maker("toy", fail)), BrokenPart)
        for word in ("'toy'", "ZeroDivisionError", "oops", "--disable toy"):
            self.assertIn(word, message)

    def test_a_part_that_says_why_it_cannot_be_made(self) -> None:
        def fail(part: Any) -> Any:
            raise ConfigError("set toy.colour")

        self.assertEqual(
            self.refuse(self.node(self.toys.maker("toy", fail)), ConfigError), "set toy.colour"
        )

    def test_a_part_that_is_none(self) -> None:
        message = self.refuse(self.node(self.toys.maker("toy", lambda part: object())), BrokenPart)
        self.assertIn("IMeshPart", message)

    def test_a_part_that_does_not_provide_what_it_says(self) -> None:
        node = self.node(self.toys.maker("toy", provides=(IThing,)))
        message = self.refuse(node, BrokenPart)
        self.assertIn("'toy'", message)
        self.assertIn("IThing", message)

    def test_a_part_that_has_something_else_provide_what_it_says(self) -> None:
        @implementer(IThing)
        class Thing:
            pass

        thing = Thing()

        class Giver(Toy):
            def __conform__(self, interface: Any) -> Any:
                return thing if interface is IThing else None

        found: list[Any] = []

        def find(part: Any) -> Any:
            found.append(part.context.find(IThing))
            return part

        self.node(
            self.toys.maker("giver", kind=Giver, provides=(IThing,)),
            self.toys.maker("toy", find, requires=(IThing,)),
        ).start()
        self.assertEqual(found, [thing])

    def test_a_part_that_looks_for_what_it_did_not_declare(self) -> None:
        """Whether it would find it would depend on the order of the parts."""
        node = self.node(self.toys.maker("toy", lambda part: part.context.find(IThing)))
        self.assertIn("IThing", self.refuse(node, BrokenPart))

    def test_a_part_whose_module_does_not_import(self) -> None:
        error = self.assertRaises(
            BrokenPart, all_sections, [PartMaker("toy", "meshkit.no_such_module")]
        )
        self.assertIn("'toy'", str(error))

    def test_a_part_whose_settings_are_not_described(self) -> None:
        class Mute(msgspec.Struct):
            colour: str = "red"

        error = self.assertRaises(BrokenPart, all_sections, [self.toys.maker("toy", config=Mute)])
        self.assertIn("toy.colour", str(error))

    def test_an_operation_that_is_declared_twice(self) -> None:
        def offer(part: Any) -> Any:
            operation = Operation("toy_list", "GET", "/v1/toys", Nothing, None, "Toys.")
            return _set(part, operations=lambda: [BoundOperation(operation, lambda _: None)])

        node = self.node(self.toys.maker("a", offer), self.toys.maker("b", offer))
        self.assertIn("toy_list", self.refuse(node, PartConflict))


def _raise(error: Exception) -> Any:
    raise error


class FailingLater(NodeCase):
    """Starts that fail when the reactor is already running."""

    def start(self, *makers: Any) -> MemoryNode:
        node = self.node(*makers)
        service = node.make()
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        return node

    def assert_failed(self, node: MemoryNode, error: type[MeshkitError]) -> str:
        (found,) = node.failures
        self.assertIsInstance(found, error)
        self.assertFalse(node.service.ready)
        node.stop()
        self.assert_given_back(node)
        return str(found)

    def test_a_part_that_fails_to_start_is_named_and_what_was_begun_is_stopped(self) -> None:
        node = self.start(
            self.toys.maker("a"),
            self.toys.maker("b", lambda part: _set(part, starting=ZeroDivisionError("oops"))),
            self.toys.maker("c"),
        )
        message = self.assert_failed(node, BrokenPart)
        self.assertIn("'b'", message)
        self.assertIn("oops", message)
        self.assertEqual(self.diary, ["start a", "start b", "stop b", "stop a"])

    def test_a_part_that_says_why_it_does_not_start(self) -> None:
        node = self.start(
            self.toys.maker("a", lambda part: _set(part, starting=ConfigError("set a.b")))
        )
        self.assertEqual(self.assert_failed(node, ConfigError), "set a.b")

    def test_two_parts_of_one_label(self) -> None:
        def serve(part: Any) -> Any:
            return _set(part, capabilities=lambda: {"chat": Factory()})

        node = self.start(self.toys.maker("a", serve), self.toys.maker("b", serve))
        message = self.assert_failed(node, PartConflict)
        for word in ("'a'", "'b'", "'chat'"):
            self.assertIn(word, message)

    def test_a_label_that_is_none(self) -> None:
        node = self.start(
            self.toys.maker("a", lambda p: _set(p, capabilities=lambda: {"No Label": Factory()}))
        )
        message = self.assert_failed(node, BrokenPart)
        self.assertIn("'a'", message)
        self.assertIn("No Label", message)

    def test_a_disk_that_is_full_at_the_end(self) -> None:
        node = self.node()
        write = node.files.write_atomic

        def full(path: str, data: bytes, mode: int = 0o600) -> None:
            if path.endswith("endpoints.json"):
                raise OSError(28, "No space left on device", path)
            write(path, data, mode)

        self.patch(node.files, "write_atomic", full)
        service = node.make()
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        self.assertIn("No space left", str(node.failures[0]))
        self.assertFalse(service.ready)
        self.flushLoggedErrors(OSError)
        node.stop()

    def test_stopped_while_it_starts(self) -> None:
        """That is no failure: nothing is reported, and what was begun is stopped."""
        node = self.start(
            self.toys.maker("a"),
            self.toys.maker("b", lambda part: _set(part, starting=Deferred())),
            self.toys.maker("c"),
        )
        self.assertEqual(self.diary, ["start a", "start b"])
        node.stop()
        self.assertEqual(self.diary[2:], ["stop b", "stop a"])
        self.assertEqual(node.failures, [])
        self.assert_given_back(node)

    def test_stopped_before_it_is_started(self) -> None:
        node = self.node(self.toys.maker("a"))
        service = node.make()
        self.assertEqual(self.successResultOf(service.stopService()), None)
        service.privilegedStartService()
        stopped = service.stopService()
        self.mesh.run(1)
        self.successResultOf(stopped)
        self.assert_given_back(node)
        self.assertEqual(self.diary, [])


class Telling(NodeCase):
    def test_a_part_that_cannot_say_how_it_does_hides_nobody_else(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        node = self.node(
            self.toys.maker("bad", lambda part: _set(part, status=fail)),
            self.toys.maker("good", lambda part: _set(part, status=lambda: {"toys": 1})),
        )
        node.start()
        parts = node.ask("GET", "/v1/status").json["data"]["parts"]
        self.assertEqual(parts["good"], {"toys": 1})
        self.assertEqual(list(parts["bad"]), ["failed"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Stopping(NodeCase):
    def test_backwards_and_each_waits_for_the_one_before(self) -> None:
        gate: Deferred[None] = Deferred()
        node = self.node(
            self.toys.maker("a"),
            self.toys.maker("b", lambda part: _set(part, stopping=gate)),
        )
        node.start()
        self.diary.clear()
        where = self.toys.made["b"].context.listening
        self.assertEqual([place.port for place in where()], [MESH_PORT])
        stopped = node.service.stopService()
        self.mesh.run(1)
        self.assertEqual(self.diary, ["stop b"])
        self.assertEqual(self.listening(node), [])
        # A port that is closed cannot be asked.
        self.assertEqual(where(), [])
        gate.callback(None)
        self.mesh.run(1)
        self.successResultOf(stopped)
        self.assertEqual(self.diary, ["stop b", "stopped b", "stop a"])
        self.assert_given_back(node)

    def test_a_part_that_hangs_does_not_keep_the_others(self) -> None:
        node = self.node(
            self.toys.maker("a"),
            self.toys.maker("b", lambda part: _set(part, stopping=Deferred())),
        )
        node.start()
        stopped = node.service.stopService()
        self.mesh.run(STOP_DEADLINE - 1)
        self.assertNoResult(stopped)
        self.mesh.run(2)
        self.successResultOf(stopped)
        self.assertEqual(self.diary[-1], "stop a")
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.assert_given_back(node)

    def test_a_part_that_fails_to_stop_does_not_keep_the_others(self) -> None:
        node = self.node(
            self.toys.maker("a"),
            self.toys.maker("b", lambda part: _set(part, stopping=ZeroDivisionError())),
        )
        node.start()
        node.stop()
        self.assertEqual(self.diary[-1], "stop a")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_parts_can_use_the_database_until_they_are_stopped(self) -> None:
        kept: list[Any] = []

        def prepare(part: Any) -> Any:
            def stop() -> Any:
                writing = part.context.database.write(
                    lambda connection: connection.execute("INSERT INTO toy VALUES (1)").rowcount
                )
                return writing.addCallback(kept.append)

            return _set(part, stopService=stop)

        node = self.node(
            self.toys.maker("toy", prepare, migrations=["CREATE TABLE toy (x INTEGER) STRICT"])
        )
        node.start()
        node.stop()
        self.assertEqual(kept, [1])

    def test_two_nodes_that_gossip_stop_quickly_and_quietly(self) -> None:
        ada = self.mesh.node("ada")
        bob = self.mesh.node("bob", f'peers = ["{ada.address}"]')
        ada.start()
        bob.start()
        self.mesh.run(1)
        for node in (ada, bob):
            before = self.mesh.clock.seconds()
            node.stop()
            self.assertLess(self.mesh.clock.seconds() - before, 1)

    def test_a_peer_that_went_silent_does_not_hold_up_the_stop(self) -> None:
        ada = self.mesh.node("ada")
        bob = self.mesh.node("bob", f'peers = ["{ada.address}"]')
        ada.start()
        bob.start()
        self.mesh.run(1)
        for wire in self.mesh.network.wires:
            wire.intercept = lambda source, data: b""
        for node in (bob, ada):
            before = self.mesh.clock.seconds()
            node.stop()
            self.assertLess(self.mesh.clock.seconds() - before, STOP_DEADLINE)


class ThirdParty(NodeCase):
    """A part that somebody else ships, in a file of its own."""

    PLUGIN = """
from meshkit.interfaces import IFeedStore
from meshkit.parts import PartMaker

shouting = PartMaker("shouting", "shouting_part", wants=(IFeedStore,))
"""
    PART = """
from typing import Annotated
import msgspec
from twisted.internet.protocol import Factory, Protocol
from meshkit.interfaces import IFeedStore, MessagesStored
from meshkit.operations import BoundOperation, Operation
from meshkit.parts import Part

class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mark: Annotated[str, msgspec.Meta(description="what stands behind a shout")] = "!"

MIGRATIONS = ("CREATE TABLE shouting_log (text TEXT NOT NULL) STRICT;",)

class Shout(msgspec.Struct, forbid_unknown_fields=True):
    text: str

class Status(msgspec.Struct):
    shouts: int

SHOUT = Operation("shout", "POST", "/v1/shouts", Shout, str, "Shout.", "write", 201)

class Shouter(Protocol):
    def connectionMade(self):
        self.transport.write(b"HELLO " + self.transport.getPeer().key.short.encode())

class ShoutingPart(Part):
    def __init__(self, context):
        self.context = context
        self.store = context.find(IFeedStore)
        self.heard = []
        context.events.subscribe(MessagesStored, self.heard.append)

    def capabilities(self):
        return {"org.example.shout": Factory.forProtocol(Shouter)}

    def operations(self):
        return [BoundOperation(SHOUT, self.shout)]

    def status(self):
        return Status(len(self.heard))

    async def shout(self, request):
        text = request.text.upper() + self.context.config.mark
        await self.context.database.write(
            lambda c: c.execute("INSERT INTO shouting_log VALUES (?)", (text,)).rowcount)
        message = await self.store.publish({"type": "shout", "text": text})
        return message.hash

def make_part(context):
    return ShoutingPart(context)
"""

    def setUp(self) -> None:
        super().setUp()
        self.folder = scratch(self)
        self.patch(
            meshkit_plugins, "__path__", [*meshkit_plugins.__path__, f"{self.folder}/plugins"]
        )
        self.patch(sys, "path", [*sys.path, self.folder])
        os.mkdir(f"{self.folder}/plugins")
        self.write("plugins/meshkit_shouting.py", self.PLUGIN)
        self.write("shouting_part.py", self.PART)
        self.addCleanup(self.forget)

    def write(self, name: str, text: str) -> None:
        with open(f"{self.folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)

    def forget(self) -> None:
        for name in ("meshkit_plugins.meshkit_shouting", "shouting_part"):
            sys.modules.pop(name, None)

    def found(self, without: str = "") -> list[Any]:
        makers = discover_parts(meshkit_plugins)
        return [maker for maker in makers if maker.name != without]

    def test_it_has_what_our_own_parts_have(self) -> None:
        node = self.mesh.node("ada", '[shouting]\nmark = "?"\n')
        node.start()
        answer = node.ask("POST", "/v1/shouts", {"text": "hello"})
        self.assertEqual(answer.status, 201)
        shown = node.ask("GET", f"/v1/message/{answer.json['data']}").json["data"]
        self.assertEqual(shown["content"]["text"], "HELLO?")
        status = node.ask("GET", "/v1/status").json["data"]
        self.assertEqual(status["parts"]["shouting"], {"shouts": 1})

    def test_its_protocol_is_served_on_the_one_port(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        heard: list[bytes] = []

        class Listener(Protocol):
            def dataReceived(self, data: bytes) -> None:
                heard.append(data)
                assert self.transport is not None
                self.transport.loseConnection()

        bob = self.mesh.node("bob")
        bob.start()
        connections = self.toys_context(bob).connections
        (address,) = node.service._configured or [_address(node)]
        connecting = connections.endpoint(address, "org.example.shout").connect(
            Factory.forProtocol(Listener)
        )
        self.mesh.run(1)
        self.successResultOf(connecting)
        self.assertEqual(heard, [f"HELLO {bob.identity.public.short}".encode()])

    def toys_context(self, node: MemoryNode) -> Any:
        return node.service._parts["shouting"].context

    def test_without_its_file_no_trace_is_left(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        self.assertEqual(node.ask("POST", "/v1/shouts", {"text": "x"}).status, 201)
        node.stop()
        os.unlink(f"{self.folder}/plugins/meshkit_shouting.py")
        self.forget()
        makers = self.found()
        self.assertNotIn("shouting", [maker.name for maker in makers])
        node._makers = makers
        node.start()
        self.assertEqual(node.ask("POST", "/v1/shouts", {"text": "x"}).status, 404)
        status = node.ask("GET", "/v1/status").json["data"]
        self.assertNotIn("shouting", status["parts"])
        self.assertEqual(status["parts"]["feed"]["messages"], 1)
        node.stop()
        node._config = "[shouting]\nmark = 1\n"
        self.assertRaises(ConfigError, node.make)

    def test_any_of_our_own_parts_can_be_missing(self) -> None:
        for name in ("feed", "gossip", "shouting"):
            with self.subTest(name=name):
                node = self.mesh.node(f"without-{name}", makers=self.found(without=name))
                node.start()
                status = node.ask("GET", "/v1/status").json["data"]
                self.assertNotIn(name, status["parts"])
                node.stop()

    def test_any_of_our_own_parts_can_be_disabled(self) -> None:
        for name in ("feed", "gossip"):
            with self.subTest(name=name):
                node = self.mesh.node(f"disabled-{name}", f'disable = ["{name}"]')
                node.start()
                status = node.ask("GET", "/v1/status").json["data"]
                self.assertNotIn(name, status["parts"])

    def test_a_part_with_the_name_of_a_setting_is_refused(self) -> None:
        for name in ("peers", "listen"):
            node = self.node(self.toys.maker(name, config=_Coloured))
            self.assertIn(name, str(self.assertRaises(PartConflict, node.make)))


class _Coloured(msgspec.Struct):
    colour: Annotated[str, msgspec.Meta(description="a colour")] = "red"


def _address(node: MemoryNode) -> Any:
    from meshkit.identity.addresses import MeshAddress

    return MeshAddress.parse(node.address)


class Sameness(SynchronousTestCase):
    def test_a_mesh_does_the_same_each_time(self) -> None:
        """The first step of a simulation: all randomness and all time are arguments."""

        def run() -> list[Any]:
            mesh = MemoryMesh(seed=7)
            names = ("ada", "bob", "eve")
            nodes = [mesh.node("ada")]
            nodes += [mesh.node(n, f'peers = ["{nodes[0].address}"]') for n in names[1:]]
            for node in nodes:
                node.start()
            for node in nodes:
                node.ask("POST", "/v1/publish", {"content": node.name})
            mesh.run(100)
            seen = [node.ask("GET", "/v1/status").body for node in nodes]
            seen += [node.ask("GET", "/v1/feed").body for node in nodes]
            seen.append([(wire.first.sent, wire.second.sent) for wire in mesh.network.wires])
            mesh.stop()
            run_clock(mesh.clock, 1)
            return seen

        self.assertEqual(run(), run())
