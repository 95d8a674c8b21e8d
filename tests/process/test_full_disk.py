"""
The disk is full in the middle of the work.

The data folder lies on a file system in memory of a few MiB, in a mount namespace of its own:
nobody else sees it, and it goes with the process that holds it.  The tests look into it by
C{/proc/PID/root}; the programs of the node are run inside.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import define
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.process.mesh import MESHKIT, Answer, Done, Mesh, Node, run, wait_for

#: Of the file system.
SIZE: Final = 8 * 2**20
#: What is left of it when the disk is "full": less than one message of those below.
LEFT: Final = 16 * 1024
LARGE: Final = "x" * 60_000

_HOLD: Final = """
cp -a "$1" "$1.kept" && mount -t tmpfs -o "size=$2,mode=700" none "$1" &&
cp -a "$1.kept/." "$1" && echo ready && exec sleep 600
"""


@define(eq=False)
class SmallNode(Node):
    """
    A node whose data folder is on a small file system.

    @ivar holder: the process in whose namespace that is mounted; 0 before.
    """

    holder: int = 0

    @property
    def data(self) -> Path:
        return Path(f"/proc/{self.holder}/root{self.place}") if self.holder else self.place

    @property
    def place(self) -> Path:
        """The folder as its own programs see it."""
        return self.home / "data"

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        return [str(self.place) if each == str(self.data) else each for each in command]

    def inside(self, *arguments: str) -> Done:
        """Run C{meshkit} where the file system is."""
        command = (*self.prefix, *MESHKIT, "--data-dir", str(self.place), *arguments)
        return run(*command, home=self.home)

    # --- its disk ---------------------------------------------------------------------

    @property
    def filler(self) -> Path:
        return self.data / "filler"

    def fill(self) -> None:
        """Take all of the disk but L{LEFT} bytes."""
        free = os.statvfs(self.data)
        with self.filler.open("ab") as file:
            file.write(bytes(max(0, free.f_bavail * free.f_frsize - LEFT)))

    def make_room(self) -> None:
        self.filler.unlink()


class FullDiskTests(SynchronousTestCase):
    """It is said by name, reads go on, nothing is lost, and it is over when there is room."""

    def setUp(self) -> None:
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
            raise SkipTest("only root can mount a small disk, with the unshare of util-linux")
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def small(self, name: str, *arguments: str, network: Node | None = None) -> SmallNode:
        node = self.mesh.node(name, *arguments, network=network, kind=SmallNode)
        assert isinstance(node, SmallNode)
        holder = self.enterContext(self.held(node))
        node.prefix = ["nsenter", "--target", str(holder), "--mount"]
        node.holder = holder
        return node

    @contextmanager
    def held(self, node: SmallNode) -> Iterator[int]:
        """@return: the process that holds the file system of a node."""
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _HOLD, "sh", str(node.place), str(SIZE)],
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise SkipTest("only root can mount a small disk, with the unshare of util-linux")
            yield process.pid
        finally:
            process.kill()
            process.communicate()

    def publish(self, node: Node, text: str) -> Answer:
        return node.ask("POST", "/v1/publish", json.dumps({"content": {"text": text}}).encode())

    def check_refused(self, answer: Answer) -> None:
        self.assertEqual((answer.status, answer.code), (507, "STORAGE_FAILED"))
        self.assertIn("look at the free space", answer.json["error"]["message"])

    def check_sound(self, node: SmallNode) -> None:
        """Nobody has it open: its own examination finds nothing."""
        done = node.inside("doctor", "--json")
        self.assertEqual(done.code, 0, done.out + done.err)

    def test_publishing_is_refused_while_reading_goes_on(self) -> None:
        node = self.small("a").start()
        acknowledged: dict[int, str] = {}

        def note(answer: Answer) -> None:
            message = answer.data
            self.assertNotIn(message["sequence"], acknowledged)
            acknowledged[message["sequence"]] = message["hash"]

        for turn in range(3):
            for number in range(5):
                note(self.publish(node, f"before {turn} {number} heron{turn}"))
            node.fill()
            refused = 0
            while refused < 5:
                answer = self.publish(node, f"{LARGE} {turn}")
                if answer.status == 507:
                    self.check_refused(answer)
                    refused += 1
                else:
                    note(answer)  # the journal had room for it
            batch = json.dumps({"contents": [{"text": LARGE}] * 20}).encode()
            self.check_refused(node.ask("POST", "/v1/publish/batch", batch))
            # All of it can be read, by lists, by hash and by searches.
            self.assertEqual(node.status["parts"]["feed"]["messages"], len(acknowledged))
            for digest in acknowledged.values():
                self.assertEqual(node.get(f"/v1/message/{digest}")["hash"], digest)
            found = node.get(f"/v1/insights/search?q=heron{turn}")
            self.assertEqual(len(found), 5)
            node.make_room()
            note(self.publish(node, f"after {turn}"))
        self.assertEqual(sorted(acknowledged), list(range(1, len(acknowledged) + 1)))
        node.stop()
        stored = {sequence: digest for sequence, digest, _ in node.stored()}
        self.assertEqual(stored, acknowledged)
        self.check_sound(node)

    def test_killed_on_a_full_disk_it_starts_when_there_is_room(self) -> None:
        node = self.small("a").start()
        acknowledged = [self.publish(node, "before").data["hash"]]
        node.fill()
        while (answer := self.publish(node, LARGE)).status == 201:
            acknowledged.append(answer.data["hash"])
        node.kill()
        self.assertEqual([digest for _, digest, _ in node.stored()], acknowledged)
        node.make_room()
        node.start()
        acknowledged.append(self.publish(node, "after").data["hash"])
        node.stop()
        self.assertEqual([digest for _, digest, _ in node.stored()], acknowledged)
        self.check_sound(node)

    def test_what_peers_send_comes_again_when_there_is_room(self) -> None:
        a = self.mesh.node("a").start()
        b = self.small("b", "--peer", a.address, "--gossip-retry-max=1", network=a).start()
        a.publish({"text": "first"})
        wait_for("first message", lambda: b.status["parts"]["feed"]["messages"] == 1)
        b.fill()
        for number in range(20):
            a.publish({"text": f"{LARGE} {number}"})
        wait_for(
            "word of the full disk",
            lambda: b.status["parts"]["gossip"]["hindered"].get("STORAGE_FAILED"),
        )
        # It is no fault of A.
        status = b.status["parts"]["gossip"]
        self.assertEqual((status["refused"], status["broken"]), ({}, {}))
        before = b.status["parts"]["feed"]["messages"]
        self.assertLess(before, 21)
        self.assertEqual(len(b.get("/v1/feed?limit=50")), before)
        b.make_room()
        wait_for("the rest", lambda: b.status["parts"]["feed"]["messages"] == 21)
        b.stop()
        a.stop()
        self.assertEqual(b.stored(), a.stored())
        self.check_sound(b)
