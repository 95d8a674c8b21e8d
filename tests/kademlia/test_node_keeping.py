"""Tests of what a node of L{meshkit.kademlia.node} has on its disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotReady, StorageFailed
from meshkit.kademlia.distance import record_key
from meshkit.kademlia.store import MIGRATIONS
from tests.kademlia.mesh import Mesh, place_of
from tests.kademlia.recording import owner

BIRDS = record_key("topic", b"birds")


class Disk:
    """
    A database in memory, whose writes take as long as the test wants.

    @ivar held: writes wait for L{release}.
    @ivar failing: writes fail at once.
    @ivar writes: how many there were.
    """

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS:
            self.connection.executescript(script)
        self.held = False
        self.failing = False
        self.writes = 0
        self._waiting: list[tuple[Deferred[Any], Callable[[Any], Any]]] = []

    def read(self, job: Callable[[Any], Any]) -> Deferred[Any]:
        return succeed(job(self.connection))

    def write(self, job: Callable[[Any], Any]) -> Deferred[Any]:
        self.writes += 1
        if self.failing:
            return fail(StorageFailed("the disk is full"))
        if not self.held:
            return succeed(job(self.connection))
        waiting: Deferred[Any] = Deferred(lambda _: self._waiting.remove((waiting, job)))
        self._waiting.append((waiting, job))
        return waiting

    def release(self, failing: int = 0) -> None:
        """@param failing: how many of the first that wait fail."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for n, (deferred, job) in enumerate(waiting):
            if n < failing:
                deferred.errback(StorageFailed("the disk is full"))
            else:
                deferred.callback(job(self.connection))

    def count(self) -> int:
        (count,) = self.connection.execute(
            "SELECT count(*) FROM kademlia_records WHERE key = ?", (BIRDS,)
        ).fetchone()
        return int(count)


class Keeping(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.disk = Disk()
        self.addCleanup(self.disk.connection.close)
        self.keeper, self.other = self.mesh.make(database=self.disk), self.mesh.make()
        for node in (self.keeper, self.other):
            self.mesh.result(node.start())
        self.mesh.result(self.other.bootstrap([self.mesh.address(0)]))

    def end(self) -> None:
        self.mesh.stop()
        self.assertEqual(self.mesh.clock.waiting, 0)

    def test_what_is_accepted_is_on_the_disk(self) -> None:
        self.disk.held = True
        put = self.other.put("topic", b"birds", b"a wren")
        self.mesh.run(1.0)
        self.assertNoResult(put)
        self.assertEqual(self.disk.count(), 0)
        # What is known already may still be on its way there.
        raws = self.keeper.holdings.find("topic", BIRDS, self.keeper.wall_ms()).records
        again = Deferred.fromCoroutine(self.other.place("topic", BIRDS, raws))
        self.mesh.run(1.0)
        self.assertNoResult(again)
        self.disk.release()
        self.assertEqual(self.mesh.result(put).accepted, 2)
        self.assertEqual(self.mesh.result(again).accepted, 2)
        self.assertEqual(self.disk.count(), 1)
        self.end()

    def store_twice(self) -> tuple[Deferred[Any], Deferred[Any]]:
        """The second time it is known already, and on its way to the disk."""
        self.disk.held = True
        put = self.other.put("topic", b"birds", b"a wren")
        self.mesh.run(1.0)
        raws = self.keeper.holdings.find("topic", BIRDS, self.keeper.wall_ms()).records
        again = Deferred.fromCoroutine(self.other.place("topic", BIRDS, raws))
        self.mesh.run(1.0)
        self.assertEqual(len(self.disk._waiting), 2)
        return put, again

    def test_what_is_known_is_not_accepted_if_what_was_on_its_way_fails(self) -> None:
        put, again = self.store_twice()
        self.disk.release(failing=1)
        self.assertEqual(self.mesh.result(put).refused, {"STORAGE_FAILED": 1})
        # The other has written it anew.
        self.assertEqual(self.mesh.result(again).accepted, 2)
        self.assertEqual(self.disk.count(), 1)
        self.end()

    def test_what_is_known_is_not_accepted_while_the_disk_fails(self) -> None:
        put, again = self.store_twice()
        self.disk.failing = True
        self.disk.release(failing=1)
        for each in (put, again):
            self.assertEqual(self.mesh.result(each).refused, {"STORAGE_FAILED": 1})
        self.assertEqual(self.disk.count(), 0)
        self.disk.failing = False
        raws = self.keeper.holdings.find("topic", BIRDS, self.keeper.wall_ms()).records
        again = Deferred.fromCoroutine(self.other.place("topic", BIRDS, raws))
        self.assertEqual(self.mesh.result(again).accepted, 2)
        self.assertEqual(self.disk.count(), 1)
        self.end()

    def test_what_is_not_even_tried_has_nobody_write_again(self) -> None:
        put, again = self.store_twice()
        self.disk.failing = True
        bees = self.mesh.result(self.other.put("topic", b"bees", b""))
        self.assertEqual(bees.refused, {"STORAGE_FAILED": 1})
        self.disk.failing = False
        before = self.disk.writes
        self.disk.release()
        for each in (put, again):
            self.assertEqual(self.mesh.result(each).accepted, 2)
        self.assertEqual(self.disk.writes, before)
        self.end()

    def test_what_the_disk_refuses_is_not_accepted_and_written_later(self) -> None:
        self.disk.failing = True
        placed = self.mesh.result(self.other.put("topic", b"birds", b"a wren"))
        self.assertEqual((placed.accepted, placed.refused), (1, {"STORAGE_FAILED": 1}))
        self.assertEqual(self.disk.count(), 0)
        self.disk.failing = False
        self.mesh.result(self.keeper.put("topic", b"bees", b""))
        self.assertEqual(self.disk.count(), 1)
        self.end()

    def test_a_write_goes_on_if_the_asker_has_gone(self) -> None:
        self.disk.held = True
        put = self.other.put("topic", b"birds", b"a wren")
        self.mesh.run(0.5)
        put.addErrback(lambda failure: None)
        self.mesh.result(self.other.stop())
        self.mesh.run(1.0)
        self.disk.release()
        self.assertEqual(self.disk.count(), 1)
        self.end()

    def test_all_of_it_is_there_after_a_restart(self) -> None:
        self.mesh.result(self.other.put("topic", b"birds", b"a wren"))
        self.mesh.result(self.keeper.put("topic", b"bees", b"ours"))
        self.mesh.result(self.keeper.stop())
        self.mesh.nodes.remove(self.keeper)
        again = self.mesh.make(0, database=self.disk)
        self.assertEqual(len(again.table), 0)
        self.mesh.result(again.start())
        self.mesh.run(1.0)
        # It needs nobody to tell it where to begin.
        self.assertEqual([each.id for each in again.table], [self.other.id])
        self.assertEqual(self.mesh.result(again.find_node(owner(1).public))[0].id, self.other.id)
        self.assertEqual(again.holdings.find("topic", BIRDS, again.wall_ms()).held, 1)
        self.assertIsNotNone(again.publications.find("topic", record_key("topic", b"bees")))
        self.end()

    def places(self) -> list[str]:
        """Where those are whom it knows, as its disk has them."""
        rows = self.disk.connection.execute("SELECT places FROM kademlia_contacts").fetchall()
        return sorted(text for (text,) in rows)

    def test_the_table_is_written_down_now_and_then(self) -> None:
        self.mesh.run(900)
        self.assertEqual(self.places(), [place_of(1).text])
        self.end()

    def test_who_has_found_its_place_finds_it_again_whenever_it_is_killed(self) -> None:
        self.mesh.result(self.keeper.bootstrap([self.mesh.address(1)]))
        self.assertEqual(self.places(), [place_of(1).text])
        self.end()

    def test_a_newcomer_is_written_down_within_a_minute_or_so(self) -> None:
        self.mesh.run(200)
        third = self.mesh.make()
        self.mesh.result(third.start())
        self.mesh.result(third.bootstrap([self.mesh.address(0)]))
        self.mesh.run(80)
        self.assertEqual(self.places(), [place_of(1).text, place_of(2).text])
        self.end()

    def test_a_damaged_record_of_ours_is_named_and_does_not_keep_it_from_starting(self) -> None:
        self.mesh.result(self.keeper.put("topic", b"bees", b"ours"))
        self.mesh.result(self.keeper.put("topic", b"birds", b"ours, too"))
        self.mesh.result(self.keeper.stop())
        self.mesh.nodes.remove(self.keeper)
        bees = record_key("topic", b"bees")
        self.disk.connection.execute(
            "UPDATE kademlia_publications SET raw = x'00' WHERE key = ?", (bees,)
        )
        again = self.mesh.make(0, database=self.disk)
        said: list[Any] = []
        watcher: Any = said.append
        globalLogPublisher.addObserver(watcher)
        self.addCleanup(globalLogPublisher.removeObserver, watcher)
        self.mesh.result(again.start())
        (event,) = [each for each in said if each["log_level"] is LogLevel.error]
        self.assertIn(f"the topic record at {bees.hex()}", formatEvent(event))
        self.assertIsNone(again.publications.find("topic", bees))
        self.assertIsNotNone(again.publications.find("topic", BIRDS))
        self.end()

    def test_a_node_whose_disk_cannot_be_read_is_not_started(self) -> None:
        broken = Disk()
        broken.connection.close()
        node = self.mesh.make(database=broken)
        self.failureResultOf(node.start(), sqlite3.ProgrammingError)
        self.failureResultOf(node.get("topic", b"birds"), NotReady)
        self.end()

    def test_a_disk_that_fails_does_not_keep_it_from_stopping(self) -> None:
        self.disk.failing = True
        self.end()
