"""What a node tells Prometheus, from its door to its peers; and that nobody can make it grow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.errors import MeshkitError, NotReady, Overloaded, Unhealthy
from meshkit.operations import Nothing
from meshkit.runtime.metrics import _codes_of
from meshkit.runtime.registry import compose, discover_parts
from meshkit.services.health import LASTING, PATIENCE, Health, Progress
from meshkit.services.measuring import LAG_INTERVAL, LoopLag
from meshkit.services.programs import MESH_NODE, MESH_RELAY
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.services.toys import Toys

#: Bytes and samples that a node with its own parts tells at most, however it is called:
#: see docs/operating.md.
MAX_EXPOSITION: Final = 1024 * 1024
MAX_SAMPLES: Final = 12_000

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(node: MemoryNode) -> Samples:
    answer = node.ask("GET", "/metrics")
    assert answer.status == 200, answer
    families = text_string_to_metric_families(answer.body.decode("utf-8"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


class MeshCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)

    def one(self, node: MemoryNode, name: str, **labels: str) -> float:
        return scraped(node)[f"meshkit_{name}", frozenset(labels.items())]


class NodeTests(MeshCase):
    def test_two_nodes_tell_what_went_between_them(self) -> None:
        # One protocol, so one channel.
        alone = 'disable = ["dht", "exchange"]'
        ada = self.mesh.node("ada", alone)
        bob = self.mesh.node("bob", f'{alone}\npeers = ["{ada.address}"]')
        ada.start()
        bob.start()
        for number in range(3):
            ada.ask("POST", "/v1/publish", {"content": {"n": number}})
        self.mesh.run(2.0)
        told = self.one
        self.assertEqual(told(ada, "feed_stored_total", origin="own"), 3)
        self.assertEqual(told(bob, "feed_stored_total", origin="others"), 3)
        self.assertEqual(told(bob, "feed_messages"), 3)
        self.assertEqual(told(ada, "feed_publish_commit_seconds_count"), 3)
        self.assertEqual(told(ada, "feed_publish_queue_seconds_count"), 3)
        self.assertEqual(told(ada, "gossip_links"), 1)
        self.assertEqual(told(ada, "gossip_links_made_total"), 1)
        self.assertEqual(told(ada, "peers_sent_messages_total"), 3)
        self.assertEqual(told(bob, "peers_received_messages_total"), 3)
        self.assertEqual(told(bob, "peers_connected"), 1)
        self.assertEqual(told(ada, "channels_accepted"), 1)
        self.assertEqual(told(ada, "channels_opened_total", side="accepted"), 1)
        self.assertEqual(told(bob, "channels_opened_total", side="dialled"), 1)
        sent = told(bob, "channels_sent_bytes_total", side="dialled")
        self.assertGreater(sent, 200)
        self.assertEqual(told(ada, "channels_received_bytes_total", side="accepted"), sent)
        self.assertGreater(told(ada, "database_writes_total"), 3)
        self.assertGreater(told(ada, "database_commit_seconds_count"), 3)
        self.assertEqual(told(ada, "node_ready"), 1)

    def test_the_door_tells_who_was_answered_how(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        node.ask("GET", "/v1/identity")
        node.ask("GET", "/v1/message/" + "0" * 64)
        node.ask("GET", "/nowhere")
        node.ask("GET", "/v1/status", Authorization="Bearer wrong")
        node.agent("tools/call", name="node_identity", arguments={})
        told = self.one
        call = {"operation": "node_identity", "code": "OK"}
        self.assertEqual(told(node, "door_calls_total", door="rest", **call), 1)
        self.assertEqual(told(node, "door_calls_total", door="mcp", **call), 1)
        self.assertEqual(
            told(
                node,
                "door_calls_total",
                door="rest",
                operation="feed_message",
                code="NOT_FOUND",
            ),
            1,
        )
        spread = {"operation": "node_identity", "door": "rest"}
        self.assertEqual(told(node, "door_call_seconds_count", **spread), 1)
        self.assertEqual(told(node, "door_answers_total", status="404"), 2)
        self.assertEqual(told(node, "door_answers_total", status="401"), 1)
        self.assertGreater(told(node, "door_connections_taken_total"), 5)
        self.assertEqual(told(node, "door_connections"), 1)
        self.assertGreater(told(node, "door_sent_bytes_total"), 500)

    def test_a_part_that_broke_is_left_out_and_the_rest_is_told(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        self.patch(node.service._parts["feed"], "_amount", None)
        self.assertNotIn(("meshkit_feed_messages", frozenset()), scraped(node))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 2)

    def test_a_node_that_is_started_again_counts_anew(self) -> None:
        node = self.mesh.node("ada")
        for _ in range(2):
            node.start()
            node.ask("POST", "/v1/publish", {"content": 1})
            self.assertEqual(self.one(node, "feed_stored_total", origin="own"), 1)
            node.stop()

    def test_strangers_are_told_nothing(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        self.assertEqual(node.ask("GET", "/metrics", Authorization=None).status, 401)

    def test_whatever_a_client_sends_the_text_stays_within_its_bound(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        before = set(scraped(node))
        for number in range(100):
            for method, target in (
                ("GET", f"/v1/path{number}"),
                ("GET", f"/v1/message/{number:064x}"),
                ("GET", f"/v1/message/{number}"),
                ("GET", f"/v1/status?field{number}=x"),
                (f"METHOD{number}", "/v1/status"),
            ):
                node.ask(method, target, X_Request_Id=f"id{number}", Authorization_=f"{number}")
        after = scraped(node)
        new = {name for name, _ in set(after) - before}
        self.assertLess(len(set(after) - before), 60, sorted(new))
        self.assertLess(len(after), MAX_SAMPLES)
        self.assertLess(len(node.ask("GET", "/metrics").body), MAX_EXPOSITION)

    def test_all_that_could_ever_be_told_is_within_the_bound(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        counts = {metric.name: metric for metric in node.service._metrics._metrics.values()}
        operations = [bound.operation.name for bound in node.service._door.operations]
        calls: Any = counts["meshkit_door_calls_total"].source
        seconds: Any = counts["meshkit_door_call_seconds"].source
        for operation in operations:
            for door in ("rest", "mcp"):
                seconds.observe(1.0, operation, door)
                for code in sorted(set(_codes_of(MeshkitError))):
                    calls.add(operation, door, code)
        self.assertLess(len(scraped(node)), MAX_SAMPLES)
        self.assertLess(len(node.ask("GET", "/metrics").body), MAX_EXPOSITION)


class PageTests(MeshCase):
    """C{docs/operating.md} names what there is."""

    def test_each_metric_has_its_place_in_the_table(self) -> None:
        page = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
        documented = set()
        for row in re.findall(r"^\| (`meshkit_.*?) \|", page.read_text("utf-8"), re.MULTILINE):
            first, *others = re.findall(r"`([a-z_]+)`", row)
            prefix = "_".join(first.split("_")[:2])
            documented |= {first, *(prefix + other for other in others)}
        declared: set[str] = set()
        for name, program in (("ada", MESH_NODE), ("relay", MESH_RELAY)):
            node = self.mesh.node(name, program=program)
            node.start()
            declared |= set(node.service._metrics.names)
        self.assertEqual(sorted(documented - declared), [])
        self.assertEqual(sorted(declared - documented), [])


class LagTests(SynchronousTestCase):
    def test_a_loop_that_is_held_up_is_late(self) -> None:
        clock, seen = Clock(), list[float]()
        lag = LoopLag(clock, seen.append)
        lag.start()
        clock.advance(LAG_INTERVAL)
        clock.advance(LAG_INTERVAL + 0.25)
        clock.advance(LAG_INTERVAL)
        self.assertEqual(seen, [0.0, 0.25, 0.0])
        lag.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
        lag.stop()


class Slow:
    """A database that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[None]] = []

    def write(self, job: Any) -> Deferred[None]:
        self.asked.append(Deferred())
        return self.asked[-1]


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.database = Slow()
        self.health = Health(self.clock, self.database, self.progress)

    def progress(self) -> Progress:
        return Progress(True, [], None, False)

    def ask(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.health.answer_health(Nothing()))

    def test_it_is_alive_when_the_database_takes_a_job(self) -> None:
        asking = self.ask()
        self.assertNoResult(asking)
        self.database.asked[0].callback(None)
        self.assertTrue(self.successResultOf(asking).alive)

    def test_however_many_ask_the_database_is_asked_once(self) -> None:
        asking = [self.ask() for _ in range(100)]
        asking[7].cancel()
        self.failureResultOf(asking[7])
        self.database.asked[0].callback(None)
        for each in asking[:7] + asking[8:]:
            self.successResultOf(each)
        self.successResultOf(self.ask())
        self.assertEqual(len(self.database.asked), 1)
        self.clock.advance(LASTING)
        self.assertNoResult(self.ask())
        self.assertEqual(len(self.database.asked), 2)

    def test_one_that_is_stuck_is_not_alive_until_it_goes_on(self) -> None:
        asking = self.ask()
        self.clock.advance(PATIENCE)
        error = self.failureResultOf(asking, Unhealthy).value
        self.assertIn("has not taken a job", str(error))
        self.clock.advance(LASTING)
        again = self.ask()
        self.database.asked[1].callback(None)
        self.successResultOf(again)

    def test_why_it_takes_no_job_is_said(self) -> None:
        asking = self.ask()
        self.database.asked[0].errback(Overloaded("too much of it"))
        error = self.failureResultOf(asking, Unhealthy).value
        self.assertIn("too much of it", str(error))


class DoorTests(MeshCase):
    """As systemd and containers ask: without a token."""

    def test_a_node_that_runs_is_alive_and_ready(self) -> None:
        node = self.mesh.node("ada")
        node.start()
        alive = node.ask("GET", "/v1/health", Authorization=None)
        self.assertEqual((alive.status, alive.json["data"]), (200, {"alive": True}))
        ready = node.ask("GET", "/v1/ready", Authorization=None)
        self.assertEqual(ready.status, 200)
        parts = compose(MESH_NODE.parts_of(discover_parts(meshkit_plugins))).order
        self.assertEqual(ready.json["data"]["started"], [part.name for part in parts])
        self.assertIn("feed", ready.json["data"]["started"])
        self.assertEqual(ready.json["data"]["ready"], True)

    def test_while_it_starts_the_part_that_is_awaited_is_named(self) -> None:
        gate: Deferred[None] = Deferred()
        toys = Toys(self)
        makers = [
            toys.maker("fast"),
            toys.maker("slow", lambda part: _with(part, starting=gate)),
            toys.maker("unlit"),
        ]
        node = self.mesh.node("ada", makers=makers)
        service = node.make()
        service.privilegedStartService()
        service.startService()
        self.mesh.run(1)
        answer = node.ask("GET", "/v1/ready", Authorization=None)
        self.assertEqual((answer.status, answer.code), (503, "NOT_READY"))
        self.assertEqual(answer.json["error"]["details"], {"awaiting": "slow", "started": ["fast"]})
        self.assertEqual(node.ask("GET", "/v1/health", Authorization=None).status, 200)
        self.assertEqual(self.one(node, "node_ready"), 0)
        gate.callback(None)
        self.mesh.run(1)
        answer = node.ask("GET", "/v1/ready", Authorization=None)
        self.assertEqual(answer.json["data"]["started"], ["fast", "slow", "unlit"])

    def test_who_is_still_connected_when_it_stops_is_told(self) -> None:
        gate: Deferred[None] = Deferred()
        toys = Toys(self)
        node = self.mesh.node(
            "ada", makers=[toys.maker("slow", lambda part: _with(part, starting=gate))]
        )
        service = node.make()
        service.startService()
        self.mesh.run(1)
        self.assertTrue(service._progress().awaiting)
        stopping = service.stopService()
        self.assertTrue(service._progress().stopping)
        health = Health(self.mesh.clock, Slow(), service._progress)
        error = self.assertRaises(NotReady, health.answer_ready, Nothing())
        self.assertEqual(error.details, {"stopping": True})
        self.mesh.run(10)
        self.successResultOf(stopping)


def _with(part: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(part, name, value)
    return part
