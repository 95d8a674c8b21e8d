from __future__ import annotations

import ast
import errno
import gc
import re
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CannotListen, DataFolderLocked, NotReady
from meshkit.parts import PartMaker
from meshkit.runtime.folder import DataFolder
from meshkit.sim import world as sim_world
from meshkit.sim.disk import PowerLost
from meshkit.sim.world import REPLACED, SimNode, World
from meshkit.testing.nodes import MESH_PORT
from tests.sim import sameness

ROOT = Path(__file__).resolve().parents[2]


def publish(node: SimNode, text: str = "hello") -> Any:
    return node.ask("POST", "/v1/publish", {"content": text}).json["data"]


def held(node: SimNode) -> list[tuple[str, int]]:
    """What a node has of others and of itself, as author and sequence."""
    found = node.ask("GET", "/v1/feed?include_self=true&limit=200").json["data"]
    return sorted((each["author"], each["sequence"]) for each in found)


class _Spy:
    """Writes down whatever is called of it."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: self.called.append(name)


class WorldTestCase(SynchronousTestCase):
    seed = 7

    def setUp(self) -> None:
        self.world = World(self.seed)
        self.ada = self.world.node("ada")
        self.bob = self.world.node("bob", f'peers = ["{self.ada.address}"]')
        self.addCleanup(self.world.stop)

    def start(self) -> None:
        self.ada.start()
        self.bob.start()

    def until(self, condition: Callable[[], bool]) -> None:
        self.world.until(condition, "what the test waits for")


class LifeTests(WorldTestCase):
    def test_nodes_replicate(self) -> None:
        self.start()
        publish(self.ada)
        publish(self.bob)
        self.world.run(3)
        self.assertEqual(len(held(self.ada)), 2)
        self.assertEqual(held(self.ada), held(self.bob))

    def test_what_the_door_acknowledged_is_known_to_the_world(self) -> None:
        self.start()
        said = publish(self.ada)
        refused = self.ada.ask("POST", "/v1/publish", {"contents": 3})
        self.assertEqual(refused.status, 400)
        (known,) = self.world.acknowledged
        self.assertEqual((known.node, known.at_ns), ("ada", self.world.clock.ns))
        self.assertEqual(
            (known.author, known.sequence, known.hash),
            (self.ada.identity.public.text, said["sequence"], said["hash"]),
        )

    def test_a_stopped_node_finds_its_data_and_starts_in_a_new_process(self) -> None:
        self.start()
        publish(self.ada)
        before = self.ada.process
        self.ada.stop()
        self.assertFalse(self.ada.running)
        self.assertEqual(before.getDelayedCalls(), [])
        self.ada.start()
        self.assertIsNot(self.ada.process, before)
        self.assertEqual(held(self.ada), [(self.ada.identity.public.text, 1)])

    def test_after_the_stop_nothing_more_will_happen(self) -> None:
        self.start()
        publish(self.ada)
        self.world.stop()
        self.world.run(60)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_two_starts_of_one_node_are_refused_by_the_lock_of_its_folder(self) -> None:
        self.start()
        other = self.ada.host.begin()
        folder = DataFolder(self.ada.folder, self.ada.host.files(other))
        self.assertRaises(DataFolderLocked, folder.lock, other.pid)
        self.assertRaises(RuntimeError, self.ada.launch)

    def test_a_failed_start_says_why_and_leaves_no_process(self) -> None:
        bad = f'listen = "tcp:{MESH_PORT}:interface={self.ada.host.address}"'
        self.start()
        # Another machine cannot have this address; the network refuses it.
        eve = self.world.node("eve", bad)
        self.assertRaises(CannotListen, eve.start)
        self.assertFalse(eve.running)
        eve.configure("")
        eve.start()
        self.assertTrue(eve.ready)

    def test_identities_the_network_and_what_nodes_draw_come_from_the_seed(self) -> None:
        same, other = World(self.seed), World(self.seed + 1)
        for world in (same, other):
            self.addCleanup(world.stop)
        self.assertEqual(same.node("ada").identity.public, self.ada.identity.public)
        self.assertNotEqual(other.node("ada").identity.public, self.ada.identity.public)
        self.assertEqual(same.network_secret, self.world.network_secret)
        self.assertNotEqual(other.network_secret, self.world.network_secret)
        self.ada.make()
        twin = same.nodes[0]
        twin.make()
        self.assertEqual(self.ada.given["rng"].random(), twin.given["rng"].random())
        twin.kill()
        twin.make()
        self.assertNotEqual(self.ada.given["rng"].random(), twin.given["rng"].random())

    def test_a_machine_has_a_wall_clock_of_its_own(self) -> None:
        self.ada.host.skew(-3600)
        self.start()
        self.assertEqual(self.bob.host.wall_clock() - self.ada.host.wall_clock(), 3600 * 10**9)
        self.assertTrue(publish(self.ada)["timestamp"].startswith("2025-12-31T23:00"))
        self.assertTrue(publish(self.bob)["timestamp"].startswith("2026-01-01T00:00"))

    def test_what_happens_cannot_wait_for_what_will_happen(self) -> None:
        self.start()
        self.world.clock.callLater(1, self.ada.restart)
        self.world.run(2)
        (error,) = self.flushLoggedErrors(RuntimeError)
        self.assertIn("cannot be called by what happens", str(error.value))

    def test_an_event_that_raises_is_logged_and_the_world_goes_on(self) -> None:
        self.start()
        self.world.clock.callLater(1, lambda: 1 / 0)
        self.world.run(2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn(b'"error"', b"".join(self.world.trace.lines))

    def test_waiting_in_vain_says_for_what_and_with_which_seed(self) -> None:
        self.start()
        error = self.assertRaises(AssertionError, self.world.until, lambda: False, "godot", 5)
        self.assertEqual(str(error), "still waiting for: godot (seed 7)")


class PartsTests(SynchronousTestCase):
    def test_parts_on_request_are_in_no_world_that_does_not_ask_for_them(self) -> None:
        found = [PartMaker(name, "meshkit.feed.part") for name in ("feed", "keeper", "storage")]
        self.patch(sim_world, "discover_parts", lambda _: found)

        def parts(**options: Any) -> list[str]:
            world = World(1, **options)
            self.addCleanup(world.close)
            return [maker.name for maker in world.node("ada")._makers]

        self.assertEqual(parts(), ["feed"])
        self.assertEqual(parts(parts=("keeper",)), ["feed", "keeper"])
        self.assertEqual(parts(parts=("storage", "keeper")), ["feed", "keeper", "storage"])


class _Ring:
    """Is kept by nobody but itself."""

    def __init__(self) -> None:
        self.itself = self


class GarbageTests(SynchronousTestCase):
    """What is left in circles is found, by looking at little, and at the same events."""

    def setUp(self) -> None:
        self.frozen = gc.get_freeze_count()
        self.world = World(7, collect_every=100)
        self.addCleanup(self.world.stop)
        self.ada = self.world.node("ada")
        self.ada.start()

    def test_what_was_there_is_not_looked_at_each_time(self) -> None:
        self.world.run(200)
        self.assertGreater(gc.get_freeze_count(), self.frozen + 10_000)

    def test_after_the_end_all_is_as_it_was(self) -> None:
        self.until_event(250)
        self.world.stop()
        self.assertLessEqual(gc.get_freeze_count(), self.frozen)

    def until_event(self, number: int) -> None:
        self.world.until(lambda: self.world.clock.steps >= number, "events", 10_000)

    def test_what_is_new_is_found_the_next_time(self) -> None:
        self.until_event(2_250)
        ring = weakref.ref(_Ring())
        self.until_event(2_300)
        self.assertIsNone(ring())

    def left_after_a_look(self) -> weakref.ref[_Ring]:
        """All is looked at after 1000, 2000 and 3000 events, and so on."""
        self.until_event(2_150)
        ring = _Ring()
        self.until_event(2_250)
        return weakref.ref(ring)

    def test_what_was_there_is_found_when_there_are_many_more_events(self) -> None:
        ring = self.left_after_a_look()
        self.until_event(2_950)
        self.assertIsNotNone(ring())
        self.until_event(3_000)
        self.assertIsNone(ring())

    def test_what_was_there_is_found_when_there_are_many_more_processes(self) -> None:
        ring = self.left_after_a_look()
        for number in range(20):
            self.world.node(f"other{number}").host.begin()
        self.until_event(2_300)
        self.assertIsNone(ring())

    def test_all_of_it_can_be_collected_at_any_moment(self) -> None:
        self.until_event(250)
        ring = _Ring()
        self.until_event(350)
        found = weakref.ref(ring)
        del ring
        self.world.collect()
        self.assertIsNone(found())

    def test_the_collector_is_called_at_the_same_events(self) -> None:
        def moments() -> list[int]:
            world = World(7, collect_every=100)
            self.addCleanup(world.stop)
            found: list[int] = []

            def note(phase: str, _: dict[str, int]) -> None:
                if phase == "start" and world.clock.steps and not gc.isenabled():
                    found.append(world.clock.steps)

            gc.callbacks.append(note)
            try:
                world.node("ada").start()
                world.run(100)
            finally:
                gc.callbacks.remove(note)
            return found

        first = moments()
        self.assertEqual(first, moments())
        self.assertEqual(first, list(range(100, first[-1] + 1, 100)))


class CrashTests(WorldTestCase):
    def crash_while_publishing(self, after_ns: int) -> tuple[int, int]:
        """@return: how many messages were acknowledged, and how many are there."""
        world = World(self.seed)
        ada = world.node("ada")
        ada.start()
        ada.call("POST", "/v1/publish", {"content": "x"})
        world.clock.call_at(world.clock.ns + after_ns, ada.crash)
        world.run(1)
        self.assertFalse(ada.running)
        acknowledged = len(world.acknowledged)
        ada.start()
        there = len(held(ada))
        world.stop()
        return acknowledged, there

    def test_what_was_acknowledged_is_there_after_the_crash(self) -> None:
        self.start()
        publish(self.ada)
        self.ada.crash()
        self.assertFalse(self.ada.ready)
        self.ada.start()
        self.assertEqual(held(self.ada), [(self.ada.identity.public.text, 1)])
        self.until(lambda: len(held(self.bob)) == 1)

    def test_a_crash_can_come_at_any_moment_of_a_publish(self) -> None:
        seen = {self.crash_while_publishing(us * 1000) for us in range(100, 6000, 200)}
        # Never acknowledged and lost, but each of the others: also stored and not told.
        self.assertEqual(seen, {(0, 0), (0, 1), (1, 1)})

    def test_of_a_process_that_crashed_nothing_is_called_any_more(self) -> None:
        self.start()
        self.world.run(3)
        process, service = self.ada.process, self.ada.service
        self.assertNotEqual(process.getDelayedCalls(), [])
        spy: Any = _Spy()
        process.callLater(1, spy.timer)
        service._workers.run(spy.work).addBoth(spy.worked)
        service._database.write(spy.write).addBoth(spy.wrote)
        service._database.read(spy.read).addBoth(spy.did_read)
        (transport, *_) = self.ada.host.net.transports
        transport.protocol._protocol = spy
        transport.producer = spy
        self.ada.crash()
        self.world.run(120)
        self.assertEqual(spy.called, [])
        self.assertEqual(self.world.clock.calls_of(process), [])
        self.assertEqual(process.getDelayedCalls(), [])
        self.assertFalse(process.running)

    def test_the_kernel_ends_the_connections_of_a_process_that_is_killed(self) -> None:
        self.start()
        self.world.run(3)
        self.assertEqual(self.peers(self.bob), [True])
        self.ada.kill()
        self.world.run(1)
        self.assertEqual(self.peers(self.bob), [False])

    def test_a_machine_without_power_says_nothing(self) -> None:
        self.start()
        self.world.run(3)
        self.ada.crash()
        self.world.run(1)
        self.assertEqual(self.peers(self.bob), [True])
        self.world.run(120)
        self.assertEqual(self.peers(self.bob), [False])
        self.ada.start()
        self.world.run(120)
        self.assertEqual(self.peers(self.bob), [True])

    def test_a_node_can_crash_while_it_connects(self) -> None:
        self.start()
        self.ada.crash()
        self.bob.restart()
        for end in (self.bob.kill, self.bob.crash):
            # Long enough for the first attempt, which nobody answers.
            self.world.run(1)
            self.assertNotEqual(list(self.bob.host.net.attempts), [])
            end()
            self.world.run(60)
            self.assertEqual(self.world.clock.getDelayedCalls(), [])
            self.bob.start()

    def peers(self, node: SimNode) -> list[bool]:
        return [each["connected"] for each in node.ask("GET", "/v1/peers").json["data"]]

    def test_what_a_dead_process_still_tries_has_no_effect(self) -> None:
        self.start()
        process, service, given = self.ada.process, self.ada.service, self.ada.given
        connection = self.ada.host.backing(process)(f"{self.ada.folder}/node.db").open_writer()
        self.ada.crash()
        before = self.world.clock.seconds()
        called: list[Any] = []
        call = process.callLater(0, called.append, "timer")
        port = process.listenTCP(999, Factory(), interface=self.ada.host.address)
        client = Factory.forProtocol(Protocol)
        client.startedConnecting = client.clientConnectionFailed = called.append  # type: ignore
        process.connectTCP(self.bob.host.address, MESH_PORT, client)
        service._database.write(called.append).addErrback(lambda _: None)
        self.world.run(60)
        self.assertEqual(called, [])
        self.assertTrue(call.active())
        call.cancel()
        self.assertEqual(process.seconds(), before)
        for attempt in (
            partial(given["files"].write_atomic, "/x", b""),
            partial(given["files"].create, "/x", b""),
            partial(given["files"].make_folder, "/x"),
            partial(given["files"].read, "/x", 1),
            partial(given["files"].read_secret, "/x", 1),
            partial(given["files"].mode, "/x"),
            partial(given["files"].remove, "/x"),
            partial(given["files"].lock, "/x", ""),
            self.ada.host.backing(process)("/x").prepare,
            self.ada.host.backing(process)("/x").open_writer,
            self.ada.host.backing(process)("/x").open_reader,
        ):
            error = self.assertRaises(OSError, attempt)
            self.assertEqual(error.errno, errno.ENODEV)
        self.assertRaises(sqlite3.ProgrammingError, connection.execute, "SELECT 1")
        # The address is free for others.
        self.ada.host.net.listenTCP(999, Factory(), interface=self.ada.host.address)
        port.stopListening()
        # Its lock is free, and stays with who has it now.
        self.ada.start()
        self.assertRaises(OSError, service._folder.unlock)
        self.assertRaises(RuntimeError, self.ada.launch)
        other = DataFolder(self.ada.folder, self.ada.host.files(self.ada.host.begin()))
        self.assertRaises(DataFolderLocked, other.lock, 1)

    def test_a_kill_leaves_the_machine_running(self) -> None:
        crashes: list[str] = []
        self.world.watch(lambda kind, *_: crashes.append(kind) if kind == "host.crash" else None)
        self.start()
        publish(self.ada)
        self.ada.kill()
        self.ada.kill()
        self.assertEqual((self.ada.running, crashes), (False, []))
        self.ada.start()
        self.assertEqual(len(held(self.ada)), 1)
        self.ada.restart()
        self.assertEqual((len(held(self.ada)), crashes), (1, ["host.crash"]))

    def test_a_call_to_a_node_that_crashes_gets_no_answer(self) -> None:
        self.start()
        call = self.ada.call("POST", "/v1/publish", {"content": "x"})
        self.world.run(0.0005)
        late = self.ada.call("POST", "/v1/publish", {"content": "x"})
        self.ada.crash()
        self.world.run(1)
        for each in (call, late):
            self.assertTrue(each.ended)
            self.assertRaises(ConnectionError, each.answer)
        self.assertEqual(self.world.acknowledged, [])
        self.assertIn(b'"door.silence"', b"".join(self.world.trace.lines))

    def test_nothing_of_a_node_that_crashes_while_it_starts_is_left(self) -> None:
        self.ada.launch()
        self.assertFalse(self.ada.ready)
        self.world.run(0.001)
        self.ada.crash()
        self.world.run(10)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])
        self.start()
        self.assertTrue(self.ada.ready)


class PowerTests(SynchronousTestCase):
    """The power fails in the middle of a write."""

    def lose_power(self, world: World, arm: Callable[[SimNode], None]) -> bool:
        """
        @return: did that happen while a message was published?
        """
        ada = world.node("ada")
        ada.start()
        publish(ada, "first")
        arm(ada)
        call = ada.call("POST", "/v1/publish", {"content": "second"})
        world.run(5)
        lost = not ada.running
        if lost:
            self.assertTrue(call.ended)
            ada.start()
        there = len(held(ada))
        self.assertGreaterEqual(there, len(world.acknowledged))
        self.assertEqual(publish(ada, "third")["sequence"], there + 1)
        world.stop()
        return lost

    def arm_database(self, statements: int, node: SimNode) -> None:
        (database,) = node.host.storage.databases.values()
        database.stop_before(statements)

    def test_at_each_statement_of_a_publish(self) -> None:
        lost = [
            self.lose_power(World(number), partial(self.arm_database, number))
            for number in range(12)
        ]
        self.assertEqual(lost, [True] * 12)

    def test_at_statements_of_a_database_in_a_real_file(self) -> None:
        for number in range(0, 12, 3):
            with TemporaryDirectory(prefix="meshkit-test-") as folder:
                world = World(number, folder=folder)
                self.assertTrue(self.lose_power(world, partial(self.arm_database, number)))
                self.assertEqual([path.suffix for path in sorted(Path(folder).iterdir())], [".db"])

    def test_at_system_calls_of_a_start(self) -> None:
        number = 0
        lost = True
        nodes = []
        while lost:
            world = World(number)
            ada = world.node("ada")
            nodes.append(ada)
            ada.start()
            ada.stop()
            system = ada.host.storage.files.system
            system.stop_before(number)
            try:
                ada.launch()
                world.run(5)
            except PowerLost:
                # As it began outside of any event.
                pass
            lost = not ada.running
            if lost:
                ada.start()
            self.assertTrue(ada.ready)
            system.stop_before(10**6)
            world.stop()
            number += 3
        self.assertGreater(number, 30)
        # Some of them became failures of Deferreds, of which dead code wrote in the log.
        self.flushLoggedErrors(PowerLost)
        self.assertEqual([ada.failures for ada in nodes], [[]] * len(nodes))


class SamenessTests(SynchronousTestCase):
    def test_two_worlds_with_one_seed_are_the_same_and_with_another_not(self) -> None:
        first = sameness.digest(1)
        self.assertEqual(sameness.digest(1), first)
        self.assertNotEqual(sameness.digest(2), first)

    def test_order_among_workers_is_part_of_it(self) -> None:
        def digest(interleaved: bool) -> str:
            world = World(1, interleaved=interleaved)
            world.node("ada").start()
            publish(world.nodes[0])
            world.stop()
            return world.trace.digest

        self.assertEqual(digest(False), digest(False))
        self.assertNotEqual(digest(True), digest(False))

    def test_nobody_asks_the_real_clock_or_waits_for_the_real_reactor(self) -> None:
        asked: list[str] = []

        def watched(real: Any) -> Callable[[], Any]:
            def asks() -> Any:
                caller = sys._getframe(1)
                # The log has the time of this process, and is no part of the world.
                if caller.f_globals["__name__"] != "twisted.logger._logger":
                    asked.append(f"{caller.f_globals['__name__']}:{caller.f_lineno}")
                return real()

            return asks

        names = ("time", "time_ns", "monotonic", "perf_counter")
        for name in names:
            real: Any = getattr(time, name)
            for module in [time, *sys.modules.values()]:
                if vars(module).get(name) is real:
                    self.patch(module, name, watched(real))
        sameness.run(1)
        self.assertEqual(asked, [])
        self.assertGreater(time.time(), 0)
        self.assertEqual(len(asked), 1)
        real_one: Any = reactor
        self.assertEqual(real_one.getDelayedCalls(), [])
        self.assertIsNone(real_one.threadpool)


class ReplacedTests(SynchronousTestCase):
    """What is not real in a world is written down, wherever it is looked for."""

    def setUp(self) -> None:
        self.world = World()
        self.node = self.world.node("ada")
        self.node.start()
        self.addCleanup(self.world.stop)

    def test_it_is_what_a_node_is_really_given(self) -> None:
        given = self.node.given
        # The folder, the settings and the parts are made from what lies on its disk, by
        # the code that makes them everywhere.
        real = {"folder", "settings", "composition", "on_failure"}
        always = [each for each in REPLACED if not each.only]
        self.assertEqual(set(given) - real, {each.argument for each in always})
        rng, workers, database = given["rng"], given["make_workers"], given["make_database"]
        found = {
            "reactor": type(given["reactor"]),
            "rng": type(rng),
            "wall_clock": given["wall_clock"].__func__,
            "files": type(given["files"]),
            "make_workers": workers.func,
            "make_database": type(database.keywords["backing"]("/x")),
        }
        self.assertEqual(
            {name: f"{each.__module__}.{each.__qualname__}" for name, each in found.items()},
            {each.argument: each.here for each in always if each.argument != "pid"},
        )
        self.assertEqual(given["pid"](), self.node.process.pid)
        self.assertIs(database.keywords["threads"], workers)
        self.assertIs(self.node.service._database.__class__, database.func)

    def test_a_node_of_a_world_that_remembers_is_given_its_memory_as_well(self) -> None:
        world = World(memo=True)
        self.addCleanup(world.stop)
        twin = world.node("ada")
        twin.start()
        assert world.memo is not None
        (more,) = set(twin.given) - set(self.node.given)
        (said,) = (each for each in REPLACED if each.only)
        here = f"meshkit.sim.memo.{type(world.memo).verifies.__qualname__}"
        self.assertEqual((more, "memo", here), (said.argument, said.only, said.here))
        self.assertEqual(twin.given[more], world.memo.verifies)
        self.assertIsNone(self.world.memo)

    def test_nothing_that_a_daemon_is_given_is_forgotten(self) -> None:
        tree = ast.parse((ROOT / "meshkit/tap/daemons.py").read_text(encoding="utf-8"))
        (call,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NodeService"
        )
        daemon = {str(keyword.arg) for keyword in call.keywords}
        # Secrets are kept out of a log that a world does not keep; a passphrase is asked
        # for on a terminal; the files that are open, and the figures of the process, are
        # those of a process that a world does not have.
        without = {"keep_secret", "identity", "open_files", "process_metrics"}
        self.assertEqual(daemon - set(self.node.given), without)

    def test_it_is_what_the_page_says(self) -> None:
        page = (ROOT / "docs/simulation.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| `([\w.]+)` \|", page, re.MULTILINE)
        self.assertEqual(rows, [(each.argument, each.real, each.here) for each in REPLACED])


class NotRunningTests(WorldTestCase):
    def test_a_database_that_has_stopped_takes_no_jobs(self) -> None:
        self.start()
        self.ada.stop()
        self.failureResultOf(self.ada.service._database.write(lambda _: None), NotReady)
