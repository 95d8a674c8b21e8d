"""
Whole nodes, one of which has forgotten the end of its feed, or an author who has two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import guard
from meshkit.testing.identities import DAY_NS, Author
from meshkit.testing.nodes import MemoryMesh, MemoryNode


class MeshCase(SynchronousTestCase):
    """Three nodes, each of which dials the others."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.nodes = [self.mesh.node("ada"), self.mesh.node("bob"), self.mesh.node("cleo")]
        for number, node in enumerate(self.nodes):
            others = [other.address for other in self.nodes if other is not node]
            node._config = f"peers = {others}\n[gossip]\ninterval = 30\n"
            if number == 0:
                self.ada = node

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)

    def start(self, *nodes: MemoryNode) -> None:
        for node in nodes or self.nodes:
            node.start()

    def soon(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something is so that takes a call to be known."""
        for _ in range(60):
            if condition():
                return
            self.mesh.run(3)
        self.fail("it was not so within three minutes")

    def publish(self, content: Any) -> Any:
        answer = self.ada.ask("POST", "/v1/publish", {"content": content})
        return answer.json["data"]["sequence"] if answer.status == 201 else answer.code

    def own(self) -> Any:
        return self.ada.ask("GET", "/v1/own-feed").json["data"]

    def exported(self, node: MemoryNode, author: str) -> list[bytes]:
        answer = node.ask("GET", f"/v1/export?author={quote(author)}")
        texts = msgspec.json.decode(answer.body, type=_Envelope).data.messages
        return [bytes(text) for text in texts]


class _Messages(msgspec.Struct):
    messages: list[msgspec.Raw]


class _Envelope(msgspec.Struct):
    data: _Messages


class Restored(MeshCase):
    def old_state(self) -> Callable[[], None]:
        """
        Publish three messages, remember the disk, and publish two more that the others get.

        @return: what stops the node and puts the old state of its disk back.
        """
        self.start()
        self.mesh.run(5)
        self.assertEqual([self.publish(n) for n in range(3)], [1, 2, 3])
        self.ada.stop()
        kept = sqlite3.connect(":memory:")
        self.addCleanup(kept.close)
        with closing(self.ada.database_file.open_writer()) as disk:
            disk.backup(kept)
        self.ada.start()
        self.assertEqual([self.publish(n) for n in range(2)], [4, 5])
        self.soon(lambda: [len(feed) for feed in self.feeds()] == [5] * 3)

        def put_back() -> None:
            self.ada.stop()
            with closing(self.ada.database_file.open_writer()) as disk:
                kept.backup(disk)

        return put_back

    def whole(self, count: int) -> None:
        """Everybody has so many messages of it, the same ones, and no fork."""
        self.soon(lambda: [len(feed) for feed in self.feeds()] == [count] * 3)
        self.assertEqual(len(set(map(tuple, self.feeds()))), 1)
        self.assertIsNone(self.own()["forked"])

    def feeds(self) -> list[list[bytes]]:
        """Its feed, at each node."""
        return [self.exported(node, self.ada.identity.public.text) for node in self.nodes]

    def test_a_backup_that_was_put_back_waits_for_its_peers(self) -> None:
        self.old_state()()
        with closing(self.ada.database_file.open_writer()) as disk:
            guard.mark_restored(disk, DAY_NS)
        for other in self.nodes[1:]:
            other.stop()
        self.ada.start()
        self.assertEqual(self.publish("alone"), "FEED_READ_ONLY")
        self.nodes[1].start()
        self.soon(lambda: (self.own()["sequence"], self.own()["witnesses"]) == (5, 1))
        # All of it is here again, but one peer is not enough, however often it says so.
        self.mesh.run(70)
        self.assertEqual(self.own()["witnesses"], 1)
        self.assertEqual(self.publish("with one"), "FEED_READ_ONLY")
        self.nodes[2].start()
        self.soon(lambda: self.own()["read_only"] is None)
        self.assertEqual(self.publish("with two"), 6)
        self.whole(6)

    def test_a_disk_that_was_set_back_is_noticed(self) -> None:
        self.old_state()()
        self.ada.start()
        self.mesh.until(lambda: self.own()["latest"] == 5, "the end of the feed")
        self.soon(lambda: self.own()["read_only"] is None)
        self.assertEqual(self.publish("once more"), 6)
        self.whole(6)

    def test_by_hand_it_publishes_at_once(self) -> None:
        self.old_state()()
        with closing(self.ada.database_file.open_writer()) as disk:
            guard.mark_restored(disk, DAY_NS)
        for other in self.nodes[1:]:
            other.stop()
        self.ada.start()
        answer = self.ada.ask("POST", "/v1/own-feed/unlock")
        self.assertEqual((answer.status, answer.json["data"]["read_only"]), (200, None))
        # And whoever does so without need has a fork.
        self.assertEqual(self.publish("too early"), 4)
        self.start(*self.nodes[1:])
        self.soon(lambda: self.own()["forked"] == 4)
        self.assertEqual(self.publish("never again"), "FEED_FORKED")
        self.soon(lambda: len(set(map(tuple, self.feeds()))) == 1)
        # The three that were there before, and the proof.
        self.assertEqual(len(self.feeds()[0]), 5)


class TwoBranches(MeshCase):
    """An author who told one half of the mesh another story than the other half."""

    def test_of_the_same_length(self) -> None:
        self.branches(4, 9, 9)

    def test_of_which_one_is_longer(self) -> None:
        self.branches(4, 5, 40)

    def test_that_part_at_the_beginning(self) -> None:
        self.branches(0, 3, 1)

    def test_of_which_one_hardly_began(self) -> None:
        self.branches(20, 60, 21)

    def branches(self, parted: int, ours: int, theirs: int) -> None:
        """
        Everybody ends with the same prefix and the same proof.

        @param parted: how many messages both branches have.
        @param ours: how many the one has in all.
        @param theirs: how many the other has.
        """
        eve, evil = Author("two branches"), Author("two branches")
        eve.write_many(ours)
        evil.messages = eve.messages[:parted]
        while len(evil.messages) < theirs:
            evil.write(f"another {len(evil.messages)}")
        bob, cleo = self.nodes[1:]
        for node, raws in ((bob, eve.raws), (cleo, evil.raws)):
            node.start()
            body = b'{"messages":[' + b",".join(raws) + b"]}"
            self.assertEqual(node.ask("POST", "/v1/import", body).status, 200)
            node.stop()
        self.start()
        left = [*eve.raws[:parted], *sorted([eve.raws[parted], evil.raws[parted]])]
        name = eve.identity.public.text
        self.soon(lambda: [self.exported(node, name) for node in self.nodes] == [left] * 3)
        # And that is the end of it.
        self.mesh.run(40)
        self.assertEqual([self.exported(node, name) for node in self.nodes], [left] * 3)
