"""Whole nodes on a disk that is full, or fails."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime import container
from meshkit.sim.databases import SimMemory
from meshkit.sim.disk import PowerLost
from meshkit.sim.node import SimNode
from meshkit.sim.world import World
from tests.sim.test_databases import at_level


def publish(node: SimNode, text: str = "hello") -> Any:
    return node.ask("POST", "/v1/publish", {"content": text})


def held(node: SimNode) -> list[int]:
    """The sequence numbers of its own messages."""
    found = node.ask("GET", "/v1/feed?include_self=true&limit=200").json["data"]
    return sorted(each["sequence"] for each in found)


class StorageTests(SynchronousTestCase):
    def node(self, seed: int = 1, folder: str | None = None) -> SimNode:
        world = World(seed, folder=folder)
        self.addCleanup(world.stop)
        # The hash table writes when it likes.
        node = world.node("ada", 'disable = ["dht"]')
        node.start()
        return node

    def folder(self) -> str:
        made = tempfile.mkdtemp(prefix="meshkit-test-")
        self.addCleanup(shutil.rmtree, made)
        return made

    def test_a_full_disk_refuses_messages_until_there_is_room(self) -> None:
        for folder in (None, self.folder()):
            node = self.node(folder=folder)
            self.assertEqual(publish(node).status, 201)
            node.host.storage.fill()
            refused = publish(node, "x" * 6000)
            self.assertEqual(refused.json["error"]["code"], "STORAGE_FAILED")
            write = node.host.files(node.process).write_atomic
            error = self.assertRaises(OSError, write, "/ada/new", b"x")
            self.assertEqual(error.errno, errno.ENOSPC)
            node.host.storage.free()
            self.assertEqual(publish(node, "x" * 6000).status, 201)
            self.assertEqual(held(node), [1, 2])

    def test_it_stays_full_over_a_crash(self) -> None:
        node = self.node()
        node.host.storage.fill()
        node.restart()
        self.assertEqual(publish(node, "x" * 6000).json["error"]["code"], "STORAGE_FAILED")
        node.host.storage.free()

    def test_who_calls_at_a_door_does_not_use_up_the_calls_until_the_power_is_lost(self) -> None:
        node = self.node()
        system = node.host.storage.files.system
        system.stop_before(0)
        before = system.calls
        # The caller reads the token that lies there.
        call = node.call("GET", "/v1/identity")
        self.assertEqual(system.calls, before)
        self.assertTrue(node.running)
        self.assertFalse(call.ended)
        self.assertRaises(PowerLost, node.host.files(node.process).read, "/ada/format", 10)

    def test_a_commit_that_fails_is_an_error_of_that_request(self) -> None:
        node = self.node()
        node.host.storage.fail_commits()
        self.assertEqual(publish(node).json["error"]["code"], "STORAGE_FAILED")
        self.assertEqual(publish(node).status, 201)
        self.assertEqual(held(node), [1])

    def test_a_sync_that_fails_is_an_error_of_that_file(self) -> None:
        node = self.node()
        files = node.host.files(node.process)
        node.host.storage.fail_syncs()
        error = self.assertRaises(OSError, files.write_atomic, "/ada/new", b"x")
        self.assertEqual((error.errno, error.filename), (errno.EIO, "/ada/new"))
        files.write_atomic("/ada/new", b"x")

    def test_a_database_that_is_not_synced_loses_what_a_door_acknowledged(self) -> None:
        self.patch(container, "_configure_writer", at_level("OFF"))
        missing: set[int] = set()
        for seed in range(4):
            node = self.node(seed)
            said = {publish(node).json["data"]["sequence"] for _ in range(3)}
            node.restart()
            missing |= said - set(held(node))
        self.assertNotEqual(missing, set())


class ImageTests(SynchronousTestCase):
    """The tables of many nodes are made once."""

    def setUp(self) -> None:
        self.world = World(1)
        self.addCleanup(self.world.stop)
        self.ada = self.world.node("ada")
        self.ada.start()

    def dump(self, node: SimNode) -> list[str]:
        """All that is in its database."""
        (database,) = node.host.storage.databases.values()
        assert isinstance(database, SimMemory)
        with closing(sqlite3.connect(":memory:")) as copy:
            copy.deserialize(database.image())
            return list(copy.iterdump())

    def statements(self, node: SimNode) -> int:
        (database,) = node.host.storage.databases.values()
        return database.statements

    def test_others_begin_with_what_the_first_has_made_and_nothing_of_what_it_has_written(
        self,
    ) -> None:
        empty = self.dump(self.ada)
        publish(self.ada)
        self.assertNotEqual(self.dump(self.ada), empty)
        bob = self.world.node("bob")
        bob.start()
        self.assertEqual(self.dump(bob), empty)
        self.assertLess(self.statements(bob), self.statements(self.ada) // 2)
        publish(bob, "one")
        self.assertEqual((held(bob), held(self.ada)), ([1], [1]))

    def test_others_with_other_parts_make_their_own(self) -> None:
        eve = self.world.node("eve", 'disable = ["hooks"]')
        eve.start()
        self.assertFalse([line for line in self.dump(eve) if "TABLE hooks" in line])
        self.assertTrue([line for line in self.dump(self.ada) if "TABLE hooks" in line])

    def test_one_that_has_data_when_its_parts_change_gives_it_to_nobody(self) -> None:
        publish(self.ada)
        self.ada.stop()
        self.ada.configure('disable = ["hooks"]')
        self.ada.start()
        eve = self.world.node("eve", 'disable = ["hooks"]')
        eve.start()
        self.assertEqual(held(eve), [])
